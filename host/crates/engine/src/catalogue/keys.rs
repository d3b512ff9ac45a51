//! Keys of the records. A key never changes its meaning.

use stillpoint_common::{
    BackupId, CheckpointId, DiskName, EventToken, FileIdentity, LayerId, OperationId, ReferencePointId, VmId,
};

use crate::{describe::Debt, ports::Put};

pub(super) const VMS: &str = "vm/";
pub(super) const JOBS: &str = "job/";
pub(super) const OPEN_JOBS: &str = "open/";
/// Has no value; it is there to be written to.
pub(super) const FENCE: &str = "fence";

pub(super) fn vm(id: &VmId) -> String {
    format!("{VMS}{id}")
}

pub(super) fn checkpoints(vm: &VmId) -> String {
    format!("checkpoint/{vm}/")
}

pub(super) fn checkpoint(vm: &VmId, id: CheckpointId) -> String {
    format!("checkpoint/{vm}/{id}")
}

pub(super) fn layers(vm: &VmId) -> String {
    format!("layer/{vm}/")
}

pub(super) fn layer(vm: &VmId, id: LayerId) -> String {
    format!("layer/{vm}/{id}")
}

pub(super) fn file(identity: FileIdentity) -> String {
    format!("file/{}/{}", identity.device, identity.inode)
}

pub(super) fn job(id: OperationId) -> String {
    format!("{JOBS}{id}")
}

pub(super) fn open_job(id: OperationId) -> String {
    format!("{OPEN_JOBS}{id}")
}

pub(super) fn request(vm: &VmId, request_id: &str) -> String {
    format!("request/{vm}/{request_id}")
}

pub(super) fn hold(vm: &VmId) -> String {
    format!("hold/{vm}")
}

pub(super) const EVENTS: &str = "event/";
/// The newest event that was forgotten.
pub(super) const FORGOTTEN_EVENTS: &str = "forgotten-events";

pub(super) fn event(token: EventToken) -> String {
    Put::appended(EVENTS, token.revision, token.place as usize)
}

/// The token in the key of an event.
pub(super) fn token(key: &str) -> Option<EventToken> {
    let (revision, place) = key.strip_prefix(EVENTS)?.split_once('/')?;
    Some(EventToken { revision: revision.parse().ok()?, place: place.parse().ok()? })
}

pub(super) fn standstill(vm: &VmId) -> String {
    format!("standstill/{vm}")
}

/// The restore that the VM's guest is to be told of.
pub(super) fn restore(vm: &VmId) -> String {
    format!("restore/{vm}")
}
/// Prefix of what [`failure`] names.
pub(super) const FAILURES: &str = "failure/";

pub(super) fn failure(vm: &VmId) -> String {
    format!("failure/{vm}")
}

pub(super) fn debts(vm: &VmId) -> String {
    format!("describe/{vm}/")
}

pub(super) fn debt(vm: &VmId, debt: Debt) -> String {
    format!("describe/{vm}/{}", debt.key())
}

pub(super) fn leftovers(vm: &VmId) -> String {
    format!("leftover/{vm}/")
}

pub(super) fn leftover(vm: &VmId, id: LayerId) -> String {
    format!("leftover/{vm}/{id}")
}

pub(super) fn leftover_memories(vm: &VmId) -> String {
    format!("leftover-memory/{vm}/")
}

/// The memory of a checkpoint that was let go.
pub(super) fn leftover_memory(vm: &VmId, id: CheckpointId) -> String {
    format!("leftover-memory/{vm}/{id}")
}

pub(super) fn points(vm: &VmId) -> String {
    format!("reference-point/{vm}/")
}

pub(super) fn point(vm: &VmId, id: ReferencePointId) -> String {
    format!("reference-point/{vm}/{id}")
}

pub(super) fn backups(vm: &VmId) -> String {
    format!("backup/{vm}/")
}

pub(super) fn backup(vm: &VmId, id: BackupId) -> String {
    format!("backup/{vm}/{id}")
}

pub(super) fn all_tracked(vm: &VmId) -> String {
    format!("tracked/{vm}/")
}

/// A disk of a reference point.
pub(super) fn tracked(vm: &VmId, point: ReferencePointId, disk: &DiskName) -> String {
    format!("tracked/{vm}/{point}/{disk}")
}
