//! Checkpoints as clients see them.

use std::{collections::BTreeMap, path::PathBuf};

use stillpoint_common::{Checkpoint, CheckpointState, DiskName};

use super::{advice, guest, names, operation, spec, time};
use crate::{v1 as pb, writer::v1::BackupType};

/// The checkpoint as it travels, with the file of each of its disks.
#[must_use]
pub fn checkpoint(checkpoint: &Checkpoint, files: &BTreeMap<DiskName, PathBuf>) -> pb::Checkpoint {
    let parent = checkpoint.parent.map(|parent| names::checkpoint(&checkpoint.vm, parent));
    let disk =
        |(disk, path): (&DiskName, &PathBuf)| pb::CheckpointDisk { disk: disk.to_string(), path: spec::text(path) };
    let left_out = checkpoint.left_out.iter();
    let left_out = left_out.map(|left| pb::LeftOutDisk { disk: left.disk.to_string(), why: left.why.clone() });
    pb::Checkpoint {
        name: names::checkpoint(&checkpoint.vm, checkpoint.id),
        display_name: checkpoint.name.to_string(),
        parent: parent.unwrap_or_default(),
        create_time: Some(time::timestamp(checkpoint.created)),
        kind: pb::CheckpointKind::from(checkpoint.kind).into(),
        requested_policy: pb::CheckpointPolicy::from(checkpoint.requested_policy).into(),
        consistency: pb::Consistency::from(checkpoint.consistency).into(),
        fallback_reason: pb::FallbackReason::from(checkpoint.fallback).into(),
        fallback_detail: checkpoint.fallback_detail.clone(),
        backup_type: BackupType::from(checkpoint.backup_type).into(),
        spec: Some(spec::spec(&checkpoint.definition)),
        disks: files.iter().map(disk).collect(),
        memory_bytes: checkpoint.memory.as_ref().map_or(0, |memory| memory.bytes),
        tpm_bytes: checkpoint.tpm.as_ref().map_or(0, |state| state.bytes().len() as u64),
        was_running: checkpoint.was_running,
        file_systems: checkpoint.file_systems.iter().map(guest::file_system).collect(),
        writers: checkpoint.writers.iter().map(guest::writer).collect(),
        phases: operation::phases(&checkpoint.phases),
        left_out: left_out.collect(),
        deleting: checkpoint.state == CheckpointState::Deleting,
        state: pb::CheckpointState::from(checkpoint.state).into(),
        missing_files: Vec::new(),
        notes: checkpoint.remarks.notes.to_string(),
        keep_until: checkpoint.remarks.keep_until.map(time::timestamp),
        automatic: checkpoint.remarks.automatic,
        hazards: checkpoint.remarks.hazards.iter().map(advice::hazard).collect(),
        creator: checkpoint.remarks.creator.map(|uid| format!("uid:{uid}")).unwrap_or_default(),
        vm_state: pb::VmState::from(checkpoint.vm_state()).into(),
    }
}

/// Says of a checkpoint which of its files are not there.
#[must_use]
pub fn with_missing(mut message: pb::Checkpoint, missing: &[PathBuf]) -> pb::Checkpoint {
    message.missing_files = missing.iter().map(|path| spec::text(path)).collect();
    if !missing.is_empty() && !message.deleting {
        message.set_state(pb::CheckpointState::Missing);
    }
    message
}

impl From<CheckpointState> for pb::CheckpointState {
    fn from(state: CheckpointState) -> Self {
        match state {
            CheckpointState::Ready => Self::Ready,
            CheckpointState::Deleting => Self::Deleting,
        }
    }
}

/// The name of a state that a service told of: `READY`, `MISSING`, …; `None` if this version does not know it.
#[must_use]
pub fn read_state(value: i32) -> Option<&'static str> {
    let state = pb::CheckpointState::try_from(value).ok()?;
    state.as_str_name().strip_prefix("CHECKPOINT_STATE_")
}
