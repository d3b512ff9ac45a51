//! Saving the memory of an instance in the background.

use std::{os::fd::OwnedFd, sync::Arc};

use stillpoint_common::InstanceId;
use stillpoint_engine::ports::RunState;
use tokio::time::Instant;

use crate::{
    instance::Saving,
    machines::{Outcome, wrong_state},
    memory::MemoryImage,
    state::State,
};

/// The system's words for a full file system.
pub(crate) const NO_SPACE: &str = "No space left on device";

impl State {
    pub(crate) fn prepare_capture(&mut self, id: InstanceId, sink: OwnedFd) -> Outcome {
        let instance = self.instance(id)?;
        if matches!(instance.saving, Saving::Active { .. }) || instance.run == RunState::AwaitingMemory {
            return wrong_state("memory is being saved or loaded already");
        }
        if instance.taking_in.is_some() {
            return wrong_state("the VM still takes in its memory");
        }
        instance.saving = Saving::Prepared(Arc::new(sink));
        Ok(())
    }

    pub(crate) fn start_capture(&mut self, id: InstanceId) -> Outcome {
        let (captured, done_at) = (self.now(), Instant::now() + self.capture_time);
        let (held_for, tpm) = (self.hold_left(id), self.tpm_of(id));
        let instance = self.instance(id)?;
        match std::mem::replace(&mut instance.saving, Saving::None) {
            Saving::Prepared(sink) if instance.run == RunState::Paused => {
                let (value, disks) = (instance.memory, instance.believed.clone());
                let image = MemoryImage { value, disks, captured, tpm, held_for };
                instance.saving = Saving::Active { sink, image, done_at };
                Ok(())
            }
            before @ (Saving::Active { .. } | Saving::Completed) => {
                instance.saving = before;
                Ok(())
            }
            before @ (Saving::Prepared(_) | Saving::None | Saving::Failed(_)) => {
                instance.saving = before;
                wrong_state("a capture starts prepared, in a paused VM")
            }
        }
    }

    /// Saves the memory of a VM that stands still until it is ended.
    pub(crate) fn save_memory(&mut self, id: InstanceId, sink: OwnedFd) -> Outcome {
        self.prepare_capture(id, sink)?;
        self.start_capture(id)
    }

    pub(crate) fn end_captures(&mut self) {
        let now = Instant::now();
        let mut saved = Vec::new();
        for (id, instance) in &self.instances {
            if let Saving::Active { sink, image, done_at } = &instance.saving
                && *done_at <= now
            {
                let bytes = instance.spec.definition.memory_mib << 20;
                let full = self.path_of_sink(sink).is_some_and(|path| self.lacks(&path, bytes));
                let result = if full { Err(NO_SPACE.to_owned()) } else { save(image, sink) };
                saved.push((*id, result.map_or_else(Saving::Failed, |()| Saving::Completed)));
            }
        }
        for (id, saving) in saved {
            if let Some(instance) = self.instances.get_mut(&id) {
                instance.saving = saving;
            }
        }
    }
}

fn save(image: &MemoryImage, sink: &OwnedFd) -> Result<(), String> {
    image.save(sink).map_err(|error| error.to_string())
}
