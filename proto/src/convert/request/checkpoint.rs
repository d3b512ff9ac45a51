//! Requests of `Checkpoints`.

use std::path::PathBuf;

use stillpoint_common::{CheckpointId, CheckpointName, CheckpointPolicy, DiskFormat, Failure, VmId};
use uuid::Uuid;

use super::{absolute, mask, request_id};
use crate::{
    convert::{known, names, page::Page, policy::policy, spec},
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
        request_id: request_id(&request.request_id)?,
    })
}

/// Reads a `ListCheckpointsRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn list_checkpoints(request: &pb::ListCheckpointsRequest) -> Result<(VmId, Page), Failure> {
    let page = Page::parse(request.page_size, &request.page_token, 1000, 1000)?;
    Ok((names::parse_vm(&request.parent, "parent")?, page))
}

/// A new name for a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Whose checkpoint.
    pub vm: VmId,
    /// Which one.
    pub checkpoint: CheckpointId,
    /// Its new name.
    pub name: CheckpointName,
}

/// Reads an `UpdateCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn rename(request: &pb::UpdateCheckpointRequest) -> Result<Rename, Failure> {
    let message = request.checkpoint.as_ref().ok_or_else(|| Failure::field("checkpoint", "is missing"))?;
    mask(request.update_mask.as_ref(), &["display_name"])?;
    let (vm, checkpoint) = names::parse_checkpoint(&message.name, "checkpoint.name")?;
    Ok(Rename { vm, checkpoint, name: display_name(&message.display_name, "checkpoint.display_name")? })
}

/// Reads an `ApplyCheckpointRequest`. Now is to be discarded: nothing else can be asked yet.
///
/// # Errors
/// The first field that is wrong.
pub fn apply_checkpoint(request: &pb::ApplyCheckpointRequest) -> Result<(VmId, CheckpointId, Option<Uuid>), Failure> {
    let (vm, checkpoint) = names::parse_checkpoint(&request.name, "name")?;
    discard(request.now)?;
    Ok((vm, checkpoint, request_id(&request.request_id)?))
}

/// Reads a `RevertVmRequest`. Now is to be discarded: nothing else can be asked yet.
///
/// # Errors
/// The first field that is wrong.
pub fn revert_vm(request: &pb::RevertVmRequest) -> Result<(VmId, Option<Uuid>), Failure> {
    let vm = names::parse_vm(&request.name, "name")?;
    discard(request.now)?;
    Ok((vm, request_id(&request.request_id)?))
}

/// Reads a `DeleteCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn delete_checkpoint(request: &pb::DeleteCheckpointRequest) -> Result<(VmId, CheckpointId, Option<Uuid>), Failure> {
    let (vm, checkpoint) = names::parse_checkpoint(&request.name, "name")?;
    Ok((vm, checkpoint, request_id(&request.request_id)?))
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

fn discard(now: i32) -> Result<(), Failure> {
    match known(now, "now")? {
        pb::NowDisposition::Discard => Ok(()),
        pb::NowDisposition::Unspecified => {
            Err(Failure::field("now", "must be DISCARD: what happened in the VM since the checkpoint is lost"))
        }
    }
}
