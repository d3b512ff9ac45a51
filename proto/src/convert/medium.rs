//! Media that a guest cannot write to: `Medium` and [`Medium`].

use std::path::PathBuf;

use stillpoint_common::{DiskFormat, Drive, Failure, Medium, MediumFile};

use super::{
    inside, known,
    spec::{disk_name, format, text},
};
use crate::v1 as pb;

/// Reads what a guest sees a medium in; UNSPECIFIED means CDROM.
///
/// # Errors
/// The value is not known.
pub fn drive(value: i32, field: &str) -> Result<Drive, Failure> {
    Ok(match known(value, field)? {
        pb::MediumDrive::Unspecified | pb::MediumDrive::Cdrom => Drive::Cdrom,
        pb::MediumDrive::Disk => Drive::Disk,
    })
}

impl From<Drive> for pb::MediumDrive {
    fn from(drive: Drive) -> Self {
        match drive {
            Drive::Cdrom => Self::Cdrom,
            Drive::Disk => Self::Disk,
        }
    }
}

pub(super) fn medium(medium: &pb::Medium, field: &str) -> Result<Medium, Failure> {
    let format_field = inside(field, "format");
    let file = match (medium.path.as_str(), format(medium.format, &format_field)?) {
        ("", None) => None,
        ("", Some(_)) => return Err(Failure::field(format_field, "must be unset where there is no path")),
        (_, None) => {
            let problem = "must be declared: RAW for an ISO file, QCOW2, VHDX or VPC; it is not probed";
            return Err(Failure::field(format_field, problem));
        }
        (path, Some(format)) => Some(MediumFile { path: PathBuf::from(path), format }),
    };
    let drive = drive(medium.drive, &inside(field, "drive"))?;
    Ok(Medium { name: disk_name(&medium.name, field)?, drive, file })
}

pub(super) fn medium_message(medium: &Medium) -> pb::Medium {
    let format = |format: DiskFormat| pb::DiskFormat::from(format).into();
    pb::Medium {
        name: medium.name.to_string(),
        drive: pb::MediumDrive::from(medium.drive).into(),
        path: medium.file.as_ref().map(|file| text(&file.path)).unwrap_or_default(),
        format: medium.file.as_ref().map(|file| format(file.format)).unwrap_or_default(),
    }
}
