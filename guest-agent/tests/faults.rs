//! An agent in trouble while its guest is held. Needs the feature `fault-injection`.
#![cfg(feature = "fault-injection")]

mod common;

use std::time::Duration;

use common::{Agent, Disks, Writer};
use stillpoint_proto::guest::v1::{self as pb, quiesce_response::Step};
use tokio::time::{Instant, timeout};

const LEASE: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_freeze_that_hangs_holds_the_guest_no_longer_than_the_lease() {
    let disks = Disks::stacked();
    let agent = Agent::start_with(&disks, &[("STILLPOINT_FAULT", "hang-in-freeze")]);
    let mut host = agent.host().await;
    let writer = Writer::start(&disks.inner());
    let mut session = host.prepared(LEASE).await;
    let asked = Instant::now();
    session.freeze().await;
    writer.is_held().await;
    writer.goes_on().await;
    assert!(asked.elapsed() < LEASE + Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(timeout(LEASE, session.answers.message()).await.is_err(), "the freezer hangs for good");
    drop(session);
    // The agent still answers; a session would need the freezer.
    host.hello().await;
    let (_steps, stream) = tokio::sync::mpsc::channel(1);
    let second = host.client.quiesce(tokio_stream::wrappers::ReceiverStream::new(stream)).await;
    assert_eq!(second.unwrap_err().code(), tonic::Code::Aborted);
    println!("longest pause {:?}", writer.longest_pause());
}

#[tokio::test]
async fn an_agent_that_dies_half_way_through_a_freeze_leaves_nothing_held() {
    let disks = Disks::stacked();
    let agent = Agent::start_with(&disks, &[("STILLPOINT_FAULT", "die-in-freeze")]);
    let mut host = agent.host().await;
    let writer = Writer::start(&disks.inner());
    let mut session = host.prepared(LEASE).await;
    session.freeze().await;
    assert!(!matches!(session.answer().await, Ok(Some(Step::Frozen(_)))));
    writer.goes_on().await;
    assert!(writer.longest_pause() < LEASE);
}

#[tokio::test]
async fn a_freeze_over_its_budget_is_refused_and_let_go() {
    let disks = Disks::stacked();
    let agent = Agent::start_with(&disks, &[("STILLPOINT_FAULT", "slow-freeze")]);
    let mut host = agent.host().await;
    let writer = Writer::start(&disks.inner());
    let mut session = host.prepared(LEASE).await;
    session.freeze().await;
    let answer = session.answer().await.unwrap();
    let Some(Step::Refused(refused)) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason(), pb::RefusedReason::TooSlow);
    writer.goes_on().await;
    assert!(!disks.thaw());
}

#[tokio::test]
async fn a_thaw_that_hangs_is_made_by_the_guardian() {
    let disks = Disks::stacked();
    let agent = Agent::start_with(&disks, &[("STILLPOINT_FAULT", "hang-in-thaw")]);
    let mut host = agent.host().await;
    let writer = Writer::start(&disks.inner());
    let (session, _) = host.frozen(LEASE).await;
    writer.is_held().await;
    drop(session);
    writer.goes_on().await;
    assert!(writer.longest_pause() < LEASE + Duration::from_secs(1));
}
