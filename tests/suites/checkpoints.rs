//! What checkpoints do, on the simulator. The same behaviour is shown on real guests in the suites named `guest_…`.

use std::time::Duration;

use stillpoint_common::{CheckpointPolicy, Consistency, FallbackReason, Kind, OperationState, PowerState, Reason};
use stillpoint_engine::{NewCheckpoint, Request, VmChange, ports::HypervisorError};
use stillpoint_sim::{AgentScript, Call, Fault, FaultPlan, FreezeScript, ThawScript};
use stillpoint_tests::sim_host::SimHost;

const LEASE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_production_checkpoint_holds_the_guest_for_the_cut_and_nothing_else() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!((made.kind, made.consistency), (Kind::Production, Consistency::FileSystem));
    assert_eq!((made.fallback, made.memory), (None, None));
    let changes: Vec<_> = host.world.changes_while_held().into_iter().filter(|call| *call != Call::Thaw).collect();
    assert_eq!(changes, [Call::SwitchHeads]);
    for phase in ["prepare", "freeze", "cut", "thaw", "held"] {
        assert!(made.phases.iter().any(|record| record.name == phase), "{phase} is in {:?}", made.phases);
    }
    host.write(1, 2);
    assert_eq!(host.content(&host.checkpoint(made.id).await).values().map(|disk| disk[&1]).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(host.read(1), 2);
    host.assert_clean().await;
}

