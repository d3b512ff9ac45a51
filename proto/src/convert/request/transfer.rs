//! Requests of `Transfers`.

use std::path::PathBuf;

use stillpoint_common::{Failure, VmDefinition, VmId};
use uuid::Uuid;

use super::{absolute, request_id};
use crate::{
    convert::{known, spec},
    v1 as pb,
};

/// A VM to make of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportVm {
    /// Its name.
    pub vm: VmId,
    /// The folder of the export.
    pub folder: PathBuf,
    /// What becomes of its files.
    pub mode: ImportMode,
    /// The folder that is made for its disks.
    pub target: Option<PathBuf>,
    /// What it is made of; `None`: what the export says.
    pub definition: Option<VmDefinition>,
    /// The memory is left out.
    pub without_memory: bool,
    /// What the export's definition takes from the host may be taken.
    pub accept_host_paths: bool,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// What becomes of the files of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportMode {
    /// Copied; another machine.
    Copy,
    /// Copied; the same machine.
    Restore,
    /// They are the VM's; the same machine.
    Register,
}

/// Reads an `ImportVmRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn import_vm(request: &pb::ImportVmRequest) -> Result<ImportVm, Failure> {
    let target = Some(request.target_folder.as_str()).filter(|target| !target.is_empty());
    let given = request.spec.as_ref();
    Ok(ImportVm {
        vm: request.vm_id.parse().map_err(|problem| Failure::field("vm_id", problem))?,
        folder: absolute(&request.folder, "folder")?,
        mode: mode(request.mode)?,
        target: target.map(|target| absolute(target, "target_folder")).transpose()?,
        definition: given.map(|given| spec::definition(Some(given), "spec")).transpose()?,
        without_memory: request.without_memory,
        accept_host_paths: request.accept_host_paths,
        request_id: request_id(&request.request_id)?,
    })
}

/// Reads an `InspectExportRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn inspect_export(request: &pb::InspectExportRequest) -> Result<ImportVm, Failure> {
    import_vm(request.import.as_ref().ok_or_else(|| Failure::field("import", "is missing"))?)
}

/// Reads a `VerifyExportRequest`: the folder.
///
/// # Errors
/// It is wrong.
pub fn verify_export(request: &pb::VerifyExportRequest) -> Result<PathBuf, Failure> {
    absolute(&request.folder, "folder")
}

fn mode(value: i32) -> Result<ImportMode, Failure> {
    Ok(match known(value, "mode")? {
        pb::ImportMode::Unspecified | pb::ImportMode::Copy => ImportMode::Copy,
        pb::ImportMode::Restore => ImportMode::Restore,
        pb::ImportMode::Register => ImportMode::Register,
    })
}
