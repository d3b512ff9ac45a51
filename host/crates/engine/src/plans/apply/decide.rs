//! What is decided about an apply. Pure.

use stillpoint_common::{Checkpoint, Failure, PowerState, Reason};

use crate::request::Machine;

/// Where an apply leaves the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landing {
    /// In a process: running, or paused if it was.
    Process,
    /// Saved.
    Saved,
    /// Off.
    Off,
}

/// Where this checkpoint leaves the machine if it is asked for in this way.
pub(crate) fn landing(checkpoint: &Checkpoint, machine: Machine) -> Result<Landing, Failure> {
    let state = checkpoint.vm_state();
    match (machine, &checkpoint.memory) {
        (Machine::AsCaptured, None) | (Machine::WithoutMemory, _) => Ok(Landing::Off),
        (Machine::AsCaptured, Some(_)) if state == PowerState::Saved => Ok(Landing::Saved),
        (Machine::AsCaptured, Some(_)) => Ok(Landing::Process),
        (Machine::Saved, Some(_)) => Ok(Landing::Saved),
        (Machine::Saved, None) => {
            let message =
                format!("checkpoint {:?} has no memory that a saved VM could go on from", checkpoint.name.as_str());
            Err(Failure::new(Reason::CheckpointHasNoMemory, message))
        }
    }
}

/// What to tell of disks that are used without the memory that belongs to them.
pub(crate) fn warning(checkpoint: &Checkpoint, landing: Landing) -> Option<&'static str> {
    let consistency = checkpoint.consistency;
    let torn =
        landing == Landing::Off && checkpoint.memory.is_some() && consistency == stillpoint_common::Consistency::Memory;
    torn.then_some("without its memory the disks of this checkpoint are as after a power cut")
}
