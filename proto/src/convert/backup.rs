//! Reference points and backup sessions as clients see them.

use std::collections::BTreeMap;

use stillpoint_common::{Backup, BackupState, DiskName, ReferencePoint, WritersTold};

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

/// A backup session as it travels.
#[must_use]
pub fn backup(backup: &Backup) -> pb::Backup {
    let point = |point| names::reference_point(&backup.vm, point);
    let shown = pb::Backup {
        name: names::backup(&backup.vm, backup.id),
        state: pb::BackupState::from(&backup.state).into(),
        operation: names::operation(backup.operation),
        checkpoint: backup.checkpoint.map(|id| names::checkpoint(&backup.vm, id)).unwrap_or_default(),
        backup_type: BackupType::from(backup.backup_type).into(),
        consistency: pb::Consistency::from(backup.asked.wanted).into(),
        least_consistency: pb::Consistency::from(backup.asked.least).into(),
        from_point: backup.from_point.map(point).unwrap_or_default(),
        lease: Some(time::duration(backup.lease)),
        expire_time: Some(time::timestamp(backup.deadline)),
        create_time: Some(time::timestamp(backup.created)),
        reference_point: String::new(),
        writers_told: pb::WritersTold::Unspecified.into(),
        detail: String::new(),
    };
    match &backup.state {
        BackupState::Starting | BackupState::Open => shown,
        BackupState::Aborted { why } => pb::Backup { detail: why.clone(), ..shown },
        BackupState::Completed { point: left, writers } => {
            let (writers_told, detail) = match writers {
                WritersTold::None => (pb::WritersTold::None, ""),
                WritersTold::Told => (pb::WritersTold::Told, ""),
                WritersTold::NotTold { why } => (pb::WritersTold::NotTold, why.as_str()),
            };
            let (writers_told, detail) = (writers_told.into(), detail.to_owned());
            pb::Backup { reference_point: point(*left), writers_told, detail, ..shown }
        }
    }
}

impl From<&BackupState> for pb::BackupState {
    fn from(state: &BackupState) -> Self {
        match state {
            BackupState::Starting => Self::Starting,
            BackupState::Open => Self::Open,
            BackupState::Completed { .. } => Self::Completed,
            BackupState::Aborted { .. } => Self::Aborted,
        }
    }
}
