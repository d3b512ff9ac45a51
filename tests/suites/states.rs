//! VMs that are running, paused, saved and off: what a save keeps, what a checkpoint of each captures, and what an apply
//! gives back. On the simulator; on real guests in the suite `guest_states`.

use std::time::Duration;

use stillpoint_common::{
    Checkpoint, CheckpointPolicy, Consistency, Failure, FallbackReason, Kind, OperationState, Outcome, PowerState,
    Reason,
};
use stillpoint_engine::{ApplyRequest, Machine, NewCheckpoint, Request, StopMode, VmChange, VmView};
use stillpoint_sim::{AgentScript, Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::SimHost;

async fn now(host: &SimHost) -> VmView {
    host.engine.vm(&host.vm()).await.expect("it works")
}

/// A VM that was saved with 7 in its guest's memory and 1 in block 1 of its disks.
async fn saved() -> SimHost {
    let host = SimHost::running().await;
    host.world.set_guest_memory(&host.vm(), 7);
    host.run(Request::Save).await.expect("it works");
    host
}

fn apply(checkpoint: &Checkpoint, machine: Machine) -> Request {
    Request::Apply(ApplyRequest { machine, ..checkpoint.id.into() })
}

#[tokio::test(start_paused = true)]
async fn a_saved_vm_has_no_process_and_goes_on_at_the_instant_of_its_save() {
    let host = saved().await;
    let view = now(&host).await;
    assert_eq!((view.power, host.world.instances(&host.vm())), (PowerState::Saved, vec![]));
    host.assert_files().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;

    host.run(Request::Start).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7));
    assert_eq!((host.read(1), host.world.clock_behind(&host.vm())), (1, Some(Duration::ZERO)));
    let started = now(&host).await;
    assert_eq!((started.power, started.vm.saved), (PowerState::Running, None));
    assert_eq!(started.vm.generation_id, view.vm.generation_id, "a save is no apply");
    host.write(1, 2);
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn saving_is_done_once_however_often_it_is_asked_and_only_of_a_vm_that_is_on() {
    let host = SimHost::new().await;
    assert_eq!(host.run(Request::Save).await.unwrap_err().reason, Reason::VmNotRunning);
    host.run(Request::DiscardSaved).await.unwrap();
    let host = saved().await;
    let first = now(&host).await.vm.saved;
    host.run(Request::Save).await.unwrap();
    assert_eq!(now(&host).await.vm.saved, first);
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_was_saved_while_paused_is_paused_again() {
    let host = SimHost::running().await;
    host.run(Request::Pause).await.unwrap();
    host.run(Request::Save).await.unwrap();
    assert_eq!(now(&host).await.vm.saved.map(|saved| saved.was_running), Some(false));
    host.run(Request::Start).await.unwrap();
    assert_eq!(now(&host).await.power, PowerState::Paused);
    host.run(Request::Resume).await.unwrap();
    assert_eq!(host.read(1), 1);
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_or_is_cancelled_leaves_the_vm_running() {
    for call in [Call::BeginMemory, Call::SaveMemory, Call::SealMemory] {
        for fault in [Fault::FailBefore, Fault::FailAfter, Fault::NoSpace] {
            let host = SimHost::running().await;
            host.world.set_faults(FaultPlan::none().at(call, 1, fault));
            assert!(host.run(Request::Save).await.is_err(), "{call} {fault:?}");
            assert_eq!(now(&host).await.power, PowerState::Running, "{call} {fault:?}");
            host.write(2, 2);
            host.assert_files().await;
        }
    }
    let host = SimHost::running().await;
    host.world.set_capture_time(Duration::from_secs(30));
    let operation = host.engine.submit(&host.vm(), Request::Save, None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    host.engine.cancel_operation(operation.id).await.unwrap();
    assert_eq!(host.end_of(&operation).await.unwrap_err().reason, Reason::OperationCancelled);
    assert_eq!(now(&host).await.power, PowerState::Running);
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_loaded_stays_saved_until_it_can_or_is_given_up() {
    let host = saved().await;
    host.world.set_faults(FaultPlan::none().at(Call::LoadMemory, 1, Fault::FailBefore));
    assert_eq!(host.run(Request::Start).await.unwrap_err().reason, Reason::RestoreFailed);
    assert_eq!((now(&host).await.power, host.world.instances(&host.vm())), (PowerState::Saved, vec![]));
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7));

    let host = saved().await;
    host.run(Request::DiscardSaved).await.unwrap();
    assert_eq!(now(&host).await.power, PowerState::Off);
    host.assert_files().await;
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(0)), "its disks, and no memory");
}

