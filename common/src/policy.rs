//! What is asked of a checkpoint, what it is, and what is proven of it.

use serde::{Deserialize, Serialize};

/// What a VM's administrator asks for. Stored on every checkpoint beside what was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckpointPolicy {
    /// Checkpoints are refused.
    Disabled,
    /// Memory, devices and disks of one instant; the guest is not asked.
    Standard,
    /// The guest is made quiet for the cut; if that fails, a standard checkpoint is made and says why.
    #[default]
    Production,
    /// The guest is made quiet for the cut, or there is no checkpoint.
    ProductionOnly,
}

/// What a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// Disks of a quiet guest, no memory. Applying it gives a VM that is off.
    Production,
    /// Disks and machine state of one instant (or the disks of a VM that was off).
    Standard,
}

/// What is proven about a checkpoint's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Consistency {
    /// Every writer and every file system was held through the cut.
    Application,
    /// Every file system was held through the cut; no writer is present.
    FileSystem,
    /// As after a power cut.
    Crash,
    /// Memory, devices and disks are of the same instant.
    Memory,
    /// The VM was off.
    Offline,
}

/// Why a production checkpoint was not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FallbackReason {
    /// No agent answers in the guest: not installed, not running, or still booting.
    AgentUnreachable,
    /// The agent is too old or too new to talk to.
    AgentIncompatible,
    /// A writer refused to prepare or to freeze.
    WriterRefused,
    /// A writer did not answer in its time.
    WriterTimedOut,
    /// A file system could not be frozen.
    FileSystemRefused,
    /// Freezing took longer than its time.
    FreezeTimedOut,
    /// The guest let go before the disks were cut: the lease ended, or the agent died.
    HoldLapsed,
    /// Nothing in the guest can be frozen.
    NothingToFreeze,
    /// The VM is paused, so that the guest cannot be asked.
    VmNotRunning,
    /// The VM is set so that its guest is not asked.
    QuiesceSwitchedOff,
}

impl std::fmt::Display for Consistency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Application => "APPLICATION",
            Self::FileSystem => "FILE_SYSTEM",
            Self::Crash => "CRASH",
            Self::Memory => "MEMORY",
            Self::Offline => "OFFLINE",
        })
    }
}

impl std::fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::AgentUnreachable => "AGENT_UNREACHABLE",
            Self::AgentIncompatible => "AGENT_INCOMPATIBLE",
            Self::WriterRefused => "WRITER_REFUSED",
            Self::WriterTimedOut => "WRITER_TIMED_OUT",
            Self::FileSystemRefused => "FILE_SYSTEM_REFUSED",
            Self::FreezeTimedOut => "FREEZE_TIMED_OUT",
            Self::HoldLapsed => "HOLD_LAPSED",
            Self::NothingToFreeze => "NOTHING_TO_FREEZE",
            Self::VmNotRunning => "VM_NOT_RUNNING",
            Self::QuiesceSwitchedOff => "QUIESCE_SWITCHED_OFF",
        })
    }
}
