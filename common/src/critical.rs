//! A VM that stands still because a disk could not be read or written.

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::DiskName;

/// What is done about a VM that stands still because there was no space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CriticalAction {
    /// It goes on by itself as soon as there is space again.
    #[default]
    ResumeWhenSpace,
    /// It stands still until somebody resumes it.
    Wait,
}

/// What an administrator wants to be done about a VM that stands still by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct CriticalSettings {
    /// Whether it goes on by itself.
    #[serde(default)]
    pub action: CriticalAction,
    /// It is switched off when it has stood still for so long; `None`: it may stand still for ever.
    #[serde(default)]
    pub power_off_after: Option<Duration>,
}

/// Why and since when a VM stands still by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Critical {
    /// The disk that could not be read or written, if the hypervisor knows which.
    pub disk: Option<DiskName>,
    /// There was no space; otherwise the file or device below the disk failed.
    pub no_space: bool,
    /// The file that takes the disk's writes.
    pub path: Option<PathBuf>,
    /// Where the file system of that file is mounted.
    pub mounted_on: Option<PathBuf>,
    /// Bytes that are free there now.
    pub free: Option<u64>,
    /// Since when it stands still; `None`: it has only just been seen.
    pub since: Option<Timestamp>,
}

impl std::fmt::Display for Critical {
    /// `no space for disk data on /mnt`, `disk data cannot be read or written`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let disk = self.disk.as_ref().map_or_else(|| "a disk".to_owned(), |disk| format!("disk {disk}"));
        match (self.no_space, &self.mounted_on) {
            (true, Some(mounted_on)) => write!(f, "no space for {disk} on {}", mounted_on.display()),
            (true, None) => write!(f, "no space for {disk}"),
            (false, _) => write!(f, "{disk} cannot be read or written"),
        }
    }
}
