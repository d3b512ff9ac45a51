//! Requests of `Checkpoints`.

use std::path::PathBuf;

use jiff::Timestamp;
use stillpoint_common::{
    BackupType, CheckpointFilter, CheckpointId, CheckpointName, CheckpointPolicy, DiskFormat, Failure, Notes, Remarks,
    VmId,
};
use uuid::Uuid;

use super::{absolute, filter, mask, request_id};
use crate::{
    convert::{known, names, page::Page, policy::policy, spec, time, writer},
    v1 as pb,
};

/// A checkpoint to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateCheckpoint {
    /// Of which VM.
    pub vm: VmId,
    /// What to call it; `None`: the service chooses.
    pub name: Option<CheckpointName>,
    /// Overrides the VM's policy.
    pub policy: Option<CheckpointPolicy>,
    /// A production checkpoint keeps memory too.
    pub with_memory: bool,
    /// What it means for the history of the guest's applications.
    pub backup_type: BackupType,
    /// What the caller says about it.
    pub remarks: Remarks,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// Reads a `CreateCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn create_checkpoint(request: &pb::CreateCheckpointRequest) -> Result<CreateCheckpoint, Failure> {
    let policy = policy(request.policy, "policy")?;
    if policy == Some(CheckpointPolicy::Disabled) {
        return Err(Failure::field("policy", "DISABLED makes no checkpoint: leave it out, or choose another"));
    }
    let name = Some(request.display_name.as_str()).filter(|name| !name.is_empty());
    Ok(CreateCheckpoint {
        vm: names::parse_vm(&request.parent, "parent")?,
        name: name.map(|name| display_name(name, "display_name")).transpose()?,
        policy,
        with_memory: request.with_memory,
        backup_type: writer::backup_type(known(request.backup_type, "backup_type")?),
        remarks: Remarks {
            notes: notes(&request.notes, "notes")?,
            keep_until: keep_until(request.keep_until.as_ref(), "keep_until")?,
            ..Remarks::default()
        },
        request_id: request_id(&request.request_id)?,
    })
}

/// Which checkpoints, and which page of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListCheckpoints {
    /// Of which VM.
    pub vm: VmId,
    /// Which.
    pub filter: CheckpointFilter,
    /// Which page.
    pub page: Page,
}

/// Reads a `ListCheckpointsRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn list_checkpoints(request: &pb::ListCheckpointsRequest) -> Result<ListCheckpoints, Failure> {
    let page = Page::parse(request.page_size, &request.page_token, 1000, 1000)?;
    let vm = names::parse_vm(&request.parent, "parent")?;
    Ok(ListCheckpoints { filter: filter::checkpoints(&vm, &request.filter)?, vm, page })
}

/// Changes of what is said about a checkpoint; `None` leaves a part as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateCheckpoint {
    /// Whose checkpoint.
    pub vm: VmId,
    /// Which one.
    pub checkpoint: CheckpointId,
    /// New name.
    pub name: Option<CheckpointName>,
    /// New notes.
    pub notes: Option<Notes>,
    /// New end of its time; `Some(None)`: none.
    pub keep_until: Option<Option<Timestamp>>,
}

/// Reads an `UpdateCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn update_checkpoint(request: &pb::UpdateCheckpointRequest) -> Result<UpdateCheckpoint, Failure> {
    let message = request.checkpoint.as_ref().ok_or_else(|| Failure::field("checkpoint", "is missing"))?;
    let paths = mask(request.update_mask.as_ref(), &["display_name", "notes", "keep_until"])?;
    let named = |path: &str| paths.iter().any(|named| named == path);
    let (vm, checkpoint) = names::parse_checkpoint(&message.name, "checkpoint.name")?;
    let name = || display_name(&message.display_name, "checkpoint.display_name");
    let keep_until = || keep_until(message.keep_until.as_ref(), "checkpoint.keep_until");
    Ok(UpdateCheckpoint {
        vm,
        checkpoint,
        name: named("display_name").then(name).transpose()?,
        notes: named("notes").then(|| notes(&message.notes, "checkpoint.notes")).transpose()?,
        keep_until: named("keep_until").then(keep_until).transpose()?,
    })
}

