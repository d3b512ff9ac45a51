//! A VM.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{CheckpointId, CheckpointPolicy, Failure, OperationId, PowerState, VmId, VmSettings};
use stillpoint_proto::{
    convert::{names, policy, settings},
    v1 as pb,
};

use super::{Critical, CriticalSettings, Disk, Growth, Spec, VmFailure, read_checkpoint_id, read_time};

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// `vms/{vm}`
    pub name: String,
    /// The {vm} in it.
    pub id: VmId,
    /// Identity towards the guest.
    pub uid: String,
    /// What it is made of.
    pub spec: Spec,
    /// What a checkpoint of it shall be.
    pub checkpoint_policy: Option<CheckpointPolicy>,
    /// Folder for configuration and memory of its checkpoints.
    pub checkpoint_location: String,
    /// Whether it runs.
    pub state: Option<PowerState>,
    /// State in words, with progress.
    pub status_line: String,
    /// The checkpoint Now is a child of.
    pub parent_checkpoint: Option<CheckpointId>,
    /// What each disk is writing to.
    pub disks: Vec<DiskStatus>,
    /// What the CPUs run on since the last start.
    pub accelerator: String,
    /// VM generation id.
    pub generation_id: String,
    /// The operation that works on it.
    pub operation: Option<OperationId>,
    /// What is done when it stands still because a disk could not be written.
    pub critical_settings: CriticalSettings,
    /// Why it stands still, if it does so by itself.
    pub critical: Option<Critical>,
    /// When it was defined.
    pub create_time: Option<Timestamp>,
    /// When its record last changed.
    pub update_time: Option<Timestamp>,
    /// Its layers are not merged until somebody resumes that.
    pub merges_suspended: bool,
    /// What is set for it beside.
    pub settings: VmSettings,
    /// What it has written over its last checkpoint, where it was asked for (`show`).
    pub growth: Option<Growth>,
    /// How it has failed last.
    pub failure: Option<VmFailure>,
    /// What it goes on from, if it is saved.
    pub saved: Option<SavedState>,
    /// An apply that discards Now makes a checkpoint of it first.
    pub undo_checkpoint: bool,
    /// Disks that were taken out while checkpoints lay on them.
    pub detached_disks: Vec<Disk>,
    /// Folder with what its TPM keeps; empty: it never had one.
    pub tpm_state: String,
}

/// Memory and devices that a saved VM goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SavedState {
    /// When it was saved.
    pub save_time: Option<Timestamp>,
    /// Size in bytes.
    pub bytes: u64,
    /// The guest ran, and will run again.
    pub was_running: bool,
}

/// What a disk is writing to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskStatus {
    /// Name of the disk.
    pub disk: String,
    /// The file that takes the guest's writes now.
    pub head_path: String,
    /// How many layers it reads through.
    pub depth: u32,
}

impl TryFrom<pb::Vm> for Vm {
    type Error = Failure;

    fn try_from(vm: pb::Vm) -> Result<Self, Failure> {
        let spec = vm.spec.as_ref().ok_or_else(|| Failure::field("vm.spec", "is missing"))?;
        let operation = Some(vm.operation.as_str()).filter(|name| !name.is_empty());
        Ok(Self {
            id: names::parse_vm(&vm.name, "vm.name")?,
            spec: Spec::try_from(spec)?,
            checkpoint_policy: policy::policy(vm.checkpoint_policy, "vm.checkpoint_policy").ok().flatten(),
            state: policy::read_power(vm.state),
            parent_checkpoint: read_checkpoint_id(&vm.parent_checkpoint, "vm.parent_checkpoint")?,
            operation: operation.map(|name| names::parse_operation(name, "vm.operation")).transpose()?,
            critical_settings: CriticalSettings::read(vm.critical_settings.as_ref())?,
            critical: vm.critical.map(Critical::from),
            disks: vm.disks.into_iter().map(DiskStatus::from).collect(),
            create_time: read_time(vm.create_time.as_ref()),
            update_time: read_time(vm.update_time.as_ref()),
            merges_suspended: vm.merges_suspended,
            growth: None,
            settings: settings::settings(vm.settings.as_ref(), "vm.settings")?,
            failure: vm.failure.map(VmFailure::from),
            saved: vm.saved.map(SavedState::from),
            undo_checkpoint: vm.undo_checkpoint,
            detached_disks: vm.detached_disks.iter().map(Disk::try_from).collect::<Result<_, _>>()?,
            tpm_state: vm.tpm_state,
            name: vm.name,
            uid: vm.uid,
            checkpoint_location: vm.checkpoint_location,
            status_line: vm.status_line,
            accelerator: vm.accelerator,
            generation_id: vm.generation_id,
        })
    }
}

impl From<pb::DiskStatus> for DiskStatus {
    fn from(pb::DiskStatus { disk, head_path, depth }: pb::DiskStatus) -> Self {
        Self { disk, head_path, depth }
    }
}

impl From<pb::SavedState> for SavedState {
    fn from(pb::SavedState { save_time, bytes, was_running }: pb::SavedState) -> Self {
        Self { save_time: read_time(save_time.as_ref()), bytes, was_running }
    }
}
