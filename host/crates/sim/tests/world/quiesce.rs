//! Guests of the simulated world hold, let go and answer as they are scripted.

use std::time::Duration;

use crate::lab::Lab;
use stillpoint_common::{InstanceId, QuiesceRequest, SessionId, Thawed, WriterRequest};
use stillpoint_engine::ports::{PowerAction, QuiesceError, RunState};
use stillpoint_sim::{AgentScript, FreezeScript, GuestScript, NotWritten, PowerScript, ThawScript, WriterScript};
use tokio::time::{advance, timeout};

const LEASE: Duration = Duration::from_secs(10);

async fn prepared(lab: &Lab, vm: InstanceId) -> Result<SessionId, QuiesceError> {
    let request = QuiesceRequest { session: SessionId::generate(), lease: LEASE, writers: WriterRequest::default() };
    lab.ports.guest.prepare(vm, &request).await.map(|_| request.session)
}

async fn held(lab: &Lab, vm: InstanceId) -> Result<SessionId, QuiesceError> {
    let session = prepared(lab, vm).await?;
    lab.ports.guest.freeze(vm, session).await.map(|_| session)
}

#[tokio::test(start_paused = true)]
async fn a_held_guest_writes_nothing_until_the_thaw() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let session = held(&lab, vm).await.unwrap();
    assert_eq!(lab.world.guest_write(&lab.vm, &lab.disk, 1, 1), Err(NotWritten::Held));
    advance(Duration::from_secs(1)).await;
    for _ in 0..2 {
        assert_eq!(lab.ports.guest.thaw(vm, session).await.unwrap(), Thawed::HeldThroughout);
    }
    lab.write(1, 1);
    lab.ports.guest.finish(vm, session).await.unwrap();
    assert_eq!(lab.world.holds(&lab.vm), [Duration::from_secs(1)]);
}

#[tokio::test(start_paused = true)]
async fn the_lease_ends_the_hold_whatever_becomes_of_the_host() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let session = held(&lab, vm).await.unwrap();
    lab.world.crash();
    advance(LEASE - Duration::from_millis(1)).await;
    assert!(lab.world.is_held(&lab.vm));
    advance(Duration::from_secs(30)).await;
    lab.write(1, 1);
    assert_eq!(lab.world.holds(&lab.vm), [LEASE]);
    assert!(lab.world.never_held_longer_than(LEASE));
    assert!(!lab.world.never_held_longer_than(LEASE - Duration::from_millis(1)));
    let ports = lab.world.restart();
    assert_eq!(ports.guest.thaw(vm, session).await.unwrap(), Thawed::Lapsed);
    assert!(ports.guest.freeze(vm, session).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_new_session_ends_what_an_old_one_held() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let old = held(&lab, vm).await.unwrap();
    prepared(&lab, vm).await.unwrap();
    assert!(!lab.world.is_held(&lab.vm));
    assert_eq!(lab.ports.guest.thaw(vm, old).await.unwrap(), Thawed::Lapsed);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_lets_go_at_once() {
    let lab = Lab::new();
    let vm = lab.running().await;
    held(&lab, vm).await.unwrap();
    lab.world.kill_agent(&lab.vm);
    lab.write(1, 1);
    let gone = lab.ports.guest.describe(vm).await;
    assert!(matches!(gone, Err(QuiesceError::Unreachable { .. })), "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lapses_says_so() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.script_guest(&lab.vm, |guest| guest.freeze = FreezeScript::LapsesAfter(Duration::from_millis(5)));
    let session = held(&lab, vm).await.unwrap();
    advance(Duration::from_millis(5)).await;
    lab.write(1, 1);
    assert_eq!(lab.ports.guest.thaw(vm, session).await.unwrap(), Thawed::Lapsed);
}

#[tokio::test(start_paused = true)]
async fn what_stands_against_a_freeze_is_told_and_nothing_stays_held() {
    type Change = fn(&mut GuestScript);
    type Expected = fn(&QuiesceError) -> bool;
    let cases: [(Change, Expected); 8] = [
        (|g| g.agent = AgentScript::Absent, |e| matches!(e, QuiesceError::Unreachable { .. })),
        (|g| g.agent = AgentScript::Incompatible, |e| matches!(e, QuiesceError::Incompatible { .. })),
        (|g| g.agent = AgentScript::Hangs, |e| matches!(e, QuiesceError::Unanswered { .. })),
        (|g| g.freeze = FreezeScript::Hangs, |e| matches!(e, QuiesceError::Unanswered { .. })),
        (|g| g.freeze = FreezeScript::Refused, |e| matches!(e, QuiesceError::FileSystemRefused { .. })),
        (|g| g.freeze = FreezeScript::Nothing, |e| matches!(e, QuiesceError::NothingToFreeze)),
        (
            |g| *g = g.clone().writer("db", WriterScript::Refuses),
            |e| matches!(e, QuiesceError::WriterRefused { writer, .. } if writer == "db"),
        ),
        (
            |g| *g = g.clone().writer("db", WriterScript::Hangs),
            |e| matches!(e, QuiesceError::WriterTimedOut { writer } if writer == "db"),
        ),
    ];
    for (change, expected) in cases {
        let lab = Lab::new();
        let vm = lab.running().await;
        lab.world.script_guest(&lab.vm, change);
        let error = held(&lab, vm).await.unwrap_err();
        assert!(expected(&error), "{error:?}");
        lab.write(1, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_freeze_that_nobody_waits_for_any_more_ends_with_its_lease() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.script_guest(&lab.vm, |guest| guest.freeze = FreezeScript::Hangs);
    let session = prepared(&lab, vm).await.unwrap();
    assert!(timeout(Duration::from_secs(1), lab.ports.guest.freeze(vm, session)).await.is_err());
    assert!(lab.world.is_held(&lab.vm));
    advance(LEASE).await;
    assert!(!lab.world.is_held(&lab.vm));
}

#[tokio::test(start_paused = true)]
async fn a_thaw_that_fails_leaves_the_hold_to_its_lease() {
    for script in [ThawScript::Fails, ThawScript::Hangs] {
        let lab = Lab::new();
        let vm = lab.running().await;
        lab.world.script_guest(&lab.vm, |guest| guest.thaw = script);
        let session = held(&lab, vm).await.unwrap();
        lab.ports.guest.thaw(vm, session).await.unwrap_err();
        assert!(lab.world.is_held(&lab.vm));
        advance(LEASE).await;
        assert!(!lab.world.is_held(&lab.vm));
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_switches_off_when_it_is_asked_if_it_likes() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.world.script_guest(&lab.vm, |guest| guest.power = PowerScript::Ignores);
    lab.ports.guest.power(vm, PowerAction::PowerOff).await.unwrap();
    lab.ports.hypervisor.press_power_button(vm).await.unwrap();
    assert_eq!(lab.world.run_state(vm), RunState::Running);
    lab.world.script_guest(&lab.vm, |guest| guest.power = PowerScript::Obeys);
    lab.ports.guest.power(vm, PowerAction::PowerOff).await.unwrap();
    assert_eq!(lab.world.run_state(vm), RunState::ShutDown);
}

#[tokio::test(start_paused = true)]
async fn a_paused_guest_answers_nothing() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.ports.hypervisor.pause(vm).await.unwrap();
    let silent = prepared(&lab, vm).await;
    assert!(matches!(silent, Err(QuiesceError::Unanswered { .. })), "{silent:?}");
}
