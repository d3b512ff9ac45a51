//! Merging layers that nothing needs, on the simulator: it makes way, goes on by itself, and loses nothing.

use std::time::Duration;

use stillpoint_common::{
    CheckpointId, CheckpointPolicy, DiskFormat, Merges, Operation, OperationKind, OperationState, Outcome, PowerState,
    Reason,
};
use stillpoint_engine::{CheckpointChange, NewCheckpoint, Request, StopMode, VmChange};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

/// Each step of a merge takes this long, so that one goes on for hours.
const STEP: Duration = Duration::from_secs(600);
/// Blocks of a layer: eight of them move in a step.
const BLOCKS: u64 = 100;
/// How long what is more urgent than a merge may have to wait for it.
const SOON: Duration = Duration::from_secs(1);

async fn assert_all_merged(host: &SimHost) {
    host.world.assert_sound();
    let files: Vec<_> = host.world.files().into_iter().collect();
    assert_eq!(files, ["/vm/data.qcow2", "/vm/system.qcow2"].map(std::path::PathBuf::from));
}

/// A VM with one checkpoint, whose Now has so much data that its merge takes hours.
async fn with_a_long_merge_ahead() -> (SimHost, CheckpointId) {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.expect("it works");
    for block in 0..BLOCKS {
        host.write(block, block + 7);
    }
    for call in [Call::Merge, Call::MergeOffline, Call::Stream, Call::StreamOffline] {
        host.world.set_latency(call, STEP);
    }
    (host, made.id)
}

/// Sets a long merge to work.
async fn merging(host: &SimHost, id: CheckpointId) -> Operation {
    let delete = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(id), None).await.expect("it works");
    tokio::time::sleep(STEP * 2).await;
    assert_eq!(host.engine.operation(delete.id).await.expect("it works").phase, "merge");
    delete
}

