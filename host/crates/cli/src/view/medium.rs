//! A medium that the guest cannot write to.

use serde::{Deserialize, Serialize};
use stillpoint_common::{DiskFormat, Drive, Failure};
use stillpoint_proto::{
    convert::{medium, spec},
    v1 as pb,
};

/// A place for a medium, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Medium {
    /// Its name in the VM.
    pub name: String,
    /// What the guest sees it in: `CDROM`, `DISK`.
    pub drive: Drive,
    /// The file; empty: the drive is.
    #[serde(default)]
    pub path: String,
    /// `RAW` (an ISO file), `QCOW2`, `VHDX`, `VPC`; `null` without a file.
    #[serde(default)]
    pub format: Option<DiskFormat>,
}

impl Medium {
    /// What it is, in words: `CD-ROM drive`, `read-only disk`.
    pub(crate) fn drive_text(&self) -> &'static str {
        match self.drive {
            Drive::Cdrom => "CD-ROM drive",
            Drive::Disk => "read-only disk",
        }
    }
}

impl TryFrom<&pb::Medium> for Medium {
    type Error = Failure;

    fn try_from(medium: &pb::Medium) -> Result<Self, Failure> {
        let drive = medium::drive(medium.drive, "spec.media.drive")?;
        let format = spec::format(medium.format, "spec.media.format")?;
        Ok(Self { name: medium.name.clone(), drive, path: medium.path.clone(), format })
    }
}

impl From<&Medium> for pb::Medium {
    fn from(medium: &Medium) -> Self {
        Self {
            name: medium.name.clone(),
            drive: pb::MediumDrive::from(medium.drive).into(),
            path: medium.path.clone(),
            format: medium.format.map(|format| pb::DiskFormat::from(format).into()).unwrap_or_default(),
        }
    }
}
