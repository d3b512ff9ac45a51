//! Sessions against real file systems: what is held, what lets go, and when.

mod common;

use std::{fs, time::Duration};

use common::{Agent, Disks, NO_SERVERS, Writer};
use stillpoint_agent::freezer::kernel;
use stillpoint_proto::guest::v1::{self as pb, quiesce_request, quiesce_response::Step};
use tokio::time::Instant;
use tonic::Code;

const LEASE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_guest_is_held_from_frozen_to_thawed_and_no_longer() {
    let disks = Disks::stacked();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let writer = Writer::start(&disks.inner());
    let (mut session, frozen) = host.frozen(LEASE).await;
    let order: Vec<_> = frozen.file_systems.iter().map(|fs| (fs.mount_point.clone(), fs.result())).collect();
    let name = |path: std::path::PathBuf| path.display().to_string();
    let wanted =
        [(name(disks.inner()), pb::FileSystemResult::Frozen), (name(disks.outer()), pb::FileSystemResult::Frozen)];
    assert_eq!(order, wanted, "what lies on a file goes before what carries the file");
    writer.is_held().await;
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
    writer.goes_on().await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout, "asked again, it answers the same");
    drop(session);
    let (mut again, _) = host.frozen(LEASE).await;
    assert_eq!(again.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(!disks.thaw());
}

#[tokio::test]
async fn a_frozen_ext4_has_nothing_to_recover() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    fs::write(disks.outer().join("file"), "content").unwrap();
    let needs_recovery = || {
        let image = fs::read(disks.below().join("outer.img")).unwrap();
        assert_eq!(image[1024 + 0x38..1024 + 0x3A], [0x53, 0xEF]);
        image[1024 + 0x60] & 4 != 0
    };
    assert!(needs_recovery());
    let (mut session, _) = host.frozen(LEASE).await;
    assert!(!needs_recovery());
    session.thaw().await;
}

#[tokio::test]
async fn the_end_of_the_lease_lets_go_and_says_so() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let writer = Writer::start(&disks.outer());
    let (mut session, _) = host.frozen(Duration::from_millis(700)).await;
    assert!(matches!(session.answer().await, Ok(Some(Step::Lapsed(_)))));
    writer.goes_on().await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::Lapsed);
    assert!(writer.longest_pause() < Duration::from_millis(2000));
}

#[tokio::test]
async fn a_file_system_thawed_by_someone_else_is_a_lapse() {
    let disks = Disks::stacked();
    let agent = Agent::start(&disks);
    let (mut session, _) = agent.host().await.frozen(LEASE).await;
    assert!(disks.thaw());
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::Lapsed);
    assert!(thawed.message.contains("outer"), "{}", thawed.message);
}

#[tokio::test]
async fn closing_the_stream_in_any_way_is_a_thaw() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let writer = Writer::start(&disks.outer());
    let mut host = agent.host().await;

    let (session, _) = host.frozen(LEASE).await;
    writer.is_held().await;
    drop(session);
    writer.goes_on().await;

    let (common::Session { steps, mut answers }, _) = host.frozen(LEASE).await;
    writer.is_held().await;
    drop(steps);
    writer.goes_on().await;
    assert!(answers.message().await.unwrap().is_none());

    let (session, _) = host.frozen(LEASE).await;
    writer.is_held().await;
    session.send(quiesce_request::Step::Freeze(pb::Freeze {})).await;
    writer.goes_on().await;
    drop(session);

    let (_session, _) = host.frozen(LEASE).await;
    writer.is_held().await;
    drop((_session, host));
    writer.goes_on().await;
    assert!(writer.longest_pause() < LEASE / 2);
}

#[tokio::test]
async fn a_new_host_finds_nothing_held() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let (session, _) = agent.host().await.frozen(LEASE).await;
    // The old host is gone without a word: its socket is closed under a session that is still held.
    drop(session);
    let mut host = agent.host().await;
    host.hello().await;
    assert!(!disks.thaw(), "nothing is frozen once a new host has been answered");
    host.frozen(LEASE).await;
}

