//! Loading a memory into an instance: as a stream, or by page while it runs.

use std::{os::fd::OwnedFd, path::Path};

use stillpoint_common::{InstanceId, MemoryState};
use stillpoint_engine::ports::{HypervisorError, HypervisorEventKind, Loaded, RunState};

use crate::{
    machines::{Outcome, refused, wrong_state},
    memory::MemoryImage,
    state::State,
};

/// How instances take in a memory that is loaded by page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum IntakeScript {
    /// All of it is in at once.
    #[default]
    AtOnce,
    /// It takes until somebody waits for it, or [`World::take_in`](crate::World::take_in).
    Slow,
    /// The rest of it cannot be had, for this reason.
    Lost(String),
    /// They cannot, for this reason.
    Impossible(String),
}

impl State {
    pub(crate) fn load_memory(&mut self, id: InstanceId, source: OwnedFd) -> Outcome {
        let image = MemoryImage::load(source).ok();
        self.load(id, image)
    }

    pub(crate) fn load_pages(&mut self, id: InstanceId, memory: &MemoryState) -> Outcome<Loaded> {
        if let IntakeScript::Impossible(why) = &self.intake {
            return Ok(Loaded::NotByPage(why.clone()));
        }
        let image = self.sealed_memory(memory).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        self.load(id, image)?;
        match self.intake.clone() {
            IntakeScript::Slow => self.instance(id)?.taking_in = Some(memory.path.clone()),
            IntakeScript::Lost(why) => self.lose_memory(id, &why),
            IntakeScript::AtOnce | IntakeScript::Impossible(_) => {}
        }
        Ok(Loaded::WhileItRuns)
    }

    fn load(&mut self, id: InstanceId, image: Option<MemoryImage>) -> Outcome {
        let now = self.now();
        let instance = self.instance(id)?;
        if instance.run != RunState::AwaitingMemory {
            return wrong_state("the VM does not await its memory");
        }
        let Some(image) = image else {
            self.end_instance(id);
            return refused("migrate-incoming", "load of migration failed: Invalid argument");
        };
        let tpm = image.tpm;
        instance.memory = image.value;
        instance.believed = image.disks;
        instance.clock_behind = now.duration_since(image.captured).unsigned_abs();
        instance.agent_started = true;
        instance.run = RunState::Paused;
        let vm = instance.spec.vm.clone();
        if let Some(bytes) = tpm {
            self.set_tpm_of(id, bytes);
        }
        if let Some(left) = image.held_for {
            self.hold_again(id, vm, left);
        }
        Ok(())
    }

    /// An instance has taken in all of its memory.
    pub(crate) fn take_in(&mut self, id: InstanceId) -> Result<(), HypervisorError> {
        if self.instance(id)?.taking_in.take().is_some() {
            self.tell(id, HypervisorEventKind::MemoryIsIn);
        }
        Ok(())
    }

    /// The rest of an instance's memory cannot be had: it is ended.
    pub(crate) fn lose_memory(&mut self, id: InstanceId, why: &str) {
        self.lost.insert(id, why.to_owned());
        self.end_instance(id);
    }

    /// Removes a memory. One whose pages are still served is missed by the guest that waits for them.
    pub(crate) fn remove_memory(&mut self, path: &Path) {
        let served = self.instances.iter().find(|(_, instance)| instance.taking_in.as_deref() == Some(path));
        if let Some((id, _)) = served {
            self.violations.push(format!("{} was removed while {id} takes it in", path.display()));
        }
        self.memories.remove(path);
    }
}
