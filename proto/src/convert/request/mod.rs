//! What clients ask, checked: every value that comes out of here is good, and what is not is refused with the path of
//! its field.

mod backup;
mod checkpoint;
mod delete;
pub mod filter;
mod image;
mod integrity;
mod operation;
mod session;
mod transfer;
mod vm;

pub use backup::{
    CopyOf, CreateReferencePoint, ListChangedRanges, create_reference_point, delete_reference_point,
    list_changed_ranges, list_reference_points,
};
pub use checkpoint::{
    ApplyCheckpoint, CreateCheckpoint, ExportCheckpoint, ListCheckpoints, Machine, Now, UpdateCheckpoint,
    apply_checkpoint, create_checkpoint, export_checkpoint, list_checkpoints, revert_vm, update_checkpoint,
};
pub use delete::{
    DeleteCheckpoint, PreviewDelete, batch_delete_checkpoints, delete_checkpoint, delete_memory_state, preview_delete,
};
pub use image::{MergeImage, merge_image};
pub use integrity::{ReconnectLayers, Reconnected, check_host, rebuild_catalogue, reconnect_layers};
pub use operation::{ListOperations, OperationFilter, WaitOperation, filter, list_operations, wait_operation};
pub use session::{
    ReadDisk, StartBackup, abort_backup, complete_backup, get_backup, list_backups, open_disk, read_disk, renew_backup,
    start_backup,
};
pub use transfer::{ImportMode, ImportVm, import_vm, inspect_export, verify_export};
pub use vm::{CreateVm, StopMode, UpdateVm, create_vm, list_vms, stop_vm, update_vm};

use std::path::PathBuf;

use stillpoint_common::Failure;
use uuid::Uuid;

use super::spec;

/// Reads a request id; `None` if the caller gave none.
///
/// # Errors
/// It is no UUID.
pub fn request_id(text: &str) -> Result<Option<Uuid>, Failure> {
    if text.is_empty() {
        return Ok(None);
    }
    let uuid = Uuid::try_parse(text);
    uuid.map(Some).map_err(|_| Failure::field("request_id", "must be a UUID, or empty"))
}

/// Reads a path that must be absolute and is there.
fn absolute(text: &str, field: &str) -> Result<PathBuf, Failure> {
    let path = spec::path(text).filter(|path| path.is_absolute());
    path.ok_or_else(|| Failure::field(field, format!("must be an absolute path, not {text:?}")))
}

/// Reads the paths of an update mask: at least one, each of them one of `allowed`.
fn mask(mask: Option<&prost_types::FieldMask>, allowed: &[&str]) -> Result<Vec<String>, Failure> {
    let paths = mask.map(|mask| mask.paths.clone()).unwrap_or_default();
    let refused =
        |problem: String| Failure::field("update_mask", format!("{problem}; it may name {}", allowed.join(", ")));
    if paths.is_empty() {
        return Err(refused("names no field".to_owned()));
    }
    match paths.iter().find(|path| !allowed.contains(&path.as_str())) {
        Some(path) => Err(refused(format!("{path:?} cannot be changed"))),
        None => Ok(paths),
    }
}