#[tokio::test]
async fn an_agent_killed_while_frozen_does_not_leave_the_guest_held() {
    let disks = Disks::stacked();
    let mut agent = Agent::start(&disks);
    let writer = Writer::start(&disks.inner());
    let (_session, _) = agent.host().await.frozen(LEASE).await;
    writer.is_held().await;
    let killed = Instant::now();
    agent.kill();
    writer.goes_on().await;
    println!("writes went on {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < LEASE / 2);
}

#[tokio::test]
async fn a_new_agent_thaws_what_nobody_else_did() {
    let disks = Disks::stacked();
    for path in [disks.inner(), disks.outer()] {
        kernel::freeze(fs::File::open(path).unwrap()).unwrap();
    }
    let agent = Agent::start(&disks);
    agent.host().await.hello().await;
    assert!(!disks.thaw());
}

#[tokio::test]
async fn a_guardian_that_dies_is_replaced_before_the_next_freeze() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let guardians = agent.children();
    assert_eq!(guardians.len(), 1);
    let pid = rustix::process::Pid::from_raw(guardians[0].try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (mut session, _) = host.frozen(LEASE).await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    assert_ne!(agent.children(), guardians);
}

#[tokio::test]
async fn a_file_system_that_is_frozen_already_is_a_refusal_and_holds_nothing() {
    let disks = Disks::stacked();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let mut session = host.prepared(LEASE).await;
    let other = fs::File::open(disks.inner()).unwrap();
    kernel::freeze(&other).unwrap();
    session.freeze().await;
    let answer = session.answer().await.unwrap();
    let Some(Step::Refused(refused)) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason(), pb::RefusedReason::FileSystem);
    let inner = refused.file_systems.iter().find(|fs| fs.mount_point.ends_with("inner")).unwrap();
    assert_eq!((inner.result(), inner.detail.as_str()), (pb::FileSystemResult::Failed, "something else has frozen it"));
    assert_eq!(kernel::thaw(fs::File::open(disks.outer()).unwrap()), Ok(false));
    assert_eq!(kernel::thaw(&other), Ok(true), "it still belongs to whoever froze it");
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::NotHeld);
}

#[tokio::test]
async fn nonsense_is_refused_with_a_status() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    for lease in [Duration::ZERO, Duration::from_secs(61)] {
        let mut session = host.open().await;
        session.start(lease).await;
        assert_eq!(session.answer().await.unwrap_err().code(), Code::InvalidArgument);
    }
    let mut session = host.open().await;
    session.freeze().await;
    assert_eq!(session.answer().await.unwrap_err().code(), Code::FailedPrecondition);

    let busy = host.prepared(LEASE).await;
    let (_steps, stream) = tokio::sync::mpsc::channel(1);
    let second = host.client.quiesce(tokio_stream::wrappers::ReceiverStream::new(stream)).await;
    assert_eq!(second.unwrap_err().code(), Code::Aborted);
    let shutdown = pb::ShutdownRequest { action: pb::ShutdownAction::PowerOff.into() };
    assert_eq!(host.client.shutdown(shutdown).await.unwrap_err().code(), Code::Aborted);
    drop(busy);
    let nothing = pb::ShutdownRequest { action: 0 };
    assert_eq!(host.client.shutdown(nothing).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_excluded_file_system_is_left_alone() {
    let disks = Disks::stacked();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let mut session = host.open().await;
    let exclude_mount_points = vec![disks.inner().display().to_string()];
    session
        .send(quiesce_request::Step::Start(pb::Start {
            session_id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            lease: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            freeze_budget: None,
            options: Some(pb::QuiesceOptions { exclude_mount_points, ..Default::default() }),
        }))
        .await;
    let answer = session.answer().await.unwrap();
    let Some(Step::Prepared(prepared)) = answer else { panic!("{answer:?}") };
    let results: Vec<_> = prepared.file_systems.iter().map(pb::FileSystem::result).collect();
    assert_eq!(results, [pb::FileSystemResult::Selected, pb::FileSystemResult::LeftOut]);
}

#[tokio::test]
async fn what_the_guests_own_settings_exclude_is_never_frozen() {
    let disks = Disks::stacked();
    let settings = disks.below().join("settings");
    let text =
        format!("scripts.folder = off\nhooks.folder = off\n{NO_SERVERS}freeze.exclude = {}\n", disks.inner().display());
    std::fs::write(&settings, text).unwrap();
    let agent = Agent::start_configured(&disks, &settings);
    let mut host = agent.host().await;
    let mut session = host.prepared(LEASE).await;
    session.freeze().await;
    assert!(matches!(session.answer().await.unwrap(), Some(Step::Frozen(_))));
    // A write to a frozen file system would wait for the end of the lease.
    std::fs::write(disks.inner().join("written"), "while the outer one is held").unwrap();
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
}

#[tokio::test]
async fn the_clocks_are_read_and_the_watch_beats() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let clocks = host.client.set_clock(pb::SetClockRequest { reference: None }).await.unwrap().into_inner();
    assert!(!clocks.changed && clocks.boot_time.is_some() && clocks.time.unwrap().seconds > 1_577_836_800);
    let mut events = host.client.watch(pb::WatchRequest { interval: None }).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap().event.unwrap();
    let pb::watch_response::Event::Inventory(inventory) = first else { panic!("{first:?}") };
    assert_eq!(inventory.file_systems.len(), 1);
    let second = events.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(second, pb::watch_response::Event::Heartbeat(_)));
}