async fn assert_reads_as_written(host: &SimHost) {
    for block in 0..BLOCKS {
        assert_eq!(host.read(block), block + 7);
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_off_starts_at_once_while_its_layers_are_merged() {
    let (host, id) = with_a_long_merge_ahead().await;
    host.turn_off().await;
    let delete = merging(&host, id).await;
    let asked = tokio::time::Instant::now();
    let start = host.engine.submit(&host.vm(), Request::Start, None).await.unwrap();
    host.end_of(&start).await.unwrap();
    assert!(asked.elapsed() < SOON, "the start took {:?}", asked.elapsed());
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Running);
    // What the caller of the deletion was told stays true, and says what is still to come.
    let delete = host.engine.operation(delete.id).await.unwrap();
    assert_eq!(delete.state, OperationState::Done(Outcome::Gone));
    assert!(delete.warnings.iter().any(|warning| warning.contains("goes on by itself")), "{:?}", delete.warnings);
    assert_eq!(host.checkpoints().await.len(), 0);
    assert_reads_as_written(&host).await;
    // It does go on by itself.
    host.quiet().await;
    assert_reads_as_written(&host).await;
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_is_asked_for_begins_at_once_while_layers_are_merged() {
    let create = |policy| Request::CreateCheckpoint(NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() });
    for what in 0..7 {
        let host = SimHost::running().await;
        let older = host.create(CheckpointPolicy::Standard).await.unwrap();
        host.write(0, 3);
        let newer = host.create(CheckpointPolicy::Production).await.unwrap();
        for block in 0..BLOCKS {
            host.write(block, block + 7);
        }
        for call in [Call::Merge, Call::Stream] {
            host.world.set_latency(call, STEP);
        }
        merging(&host, newer.id).await;
        let request = match what {
            0 => create(CheckpointPolicy::ProductionOnly),
            1 => create(CheckpointPolicy::Standard),
            2 => Request::Apply(older.id.into()),
            3 => Request::Stop(StopMode::TurnOff),
            4 => Request::Pause,
            5 => Request::DeleteCheckpoint(older.id),
            _ => Request::Export { checkpoint: older.id, folder: "/exports/one".into(), format: DiskFormat::Qcow2 },
        };
        let asked = tokio::time::Instant::now();
        let urgent = host.engine.submit(&host.vm(), request.clone(), None).await.unwrap();
        if what != 5 {
            host.end_of(&urgent).await.unwrap();
            assert!(asked.elapsed() < SOON, "{request:?} took {:?}", asked.elapsed());
        }
        for call in [Call::Merge, Call::Stream] {
            host.world.set_latency(call, Duration::ZERO);
        }
        host.quiet().await;
        host.world.assert_sound();
        match what {
            2 => assert_eq!(host.read(0), 0),
            3 => {
                host.run(Request::Start).await.unwrap();
                assert_reads_as_written(&host).await;
            }
            4 => {
                host.run(Request::Resume).await.unwrap();
                assert_reads_as_written(&host).await;
            }
            _ => assert_reads_as_written(&host).await,
        }
        let referenced = host.referenced().await;
        assert_eq!(host.world.orphans(&referenced), [].into(), "{request:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_merge_is_what_the_vm_is_busy_with_and_can_be_cancelled() {
    let (host, id) = with_a_long_merge_ahead().await;
    merging(&host, id).await;
    host.world.set_latency(Call::CancelMerge, Duration::from_secs(5));
    let pause = host.engine.submit(&host.vm(), Request::Pause, None).await.unwrap();
    let refused = host.engine.submit(&host.vm(), Request::Resume, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::VmBusy);
    assert!(refused.message.contains(&pause.id.to_string()), "{refused}");
    host.engine.cancel_operation(pause.id).await.unwrap();
    assert_eq!(host.end_of(&pause).await.unwrap_err().reason, Reason::OperationCancelled);
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Running);
    host.quiet().await;
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn what_became_impossible_while_it_waited_is_refused_and_merging_goes_on() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    let delete = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(made.id), None).await.unwrap();
    let apply = host.engine.submit(&host.vm(), Request::Apply(made.id.into()), None).await.unwrap();
    host.end_of(&delete).await.unwrap();
    let refused = host.end_of(&apply).await.unwrap_err();
    assert!(matches!(refused.reason, Reason::CheckpointDeleting | Reason::CheckpointNotFound), "{refused}");
    host.quiet().await;
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_qemu_that_does_not_give_up_a_merge_does_not_keep_the_plug_from_being_pulled() {
    let (host, id) = with_a_long_merge_ahead().await;
    merging(&host, id).await;
    host.world.set_faults(FaultPlan::none().every(Call::CancelMerge, Fault::Hang));
    let asked = tokio::time::Instant::now();
    let stop = host.engine.submit(&host.vm(), Request::Stop(StopMode::TurnOff), None).await.unwrap();
    host.end_of(&stop).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(11), "{:?}", asked.elapsed());
    host.quiet().await;
    host.run(Request::Start).await.unwrap();
    assert_reads_as_written(&host).await;
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_record_do_not_wait_for_a_merge_either() {
    let (host, id) = with_a_long_merge_ahead().await;
    let kept = host.create(CheckpointPolicy::Production).await.unwrap();
    merging(&host, id).await;
    let asked = tokio::time::Instant::now();
    let change = CheckpointChange { name: Some("kept".parse().unwrap()), ..CheckpointChange::default() };
    host.engine.update_checkpoint(&host.vm(), kept.id, change).await.unwrap();
    let change = VmChange { checkpoint_policy: Some(CheckpointPolicy::Standard), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), change).await.unwrap();
    assert!(asked.elapsed() < SOON);
    host.quiet().await;
    assert_eq!(host.checkpoint(kept.id).await.checkpoint.name.as_str(), "kept");
    assert_eq!(host.world.files().len(), 4, "the user's images, and Now's layers over them");
    assert_reads_as_written(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_not_forgotten_nor_its_disks_changed_before_its_data_is_in_its_own_images() {
    let (host, id) = with_a_long_merge_ahead().await;
    host.turn_off().await;
    host.engine.set_merges(&host.vm(), Merges::Suspended).await.unwrap();
    host.run(Request::DeleteCheckpoint(id)).await.unwrap();
    assert_eq!(host.engine.delete_vm(&host.vm()).await.unwrap_err().reason, Reason::DiskHasLayers);
    let mut definition = host.engine.vm(&host.vm()).await.unwrap().vm.definition;
    definition.disks.pop();
    let change = VmChange { definition: Some(definition), ..VmChange::default() };
    assert_eq!(host.engine.update_vm(&host.vm(), change).await.unwrap_err().reason, Reason::DiskHasLayers);
    host.engine.set_merges(&host.vm(), Merges::Enabled).await.unwrap();
    host.quiet().await;
    assert_all_merged(&host).await;
    host.engine.delete_vm(&host.vm()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_merge_that_failed_is_tried_again_by_itself_and_the_vm_runs_on() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    host.world.set_faults(FaultPlan::none().at(Call::Merge, 1, Fault::FailBefore).at(Call::Merge, 2, Fault::NoSpace));
    let failure = host.run(Request::DeleteCheckpoint(made.id)).await.unwrap_err();
    assert_eq!(failure.reason, Reason::MergeFailed);
    assert_eq!(host.checkpoints().await.len(), 0, "it is gone all the same");
    let tries = async |wait: u64| {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        host.quiet().await;
        host.world.calls().iter().filter(|call| **call == Call::Merge).count()
    };
    assert_eq!(tries(25).await, 1, "not at once");
    assert_eq!(tries(10).await, 2, "after half a minute");
    let failed = host.engine.operations().await.unwrap().remove(0);
    assert_eq!(failed.kind, OperationKind::CollectLayers);
    assert!(matches!(&failed.state, OperationState::Failed(failure) if failure.reason == Reason::NoSpace));
    assert_eq!(tries(50).await, 2, "ever more seldom");
    assert!(tries(20).await > 2);
    host.write(1, 3);
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn suspended_merges_wait_over_a_restart_until_they_are_resumed() {
    let (mut host, id) = with_a_long_merge_ahead().await;
    let delete = merging(&host, id).await;
    host.engine.set_merges(&host.vm(), Merges::Suspended).await.unwrap();
    assert_eq!(host.end_of(&delete).await, Ok(Outcome::Gone));
    host.world.set_latency(Call::Merge, Duration::ZERO);
    tokio::time::sleep(STEP * 10).await;
    host.restart().await;
    host.quiet().await;
    assert_eq!(host.world.files().len(), 4, "nothing was merged");
    // What nothing lies on is removed all the same, and deleting goes on.
    let other = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::Revert).await.unwrap();
    host.run(Request::DeleteCheckpoint(other.id)).await.unwrap();
    let ended = host.engine.operations().await.unwrap().remove(0);
    assert!(ended.warnings.iter().any(|warning| warning.contains("suspended")), "{:?}", ended.warnings);
    host.engine.set_merges(&host.vm(), Merges::Enabled).await.unwrap();
    host.quiet().await;
    assert_reads_as_written(&host).await;
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_merge_that_somebody_cancelled_is_left_alone_until_the_next_deletion() {
    let (host, id) = with_a_long_merge_ahead().await;
    let delete = merging(&host, id).await;
    host.engine.cancel_operation(delete.id).await.unwrap();
    assert_eq!(host.end_of(&delete).await, Ok(Outcome::Gone), "the checkpoint is gone all the same");
    host.quiet().await;
    assert_eq!(host.world.files().len(), 4, "nothing was merged");
    host.world.set_latency(Call::Merge, Duration::ZERO);
    let other = host.create(CheckpointPolicy::Production).await.unwrap();
    host.run(Request::DeleteCheckpoint(other.id)).await.unwrap();
    assert_reads_as_written(&host).await;
    assert_all_merged(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_ends_does_not_wait_for_a_merge_and_the_next_goes_on_with_it() {
    let (mut host, id) = with_a_long_merge_ahead().await;
    merging(&host, id).await;
    let asked = tokio::time::Instant::now();
    host.engine.stop().await;
    assert!(asked.elapsed() < SOON);
    host.restart().await;
    host.quiet().await;
    assert_reads_as_written(&host).await;
    assert_all_merged(&host).await;
}

/// Four checkpoints; the layer of the last has so many blocks more, Now's so many others.
async fn with_layers_of(last: u64, now: u64) -> (SimHost, Vec<CheckpointId>) {
    let host = SimHost::running().await;
    let mut made = Vec::new();
    for at in 0..4 {
        if at == 3 {
            (100..100 + last).for_each(|block| host.write(block, 2));
        }
        made.push(host.create(CheckpointPolicy::Production).await.expect("it works").id);
        host.write(1, at + 2);
    }
    (200..200 + now).for_each(|block| host.write(block, 5));
    (host, made)
}

fn count(host: &SimHost, call: Call) -> usize {
    host.world.calls().iter().filter(|made| **made == call).count()
}

#[tokio::test(start_paused = true)]
async fn the_smaller_of_two_layers_moves_whether_the_vm_runs_is_paused_or_off() {
    for state in [PowerState::Running, PowerState::Paused, PowerState::Off] {
        for (last, now, up) in [(0, 50, true), (50, 0, false)] {
            let (host, made) = with_layers_of(last, now).await;
            match state {
                PowerState::Paused => drop(host.run(Request::Pause).await.unwrap()),
                PowerState::Off => host.turn_off().await,
                PowerState::Running | PowerState::PausedCritical | PowerState::Saved => {}
            }
            host.world.set_faults(FaultPlan::none());
            host.run(Request::DeleteCheckpoint(made[3])).await.unwrap();
            let is_off = state == PowerState::Off;
            let (down_call, up_call) =
                if is_off { (Call::MergeOffline, Call::StreamOffline) } else { (Call::Merge, Call::Stream) };
            let moved = (count(&host, down_call) > 0, count(&host, up_call) > 0);
            assert_eq!(moved, (!up, up), "{state:?}, {last} against {now}");
            // Upwards the VM never stands still for it.
            assert!(!up || count(&host, Call::Pause) == 0);
            host.world.assert_sound();
            assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, state);
            assert_eq!(host.world.orphans(&host.referenced().await), [].into());
            match state {
                PowerState::Paused => drop(host.run(Request::Resume).await.unwrap()),
                PowerState::Off => drop(host.run(Request::Start).await.unwrap()),
                PowerState::Running | PowerState::PausedCritical | PowerState::Saved => {}
            }
            assert_eq!(host.read(1), 5);
            assert!((200..200 + now).all(|block| host.read(block) == 5));
            assert!((100..100 + last).all(|block| host.read(block) == 2));
            for id in &made[..3] {
                host.run(Request::DeleteCheckpoint(*id)).await.unwrap();
            }
            assert_eq!(host.read(1), 5);
            assert_all_merged(&host).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_qemu_finished_while_the_service_was_away_is_written_down() {
    let (mut host, made) = with_layers_of(3, 50).await;
    for call in [Call::Merge, Call::Stream] {
        host.world.set_latency(call, STEP);
    }
    let delete = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(made[3]), None).await.unwrap();
    tokio::time::sleep(STEP / 2).await;
    assert_eq!(host.engine.operation(delete.id).await.unwrap().phase, "merge");
    host.world.crash();
    host.restart().await;
    host.world.set_latency(Call::Stream, Duration::ZERO);
    host.world.set_latency(Call::Merge, Duration::ZERO);
    host.quiet().await;
    host.world.assert_sound();
    assert_eq!(host.world.orphans(&host.referenced().await), [].into());
    assert_eq!(host.read(1), 5);
}

#[tokio::test(start_paused = true)]
async fn a_vm_can_be_looked_at_at_every_moment_of_a_merge() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    (0..20).for_each(|block| host.write(block, 7));
    // The record of the VM and those of its layers are read one after the other.
    host.world.set_latency(Call::Scan, Duration::from_millis(10));
    let delete = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(made.id), None).await.unwrap();
    let mut looks = tokio::task::JoinSet::new();
    let looking = async {
        loop {
            let (engine, vm) = (host.engine.clone(), host.vm());
            looks.spawn(async move { engine.vm(&vm).await.map(|view| view.disks.len()) });
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = looking => {}
        ended = host.end_of(&delete) => assert_eq!(ended, Ok(Outcome::Gone)),
    }
    let seen = looks.join_all().await;
    assert!(seen.len() > 100, "only {} looks", seen.len());
    assert!(seen.iter().all(|disks| *disks == Ok(2)), "{seen:?}");
}
