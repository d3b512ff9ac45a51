//! A full disk is an ordinary event, on the simulator: refused where it can be foreseen, harmless where it cannot. The
//! same on real file systems is in `guest_space` and `real_qemu_space`.

use std::time::Duration;

use stillpoint_common::{
    CheckpointPolicy, CriticalAction, CriticalSettings, DiskFormat, OperationKind, OperationState, PowerState, Reason,
};
use stillpoint_engine::{NewCheckpoint, Request, VmChange};
use stillpoint_sim::{Call, NotWritten};
use stillpoint_tests::sim_host::{SimHost, disk};

const MIB: u64 = 1 << 20;
/// Room for two layers and what stays free, and nothing more.
const TWO_LAYERS: u64 = (2 * 16 + 64) * MIB;

/// Leaves so many bytes free on the file system of the images.
fn leave(host: &SimHost, free: u64) {
    host.world.set_capacity("/vm", host.world.used("/vm") + free);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_without_room_for_its_layers_is_refused_before_anything_is_begun() {
    let host = SimHost::running().await;
    leave(&host, TWO_LAYERS - 1);
    for policy in [CheckpointPolicy::Production, CheckpointPolicy::ProductionOnly, CheckpointPolicy::Standard] {
        let failure = host.create(policy).await.unwrap_err();
        assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
        for says in
            ["/vm/", "the file system on /vm has 96.0 MiB free", "layer of disk system", "64.0 MiB that stay free"]
        {
            assert!(failure.message.contains(says), "{says} is not in {failure}");
        }
        assert_eq!((host.world.files().len(), host.checkpoints().await.len()), (2, 0));
    }
    assert!(host.world.holds(&host.vm()).is_empty(), "the guest was not even asked");
    leave(&host, TWO_LAYERS);
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_standard_checkpoint_needs_room_for_the_memory_where_its_checkpoints_are_kept() {
    let host = SimHost::running().await;
    host.world.set_capacity("/state", 256 * MIB);
    let failure = host.create(CheckpointPolicy::Standard).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace);
    assert!(failure.message.contains("the file system on /state has 256.0 MiB free, and 320.0 MiB"), "{failure}");
    host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.world.set_capacity("/state", (256 + 64) * MIB);
    host.create(CheckpointPolicy::Standard).await.unwrap();
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_fallback_without_room_for_the_memory_says_that_and_leaves_nothing() {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |guest| guest.agent = stillpoint_sim::AgentScript::Absent);
    host.world.set_capacity("/state", 256 * MIB);
    let failure = host.create(CheckpointPolicy::Production).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
    assert_eq!((host.world.files().len(), host.checkpoints().await.len(), host.read(1)), (2, 0, 1));
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn an_apply_without_room_for_its_layers_is_refused_and_the_vm_goes_on() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    let instance = host.world.running(&host.vm());
    leave(&host, TWO_LAYERS - 1);
    for request in [Request::Apply(made.id.into()), Request::Revert] {
        assert_eq!(host.run(request).await.unwrap_err().reason, Reason::NoSpace);
        assert_eq!((host.world.running(&host.vm()), host.read(1)), (instance, 2));
    }
    leave(&host, TWO_LAYERS);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(host.read(1), 1);
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn an_export_without_room_at_its_target_is_refused_before_a_folder_is_made() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    let export = || Request::Export { checkpoint: made.id, folder: "/exports/one".into(), format: DiskFormat::Qcow2 };
    // One block and the overhead of each of two disks, and what stays free.
    let needed = 2 * (MIB + 65_536) + 64 * MIB;
    host.world.set_capacity("/exports", needed - 1);
    let failure = host.run(export()).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace);
    assert!(failure.message.contains("the file system on /exports has"), "{failure}");
    assert!(failure.message.contains("a copy of disk data"), "{failure}");
    host.assert_files().await;
    host.world.set_capacity("/exports", needed);
    host.run(export()).await.unwrap();
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn what_fills_the_disk_behind_the_forecast_undoes_the_operation_and_leaves_nothing() {
    let host = SimHost::running().await;
    host.world.set_capture_time(Duration::from_secs(10));
    let request = Request::CreateCheckpoint(NewCheckpoint {
        policy: Some(CheckpointPolicy::Standard),
        ..NewCheckpoint::default()
    });
    let operation = host.engine.submit(&host.vm(), request, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    host.world.set_capacity("/state", MIB);
    let failure = host.end_of(&operation).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
    assert_eq!((host.checkpoints().await.len(), host.world.files().len(), host.read(1)), (0, 2, 1));
    assert!(host.world.guest_write(&host.vm(), &disk("system"), 2, 2).is_ok(), "the guest goes on");
    host.world.guest_write(&host.vm(), &disk("data"), 2, 2).unwrap();
    host.assert_files().await;
}

/// The guest writes until there is no room, and stands still. Answers how many blocks were written.
fn write_until_full(host: &SimHost) -> u64 {
    for block in 100.. {
        match host.world.guest_write(&host.vm(), &disk("data"), block, block) {
            Ok(()) => {}
            Err(NotWritten::NoSpace) => return block - 100,
            Err(other) => panic!("{other:?}"),
        }
    }
    unreachable!("disks are finite")
}

async fn set(host: &SimHost, action: CriticalAction, minutes: Option<u64>) {
    let power_off_after = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let critical = Some(CriticalSettings { action, power_off_after });
    host.engine.update_vm(&host.vm(), VmChange { critical, ..VmChange::default() }).await.expect("it is idle");
}

async fn power(host: &SimHost) -> PowerState {
    host.engine.vm(&host.vm()).await.expect("it is there").power
}

/// How many operations of this kind there were.
async fn operations(host: &SimHost, kind: OperationKind) -> usize {
    host.engine.operations().await.expect("it works").iter().filter(|operation| operation.kind == kind).count()
}

#[tokio::test(start_paused = true)]
async fn a_vm_without_space_stands_still_says_why_and_goes_on_by_itself() {
    let host = SimHost::running().await;
    leave(&host, 3 * 65_536);
    assert_eq!(write_until_full(&host), 3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let view = host.engine.vm(&host.vm()).await.unwrap();
    assert_eq!(view.power, PowerState::PausedCritical);
    let critical = view.critical.unwrap();
    assert_eq!((critical.disk, critical.no_space, critical.free), (Some(disk("data")), true, Some(0)));
    assert_eq!((critical.path, critical.mounted_on), (Some("/vm/data.qcow2".into()), Some("/vm".into())));
    let since = critical.since.unwrap();
    assert!(host.world.now().duration_since(since).as_secs() >= 59, "{since}");

    leave(&host, 16 * MIB - 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(power(&host).await, PowerState::PausedCritical, "that is not enough to go on for long");
    leave(&host, 16 * MIB);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let view = host.engine.vm(&host.vm()).await.unwrap();
    assert_eq!((view.power, view.critical), (PowerState::Running, None));
    assert_eq!(operations(&host, OperationKind::ResumeVm).await, 1);
    let content = host.world.guest_content(&host.vm(), &disk("data")).unwrap();
    assert_eq!((content[&100], content[&102], content.get(&103)), (100, 102, None));
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_runs_out_of_space_while_it_makes_itself_quiet_fails_the_checkpoint_at_once_and_says_why() {
    for policy in [CheckpointPolicy::ProductionOnly, CheckpointPolicy::Production] {
        let host = SimHost::running().await;
        host.world.set_latency(Call::Prepare, Duration::from_secs(55));
        let create = Request::CreateCheckpoint(NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() });
        let begun = host.engine.submit(&host.vm(), create, None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        leave(&host, 3 * 65_536);
        write_until_full(&host);
        let asked = tokio::time::Instant::now();
        let failure = host.end_of(&begun).await.unwrap_err();
        assert_eq!(failure.reason, Reason::NoSpace, "{failure}");
        assert!(failure.message.contains("no space for disk data on /vm"), "{failure}");
        assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
        leave(&host, 64 * MIB);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((power(&host).await, host.checkpoints().await.len()), (PowerState::Running, 0));
        host.assert_files().await;
        host.world.assert_sound();
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_to_wait_goes_on_when_it_is_told_to_and_not_without_space() {
    let host = SimHost::running().await;
    set(&host, CriticalAction::Wait, None).await;
    leave(&host, 0);
    write_until_full(&host);
    let failure = host.run(Request::Resume).await.unwrap_err();
    assert_eq!(failure.reason, Reason::NoSpace);
    assert!(failure.message.contains("the file system on /vm has 0.0 MiB free, and 16.0 MiB"), "{failure}");
    leave(&host, 64 * MIB);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(power(&host).await, PowerState::PausedCritical);
    host.run(Request::Resume).await.unwrap();
    assert_eq!(power(&host).await, PowerState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_told_to_wait_no_longer_goes_on_at_once() {
    let host = SimHost::running().await;
    set(&host, CriticalAction::Wait, None).await;
    leave(&host, 0);
    write_until_full(&host);
    leave(&host, 64 * MIB);
    tokio::time::sleep(Duration::from_secs(60)).await;
    set(&host, CriticalAction::ResumeWhenSpace, None).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(power(&host).await, PowerState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_has_stood_still_for_too_long_is_switched_off_also_over_a_restart_of_the_service() {
    for restarts in [false, true] {
        let mut host = SimHost::running().await;
        set(&host, CriticalAction::ResumeWhenSpace, Some(10)).await;
        leave(&host, 0);
        write_until_full(&host);
        tokio::time::sleep(Duration::from_secs(9 * 60)).await;
        if restarts {
            host.world.crash();
            host.restart().await;
        }
        tokio::time::sleep(Duration::from_secs(58)).await;
        assert_eq!(power(&host).await, PowerState::PausedCritical, "restarts: {restarts}");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(power(&host).await, PowerState::Off, "restarts: {restarts}");
        leave(&host, 64 * MIB);
        host.run(Request::Start).await.unwrap();
        assert_eq!(host.read(1), 1);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(power(&host).await, PowerState::Running, "its next life is its own");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_vm_begins_anew_each_time_it_stops() {
    let mut host = SimHost::running().await;
    set(&host, CriticalAction::ResumeWhenSpace, Some(10)).await;
    leave(&host, 0);
    write_until_full(&host);
    tokio::time::sleep(Duration::from_secs(9 * 60)).await;
    // It goes on while no service is there to see it.
    host.world.crash();
    leave(&host, 64 * MIB);
    let instance = host.world.instances(&host.vm())[0];
    host.world.resume_behind_the_service(instance);
    host.restart().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    leave(&host, 0);
    write_until_full(&host);
    tokio::time::sleep(Duration::from_secs(9 * 60)).await;
    assert_eq!(power(&host).await, PowerState::PausedCritical);
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    assert_eq!(power(&host).await, PowerState::Off);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_stands_still_by_itself_takes_no_checkpoint_and_no_pause_and_says_which_disk_it_is() {
    let host = SimHost::running().await;
    leave(&host, 0);
    write_until_full(&host);
    let create = |policy| Request::CreateCheckpoint(NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() });
    for request in [create(CheckpointPolicy::Production), create(CheckpointPolicy::Standard), Request::Pause] {
        let failure = host.run(request).await.unwrap_err();
        assert_eq!(failure.reason, Reason::VmPausedCritical);
        assert!(failure.message.contains("no space for disk data on /vm"), "{failure}");
    }
    assert_eq!((host.world.files().len(), host.checkpoints().await.len()), (2, 0));
    host.turn_off().await;
    assert_eq!(power(&host).await, PowerState::Off);
}

#[tokio::test(start_paused = true)]
async fn space_that_comes_while_an_operation_is_at_work_is_seen_when_that_has_ended() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    host.world.set_latency(Call::Flatten, Duration::from_secs(100));
    let export = Request::Export { checkpoint: made.id, folder: "/exports/one".into(), format: DiskFormat::Qcow2 };
    let operation = host.engine.submit(&host.vm(), export, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    leave(&host, 0);
    write_until_full(&host);
    leave(&host, 64 * MIB);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(power(&host).await, PowerState::PausedCritical);
    host.end_of(&operation).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(power(&host).await, PowerState::Running);
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_merge_without_room_is_refused_harms_nothing_and_is_done_when_there_is_room() {
    for running in [true, false] {
        let mut host = SimHost::running().await;
        let made = host.create(CheckpointPolicy::Production).await.unwrap();
        host.write(1, 2);
        host.write(2, 2);
        if !running {
            host.turn_off().await;
        }
        leave(&host, 65_535);
        let _ = host.run(Request::DeleteCheckpoint(made.id)).await;
        assert_eq!(host.checkpoints().await.len(), 0, "the checkpoint is gone all the same");
        let failures = host.engine.operations().await.unwrap().into_iter().filter_map(|done| match done.state {
            OperationState::Failed(failure) => Some(failure),
            OperationState::Running | OperationState::Done(_) => None,
        });
        let failures: Vec<_> = failures.collect();
        assert!(
            !failures.is_empty() && failures.iter().all(|failure| failure.reason == Reason::NoSpace),
            "{failures:?}"
        );
        assert!(failures[0].message.contains("the file system on /vm has"), "{}", failures[0]);
        assert!(host.world.calls().iter().all(|call| !matches!(call, Call::Merge | Call::MergeOffline)), "not begun");
        assert_eq!(host.world.files().len(), 4, "the layers stay");
        host.assert_files().await;

        leave(&host, 64 * MIB);
        host.restart().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(host.world.files().len(), 2, "running: {running}: {:?}", host.world.files());
        if !running {
            host.run(Request::Start).await.unwrap();
        }
        assert_eq!((host.read(1), host.read(2)), (2, 2));
        host.assert_files().await;
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_gives_back_memory_and_leaves_before_it_merges_anything() {
    let host = SimHost::running().await;
    let root = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.write(1, 2);
    let leaf = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::Apply(root.id.into())).await.unwrap();
    host.run(Request::Start).await.unwrap();
    host.write(1, 3);
    leave(&host, 0);
    host.world.set_full(true);
    host.run(Request::DeleteCheckpoint(leaf.id)).await.unwrap();
    assert!(host.world.files().iter().all(|path| !path.to_string_lossy().contains("memory")), "its memory is gone");
    host.world.set_full(false);
    assert!(!host.world.calls().contains(&Call::Merge));
    assert!(host.world.used("/vm") > 0 && host.read(1) == 3);
    host.assert_files().await;
}
