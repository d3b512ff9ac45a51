//! Requests of `Backups`.

use std::ops::Range;

use stillpoint_common::{CheckpointId, DiskName, Failure, VmId};

use crate::{convert::names::parse_checkpoint, v1 as pb};

/// Which ranges of a disk are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListChangedRanges {
    /// Whose disk.
    pub vm: VmId,
    /// What is to be copied.
    pub to: CheckpointId,
    /// What there is a copy of.
    pub from: Option<CheckpointId>,
    /// Which disk.
    pub disk: DiskName,
    /// Which bytes of it; up to `u64::MAX` if to its end.
    pub bytes: Range<u64>,
}

/// Reads a `ListChangedRangesRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn list_changed_ranges(request: &pb::ListChangedRangesRequest) -> Result<ListChangedRanges, Failure> {
    let (vm, to) = parse_checkpoint(&request.to, "to")?;
    let from = match request.from.as_str() {
        "" => None,
        from => Some(of_the_same(&vm, from)?),
    };
    let disk = request.disk.parse().map_err(|problem| Failure::field("disk", problem))?;
    let start = request.offset_bytes;
    let end = match request.length_bytes {
        0 => u64::MAX,
        length => start.saturating_add(length),
    };
    Ok(ListChangedRanges { vm, to, from, disk, bytes: start..end })
}

fn of_the_same(vm: &VmId, from: &str) -> Result<CheckpointId, Failure> {
    let (of, from) = parse_checkpoint(from, "from")?;
    let other = || Failure::field("from", format!("is of VM {of}, and `to` of VM {vm}: give two of the same VM"));
    (of == *vm).then_some(from).ok_or_else(other)
}
