//! What the VM would be made of, and where its files would lie. Pure.

use std::path::{Path, PathBuf};

use stillpoint_common::{DiskDefinition, DiskFormat, DiskName, Failure, Firmware, VmDefinition, VmId};

use super::{ImportMode, ImportRequest, ImportedDisk, Incompatibility, IncompatibilityCode};
use crate::manifest::{ExportedDisk, Manifest};

/// A VM that is not made yet.
pub(super) struct Proposal {
    pub(super) definition: VmDefinition,
    pub(super) disks: Vec<ImportedDisk>,
    pub(super) incompatibilities: Vec<Incompatibility>,
}

/// The definition that is asked for, or that of the export, on the files of the import.
pub(super) fn propose(manifest: &Manifest, asked: &ImportRequest, vm: &VmId) -> Result<Proposal, Failure> {
    let folder = folder(asked)?;
    let mut definition = asked.definition.clone().unwrap_or_else(|| manifest.machine.definition.clone());
    let (mut disks, mut incompatibilities) = (Vec::new(), Vec::new());
    for (index, disk) in definition.disks.iter_mut().enumerate() {
        match manifest.machine.disks.iter().find(|exported| exported.disk == disk.name) {
            Some(exported) => {
                let imported = imported(manifest, asked, folder, exported, exported.format);
                *disk = DiskDefinition { path: imported.to.clone(), format: imported.to_format, ..disk.clone() };
                disks.push(imported);
            }
            None => incompatibilities.push(missing(index, &disk.name)),
        }
    }
    if let Firmware::Uefi { variables } = &mut definition.firmware {
        let exported = manifest.machine.disks.iter().find(|exported| exported.disk == DiskName::uefi_variables());
        let imported = exported.map(|exported| imported(manifest, asked, folder, exported, DiskFormat::Qcow2));
        *variables = imported.as_ref().map(|imported| imported.to.clone());
        disks.extend(imported);
    }
    let wrong =
        |error: stillpoint_common::DefinitionError| Failure::field(format!("spec.{}", error.field), error.problem);
    let definition = definition.settled(vm, None).map_err(wrong)?;
    definition.check().map_err(wrong)?;
    if asked.mode == ImportMode::Register {
        incompatibilities.extend(disks.iter().filter(|disk| disk.from_format != disk.to_format).map(other_format));
    }
    Ok(Proposal { definition, disks, incompatibilities })
}

/// Where the disks of the VM will lie.
fn folder(asked: &ImportRequest) -> Result<&Path, Failure> {
    if !asked.folder.is_absolute() {
        return Err(Failure::field("folder", "must be an absolute path"));
    }
    match (asked.mode, &asked.target) {
        (ImportMode::Register, None) => Ok(&asked.folder),
        (ImportMode::Register, Some(_)) => {
            Err(Failure::field("target_folder", "must be empty for REGISTER, which leaves the files where they are"))
        }
        (ImportMode::Copy | ImportMode::Restore, Some(target)) if target.is_absolute() => Ok(target),
        (ImportMode::Copy | ImportMode::Restore, _) => {
            Err(Failure::field("target_folder", "must be the absolute path of the folder to make for the VM's disks"))
        }
    }
}

fn imported(
    manifest: &Manifest,
    asked: &ImportRequest,
    folder: &Path,
    exported: &ExportedDisk,
    to_format: DiskFormat,
) -> ImportedDisk {
    let to: PathBuf = if to_format == exported.format {
        folder.join(&exported.file)
    } else {
        folder.join(format!("{}.{}", exported.disk, to_format.driver()))
    };
    let bytes = manifest.files.iter().find(|file| file.path == exported.file).map_or(0, |file| file.bytes);
    let (disk, from) = (exported.disk.clone(), asked.folder.join(&exported.file));
    ImportedDisk { disk, from, from_format: exported.format, to, to_format, bytes }
}

fn missing(index: usize, disk: &DiskName) -> Incompatibility {
    let message =
        format!("disk {disk} is not in the export; give a spec without it, and attach another one afterwards");
    Incompatibility { code: IncompatibilityCode::DiskMissing, field: format!("spec.disks[{index}]"), message }
}

fn other_format(disk: &ImportedDisk) -> Incompatibility {
    let (name, is, must) = (&disk.disk, disk.from_format.driver(), disk.to_format.driver());
    let message =
        format!("{name} is {is} in the export and must be {must} in a VM; copy the export: mode COPY or RESTORE");
    Incompatibility { code: IncompatibilityCode::DiskUnusable, field: "mode".to_owned(), message }
}
