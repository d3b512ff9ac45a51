//! What an apply does beside giving back disks and machine: the configuration, the present state kept first, branches.
//! On the simulator; on a real guest in the suite `guest_apply`.

use stillpoint_common::{Checkpoint, CheckpointPolicy, DefinitionChange, Kind, Operation, PowerState, Reason};
use stillpoint_engine::{ApplyRequest, Now, Request, VmChange, VmView};
use stillpoint_sim::{Call, Fault, FaultPlan, FreezeScript};
use stillpoint_tests::sim_host::SimHost;

async fn now(host: &SimHost) -> VmView {
    host.engine.vm(&host.vm()).await.expect("it works")
}

async fn last(host: &SimHost) -> Operation {
    host.engine.operations().await.expect("it works").remove(0)
}

fn keeping_now(checkpoint: &Checkpoint) -> Request {
    Request::Apply(ApplyRequest { now: Now::CheckpointFirst, ..checkpoint.id.into() })
}

fn reverting_and_keeping_now() -> Request {
    Request::Apply(ApplyRequest { now: Now::CheckpointFirst, ..ApplyRequest::revert() })
}

/// Other hardware, which takes the VM being off for a moment.
async fn change(host: &SimHost, cpus: u32, memory_mib: u64) {
    let mut definition = now(host).await.vm.definition;
    (definition.cpus, definition.memory_mib) = (cpus, memory_mib);
    definition.nics.clear();
    let change = VmChange { definition: Some(definition), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), change).await.expect("it works");
}

#[tokio::test(start_paused = true)]
async fn the_configuration_goes_back_too_and_the_operation_tells_what_changed() {
    let host = SimHost::new().await;
    let before = now(&host).await.vm.definition;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    change(&host, before.cpus + 3, before.memory_mib * 2).await;
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(now(&host).await.vm.definition, before);
    let told = |field: &str, from: u64, to: u64| DefinitionChange {
        field: field.into(),
        from: from.to_string(),
        to: to.to_string(),
    };
    let changes = last(&host).await.changes;
    assert_eq!(changes[0], told("cpus", u64::from(before.cpus) + 3, before.cpus.into()));
    assert_eq!(changes[1], told("memory_mib", before.memory_mib * 2, before.memory_mib));
    assert_eq!(changes.len(), 2 + before.nics.len());
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(last(&host).await.changes, [], "nothing to tell the second time");
}

#[tokio::test(start_paused = true)]
async fn what_is_now_is_kept_as_a_checkpoint_of_the_same_operation() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    host.run(keeping_now(&made)).await.unwrap();
    assert_eq!(host.read(1), 1);
    let operation = last(&host).await;
    assert_eq!(operation.checkpoint, Some(made.id));
    let kept = host.checkpoint(operation.first_checkpoint.unwrap()).await.checkpoint;
    assert_eq!((kept.parent, kept.kind), (Some(made.id), Kind::Production));
    assert!(kept.name.as_str().starts_with("Before going back to \"web - ("), "{}", kept.name.as_str());
    assert_eq!(now(&host).await.vm.parent, Some(made.id), "Now is a branch of its own");
    host.assert_files().await;

    host.write(1, 3);
    host.run(Request::Apply(kept.id.into())).await.unwrap();
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 2, "what was then Now is there again");
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_revert_keeps_now_and_goes_to_what_was_its_parent() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    host.run(reverting_and_keeping_now()).await.unwrap();
    assert_eq!((host.read(1), now(&host).await.vm.parent), (1, Some(made.id)));
    let operation = last(&host).await;
    assert_eq!((operation.checkpoint, host.checkpoints().await.len()), (Some(made.id), 2));
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_applied_if_what_is_now_cannot_be_kept() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    let only = VmChange { checkpoint_policy: Some(CheckpointPolicy::ProductionOnly), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), only).await.unwrap();
    host.world.script_guest(&host.vm(), |guest| guest.freeze = FreezeScript::Refused);
    assert_eq!(host.run(keeping_now(&made)).await.unwrap_err().reason, Reason::QuiesceFailed);
    assert_eq!((host.read(1), host.checkpoints().await.len(), now(&host).await.power), (2, 1, PowerState::Running));
    assert_eq!(last(&host).await.first_checkpoint, None);

    let disabled = VmChange { checkpoint_policy: Some(CheckpointPolicy::Disabled), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), disabled).await.unwrap();
    assert_eq!(host.run(keeping_now(&made)).await.unwrap_err().reason, Reason::CheckpointsDisabled);
    host.run(Request::Apply(made.id.into())).await.unwrap();
    assert_eq!(host.read(1), 1);
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn an_apply_that_fails_after_now_was_kept_says_that_it_remains() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 2);
    host.world.set_faults(FaultPlan::none().at(Call::LoadMemory, 1, Fault::FailBefore));
    let failure = host.run(keeping_now(&made)).await.unwrap_err();
    let kept = last(&host).await.first_checkpoint.unwrap();
    assert_eq!(failure.reason, Reason::RestoreFailed);
    assert!(failure.message.contains(&format!("remains: {kept}")), "{failure}");
    assert_eq!((host.read(1), now(&host).await.power), (2, PowerState::Running));
    assert_eq!(now(&host).await.vm.parent, Some(kept), "Now goes on after it");
    assert_eq!(last(&host).await.changes, [], "nothing has changed");
    host.assert_files().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_can_be_set_to_keep_now_at_every_apply() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Standard).await.unwrap();
    let set = VmChange { undo_checkpoint: Some(true), ..VmChange::default() };
    host.engine.update_vm(&host.vm(), set).await.unwrap();
    for value in [2, 3] {
        host.write(1, value);
        host.run(Request::Apply(made.id.into())).await.unwrap();
        let kept = last(&host).await.first_checkpoint.unwrap();
        let content = host.content(&host.checkpoint(kept).await);
        assert!(content.values().all(|disk| disk[&1] == value), "{content:?}");
        assert_eq!(host.read(1), 1);
    }
    host.write(1, 4);
    host.run(Request::Revert).await.unwrap();
    assert_eq!((host.read(1), host.checkpoints().await.len()), (1, 4));
    host.assert_files().await;
}
