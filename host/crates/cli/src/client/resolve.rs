//! How people call a checkpoint: by its id, the beginning of its id, or its name.

use std::fmt::Display;

use stillpoint_common::{CheckpointId, Failure, Reason, VmId};
use stillpoint_proto::convert::failure::Refusal;

use crate::view::{Backup, Checkpoint, Operation, ReferencePoint};

/// A beginning of an id that is shorter than this is taken for nothing but a name.
const SHORTEST_PREFIX: usize = 4;

/// The one checkpoint that is called so.
///
/// A whole id (or resource name) names it outright. Everything else may be a name or the beginning of an id; if it fits
/// more than one checkpoint it is refused, and the candidates are listed.
///
/// # Errors
/// CHECKPOINT_NOT_FOUND or CHECKPOINT_AMBIGUOUS.
pub fn resolve<'a>(vm: &VmId, called: &str, checkpoints: &'a [Checkpoint]) -> Result<&'a Checkpoint, Refusal> {
    let called = called.trim();
    let id = called.strip_prefix(&format!("vms/{vm}/checkpoints/")).unwrap_or(called);
    let found: Vec<_> = match id.parse::<CheckpointId>() {
        Ok(id) => checkpoints.iter().filter(|checkpoint| checkpoint.id == id).collect(),
        Err(_) => checkpoints.iter().filter(|checkpoint| is_called(checkpoint, called)).collect(),
    };
    match found[..] {
        [checkpoint] => Ok(checkpoint),
        [] => {
            let message = format!("VM {vm} has no checkpoint {called:?}");
            Err(Failure::new(Reason::CheckpointNotFound, message).into())
        }
        _ => Err(Failure::new(Reason::CheckpointAmbiguous, ambiguous(vm, called, &found)).into()),
    }
}

/// The one operation whose id begins so.
pub(super) fn resolve_operation(called: &str, operations: Vec<Operation>) -> Result<Operation, Refusal> {
    match first_two(called, operations, |operation| operation.id) {
        (Some(operation), None) => Ok(operation),
        (None, _) => Err(Failure::new(Reason::OperationNotFound, format!("there is no operation {called:?}")).into()),
        (Some(_), Some(_)) => {
            let message = format!("the ids of several operations begin with {called:?}: give more of it");
            Err(Failure::field("operation", message).into())
        }
    }
}

/// The one reference point whose id begins so.
pub(super) fn resolve_point(vm: &VmId, called: &str, points: Vec<ReferencePoint>) -> Result<ReferencePoint, Refusal> {
    match first_two(called, points, |point| point.id) {
        (Some(point), None) => Ok(point),
        (None, _) => {
            let message = format!("VM {vm} has no reference point {called:?}");
            Err(Failure::new(Reason::ReferencePointNotFound, message).into())
        }
        (Some(_), Some(_)) => {
            let message = format!("the ids of several reference points begin with {called:?}: give more of it");
            Err(Failure::field("reference_point", message).into())
        }
    }
}

/// The one backup session whose id begins so.
pub(super) fn resolve_backup(vm: &VmId, called: &str, backups: Vec<Backup>) -> Result<Backup, Refusal> {
    match first_two(called, backups, |backup| backup.id) {
        (Some(backup), None) => Ok(backup),
        (None, _) => {
            let message = format!("VM {vm} has no backup session {called:?}");
            Err(Failure::new(Reason::BackupNotFound, message).into())
        }
        (Some(_), Some(_)) => {
            let message = format!("the ids of several backup sessions begin with {called:?}: give more of it");
            Err(Failure::field("backup", message).into())
        }
    }
}

/// The first two whose id begins so: the second says that the beginning is too short.
fn first_two<T, Id: Display>(called: &str, all: Vec<T>, id: impl Fn(&T) -> Id) -> (Option<T>, Option<T>) {
    let mut found = all.into_iter().filter(|one| is_beginning(called, &id(one)));
    (found.next(), found.next())
}

fn is_beginning(called: &str, id: &impl Display) -> bool {
    called.len() >= SHORTEST_PREFIX && id.to_string().starts_with(&called.to_ascii_lowercase())
}

fn is_called(checkpoint: &Checkpoint, called: &str) -> bool {
    checkpoint.display_name == called || is_beginning(called, &checkpoint.id)
}

fn ambiguous(vm: &VmId, called: &str, found: &[&Checkpoint]) -> String {
    let list: Vec<_> = found.iter().map(|checkpoint| candidate(checkpoint)).collect();
    format!("{called:?} is said of {} checkpoints of VM {vm}:\n  {}", found.len(), list.join("\n  "))
}

fn candidate(checkpoint: &Checkpoint) -> String {
    let time = checkpoint.create_time.map(|time| format!("  {time:.0}")).unwrap_or_default();
    format!("{}  {:?}{time}", checkpoint.id, checkpoint.display_name)
}
