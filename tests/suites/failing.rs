//! VMs that fail without anybody having asked for it, and what is done about them, on the simulator. On real guests in
//! the suite `guest_failing`.

use std::time::Duration;

use stillpoint_common::{CheckpointPolicy, Event, EventKind, OnFailure, PowerState, Reason, SettingsChange, VmFailure};
use stillpoint_engine::{EngineConfig, EventsFrom, Request, StopMode, VmChange, VmView};
use stillpoint_sim::{Call, Fault, FaultPlan, PowerScript};
use stillpoint_tests::sim_host::SimHost;

/// A VM that runs and is set so.
async fn host(on_failure: OnFailure) -> SimHost {
    let host = SimHost::running().await;
    set(&host, on_failure).await;
    host
}

async fn set(host: &SimHost, on_failure: OnFailure) {
    let settings = SettingsChange { on_failure: Some(on_failure), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.expect("it can be set");
}

async fn now(host: &SimHost) -> VmView {
    host.engine.vm(&host.vm()).await.expect("it is there")
}

/// What is known of the last failure.
async fn last(host: &SimHost) -> VmFailure {
    now(host).await.failures.last.expect("it has failed")
}

/// Its process is killed from outside; what comes of that is waited for.
async fn kill(host: &SimHost) {
    host.world.kill_instance(host.world.running(&host.vm()).expect("it runs"));
    settled(host).await;
}

async fn settled(host: &SimHost) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.quiet().await;
}

async fn told(host: &SimHost, kind: EventKind) -> Vec<Event> {
    let mut reader = host.engine.events(EventsFrom::Oldest, None, false).await.expect("the log can be read");
    let mut found = vec![];
    while let Some((_, event)) = reader.next().await.expect("the log can be read") {
        found.extend((event.kind == kind).then_some(event));
    }
    found
}

