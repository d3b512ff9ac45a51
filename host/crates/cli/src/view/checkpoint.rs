//! A checkpoint.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{
    BackupType, CheckpointId, CheckpointPolicy, Consistency, Failure, FallbackReason, Kind, PowerState, VmId,
};
use stillpoint_proto::{
    convert::{checkpoint::read_state, names, policy, writer},
    v1 as pb,
    writer::v1 as wire,
};

use super::{FileSystem, Hazard, Phase, Spec, Usage, Writer, read_checkpoint_id, read_time};

/// An unchanging point in the life of a VM.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checkpoint {
    /// `vms/{vm}/checkpoints/{checkpoint}`
    pub name: String,
    /// The {checkpoint} in it.
    pub id: CheckpointId,
    /// The {vm} in it.
    pub vm: VmId,
    /// What people call it.
    pub display_name: String,
    /// The checkpoint it came after.
    pub parent: Option<CheckpointId>,
    /// When it was asked for.
    pub create_time: Option<Timestamp>,
    /// What it is.
    pub kind: Option<Kind>,
    /// What was asked.
    pub requested_policy: Option<CheckpointPolicy>,
    /// What is proven.
    pub consistency: Option<Consistency>,
    /// Why it is not the production checkpoint that was asked for.
    pub fallback_reason: Option<FallbackReason>,
    /// The same in words.
    pub fallback_detail: String,
    /// What it means for the history of the guest's applications.
    pub backup_type: Option<BackupType>,
    /// The configuration the VM had.
    pub spec: Spec,
    /// The layer of each disk.
    pub disks: Vec<CheckpointDisk>,
    /// Size of its memory state; 0: it has none.
    pub memory_bytes: u64,
    /// Size of what its TPM kept; 0: none.
    pub tpm_bytes: u64,
    /// The guest was running when it was made, or when the saved state that it contains was saved.
    pub was_running: bool,
    /// What the VM was when it was made.
    pub vm_state: Option<PowerState>,
    /// File systems of the guest and what became of each.
    pub file_systems: Vec<FileSystem>,
    /// Writers of the guest and what became of each.
    pub writers: Vec<Writer>,
    /// How long each phase of its making took.
    pub phases: Vec<Phase>,
    /// Disks it does not contain.
    pub left_out: Vec<LeftOutDisk>,
    /// Its layers are being merged away: it cannot be used any more.
    pub deleting: bool,
    /// `READY`, `MISSING` (a file of it is not there), `DELETING`.
    pub state: Option<&'static str>,
    /// Files that it needs and that are not there.
    pub missing_files: Vec<String>,
    /// Free text.
    pub notes: String,
    /// It is meant to be deleted after this.
    pub keep_until: Option<Timestamp>,
    /// Made by the service at the start of the VM, to be deleted by it at the clean stop.
    pub automatic: bool,
    /// Who asked for it, `uid:1000`; empty if the service did.
    pub creator: String,
    /// Why it is dangerous to apply it.
    pub hazards: Vec<Hazard>,
    /// What it takes on disk, where it was asked for (`list`, `show`) and is known.
    pub usage: Option<Usage>,
}

/// The layer that holds a disk of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointDisk {
    /// Name of the disk.
    pub disk: String,
    /// The file.
    pub path: String,
}

/// A disk that is not part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOutDisk {
    /// Name of the disk.
    pub disk: String,
    /// Why.
    pub why: String,
}

impl TryFrom<pb::Checkpoint> for Checkpoint {
    type Error = Failure;

    fn try_from(checkpoint: pb::Checkpoint) -> Result<Self, Failure> {
        let (vm, id) = names::parse_checkpoint(&checkpoint.name, "checkpoint.name")?;
        let spec = checkpoint.spec.as_ref().ok_or_else(|| Failure::field("checkpoint.spec", "is missing"))?;
        let disk = |pb::CheckpointDisk { disk, path }| CheckpointDisk { disk, path };
        let left_out = |pb::LeftOutDisk { disk, why }| LeftOutDisk { disk, why };
        Ok(Self {
            id,
            vm,
            parent: read_checkpoint_id(&checkpoint.parent, "checkpoint.parent")?,
            create_time: read_time(checkpoint.create_time.as_ref()),
            kind: policy::read_kind(checkpoint.kind),
            requested_policy: policy::policy(checkpoint.requested_policy, "requested_policy").ok().flatten(),
            consistency: policy::read_consistency(checkpoint.consistency),
            fallback_reason: policy::read_fallback(checkpoint.fallback_reason),
            spec: Spec::try_from(spec)?,
            disks: checkpoint.disks.into_iter().map(disk).collect(),
            file_systems: checkpoint.file_systems.into_iter().map(FileSystem::from).collect(),
            writers: checkpoint.writers.into_iter().map(Writer::from).collect(),
            phases: checkpoint.phases.into_iter().map(Phase::from).collect(),
            left_out: checkpoint.left_out.into_iter().map(left_out).collect(),
            name: checkpoint.name,
            display_name: checkpoint.display_name,
            fallback_detail: checkpoint.fallback_detail,
            backup_type: read_backup_type(checkpoint.backup_type),
            memory_bytes: checkpoint.memory_bytes,
            tpm_bytes: checkpoint.tpm_bytes,
            was_running: checkpoint.was_running,
            vm_state: policy::read_power(checkpoint.vm_state),
            deleting: checkpoint.deleting,
            state: read_state(checkpoint.state),
            missing_files: checkpoint.missing_files,
            keep_until: read_time(checkpoint.keep_until.as_ref()),
            notes: checkpoint.notes,
            automatic: checkpoint.automatic,
            creator: checkpoint.creator,
            hazards: checkpoint.hazards.into_iter().map(Hazard::from).collect(),
            usage: None,
        })
    }
}

/// `None`: none that this version knows.
pub(super) fn read_backup_type(value: i32) -> Option<BackupType> {
    wire::BackupType::try_from(value).ok().map(writer::backup_type)
}
