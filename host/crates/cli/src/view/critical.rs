//! A VM that stands still by itself.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_common::{self as common, CriticalAction, Failure};
use stillpoint_proto::{convert::critical, v1 as pb};

use super::read_time;

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CriticalSettings {
    /// `RESUME_WHEN_SPACE` or `WAIT`.
    #[serde(default)]
    pub action: CriticalAction,
    /// It is switched off when it has stood still for so long; `null`: never.
    #[serde(default)]
    pub power_off_after_ms: Option<u64>,
}

/// Why it stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Critical {
    /// The disk that could not be read or written.
    pub disk: Option<String>,
    /// There was no space; otherwise the file or device below the disk failed.
    pub no_space: bool,
    /// The file that takes the disk's writes.
    pub path: String,
    /// Where the file system of that file is mounted.
    pub mounted_on: String,
    /// Bytes that are free there now.
    pub free_bytes: Option<u64>,
    /// Since when it stands still.
    pub since_time: Option<Timestamp>,
}

impl From<CriticalSettings> for common::CriticalSettings {
    fn from(CriticalSettings { action, power_off_after_ms }: CriticalSettings) -> Self {
        Self { action, power_off_after: power_off_after_ms.map(Duration::from_millis) }
    }
}

impl CriticalSettings {
    pub(super) fn read(settings: Option<&pb::CriticalSettings>) -> Result<Self, Failure> {
        let common::CriticalSettings { action, power_off_after } =
            critical::parse_settings(settings, "vm.critical_settings")?;
        let power_off_after_ms = power_off_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        Ok(Self { action, power_off_after_ms })
    }
}

impl From<pb::CriticalStatus> for Critical {
    fn from(status: pb::CriticalStatus) -> Self {
        Self {
            disk: Some(status.disk).filter(|disk| !disk.is_empty()),
            no_space: status.no_space,
            path: status.path,
            mounted_on: status.mounted_on,
            free_bytes: status.free_bytes,
            since_time: read_time(status.since_time.as_ref()),
        }
    }
}
