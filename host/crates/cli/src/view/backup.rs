//! What backups ask for.

use serde::Serialize;
use stillpoint_proto::v1 as pb;

/// In which ranges a disk differs between two points.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChangedRanges {
    /// Size of the disk at the first one; 0: there is none.
    pub from_bytes: u64,
    /// Size of the disk at the second one.
    pub to_bytes: u64,
    /// Length of all ranges together.
    pub changed_bytes: u64,
    /// In order; no two of them touch.
    pub ranges: Vec<ByteRange>,
}

/// Some bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ByteRange {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

impl From<pb::ByteRange> for ByteRange {
    fn from(pb::ByteRange { offset_bytes, length_bytes }: pb::ByteRange) -> Self {
        Self { offset: offset_bytes, length: length_bytes }
    }
}
