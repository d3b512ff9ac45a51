//! A VM that fails, without anybody having asked for it, and what is done about it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Reason;

/// What is done when a VM fails: its process has ended by itself, or the kernel of its guest has panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OnFailure {
    /// Nothing: a VM whose process has ended is off, a guest that has panicked does what its kernel is set to do.
    #[default]
    Nothing,
    /// It is started as it is.
    Restart,
    /// It is brought back to the checkpoint that Now is a child of, and started. Without one it is started as it is.
    Revert,
}

/// How a VM has failed last, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFailure {
    /// When that was seen.
    pub time: Timestamp,
    /// `VM_STOPPED_UNEXPECTEDLY`, `MEMORY_LOST` or `GUEST_PANICKED`.
    pub reason: Reason,
    /// It is being brought back.
    pub at_work: bool,
    /// What was done about it, in words.
    pub outcome: String,
}

/// What is known of the failures of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFailures {
    /// The last one, if it has failed.
    pub last: Option<VmFailure>,
    /// How often it was brought back within the last hour.
    pub recoveries: usize,
    /// How often it is brought back within an hour at most.
    pub max_recoveries: usize,
}
