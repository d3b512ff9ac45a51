//! Policies, kinds, consistency, fallback reasons and outcomes.

use stillpoint_common::{
    CheckpointPolicy, Consistency, Failure, FallbackReason, FileSystemResult, Kind, PowerState, WriterResult,
};

use super::known;
use crate::v1 as pb;

/// Reads a policy; `None` for UNSPECIFIED, whose meaning the message says.
///
/// # Errors
/// The value is not known.
pub fn policy(value: i32, field: &str) -> Result<Option<CheckpointPolicy>, Failure> {
    Ok(match known(value, field)? {
        pb::CheckpointPolicy::Unspecified => None,
        pb::CheckpointPolicy::Disabled => Some(CheckpointPolicy::Disabled),
        pb::CheckpointPolicy::Standard => Some(CheckpointPolicy::Standard),
        pb::CheckpointPolicy::Production => Some(CheckpointPolicy::Production),
        pb::CheckpointPolicy::ProductionOnly => Some(CheckpointPolicy::ProductionOnly),
    })
}

impl From<CheckpointPolicy> for pb::CheckpointPolicy {
    fn from(policy: CheckpointPolicy) -> Self {
        match policy {
            CheckpointPolicy::Disabled => Self::Disabled,
            CheckpointPolicy::Standard => Self::Standard,
            CheckpointPolicy::Production => Self::Production,
            CheckpointPolicy::ProductionOnly => Self::ProductionOnly,
        }
    }
}

impl From<Kind> for pb::CheckpointKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Production => Self::Production,
            Kind::Standard => Self::Standard,
        }
    }
}

impl From<Consistency> for pb::Consistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Application => Self::Application,
            Consistency::FileSystem => Self::FileSystem,
            Consistency::Crash => Self::Crash,
            Consistency::Memory => Self::Memory,
            Consistency::Offline => Self::Offline,
        }
    }
}

impl From<Option<FallbackReason>> for pb::FallbackReason {
    fn from(reason: Option<FallbackReason>) -> Self {
        match reason {
            None => Self::Unspecified,
            Some(FallbackReason::AgentUnreachable) => Self::AgentUnreachable,
            Some(FallbackReason::AgentIncompatible) => Self::AgentIncompatible,
            Some(FallbackReason::WriterRefused) => Self::WriterRefused,
            Some(FallbackReason::WriterTimedOut) => Self::WriterTimedOut,
            Some(FallbackReason::FileSystemRefused) => Self::FileSystemRefused,
            Some(FallbackReason::FreezeTimedOut) => Self::FreezeTimedOut,
            Some(FallbackReason::HoldLapsed) => Self::HoldLapsed,
            Some(FallbackReason::NothingToFreeze) => Self::NothingToFreeze,
            Some(FallbackReason::VmNotRunning) => Self::VmNotRunning,
            Some(FallbackReason::QuiesceSwitchedOff) => Self::QuiesceSwitchedOff,
        }
    }
}

impl From<FileSystemResult> for pb::OutcomeResult {
    fn from(result: FileSystemResult) -> Self {
        match result {
            FileSystemResult::Selected => Self::Selected,
            FileSystemResult::Frozen => Self::Held,
            FileSystemResult::LeftOut => Self::LeftOut,
            FileSystemResult::Failed => Self::Failed,
        }
    }
}

impl From<WriterResult> for pb::OutcomeResult {
    fn from(result: WriterResult) -> Self {
        match result {
            WriterResult::Stable => Self::Selected,
            WriterResult::Held => Self::Held,
            WriterResult::Refused | WriterResult::Vanished => Self::Failed,
            WriterResult::TimedOut => Self::TimedOut,
            WriterResult::LeftOut => Self::LeftOut,
        }
    }
}

impl From<PowerState> for pb::VmState {
    fn from(power: PowerState) -> Self {
        match power {
            PowerState::Off => Self::Off,
            PowerState::Running => Self::Running,
            PowerState::Paused => Self::Paused,
            PowerState::PausedCritical => Self::PausedCritical,
            PowerState::Saved => Self::Saved,
        }
    }
}

/// The kind of a checkpoint that a service told of; `None` if it is none that this version knows.
#[must_use]
pub fn read_kind(value: i32) -> Option<Kind> {
    match pb::CheckpointKind::try_from(value).ok()? {
        pb::CheckpointKind::Unspecified => None,
        pb::CheckpointKind::Production => Some(Kind::Production),
        pb::CheckpointKind::Standard => Some(Kind::Standard),
    }
}

/// The consistency that a service told of; `None` if it is none that this version knows.
#[must_use]
pub fn read_consistency(value: i32) -> Option<Consistency> {
    match pb::Consistency::try_from(value).ok()? {
        pb::Consistency::Unspecified => None,
        pb::Consistency::Application => Some(Consistency::Application),
        pb::Consistency::FileSystem => Some(Consistency::FileSystem),
        pb::Consistency::Crash => Some(Consistency::Crash),
        pb::Consistency::Memory => Some(Consistency::Memory),
        pb::Consistency::Offline => Some(Consistency::Offline),
    }
}

/// The reason of a fallback that a service told of; `None` if there was none, or none that this version knows.
#[must_use]
pub fn read_fallback(value: i32) -> Option<FallbackReason> {
    match pb::FallbackReason::try_from(value).ok()? {
        pb::FallbackReason::Unspecified => None,
        pb::FallbackReason::AgentUnreachable => Some(FallbackReason::AgentUnreachable),
        pb::FallbackReason::AgentIncompatible => Some(FallbackReason::AgentIncompatible),
        pb::FallbackReason::WriterRefused => Some(FallbackReason::WriterRefused),
        pb::FallbackReason::WriterTimedOut => Some(FallbackReason::WriterTimedOut),
        pb::FallbackReason::FileSystemRefused => Some(FallbackReason::FileSystemRefused),
        pb::FallbackReason::FreezeTimedOut => Some(FallbackReason::FreezeTimedOut),
        pb::FallbackReason::HoldLapsed => Some(FallbackReason::HoldLapsed),
        pb::FallbackReason::NothingToFreeze => Some(FallbackReason::NothingToFreeze),
        pb::FallbackReason::VmNotRunning => Some(FallbackReason::VmNotRunning),
        pb::FallbackReason::QuiesceSwitchedOff => Some(FallbackReason::QuiesceSwitchedOff),
    }
}

/// The state of a VM that a service told of; `None` if it is none that this version knows.
#[must_use]
pub fn read_power(value: i32) -> Option<PowerState> {
    match pb::VmState::try_from(value).ok()? {
        pb::VmState::Unspecified => None,
        pb::VmState::Off => Some(PowerState::Off),
        pb::VmState::Running => Some(PowerState::Running),
        pb::VmState::Paused => Some(PowerState::Paused),
        pb::VmState::PausedCritical => Some(PowerState::PausedCritical),
        pb::VmState::Saved => Some(PowerState::Saved),
    }
}

/// The name of what became of a file system or writer: `HELD`, `LEFT_OUT`, …; `None` if this version does not know it.
#[must_use]
pub fn read_outcome(value: i32) -> Option<&'static str> {
    let result = pb::OutcomeResult::try_from(value).ok()?;
    result.as_str_name().strip_prefix("OUTCOME_RESULT_")
}
