//! What backups ask for.

use jiff::Timestamp;
use serde::Serialize;
use stillpoint_common::{BackupType, Consistency, Failure, ReferencePointId};
use stillpoint_proto::{
    convert::{names, policy},
    v1 as pb,
};

use super::{checkpoint::read_backup_type, read_time};

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

/// A point in the life of a VM that is kept only to ask what has changed since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferencePoint {
    /// `vms/{vm}/referencePoints/{reference_point}`
    pub name: String,
    /// The {reference_point} in it.
    pub id: ReferencePointId,
    /// The checkpoint that it was made of, which may be gone.
    pub checkpoint: String,
    /// What that was called.
    pub display_name: String,
    /// The instant that it stands for.
    pub create_time: Option<Timestamp>,
    /// What is proven of that instant.
    pub consistency: Option<Consistency>,
    /// What it means for the history of the guest's applications.
    pub backup_type: Option<BackupType>,
    /// Its disks.
    pub disks: Vec<ReferencePointDisk>,
}

/// A disk of a reference point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferencePointDisk {
    /// Its name.
    pub disk: String,
    /// How large it was.
    pub size_bytes: u64,
    /// Why it is not known any more what has changed since; empty: it is known.
    pub lost: String,
}

impl TryFrom<pb::ReferencePoint> for ReferencePoint {
    type Error = Failure;

    fn try_from(point: pb::ReferencePoint) -> Result<Self, Failure> {
        let (_, id) = names::parse_reference_point(&point.name, "reference_point.name")?;
        let disk = |pb::ReferencePointDisk { disk, size_bytes, lost }| ReferencePointDisk { disk, size_bytes, lost };
        Ok(Self {
            id,
            create_time: read_time(point.create_time.as_ref()),
            consistency: policy::read_consistency(point.consistency),
            backup_type: read_backup_type(point.backup_type),
            disks: point.disks.into_iter().map(disk).collect(),
            name: point.name,
            checkpoint: point.checkpoint,
            display_name: point.display_name,
        })
    }
}

impl From<pb::ByteRange> for ByteRange {
    fn from(pb::ByteRange { offset_bytes, length_bytes }: pb::ByteRange) -> Self {
        Self { offset: offset_bytes, length: length_bytes }
    }
}