/// Each is a sync of the disk, which is most of what the engine costs.
#[tokio::test(start_paused = true)]
async fn a_production_checkpoint_writes_four_transactions() {
    let host = SimHost::running().await;
    host.world.set_faults(FaultPlan::none());
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.engine.idle(&host.vm()).await.unwrap();
    let writes = host.world.calls().into_iter().filter(|call| *call == Call::Commit).count();
    assert_eq!(writes, 4, "accepted, begun, published, ended");
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_standard_checkpoint_keeps_memory_and_disks_of_one_instant() {
    let host = SimHost::running().await;
    host.world.set_guest_memory(&host.vm(), 7);
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    assert_eq!((made.kind, made.consistency), (Kind::Standard, Consistency::Memory));
    assert!(made.memory.is_some());
    host.world.set_guest_memory(&host.vm(), 8);
    host.write(1, 2);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7));
    assert_eq!(host.read(1), 1);
    assert_eq!(host.world.clock_behind(&host.vm()), Some(Duration::ZERO));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_agent_gets_a_standard_checkpoint_that_says_why() {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!((made.kind, made.requested_policy), (Kind::Standard, CheckpointPolicy::Production));
    assert_eq!(made.fallback, Some(FallbackReason::AgentUnreachable));
    assert!(!made.fallback_detail.is_empty());
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn production_only_fails_and_leaves_nothing_behind() {
    for freeze in [FreezeScript::Refused, FreezeScript::Nothing, FreezeScript::LapsesAfter(Duration::ZERO)] {
        let host = SimHost::running().await;
        host.world.script_guest(&host.vm(), |guest| guest.freeze = freeze);
        let failure = host.create(CheckpointPolicy::ProductionOnly).await.unwrap_err();
        assert_eq!(failure.reason, Reason::QuiesceFailed, "{freeze:?}");
        assert!(failure.message.contains("no production checkpoint was possible ("), "{failure}");
        assert_eq!(host.checkpoints().await.len(), 0);
        assert_eq!(host.world.files().len(), 2, "{freeze:?}: {:?}", host.world.files());
        host.write(2, 2);
        assert_eq!((host.read(1), host.read(2)), (1, 2));
        host.assert_clean().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_lapsed_before_the_cut_is_never_called_production() {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |guest| guest.freeze = FreezeScript::LapsesAfter(Duration::from_millis(5)));
    host.world.set_latency(Call::SwitchHeads, Duration::from_millis(50));
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!((made.kind, made.fallback), (Kind::Standard, Some(FallbackReason::HoldLapsed)));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_thaw_is_let_go_by_its_lease() {
    let host = SimHost::running().await;
    host.world.script_guest(&host.vm(), |guest| guest.thaw = ThawScript::Fails);
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!(made.kind, Kind::Standard);
    tokio::time::sleep(LEASE).await;
    assert!(host.world.never_held_longer_than(LEASE));
    host.write(3, 3);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_without_memory_gives_back_a_vm_that_is_off() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.write(1, 2);
    let before = host.engine.vm(&host.vm()).await.unwrap().vm.generation_id;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    let view = host.engine.vm(&host.vm()).await.unwrap();
    assert_eq!(view.power, PowerState::Off);
    assert_ne!(view.vm.generation_id, before);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 1);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn applying_is_repeatable_and_branches() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Standard).await.unwrap();
    for value in [2, 3, 4] {
        host.write(1, value);
        host.run(Request::Apply(first.id.into())).await.unwrap();
        assert_eq!(host.read(1), 1);
    }
    host.write(1, 5);
    let branch = host.create(CheckpointPolicy::Standard).await.unwrap();
    assert_eq!(branch.parent, Some(first.id));
    host.run(Request::Apply(first.id.into())).await.unwrap();
    host.write(1, 6);
    let other = host.create(CheckpointPolicy::Standard).await.unwrap();
    assert_eq!(other.parent, Some(first.id));
    host.run(Request::Apply(branch.id.into())).await.unwrap();
    assert_eq!(host.read(1), 5);
    host.run(Request::Revert).await.unwrap();
    assert_eq!(host.read(1), 5, "revert goes to the parent of Now, the branch");
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn an_apply_that_cannot_load_leaves_the_vm_running_as_it_was() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    host.world.set_faults(FaultPlan::none().at(Call::LoadMemory, 1, Fault::FailBefore));
    let failure = host.run(Request::Apply(made.id.into())).await.unwrap_err();
    assert_eq!(failure.reason, Reason::RestoreFailed);
    assert_eq!(host.read(1), 2);
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Running);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn deleting_every_checkpoint_merges_everything_into_the_users_own_images() {
    let host = SimHost::running().await;
    let mut made = Vec::new();
    for value in 2..6 {
        made.push(host.create(CheckpointPolicy::Production).await.unwrap().id);
        host.write(1, value);
        host.write(value, value);
    }
    for id in [made[1], made[3], made[0], made[2]] {
        host.run(Request::DeleteCheckpoint(id)).await.unwrap();
        assert_eq!((host.read(1), host.read(3)), (5, 3));
        host.assert_clean().await;
    }
    let files: Vec<_> = host.world.files().into_iter().collect();
    assert_eq!(files, ["/vm/data.qcow2", "/vm/system.qcow2"].map(std::path::PathBuf::from));
    host.turn_off().await;
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.read(1), host.read(5)), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn a_branch_point_stays_unseen_until_one_child_is_left() {
    let host = SimHost::running().await;
    let root = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    let left = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::Apply(root.id.into())).await.unwrap();
    host.write(1, 3);
    let right = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::DeleteCheckpoint(root.id)).await.unwrap();
    assert_eq!(host.checkpoint(left.id).await.checkpoint.parent, None);
    host.run(Request::Apply(left.id.into())).await.unwrap();
    assert_eq!(host.read(1), 2);
    host.run(Request::DeleteCheckpoint(right.id)).await.unwrap();
    assert_eq!(host.read(1), 2);
    host.run(Request::DeleteCheckpoint(left.id)).await.unwrap();
    assert_eq!(host.read(1), 2);
    assert_eq!(host.world.files().len(), 2);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn merging_a_vm_that_is_off_or_paused_keeps_its_data_and_its_state() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    let second = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(2, 2);
    host.run(Request::Pause).await.unwrap();
    host.run(Request::DeleteCheckpoint(second.id)).await.unwrap();
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Paused);
    host.turn_off().await;
    host.run(Request::DeleteCheckpoint(first.id)).await.unwrap();
    host.assert_clean().await;
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.read(1), host.read(2)), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn checkpoints_of_a_vm_that_is_off_or_paused() {
    let host = SimHost::new().await;
    let off = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    assert_eq!((off.kind, off.consistency), (Kind::Production, Consistency::Offline));
    host.run(Request::Start).await.unwrap();
    host.run(Request::Pause).await.unwrap();
    let paused = host.create(CheckpointPolicy::Production).await.unwrap();
    assert_eq!((paused.kind, paused.fallback), (Kind::Standard, Some(FallbackReason::VmNotRunning)));
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Paused);
    host.run(Request::Resume).await.unwrap();
    host.run(Request::Apply(paused.id.into())).await.unwrap();
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Paused);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_vm_says_with_what() {
    let host = SimHost::running().await;
    host.world.set_capture_time(Duration::from_secs(30));
    let request = Request::CreateCheckpoint(NewCheckpoint {
        policy: Some(CheckpointPolicy::Standard),
        ..NewCheckpoint::default()
    });
    let first = host.engine.submit(&host.vm(), request, None).await.unwrap();
    let refused = host.engine.submit(&host.vm(), Request::Pause, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::VmBusy);
    assert!(
        refused.message.contains(&first.id.to_string()) && refused.message.contains("create checkpoint"),
        "{refused}"
    );
    host.end_of(&first).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_checkpoint_leaves_nothing_behind() {
    let host = SimHost::running().await;
    host.world.set_capture_time(Duration::from_secs(30));
    let request = Request::CreateCheckpoint(NewCheckpoint {
        policy: Some(CheckpointPolicy::Standard),
        ..NewCheckpoint::default()
    });
    let operation = host.engine.submit(&host.vm(), request, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    host.engine.cancel_operation(operation.id).await.unwrap();
    let failure = host.end_of(&operation).await.unwrap_err();
    assert_eq!(failure.reason, Reason::OperationCancelled);
    assert_eq!((host.checkpoints().await.len(), host.world.files().len(), host.read(1)), (0, 2, 1));
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_request_id_is_the_same_operation() {
    let host = SimHost::running().await;
    let id = Some("11111111-1111-4111-8111-111111111111".to_owned());
    let request = Request::CreateCheckpoint(NewCheckpoint::default());
    let first = host.engine.submit(&host.vm(), request.clone(), id.clone()).await.unwrap();
    let again = host.engine.submit(&host.vm(), request.clone(), id.clone()).await.unwrap();
    assert_eq!(first.id, again.id);
    host.end_of(&first).await.unwrap();
    let later = host.engine.submit(&host.vm(), request, id.clone()).await.unwrap();
    assert!(matches!(later.state, OperationState::Done(_)));
    assert_eq!(host.checkpoints().await.len(), 1);
    let other = host.engine.submit(&host.vm(), Request::Pause, id).await.unwrap_err();
    assert_eq!(other.reason, Reason::RequestIdReused);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_with_its_reason() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    let unknown = stillpoint_common::CheckpointId::generate();
    for request in [Request::Apply(unknown.into()), Request::DeleteCheckpoint(unknown)] {
        assert_eq!(host.run(request).await.unwrap_err().reason, Reason::CheckpointNotFound);
    }
    host.engine
        .update_vm(&host.vm(), VmChange { checkpoint_policy: Some(CheckpointPolicy::Disabled), ..VmChange::default() })
        .await
        .unwrap();
    let request = Request::CreateCheckpoint(NewCheckpoint::default());
    assert_eq!(host.run(request).await.unwrap_err().reason, Reason::CheckpointsDisabled);
    assert_eq!(host.engine.delete_vm(&host.vm()).await.unwrap_err().reason, Reason::VmRunning);
    host.turn_off().await;
    assert_eq!(host.engine.delete_vm(&host.vm()).await.unwrap_err().reason, Reason::VmHasCheckpoints);
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    assert_eq!(host.run(Request::Revert).await.unwrap_err().reason, Reason::NoCheckpoint);
    assert_eq!(host.run(Request::Pause).await.unwrap_err().reason, Reason::VmNotRunning);
    host.engine.delete_vm(&host.vm()).await.unwrap();
    assert_eq!(host.run(Request::Start).await.unwrap_err().reason, Reason::VmNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_process_dies_is_off_and_starts_again_with_its_data() {
    let host = SimHost::running().await;
    host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 2);
    let instance = host.world.running(&host.vm()).unwrap();
    host.world.kill_instance(instance);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().vm.instance, None);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 2);
}

#[tokio::test(start_paused = true)]
async fn qemu_killed_during_a_capture_leaves_no_half_checkpoint() {
    let host = SimHost::running().await;
    host.world.set_capture_time(Duration::from_secs(30));
    let request = Request::CreateCheckpoint(NewCheckpoint {
        policy: Some(CheckpointPolicy::Standard),
        ..NewCheckpoint::default()
    });
    let operation = host.engine.submit(&host.vm(), request, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    host.write(1, 2);
    host.world.kill_instance(host.world.running(&host.vm()).unwrap());
    let failure = host.end_of(&operation).await.unwrap_err();
    assert_eq!(failure.reason, Reason::VmStoppedUnexpectedly, "{failure} {}", HypervisorError::Gone);
    assert_eq!(host.checkpoints().await.len(), 0);
    host.assert_clean().await;
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 2, "what was acknowledged after the cut is kept");
}

#[tokio::test(start_paused = true)]
async fn qemu_killed_past_the_commit_of_an_apply_leaves_a_vm_that_is_off_and_no_layer_too_many() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    let old = host.world.running(&host.vm()).unwrap();
    host.world.set_faults(FaultPlan::none().every(Call::Resume, Fault::Hang));
    let apply = host.engine.submit(&host.vm(), Request::Apply(made.id.into()), None).await.unwrap();
    let new = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        match host.engine.vm(&host.vm()).await.unwrap().vm.instance {
            Some(instance) if instance != old => break instance,
            Some(_) | None => {}
        }
    };
    host.world.kill_instance(new);
    host.end_of(&apply).await.unwrap_err();
    host.world.set_faults(FaultPlan::none());
    host.quiet().await;
    let vm = host.engine.vm(&host.vm()).await.unwrap().vm;
    assert_eq!((vm.instance, vm.parent), (None, Some(made.id)), "nobody has asked for anything more");
    host.assert_clean().await;
    assert_eq!(host.world.files().len(), 5, "the user's images, Now's layers over them, and the memory");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_replaced_is_not_started() {
    let host = SimHost::new().await;
    assert!(host.world.replace_file("/vm/data.qcow2"));
    assert_eq!(host.run(Request::Start).await.unwrap_err().reason, Reason::DiskChanged);
    assert!(host.world.lose_file("/vm/data.qcow2"));
    assert_eq!(host.run(Request::Start).await.unwrap_err().reason, Reason::DiskFileMissing);
}

#[tokio::test(start_paused = true)]
async fn operations_are_remembered_over_a_restart_up_to_a_number() {
    let mut host = SimHost::running().await;
    for _ in 0..3 {
        host.run(Request::Pause).await.unwrap();
        host.run(Request::Resume).await.unwrap();
    }
    let newest = host.engine.operations().await.unwrap().remove(0).id;
    host.restart_with(|config| config.remembered_operations = 4).await;
    let remembered = host.engine.operations().await.unwrap();
    assert_eq!((remembered.len(), remembered[0].id), (4, newest));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_ends_finishes_what_is_at_work_and_refuses_the_rest() {
    let host = SimHost::running().await;
    let request = Request::CreateCheckpoint(NewCheckpoint {
        policy: Some(CheckpointPolicy::Standard),
        ..NewCheckpoint::default()
    });
    let operation = host.engine.submit(&host.vm(), request, None).await.unwrap();
    host.engine.stop().await;
    assert!(matches!(host.engine.operation(operation.id).await.unwrap().state, OperationState::Done(_)));
    let refused = host.engine.submit(&host.vm(), Request::Pause, None).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Interrupted);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_the_guest_writes_to_is_kept_when_qemu_stops_answering_while_a_checkpoint_is_undone() {
    for silent in 1..12 {
        let host = SimHost::running().await;
        let mut faults = FaultPlan::none().at(Call::FinishCapture, 1, Fault::FailAfter);
        for call in silent..silent + 20 {
            faults = faults.at(Call::Observe, call, Fault::FailBefore);
        }
        host.world.set_faults(faults);
        assert!(host.create(CheckpointPolicy::Standard).await.is_err());
        host.world.set_faults(FaultPlan::none());
        host.write(2, 5);
        assert_eq!(host.world.missing(&host.referenced().await), [].into(), "from observation {silent} on");
        host.turn_off().await;
        host.run(Request::Start).await.unwrap();
        assert_eq!((host.read(1), host.read(2)), (1, 5), "lost, silent from observation {silent} on");
    }
}

/// On several threads, as in the service: the end of an operation and the next request then cross each other.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_seen_an_operation_end_may_begin_the_next() {
    let host = SimHost::running().await;
    for _ in 0..200 {
        host.run(Request::Pause).await.unwrap();
        host.run(Request::Resume).await.unwrap();
    }
}
