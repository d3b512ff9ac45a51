//! Requests of `Backups`.

use std::ops::Range;

use stillpoint_common::{CheckpointId, DiskName, Failure, ReferencePointId, VmId};
use uuid::Uuid;

use super::request_id;
use crate::{
    convert::names::{parse_checkpoint, parse_reference_point, parse_vm},
    v1 as pb,
};

/// Which ranges of a disk are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListChangedRanges {
    /// Whose disk.
    pub vm: VmId,
    /// What is to be copied.
    pub to: CheckpointId,
    /// What there is a copy of.
    pub from: CopyOf,
    /// Which disk.
    pub disk: DiskName,
    /// Which bytes of it; up to `u64::MAX` if to its end.
    pub bytes: Range<u64>,
}

/// What there is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyOf {
    /// Nothing.
    Nothing,
    /// A checkpoint.
    Checkpoint(CheckpointId),
    /// A reference point.
    Point(ReferencePointId),
}

/// A checkpoint to make a reference point of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateReferencePoint {
    /// Whose.
    pub vm: VmId,
    /// Which.
    pub checkpoint: CheckpointId,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// Reads a `CreateReferencePointRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn create_reference_point(request: &pb::CreateReferencePointRequest) -> Result<CreateReferencePoint, Failure> {
    let (vm, checkpoint) = parse_checkpoint(&request.checkpoint, "checkpoint")?;
    Ok(CreateReferencePoint { vm, checkpoint, request_id: request_id(&request.request_id)? })
}

/// Reads a `ListReferencePointsRequest`.
///
/// # Errors
/// The field that is wrong.
pub fn list_reference_points(request: &pb::ListReferencePointsRequest) -> Result<VmId, Failure> {
    parse_vm(&request.parent, "parent")
}

/// Reads a `DeleteReferencePointRequest`.
///
/// # Errors
/// The field that is wrong.
pub fn delete_reference_point(request: &pb::DeleteReferencePointRequest) -> Result<(VmId, ReferencePointId), Failure> {
    parse_reference_point(&request.name, "name")
}

/// Reads a `ListChangedRangesRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn list_changed_ranges(request: &pb::ListChangedRangesRequest) -> Result<ListChangedRanges, Failure> {
    let (vm, to) = parse_checkpoint(&request.to, "to")?;
    let from = copy_of(&vm, &request.from)?;
    let disk = request.disk.parse().map_err(|problem| Failure::field("disk", problem))?;
    let start = request.offset_bytes;
    let end = match request.length_bytes {
        0 => u64::MAX,
        length => start.saturating_add(length),
    };
    Ok(ListChangedRanges { vm, to, from, disk, bytes: start..end })
}

fn copy_of(vm: &VmId, from: &str) -> Result<CopyOf, Failure> {
    if from.is_empty() {
        return Ok(CopyOf::Nothing);
    }
    let (of, from) = match from.contains("/referencePoints/") {
        true => parse_reference_point(from, "from").map(|(of, point)| (of, CopyOf::Point(point)))?,
        false => parse_checkpoint(from, "from").map(|(of, checkpoint)| (of, CopyOf::Checkpoint(checkpoint)))?,
    };
    let other = || Failure::field("from", format!("is of VM {of}, and `to` of VM {vm}: give two of the same VM"));
    (of == *vm).then_some(from).ok_or_else(other)
}
