//! VMs as clients see them.

use stillpoint_common::{
    Accelerator, Critical, DiskName, LayerFile, Operation, PowerState, SavedState, Vm, VmFailures,
};

use super::{critical, names, settings, spec, status_line::status_line, time};
use crate::v1 as pb;

/// The VM as it travels: its record, whether it runs, for each disk the file that takes its writes with the number of
/// layers it reads through, and what works on it.
#[must_use]
pub fn vm(vm: &Vm, power: PowerState, disks: &[(DiskName, LayerFile, usize)], operation: Option<&Operation>) -> pb::Vm {
    pb::Vm {
        name: names::vm(&vm.id),
        uid: vm.uid.to_string(),
        spec: Some(spec::spec(&vm.definition)),
        checkpoint_policy: pb::CheckpointPolicy::from(vm.checkpoint_policy).into(),
        checkpoint_location: spec::text(&vm.checkpoint_location),
        state: pb::VmState::from(power).into(),
        status_line: status_line(power, operation),
        parent_checkpoint: vm.parent.map(|parent| names::checkpoint(&vm.id, parent)).unwrap_or_default(),
        disks: disks.iter().map(disk_status).collect(),
        accelerator: vm.accelerator.as_ref().map(accelerator).unwrap_or_default(),
        generation_id: vm.generation_id.to_string(),
        operation: operation.map(|operation| names::operation(operation.id)).unwrap_or_default(),
        critical_settings: Some(critical::settings(&vm.critical)),
        critical: None,
        failure: None,
        create_time: Some(time::timestamp(vm.created)),
        update_time: Some(time::timestamp(vm.updated)),
        merges_suspended: vm.merges.is_suspended(),
        settings: Some(settings::message(&vm.settings)),
        saved: vm.saved.as_ref().map(saved),
        undo_checkpoint: vm.undo_checkpoint,
        tpm_state: vm.tpm.as_deref().map(spec::text).unwrap_or_default(),
        detached_disks: vm.detached.iter().map(|detached| spec::disk_message(&detached.disk)).collect(),
    }
}

fn saved(saved: &SavedState) -> pb::SavedState {
    let save_time = Some(time::timestamp(saved.saved));
    pb::SavedState { save_time, bytes: saved.memory.bytes, was_running: saved.was_running }
}

/// `KVM`, or `TCG (why not KVM)`.
#[must_use]
pub fn accelerator(accelerator: &Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "KVM".to_owned(),
        Accelerator::Tcg(why) if why.is_empty() => "TCG".to_owned(),
        Accelerator::Tcg(why) => format!("TCG ({why})"),
    }
}

/// Says why a VM stands still by itself, also in its status line if nothing is at work on it.
pub fn set_critical(vm: &mut pb::Vm, why: &Critical) {
    vm.critical = Some(critical::status(why));
    if vm.operation.is_empty() {
        vm.status_line = format!("Paused: {why}");
    }
}

/// Says how a VM has failed.
pub fn set_failure(vm: &mut pb::Vm, failures: &VmFailures) {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let last = failures.last.as_ref();
    vm.failure = Some(pb::FailureStatus {
        fail_time: last.map(|last| time::timestamp(last.time)),
        reason: last.map(|last| last.reason.code().to_owned()).unwrap_or_default(),
        at_work: last.is_some_and(|last| last.at_work),
        outcome: last.map(|last| last.outcome.clone()).unwrap_or_default(),
        recoveries: count(failures.recoveries),
        max_recoveries: count(failures.max_recoveries),
    });
}

/// Says that a VM stands still because its guest's kernel has panicked.
pub fn set_panicked(vm: &mut pb::Vm) {
    if vm.operation.is_empty() {
        "Paused: the guest's kernel has panicked".clone_into(&mut vm.status_line);
    }
}

fn disk_status((disk, head, depth): &(DiskName, LayerFile, usize)) -> pb::DiskStatus {
    pb::DiskStatus {
        disk: disk.to_string(),
        head_path: spec::text(&head.path),
        depth: u32::try_from(*depth).unwrap_or(u32::MAX),
    }
}
