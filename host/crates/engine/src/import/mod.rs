//! Making a VM of an export: what that would be, and what stands against it.
//!
//! ```text
//!  manifest, request ──propose──▶ definition, files ──look──▶ what is true of the host ──decide──▶ incompatibilities
//! ```
//! Nothing is changed here. An import looks in the same way, and begins only if nothing stands against it.

mod decide;
mod look;
mod propose;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stillpoint_common::{DiskFormat, DiskName, Failure, Reason, VmDefinition};

pub(crate) use self::look::inspect;
use crate::manifest::Manifest;

/// How to make a VM of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRequest {
    /// The folder of the export.
    pub folder: PathBuf,
    /// What becomes of its files, and who the VM is.
    pub mode: ImportMode,
    /// The folder that is made for its disks; `None` if they stay where they are.
    pub target: Option<PathBuf>,
    /// What the VM is made of; `None`: what the export says. Paths and formats of its disks do not count.
    pub definition: Option<VmDefinition>,
    /// The memory in the export is not used: the VM is off.
    pub without_memory: bool,
    /// What the export's own definition takes from the host beside its disks may be taken.
    pub accept_host_paths: bool,
}

/// What becomes of the files of an export, and who the VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ImportMode {
    /// Copied; another machine towards its guest.
    Copy,
    /// Copied; the same machine towards its guest.
    Restore,
    /// They stay where they are and are the VM's from then on; the same machine towards its guest.
    Register,
}

/// What an import would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// What the export says.
    pub manifest: Manifest,
    /// What the VM would be made of.
    pub definition: VmDefinition,
    /// What stands against it. Empty: it can be done.
    pub incompatibilities: Vec<Incompatibility>,
    /// What does not, and should be known.
    pub warnings: Vec<String>,
    pub(crate) disks: Vec<ImportedDisk>,
}

/// Something that stands against an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incompatibility {
    /// What kind of thing.
    pub code: IncompatibilityCode,
    /// The field of the request that mends it; empty: the export itself has to be mended.
    pub field: String,
    /// What it is about, and what to do.
    pub message: String,
}

macro_rules! codes {
    ($($variant:ident $code:literal $reason:ident $doc:literal;)*) => {
        /// What stands against an import. Stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum IncompatibilityCode {
            $(#[doc = $doc] $variant,)*
        }

        impl IncompatibilityCode {
            /// The stable name.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            const fn reason(self) -> Reason {
                match self { $(Self::$variant => Reason::$reason,)* }
            }
        }
    };
}

codes! {
    VmExists "VM_EXISTS" VmExists "There is a VM of this name.";
    IdentityTaken "IDENTITY_TAKEN" ImportIncompatible "Another VM is the same machine towards its guest.";
    FileDamaged "FILE_DAMAGED" ExportDamaged "A file of the export is missing, or not as long as it was.";
    DiskMissing "DISK_MISSING" ImportIncompatible "The VM would have a disk that is not in the export.";
    DiskUnusable "DISK_UNUSABLE" ImportIncompatible "An image in the export cannot be a disk of a VM.";
    DiskInUse "DISK_IN_USE" DiskInUse "An image in the export is a disk of a VM already.";
    TargetExists "TARGET_EXISTS" ExportTargetExists "There is something where the folder of the VM is to be.";
    TargetUnusable "TARGET_UNUSABLE" ExportTargetUnusable "The folder of the VM cannot be made.";
    HostPaths "HOST_PATHS" ImportIncompatible "The export's definition takes something of the host beside its disks.";
    NetworkMissing "NETWORK_MISSING" ImportIncompatible "The host has no such network interface.";
    FileMissing "FILE_MISSING" ImportIncompatible "The host has no such file or device.";
    MediumUnusable "MEDIUM_UNUSABLE" ImportIncompatible "A file cannot be a medium: it is a disk of a VM, lies on another one, or is not what it is said to be.";
    MemoryUnusable "MEMORY_UNUSABLE" ImportIncompatible "The memory is of another machine than the VM would be.";
}

/// An image on its way from an export to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportedDisk {
    pub(crate) disk: DiskName,
    pub(crate) from: PathBuf,
    pub(crate) from_format: DiskFormat,
    pub(crate) to: PathBuf,
    pub(crate) to_format: DiskFormat,
    /// Bytes of the file in the export.
    pub(crate) bytes: u64,
}

impl Inspection {
    /// Says what stands against the import, if something does.
    ///
    /// # Errors
    /// The reason of the first incompatibility, with all of them in the message.
    pub fn admit(&self) -> Result<(), Failure> {
        let Some(first) = self.incompatibilities.first() else { return Ok(()) };
        let messages: Vec<&str> = self.incompatibilities.iter().map(|found| found.message.as_str()).collect();
        let failure = Failure::new(first.code.reason(), messages.join("; "));
        Err(if first.field.is_empty() { failure } else { failure.at(first.field.clone()) })
    }
}