#[tokio::test(start_paused = true)]
async fn what_would_break_a_saved_state_is_refused_and_says_so() {
    let host = saved().await;
    for request in
        [Request::Stop(StopMode::Graceful), Request::Stop(StopMode::TurnOff), Request::Pause, Request::Resume]
    {
        let refused = host.run(request.clone()).await.unwrap_err();
        assert_eq!(refused.reason, Reason::VmSaved, "{request:?}");
        assert!(refused.message.contains("is saved"), "{refused}");
    }
    let mut definition = now(&host).await.vm.definition;
    let same = VmChange { definition: Some(definition.clone()), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), same).await.unwrap();
    definition.memory_mib += 1;
    let bigger = VmChange { definition: Some(definition), ..VmChange::default() };
    let moved = VmChange { checkpoint_location: Some("/elsewhere".into()), ..VmChange::default() };
    for change in [bigger, moved] {
        assert_eq!(host.engine.update_vm(&host.vm(), change).await.unwrap_err().reason, Reason::VmSaved);
    }
    let policy = VmChange { checkpoint_policy: Some(CheckpointPolicy::Standard), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), policy).await.unwrap();
    assert_eq!(host.engine.delete_vm(&host.vm()).await.unwrap_err().reason, Reason::VmSaved);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7));
}

#[tokio::test(start_paused = true)]
async fn each_state_is_captured_as_it_is_and_given_back_as_it_was() {
    for (state, policy, kind, given_back) in [
        (PowerState::Running, CheckpointPolicy::Standard, Kind::Standard, PowerState::Running),
        (PowerState::Running, CheckpointPolicy::ProductionOnly, Kind::Production, PowerState::Off),
        (PowerState::Paused, CheckpointPolicy::Standard, Kind::Standard, PowerState::Paused),
        (PowerState::Saved, CheckpointPolicy::Standard, Kind::Standard, PowerState::Saved),
        (PowerState::Off, CheckpointPolicy::Standard, Kind::Standard, PowerState::Off),
        (PowerState::Off, CheckpointPolicy::ProductionOnly, Kind::Production, PowerState::Off),
    ] {
        let host = SimHost::running().await;
        host.world.set_guest_memory(&host.vm(), 7);
        bring(&host, state).await;
        let made = host.create(policy).await.unwrap();
        assert_eq!((made.vm_state(), made.kind), (state, kind), "{state:?} {policy:?}");
        assert_eq!(now(&host).await.power, state, "a checkpoint changes nothing");
        assert_eq!(made.memory.is_some(), given_back != PowerState::Off, "{state:?} {policy:?}");

        go_on(&host).await;
        host.write(1, 2);
        host.world.set_guest_memory(&host.vm(), 8);
        host.run(Request::Apply(made.id.into())).await.unwrap();
        assert_eq!(now(&host).await.power, given_back, "{state:?} {policy:?}");
        host.assert_files().await;
        go_on(&host).await;
        let memory = if given_back == PowerState::Off { 0 } else { 7 };
        assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(memory)), "{state:?} {policy:?}");
        host.assert_files().await;
    }
}

