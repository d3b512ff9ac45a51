//! Automatic checkpoints, on the simulator: made when a VM starts, gone when it stops cleanly.

use stillpoint_common::{
    CheckpointId, CheckpointPolicy, Consistency, EventKind, OperationState, PowerState, Reason, SettingsChange,
};
use stillpoint_engine::{CheckpointChange, CheckpointView, EventsFrom, Request, StopMode, VmChange};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

/// A VM that is off, holds 1 in block 1, has automatic checkpoints and none yet.
async fn host() -> SimHost {
    let host = SimHost::running().await;
    host.run(Request::Stop(StopMode::Graceful)).await.expect("it works");
    let settings = SettingsChange { automatic_checkpoints: Some(true), ..SettingsChange::default() };
    host.engine.update_vm(&host.vm(), VmChange { settings, ..VmChange::default() }).await.expect("it works");
    host
}

/// The same, running: it has written 2 since.
async fn started() -> SimHost {
    let host = host().await;
    host.run(Request::Start).await.expect("it works");
    host.write(1, 2);
    host
}

async fn only(host: &SimHost) -> CheckpointView {
    let mut all = host.checkpoints().await;
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// What was told of checkpoints.
async fn told(host: &SimHost) -> Vec<(EventKind, Option<CheckpointId>)> {
    let mut reader = host.engine.events(EventsFrom::Oldest, None, false).await.expect("the log can be read");
    let mut told = vec![];
    while let Some((_, event)) = reader.next().await.expect("the log can be read") {
        told.push((event.kind, event.checkpoint));
    }
    told.retain(|(_, checkpoint)| checkpoint.is_some());
    told
}

/// The VM has no checkpoint, and one file per disk: its own image.
async fn assert_merged(host: &SimHost) {
    assert_eq!(host.checkpoints().await, []);
    assert_eq!(host.world.files().len(), 2, "{:?}", host.world.files());
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn one_is_made_at_the_start_and_gone_after_a_clean_stop() {
    let host = started().await;
    let made = only(&host).await.checkpoint;
    assert!(made.remarks.automatic && made.name.as_str().starts_with("Automatic Checkpoint - web - ("), "{made:?}");
    assert_eq!((made.consistency, made.memory, made.remarks.creator), (Consistency::Offline, None, None));
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    assert_merged(&host).await;
    let id = Some(made.id);
    assert_eq!(told(&host).await, [(EventKind::CheckpointCreated, id), (EventKind::CheckpointDeleted, id)]);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 2, "what the run wrote stays");
    assert_ne!(only(&host).await.checkpoint.id, made.id);
}

#[tokio::test(start_paused = true)]
async fn a_vm_has_none_unless_it_is_asked_for_and_never_while_checkpoints_are_disabled() {
    let host = SimHost::running().await;
    assert_eq!(host.checkpoints().await, []);
    let host = self::host().await;
    let disabled = VmChange { checkpoint_policy: Some(CheckpointPolicy::Disabled), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), disabled).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.checkpoints().await, []);
}

#[tokio::test(start_paused = true)]
async fn reverting_brings_back_the_state_at_the_start() {
    let host = started().await;
    host.run(Request::Revert).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 1);
    assert!(only(&host).await.checkpoint.remarks.automatic, "an apply is no clean stop");
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn none_is_made_while_there_is_another_checkpoint() {
    let host = host().await;
    let own = host.create(CheckpointPolicy::Production).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(only(&host).await.checkpoint.id, own.id);
}

