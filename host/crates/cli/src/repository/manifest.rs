//! What a backup says of itself.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_common::{BackupType, Consistency, DiskName, VmId};

/// The only format there is.
const FORMAT: u32 = 1;

/// `manifest.json` of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) vm: VmId,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    /// The backup that it builds on; `None` of a full one.
    pub(crate) previous: Option<Previous>,
    /// The session that it was made in, by its resource name.
    pub(crate) session: String,
    /// The instant that it is of.
    pub(crate) created: Option<Timestamp>,
    pub(crate) consistency: Option<Consistency>,
    pub(crate) backup_type: Option<BackupType>,
    pub(crate) disks: Vec<BackedUpDisk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Kind {
    Full,
    Incremental,
}

/// A backup that another one builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    pub(crate) number: u32,
    /// BLAKE3 of its manifest, hexadecimal.
    pub(crate) blake3: String,
}

/// A disk in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackedUpDisk {
    pub(crate) disk: DiskName,
    /// All of it, or what has changed since the backup before.
    pub(crate) kind: Kind,
    /// How large the disk was, in bytes.
    pub(crate) size: u64,
    /// The file, in the folder of the backup.
    pub(crate) file: String,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// Its BLAKE3, hexadecimal.
    pub(crate) blake3: String,
}

impl Manifest {
    pub(crate) const fn new_format() -> u32 {
        FORMAT
    }

    /// What is wrong with one that was read as that of this backup.
    pub(super) fn check(&self, number: u32) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("its format is {}, this version knows {FORMAT}", self.format));
        }
        let builds = match (self.kind, &self.previous) {
            (Kind::Full, None) => true,
            (Kind::Incremental, Some(previous)) => previous.number < self.number,
            (Kind::Full, Some(_)) | (Kind::Incremental, None) => false,
        };
        if self.number != number || !builds {
            return Err("it is not that of this backup".to_owned());
        }
        let leads_out = |disk: &&BackedUpDisk| disk.file != file_of(&disk.disk);
        match self.disks.iter().find(leads_out) {
            Some(disk) => Err(format!("the file of disk {} cannot be {:?}", disk.disk, disk.file)),
            None => Ok(()),
        }
    }
}

/// The file of a disk in a backup.
pub(crate) fn file_of(disk: &DiskName) -> String {
    format!("{disk}.blocks")
}
