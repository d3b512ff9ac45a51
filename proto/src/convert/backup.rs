//! Reference points as clients see them.

use std::collections::BTreeMap;

use stillpoint_common::{DiskName, ReferencePoint};

use super::{names, time};
use crate::{v1 as pb, writer::v1::BackupType};

/// A reference point as it travels, with the disks of which it is not known any more what has changed, and why.
#[must_use]
pub fn reference_point(point: &ReferencePoint, lost: &BTreeMap<DiskName, String>) -> pb::ReferencePoint {
    let disk = |(disk, size): (&DiskName, &u64)| pb::ReferencePointDisk {
        disk: disk.to_string(),
        size_bytes: *size,
        lost: lost.get(disk).cloned().unwrap_or_default(),
    };
    pb::ReferencePoint {
        name: names::reference_point(&point.vm, point.id),
        checkpoint: names::checkpoint(&point.vm, point.checkpoint),
        display_name: point.name.to_string(),
        create_time: Some(time::timestamp(point.created)),
        consistency: pb::Consistency::from(point.consistency).into(),
        backup_type: BackupType::from(point.backup_type).into(),
        disks: point.disks.iter().map(disk).collect(),
    }
}