#[tokio::test(start_paused = true)]
async fn a_users_checkpoint_of_the_same_run_stays_when_the_automatic_one_goes() {
    let host = started().await;
    let automatic = only(&host).await.checkpoint.id;
    let own = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!(own.parent, Some(automatic));
    host.write(1, 3);
    host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
    let left = only(&host).await;
    assert_eq!((left.checkpoint.id, left.checkpoint.parent), (own.id, None));
    assert_eq!(host.content(&left).values().map(|disk| disk[&1]).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().vm.parent, Some(own.id));
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_got_a_name_or_a_time_to_keep_is_its_users() {
    let in_a_week = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(168);
    for change in [
        CheckpointChange { name: "monday".parse().ok(), ..CheckpointChange::default() },
        CheckpointChange { keep_until: Some(Some(in_a_week)), ..CheckpointChange::default() },
    ] {
        let host = started().await;
        let id = only(&host).await.checkpoint.id;
        host.engine.update_checkpoint(&host.vm(), id, change).await.unwrap();
        host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
        assert_eq!(only(&host).await.checkpoint.id, id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_switches_itself_off_has_stopped_cleanly() {
    let host = started().await;
    host.world.shut_guest_down(&host.vm());
    while host.engine.vm(&host.vm()).await.unwrap().vm.instance.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    host.quiet().await;
    assert_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_pulled_plug_and_a_killed_process_leave_it_until_the_next_clean_stop() {
    for turned_off in [true, false] {
        let host = started().await;
        let id = only(&host).await.checkpoint.id;
        if turned_off {
            host.turn_off().await;
        } else {
            host.world.kill_instance(host.world.running(&host.vm()).unwrap());
            host.turn_off().await;
        }
        assert_eq!(only(&host).await.checkpoint.id, id);
        host.run(Request::Start).await.unwrap();
        assert_eq!((host.read(1), only(&host).await.checkpoint.id), (2, id), "none is made over it");
        host.run(Request::Stop(StopMode::Graceful)).await.unwrap();
        assert_merged(&host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_automatic_checkpoint_cannot_be_made_starts_all_the_same_and_says_so() {
    let host = host().await;
    host.world.set_faults(FaultPlan::none().every(Call::CreateOverlay, Fault::FailBefore));
    let accepted = host.engine.submit(&host.vm(), Request::Start, None).await.unwrap();
    host.end_of(&accepted).await.unwrap();
    let ended = host.engine.operation(accepted.id).await.unwrap();
    assert!(ended.warnings.iter().any(|it| it.contains("no automatic checkpoint was made")), "{:?}", ended.warnings);
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Running);
    assert_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_leaves_no_automatic_checkpoint() {
    let host = host().await;
    host.world.set_faults(FaultPlan::none().at(Call::Launch, 1, Fault::FailBefore));
    assert_eq!(host.run(Request::Start).await.unwrap_err().reason, Reason::HypervisorFailed);
    assert_merged(&host).await;
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 1);
}

/// The service dies before or after each call of a request that changes something. Afterwards the VM has its data, at
/// most one checkpoint, which is the automatic one, and no file too many or too few; and it starts and stops again.
async fn die_everywhere(begin: impl AsyncFn() -> SimHost, request: Request) {
    let calls = {
        let host = begin().await;
        host.world.set_faults(FaultPlan::none());
        host.run(request.clone()).await.expect("it works");
        host.world.calls()
    };
    let points = calls.iter().enumerate().filter(|(_, call)| call.changes());
    for (point, call) in points {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let mut host = begin().await;
            let written = host.engine.vm(&host.vm()).await.expect("it works").vm.instance.map_or(1, |_| 2);
            host.world.set_faults(FaultPlan::none().at_point(point as u64 + 1, fault));
            tokio::select! {
                _ = host.run(request.clone()) => {}
                () = host.world.crashed() => {}
            }
            host.world.set_faults(FaultPlan::none());
            host.restart().await;
            host.quiet().await;
            let what = format!("{request:?}, {fault:?} at {call}");
            let left = host.checkpoints().await;
            assert!(left.len() <= 1 && left.iter().all(|it| it.checkpoint.remarks.automatic), "{what}: {left:?}");
            host.assert_files().await;
            assert!(
                host.engine.operations().await.expect("it works").iter().all(|it| it.state != OperationState::Running)
            );
            host.run(Request::Start).await.expect("it works");
            assert_eq!(host.read(1), written, "{what}");
            assert_eq!(host.checkpoints().await.len(), 1, "{what}");
            host.run(Request::Stop(StopMode::Graceful)).await.expect("it works");
            assert_merged(&host).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dying_while_a_vm_starts_with_its_automatic_checkpoint() {
    die_everywhere(host, Request::Start).await;
}

#[tokio::test(start_paused = true)]
async fn dying_while_a_vm_stops_and_its_automatic_checkpoint_goes() {
    die_everywhere(started, Request::Stop(StopMode::Graceful)).await;
}