/// A checkpoint to bring a VM back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyCheckpoint {
    /// Whose checkpoint.
    pub vm: VmId,
    /// Which one; `None`: the parent of Now.
    pub checkpoint: Option<CheckpointId>,
    /// What becomes of Now.
    pub now: Now,
    /// What becomes of the machine.
    pub machine: Machine,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// What becomes of Now when a checkpoint is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// It is lost.
    Discard,
    /// A checkpoint is made of it first.
    CheckpointFirst,
}

/// What becomes of the machine when a checkpoint is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// What it was.
    AsCaptured,
    /// Saved.
    Saved,
    /// Off.
    WithoutMemory,
}

/// Reads an `ApplyCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn apply_checkpoint(request: &pb::ApplyCheckpointRequest) -> Result<ApplyCheckpoint, Failure> {
    let (vm, checkpoint) = names::parse_checkpoint(&request.name, "name")?;
    let (now, machine) = (now(request.now)?, machine(request.machine)?);
    Ok(ApplyCheckpoint { vm, checkpoint: Some(checkpoint), now, machine, request_id: request_id(&request.request_id)? })
}

/// Reads a `RevertVmRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn revert_vm(request: &pb::RevertVmRequest) -> Result<ApplyCheckpoint, Failure> {
    let vm = names::parse_vm(&request.name, "name")?;
    let (now, machine) = (now(request.now)?, machine(request.machine)?);
    Ok(ApplyCheckpoint { vm, checkpoint: None, now, machine, request_id: request_id(&request.request_id)? })
}

/// A checkpoint to copy out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportCheckpoint {
    /// Whose checkpoint.
    pub vm: VmId,
    /// Which one.
    pub checkpoint: CheckpointId,
    /// The folder to make.
    pub folder: PathBuf,
    /// Format of the images.
    pub format: DiskFormat,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// Reads an `ExportCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn export_checkpoint(request: &pb::ExportCheckpointRequest) -> Result<ExportCheckpoint, Failure> {
    let (vm, checkpoint) = names::parse_checkpoint(&request.name, "name")?;
    Ok(ExportCheckpoint {
        vm,
        checkpoint,
        folder: absolute(&request.target_folder, "target_folder")?,
        format: spec::format(request.format, "format")?.unwrap_or(DiskFormat::Qcow2),
        request_id: request_id(&request.request_id)?,
    })
}

fn display_name(name: &str, field: &str) -> Result<CheckpointName, Failure> {
    name.parse().map_err(|problem| Failure::field(field, problem))
}

fn notes(text: &str, field: &str) -> Result<Notes, Failure> {
    text.parse().map_err(|problem| Failure::field(field, problem))
}

fn keep_until(until: Option<&prost_types::Timestamp>, field: &str) -> Result<Option<Timestamp>, Failure> {
    let read = |until| time::parse_timestamp(until).ok_or_else(|| Failure::field(field, "is no date"));
    until.map(read).transpose()
}

fn now(now: i32) -> Result<Now, Failure> {
    match known(now, "now")? {
        pb::NowDisposition::Discard => Ok(Now::Discard),
        pb::NowDisposition::CreateCheckpoint => Ok(Now::CheckpointFirst),
        pb::NowDisposition::Unspecified => {
            let problem = "must be DISCARD (what happened in the VM since is lost) or CREATE_CHECKPOINT (it is kept)";
            Err(Failure::field("now", problem))
        }
    }
}

fn machine(machine: i32) -> Result<Machine, Failure> {
    Ok(match known(machine, "machine")? {
        pb::MachineDisposition::Unspecified | pb::MachineDisposition::AsCaptured => Machine::AsCaptured,
        pb::MachineDisposition::Saved => Machine::Saved,
        pb::MachineDisposition::WithoutMemory => Machine::WithoutMemory,
    })
}
