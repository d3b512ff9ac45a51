//! What is decided about a checkpoint in the making. Pure.

use jiff::Timestamp;
use stillpoint_common::{
    Checkpoint, CheckpointName, CheckpointPolicy, Consistency, Failure, FallbackReason, Kind, PowerState, Reason,
    Remarks, VmId, WriterOutcome, WriterResult,
};

use crate::{error::StepError, ports::HypervisorError};

/// A failure of the hypervisor while it saves memory, said as such.
pub(super) fn capture_failed(error: HypervisorError) -> StepError {
    match error {
        HypervisorError::Gone | HypervisorError::NoSpace { .. } => error.into(),
        other @ (HypervisorError::Refused { .. }
        | HypervisorError::Unanswered { .. }
        | HypervisorError::WrongState(_)
        | HypervisorError::Io { .. }
        | HypervisorError::LaunchFailed { .. }
        | HypervisorError::NoFirmware { .. }
        | HypervisorError::Tpm(_)
        | HypervisorError::AcceleratorMissing { .. }) => StepError::from(other).blamed_on(Reason::CaptureFailed).into(),
    }
}

/// What is proven of a checkpoint whose plan has come to its end.
pub(super) fn consistency(checkpoint: &Checkpoint, as_it_is: bool) -> Consistency {
    match (checkpoint.vm_state(), checkpoint.kind) {
        (PowerState::Off, Kind::Production | Kind::Standard) => Consistency::Offline,
        (PowerState::Saved, Kind::Production | Kind::Standard)
        | (PowerState::Running | PowerState::Paused | PowerState::PausedCritical, Kind::Standard) => {
            Consistency::Memory
        }
        (PowerState::Running | PowerState::Paused | PowerState::PausedCritical, Kind::Production) if as_it_is => {
            Consistency::Crash
        }
        (PowerState::Running | PowerState::Paused | PowerState::PausedCritical, Kind::Production) => {
            match all_writers_held(&checkpoint.writers) {
                true => Consistency::Application,
                false => Consistency::FileSystem,
            }
        }
    }
}

/// Why the guest of a VM in this state cannot be asked to be quiet, if so. One that is off is quiet as it is.
pub(crate) fn cannot_be_asked(power: PowerState) -> Option<&'static str> {
    match power {
        PowerState::Running | PowerState::PausedCritical | PowerState::Off => None,
        PowerState::Paused => Some("the VM is paused, so that its guest cannot be asked to be quiet"),
        PowerState::Saved => Some("the VM is saved, so that its guest cannot be asked to be quiet"),
    }
}

/// One that was left out makes the checkpoint one of file systems only.
fn all_writers_held(writers: &[WriterOutcome]) -> bool {
    !writers.is_empty() && writers.iter().all(|writer| writer.result == WriterResult::Held)
}

/// The reason, if what failed is making the guest quiet.
pub(crate) fn quiesce_reason(error: &StepError) -> Option<FallbackReason> {
    match error {
        StepError::Quiesce(error) => Some(error.fallback_reason()),
        StepError::Hypervisor(_)
        | StepError::Image(_)
        | StepError::Memory(_)
        | StepError::Tpm(_)
        | StepError::Description(_)
        | StepError::Export(_)
        | StepError::Store(_)
        | StepError::Refused(_)
        | StepError::Cancelled => None,
    }
}

/// What a policy asks for first.
pub(crate) const fn kind_of(policy: CheckpointPolicy) -> Kind {
    match policy {
        CheckpointPolicy::Production | CheckpointPolicy::ProductionOnly => Kind::Production,
        CheckpointPolicy::Standard | CheckpointPolicy::Disabled => Kind::Standard,
    }
}

/// `web - (2026-11-24 - 15:04:05)`, in UTC; an automatic one says that it is, and that of a backup.
pub(crate) fn default_name(vm: &VmId, remarks: &Remarks, now: Timestamp) -> Result<CheckpointName, Failure> {
    let prefix = match (remarks.automatic, remarks.backup) {
        (true, _) => "Automatic Checkpoint - ",
        (false, Some(_)) => "Backup Checkpoint - ",
        (false, None) => "",
    };
    let name = format!("{prefix}{vm} - ({})", now.strftime("%Y-%m-%d - %H:%M:%S"));
    // The longest name of a VM would not leave room for the time behind the prefix.
    let name = if name.chars().count() > 100 { name.replacen("Checkpoint - ", "", 1) } else { name };
    name.parse().map_err(|problem| Failure::field("display_name", problem))
}