/// Brings a running VM into a state.
async fn bring(host: &SimHost, state: PowerState) {
    match state {
        PowerState::Paused => drop(host.run(Request::Pause).await.expect("it works")),
        PowerState::Saved => drop(host.run(Request::Save).await.expect("it works")),
        PowerState::Off => host.turn_off().await,
        PowerState::Running | PowerState::PausedCritical => {}
    }
}

/// Lets a VM run, whatever it is.
async fn go_on(host: &SimHost) {
    host.run(Request::Start).await.expect("it works");
    host.run(Request::Resume).await.expect("it works");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_cannot_be_asked_gets_a_standard_checkpoint_with_the_reason_or_none() {
    for state in [PowerState::Paused, PowerState::Saved] {
        let host = SimHost::running().await;
        bring(&host, state).await;
        let before = host.world.files();
        let failure = host.create(CheckpointPolicy::ProductionOnly).await.unwrap_err();
        assert_eq!(failure.reason, Reason::QuiesceFailed, "{state:?}");
        assert!(failure.message.contains(if state == PowerState::Saved { "saved" } else { "paused" }), "{failure}");
        assert_eq!((host.checkpoints().await.len(), host.world.files()), (0, before), "{state:?}");

        let made = host.create(CheckpointPolicy::Production).await.unwrap();
        assert_eq!((made.kind, made.fallback), (Kind::Standard, Some(FallbackReason::VmNotRunning)));
        assert_eq!((made.requested_policy, made.consistency), (CheckpointPolicy::Production, Consistency::Memory));
        let operation = host.engine.operations().await.unwrap().remove(0);
        assert!(operation.warnings.iter().any(|warning| warning.contains(&made.fallback_detail)), "{operation:?}");
        assert_eq!(now(&host).await.power, state);
        host.assert_files().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_checkpoint_is_given_back_saved_or_without_its_memory_if_so_wanted() {
    let host = SimHost::running().await;
    host.world.set_guest_memory(&host.vm(), 7);
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    let before = now(&host).await.vm.generation_id;
    host.write(1, 2);
    host.run(apply(&made, Machine::Saved)).await.unwrap();
    let view = now(&host).await;
    assert_eq!((view.power, host.world.instances(&host.vm())), (PowerState::Saved, vec![]));
    assert_ne!(view.vm.generation_id, before, "the guest sees its past again");
    host.assert_files().await;
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(7)));
    assert_eq!(now(&host).await.vm.generation_id, view.vm.generation_id);

    host.run(apply(&made, Machine::WithoutMemory)).await.unwrap();
    assert_eq!(now(&host).await.power, PowerState::Off);
    let warnings = host.engine.operations().await.unwrap().remove(0).warnings;
    assert!(warnings.iter().any(|warning| warning.contains("power cut")), "{warnings:?}");
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(0)));
    host.run(Request::Revert).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7), "the checkpoint keeps its memory");

    host.turn_off().await;
    let off = host.create(CheckpointPolicy::Standard).await.unwrap();
    let refused = host.run(apply(&off, Machine::Saved)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CheckpointHasNoMemory);
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn the_saved_state_goes_with_now_and_stays_with_the_checkpoint() {
    let host = saved().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::DiscardSaved).await.unwrap();
    host.assert_files().await;
    for _ in 0..2 {
        host.run(Request::Apply(made.id.into())).await.unwrap();
        assert_eq!(now(&host).await.power, PowerState::Saved);
        host.assert_files().await;
        host.run(Request::Start).await.unwrap();
        assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(7)));
        host.write(1, 3);
    }
    host.run(Request::Save).await.unwrap();
    host.run(Request::DeleteCheckpoint(made.id)).await.unwrap();
    assert_eq!(now(&host).await.power, PowerState::Saved, "layers are merged below a saved VM");
    host.assert_files().await;
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 3);
}

#[tokio::test(start_paused = true)]
async fn a_saved_state_survives_the_service() {
    let mut host = saved().await;
    host.restart().await;
    assert_eq!(now(&host).await.power, PowerState::Saved);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.world.guest_memory(&host.vm()), Some(7));
    let operations = host.engine.operations().await.unwrap();
    assert!(operations.iter().all(|operation| matches!(operation.state, OperationState::Done(_))));
}

