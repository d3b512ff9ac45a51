//! Media that a guest reads and cannot write to: an ISO file in a CD-ROM drive, an image as a read-only disk.
//!
//! A medium has no layers and is in no checkpoint: it is the same after an apply as before. *Which* medium is in is part of
//! the definition, and goes back with it. Several VMs may have the same one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DefinitionError, DiskFormat, DiskName};

/// How many CD-ROM drives there is room for: the ports of the machine's own controller.
const CDROM_DRIVES: usize = 6;

/// A place for a medium, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// Its name in the VM, unique among all disks.
    pub name: DiskName,
    /// What the guest sees it in.
    pub drive: Drive,
    /// What is in it; `None`: nothing. Only a CD-ROM drive can be empty.
    pub file: Option<MediumFile>,
}

/// What a guest sees a medium in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Drive {
    /// A CD-ROM drive.
    Cdrom,
    /// A disk that cannot be written to.
    Disk,
}

/// The file of a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediumFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its format. Declared, never probed.
    pub format: DiskFormat,
}

impl Medium {
    /// The file that is in it.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        self.file.as_ref().map(|file| &file.path)
    }

    /// A CD-ROM drive with an ISO file in it.
    ///
    /// # Panics
    /// If `name` is not the name of a disk: it is for names that stand in a program.
    #[must_use]
    pub fn cdrom(name: &str, path: impl AsRef<Path>) -> Self {
        let Ok(name) = name.parse() else { panic!("{name:?} is not the name of a disk") };
        let file = MediumFile { path: path.as_ref().to_owned(), format: DiskFormat::Raw };
        Self { name, drive: Drive::Cdrom, file: Some(file) }
    }
}

/// Says which medium is wrong in itself, if one is.
pub(crate) fn check(media: &[Medium]) -> Result<(), DefinitionError> {
    let wrong =
        |at: usize, part: &str, problem: String| Err(DefinitionError { field: format!("media[{at}].{part}"), problem });
    let empty = media.iter().position(|medium| medium.drive == Drive::Disk && medium.file.is_none());
    if let Some(at) = empty {
        return wrong(at, "path", "must be given: only a CD-ROM drive can be empty".to_owned());
    }
    let mut drives = media.iter().enumerate().filter(|(_, medium)| medium.drive == Drive::Cdrom);
    match drives.nth(CDROM_DRIVES) {
        Some((at, _)) => wrong(at, "drive", format!("there is room for {CDROM_DRIVES} CD-ROM drives, not for more")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cdrom_drive_can_be_empty_and_there_are_so_many() {
        let drive = |drive| Medium { name: "a".parse().unwrap(), drive, file: None };
        assert_eq!(check(&[drive(Drive::Cdrom)]), Ok(()));
        assert_eq!(check(&[drive(Drive::Cdrom), drive(Drive::Disk)]).unwrap_err().field, "media[1].path");
        assert_eq!(check(&vec![drive(Drive::Cdrom); 6]), Ok(()));
        assert_eq!(check(&vec![drive(Drive::Cdrom); 7]).unwrap_err().field, "media[6].drive");
    }
}