async fn texts(host: &SimHost, kind: EventKind) -> Vec<String> {
    told(host, kind).await.into_iter().map(|event| event.text).collect()
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_dies_is_left_off_unless_it_is_set_otherwise() {
    let host = SimHost::running().await;
    kill(&host).await;
    let view = now(&host).await;
    assert_eq!((view.power, view.failures.recoveries), (PowerState::Off, 0));
    let failure = last(&host).await;
    assert_eq!((failure.reason, failure.at_work), (Reason::VmStoppedUnexpectedly, false));
    assert_eq!(told(&host, EventKind::VmDied).await[0].reason, Some(Reason::VmStoppedUnexpectedly));
    assert_eq!(told(&host, EventKind::VmRecovery).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_dies_is_started_as_it_is_and_that_is_told() {
    let host = host(OnFailure::Restart).await;
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    kill(&host).await;
    assert_eq!((now(&host).await.power, host.read(1)), (PowerState::Running, 2), "nothing is lost");
    let failure = last(&host).await;
    assert_eq!((failure.at_work, failure.outcome.as_str()), (false, "it was brought back"));
    assert_eq!(now(&host).await.failures.recoveries, 1);
    let recovery = told(&host, EventKind::VmRecovery).await;
    assert_eq!(recovery[0].text, "it is started: time 1 of at most 3 within an hour");
    assert_eq!((recovery[0].reason, recovery[0].vm.clone()), (Some(Reason::VmStoppedUnexpectedly), Some(host.vm())));
    assert!(recovery[0].operation.is_some() && recovery.len() == 2, "{recovery:?}");
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_dies_is_brought_back_to_its_last_checkpoint_and_started() {
    let host = host(OnFailure::Revert).await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    kill(&host).await;
    let view = now(&host).await;
    assert_eq!((view.power, host.read(1)), (PowerState::Running, 1), "as it was at the checkpoint");
    assert_eq!((view.vm.parent, host.checkpoints().await.len()), (Some(made.id), 1));
    let steps = texts(&host, EventKind::VmRecovery).await;
    assert!(steps[0].starts_with("it is brought back to its last checkpoint: time 1 of at most 3"), "{steps:?}");
    assert!(steps[1].starts_with("it is started: time 1 of"), "one recovery, two steps: {steps:?}");
    assert_eq!(view.failures.recoveries, 1);
    host.world.assert_sound();

    // With memory there is nothing to start: it goes on.
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.world.set_guest_memory(&host.vm(), 9);
    kill(&host).await;
    assert_eq!((now(&host).await.power, now(&host).await.vm.parent), (PowerState::Running, Some(made.id)));
    assert_ne!(host.world.guest_memory(&host.vm()), Some(9));
    assert_eq!(texts(&host, EventKind::VmRecovery).await.len(), 5, "reverted, and nothing more");
}

#[tokio::test(start_paused = true)]
async fn what_is_now_is_kept_first_where_the_vm_is_set_so() {
    let host = host(OnFailure::Revert).await;
    let change = VmChange { undo_checkpoint: Some(true), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), change).await.unwrap();
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    kill(&host).await;
    assert_eq!((now(&host).await.power, host.read(1)), (PowerState::Running, 1));
    let all = host.checkpoints().await;
    assert_eq!(all.len(), 2, "what was Now is a checkpoint");
    let kept = host.content(&all[1]);
    assert!(kept.values().all(|content| content.get(&1) == Some(&2)), "{kept:?}");

    // What cannot be kept is not lost either: it stays off.
    let change = VmChange { checkpoint_policy: Some(CheckpointPolicy::Disabled), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), change).await.unwrap();
    host.write(1, 3);
    kill(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Off);
    let failure = last(&host).await;
    assert!(failure.outcome.starts_with("it could not be brought back: checkpoints of VM web are"), "{failure:?}");
    set(&host, OnFailure::Nothing).await;
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 3);
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_a_checkpoint_is_started_as_it_is() {
    let host = host(OnFailure::Revert).await;
    host.write(1, 2);
    kill(&host).await;
    assert_eq!((now(&host).await.power, host.read(1)), (PowerState::Running, 2));
}

#[tokio::test(start_paused = true)]
async fn it_is_brought_back_three_times_an_hour_and_no_more() {
    let host = host(OnFailure::Restart).await;
    for time in 1..=3 {
        kill(&host).await;
        assert_eq!((now(&host).await.power, now(&host).await.failures.recoveries), (PowerState::Running, time));
    }
    kill(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Off);
    assert_eq!(last(&host).await.outcome, "nothing: it was brought back 3 times within the last hour");
    let told = texts(&host, EventKind::VmRecovery).await;
    assert!(told.last().unwrap().contains("3 times within the last hour"), "{told:?}");
    host.run(Request::Start).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    kill(&host).await;
    assert_eq!((now(&host).await.power, now(&host).await.failures.recoveries), (PowerState::Running, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_somebody_or_the_guest_wants_is_no_failure() {
    let host = host(OnFailure::Revert).await;
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.run(Request::Stop(StopMode::TurnOff)).await.unwrap();
    settled(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Off, "the plug was pulled");
    host.run(Request::Start).await.unwrap();
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    settled(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Off, "it was stopped");
    host.run(Request::Start).await.unwrap();
    host.world.shut_guest_down(&host.vm());
    settled(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Off, "the guest has switched itself off");
    assert_eq!(now(&host).await.failures.last, None);

    // A process that dies while somebody stops it was to end anyway.
    host.run(Request::Start).await.unwrap();
    host.world.script_guest(&host.vm(), |guest| guest.power = PowerScript::Ignores);
    let stop = host.engine.submit(&host.vm(), Request::Stop(StopMode::Graceful), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.world.kill_instance(host.world.running(&host.vm()).unwrap());
    host.end_of(&stop).await.unwrap();
    settled(&host).await;
    assert_eq!((now(&host).await.power, now(&host).await.failures.last), (PowerState::Off, None));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_while_a_plug_is_pulled_does_not_take_it_for_a_failure() {
    let mut host = host(OnFailure::Restart).await;
    host.world.set_faults(FaultPlan::none().at(Call::Retire, 1, Fault::CrashAfter));
    tokio::select! {
        _ = host.run(Request::Stop(StopMode::TurnOff)) => {}
        () = host.world.crashed() => {}
    }
    host.restart().await;
    settled(&host).await;
    assert_eq!((now(&host).await.power, now(&host).await.failures.last), (PowerState::Off, None));
}

#[tokio::test(start_paused = true)]
async fn while_an_operation_is_at_work_nothing_is_begun_and_afterwards_it_is() {
    let host = host(OnFailure::Revert).await;
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    host.world.set_latency(Call::Prepare, Duration::from_secs(5));
    let create = Request::CreateCheckpoint(stillpoint_engine::NewCheckpoint::default());
    let create = host.engine.submit(&host.vm(), create, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    host.world.kill_instance(host.world.running(&host.vm()).unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&host, EventKind::VmRecovery).await, [], "the checkpoint is still in the making");
    host.end_of(&create).await.unwrap_err();
    settled(&host).await;
    assert_eq!((now(&host).await.power, host.read(1)), (PowerState::Running, 1));
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_died_while_the_service_was_down_is_brought_back_but_not_one_that_ended_with_the_host() {
    let mut host = host(OnFailure::Restart).await;
    host.world.crash();
    host.world.kill_instance(host.world.running(&host.vm()).unwrap());
    host.restart().await;
    settled(&host).await;
    assert_eq!((now(&host).await.power, now(&host).await.failures.recoveries), (PowerState::Running, 1));

    host.world.crash();
    host.world.kill_instance(host.world.running(&host.vm()).unwrap());
    let second = |config: &mut EngineConfig| config.host_boot = "the second".to_owned();
    host.restart_with(second).await;
    settled(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Off, "the host was switched off, with all that ran on it");
    assert_eq!(texts(&host, EventKind::VmDied).await[1], "its process has ended with the host");
    host.run(Request::Start).await.unwrap();
    kill(&host).await;
    assert_eq!(now(&host).await.power, PowerState::Running, "a process of this boot");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_panics_stands_still_is_switched_off_and_brought_back() {
    let host = host(OnFailure::Revert).await;
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    host.world.panic_guest(&host.vm());
    settled(&host).await;
    assert_eq!((now(&host).await.power, host.read(1)), (PowerState::Running, 1));
    assert_eq!(last(&host).await.reason, Reason::GuestPanicked);
    assert_eq!(told(&host, EventKind::GuestPanicked).await[0].reason, Some(Reason::GuestPanicked));
    let steps = texts(&host, EventKind::VmRecovery).await;
    assert!(steps[0].starts_with("it is switched off: time 1"), "{steps:?}");
    assert_eq!((steps.len(), now(&host).await.failures.recoveries), (4, 1), "{steps:?}");

    // Three times; then it stands still, and can be looked at.
    for _ in 0..2 {
        host.world.panic_guest(&host.vm());
        settled(&host).await;
    }
    host.world.panic_guest(&host.vm());
    settled(&host).await;
    let view = now(&host).await;
    assert_eq!((view.power, view.panicked, view.failures.recoveries), (PowerState::Paused, true, 3));
    host.run(Request::Resume).await.unwrap();
    assert_eq!(now(&host).await.power, PowerState::Running);
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_panics_goes_on_as_its_kernel_wants_if_nothing_is_to_be_done() {
    let host = SimHost::running().await;
    host.world.set_guest_memory(&host.vm(), 5);
    for _ in 0..3 {
        host.world.panic_guest(&host.vm());
        settled(&host).await;
    }
    assert_eq!((now(&host).await.power, host.world.guest_memory(&host.vm())), (PowerState::Running, Some(0)));
    assert_eq!(told(&host, EventKind::GuestPanicked).await.len(), 1, "told once a minute");
    assert_eq!(last(&host).await.outcome, "nothing: the VM is set so");
    tokio::time::sleep(Duration::from_secs(60)).await;
    host.world.panic_guest(&host.vm());
    settled(&host).await;
    assert_eq!(told(&host, EventKind::GuestPanicked).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_at_any_step_of_a_recovery_finishes_it() {
    let recover = async |fault_at: Option<u64>| {
        let mut host = host(OnFailure::Revert).await;
        host.create(CheckpointPolicy::Production).await.unwrap();
        host.write(1, 2);
        let plan = FaultPlan::none();
        host.world.set_faults(match fault_at {
            Some(point) => plan.at_point(point, Fault::CrashBefore),
            None => plan,
        });
        host.world.panic_guest(&host.vm());
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = host.world.crashed() => {}
        }
        let points = host.world.points();
        if fault_at.is_some() {
            host.restart().await;
            for _ in 0..10 {
                settled(&host).await;
            }
        }
        let what = format!("died at point {fault_at:?}");
        assert_eq!(now(&host).await.power, PowerState::Running, "{what}");
        assert_eq!((host.read(1), last(&host).await.at_work), (1, false), "{what}");
        assert!(now(&host).await.failures.recoveries <= 3, "{what}");
        host.world.assert_sound();
        points
    };
    let points = recover(None).await;
    assert!(points > 40, "{points}");
    for point in 1..=points {
        recover(Some(point)).await;
    }
}