/// A production checkpoint with memory.
async fn quiesced(host: &SimHost) -> Result<Checkpoint, Failure> {
    let new =
        NewCheckpoint { policy: Some(CheckpointPolicy::ProductionOnly), with_memory: true, ..NewCheckpoint::default() };
    let Outcome::Checkpoint(id) = host.run(Request::CreateCheckpoint(new)).await? else { panic!("no checkpoint") };
    Ok(host.checkpoint(id).await.checkpoint)
}

#[tokio::test(start_paused = true)]
async fn a_quiet_guest_is_kept_with_its_memory_of_the_same_instant() {
    let host = SimHost::running().await;
    host.world.set_guest_memory(&host.vm(), 7);
    let made = quiesced(&host).await.unwrap();
    assert_eq!((made.kind, made.consistency, made.fallback), (Kind::Production, Consistency::FileSystem, None));
    assert!(made.memory.is_some() && made.was_running);
    let changes: Vec<_> = host.world.changes_while_held().into_iter().filter(|call| *call != Call::Thaw).collect();
    assert_eq!(changes, [Call::Pause, Call::SwitchHeads, Call::StartCapture, Call::Resume]);
    for phase in ["held", "pause"] {
        assert!(made.phases.iter().any(|record| record.name == phase), "{phase} is in {:?}", made.phases);
    }
    assert!(!host.world.is_held(&host.vm()));

    host.write(1, 2);
    host.world.set_guest_memory(&host.vm(), 8);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(7)), "with its memory");
    assert!(!host.world.is_held(&host.vm()), "the guest that was quiet goes on at once");
    host.write(1, 3);
    assert!(host.world.never_held_longer_than(Duration::from_secs(1)), "{:?}", host.world.holds(&host.vm()));

    host.run(apply(&made, Machine::WithoutMemory)).await.unwrap();
    assert_eq!(
        (now(&host).await.power, host.engine.operations().await.unwrap().remove(0).warnings),
        (PowerState::Off, vec![])
    );
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.read(1), host.world.guest_memory(&host.vm())), (1, Some(0)), "without it");
    host.run(apply(&made, Machine::Saved)).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!((host.world.guest_memory(&host.vm()), host.world.is_held(&host.vm())), (Some(7), false));
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_guest_whose_agent_is_gone_after_the_apply_is_let_go_by_its_lease() {
    let host = SimHost::running().await;
    let made = quiesced(&host).await.unwrap();
    host.world.script_guest(&host.vm(), |guest| guest.agent = AgentScript::Absent);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert!(host.engine.operations().await.unwrap().remove(0).warnings.iter().any(|warning| warning.contains("clock")));
    tokio::time::sleep(Duration::from_secs(10)).await;
    host.write(1, 2);
    assert!(host.world.never_held_longer_than(Duration::from_secs(10)), "{:?}", host.world.holds(&host.vm()));
}

#[tokio::test(start_paused = true)]
async fn a_memory_that_cannot_be_kept_with_a_quiet_guest_leaves_it_running_and_free() {
    for call in [Call::Pause, Call::SwitchHeads, Call::StartCapture, Call::Resume, Call::Thaw, Call::FinishCapture] {
        let host = SimHost::running().await;
        host.world.set_faults(FaultPlan::none().at(call, 1, Fault::FailBefore));
        assert!(quiesced(&host).await.is_err(), "{call}");
        host.world.set_faults(FaultPlan::none());
        assert_eq!((now(&host).await.power, host.world.is_held(&host.vm())), (PowerState::Running, false), "{call}");
        host.write(2, 2);
        assert_eq!((host.read(1), host.read(2), host.checkpoints().await.len()), (1, 2, 0), "{call}");
        host.assert_files().await;
    }
}
