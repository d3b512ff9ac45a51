//! Requests of `Checkpoints` that delete, or say what deleting would do.

use std::collections::BTreeSet;

use stillpoint_common::{CheckpointId, Failure, VmId};
use uuid::Uuid;

use super::request_id;
use crate::{convert::names, v1 as pb};

/// A checkpoint to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteCheckpoint {
    /// Whose checkpoint.
    pub vm: VmId,
    /// Which one.
    pub checkpoint: CheckpointId,
    /// With all that came after it.
    pub subtree: bool,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// Reads a `DeleteCheckpointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn delete_checkpoint(request: &pb::DeleteCheckpointRequest) -> Result<DeleteCheckpoint, Failure> {
    let (vm, checkpoint) = names::parse_checkpoint(&request.name, "name")?;
    Ok(DeleteCheckpoint { vm, checkpoint, subtree: request.subtree, request_id: request_id(&request.request_id)? })
}

/// Reads a `BatchDeleteCheckpointsRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn batch_delete_checkpoints(
    request: &pb::BatchDeleteCheckpointsRequest,
) -> Result<(VmId, BTreeSet<CheckpointId>, Option<Uuid>), Failure> {
    let vm = names::parse_vm(&request.parent, "parent")?;
    let ids = checkpoints_of(&vm, &request.names)?;
    if ids.is_empty() {
        return Err(Failure::field("names", "must name at least one checkpoint"));
    }
    Ok((vm, ids, request_id(&request.request_id)?))
}

/// Reads a `DeleteMemoryStateRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn delete_memory_state(
    request: &pb::DeleteMemoryStateRequest,
) -> Result<(VmId, CheckpointId, Option<Uuid>), Failure> {
    let (vm, checkpoint) = names::parse_checkpoint(&request.name, "name")?;
    Ok((vm, checkpoint, request_id(&request.request_id)?))
}

/// What may be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewDelete {
    /// These checkpoints.
    These(BTreeSet<CheckpointId>),
    /// This one and all that came after it.
    Subtree(CheckpointId),
}

/// Reads a `PreviewDeleteRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn preview_delete(request: &pb::PreviewDeleteRequest) -> Result<(VmId, PreviewDelete), Failure> {
    let vm = names::parse_vm(&request.parent, "parent")?;
    let ids = checkpoints_of(&vm, &request.names)?;
    if !request.subtree {
        return Ok((vm, PreviewDelete::These(ids)));
    }
    let [root] = ids.iter().copied().collect::<Vec<_>>()[..] else {
        return Err(Failure::field("names", "must name exactly one checkpoint for a subtree"));
    };
    Ok((vm, PreviewDelete::Subtree(root)))
}

fn checkpoints_of(vm: &VmId, names: &[String]) -> Result<BTreeSet<CheckpointId>, Failure> {
    let read = |name: &String| {
        let (of, id) = names::parse_checkpoint(name, "names")?;
        let foreign = || Failure::field("names", format!("{name} is no checkpoint of VM {vm}"));
        if of == *vm { Ok(id) } else { Err(foreign()) }
    };
    names.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "vms/web/checkpoints/019a0000-0000-7000-8000-000000000001";
    const OTHER: &str = "vms/web/checkpoints/019a0000-0000-7000-8000-000000000002";

    fn batch(names: &[&str]) -> Result<usize, String> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let request = pb::BatchDeleteCheckpointsRequest { parent: "vms/web".into(), names, request_id: String::new() };
        batch_delete_checkpoints(&request).map(|read| read.1.len()).map_err(|failure| failure.field.unwrap())
    }

    #[test]
    fn many_are_of_one_vm_and_at_least_one_and_each_counts_once() {
        assert_eq!(batch(&[ONE, OTHER, ONE]), Ok(2));
        assert_eq!(batch(&[]), Err("names".into()));
        assert_eq!(batch(&[ONE, &OTHER.replace("web", "db")]), Err("names".into()));
        assert_eq!(batch(&["web"]), Err("names".into()));
    }

    #[test]
    fn a_preview_is_of_any_number_or_of_one_subtree() {
        let read = |names: &[&str], subtree| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            preview_delete(&pb::PreviewDeleteRequest { parent: "vms/web".into(), names, subtree })
        };
        assert!(matches!(read(&[], false).unwrap().1, PreviewDelete::These(ids) if ids.is_empty()));
        assert!(matches!(read(&[ONE], true).unwrap().1, PreviewDelete::Subtree(_)));
        assert_eq!(read(&[ONE, OTHER], true).unwrap_err().field.as_deref(), Some("names"));
    }
}
