//! Saving a VM: its memory and devices are kept, its process ends, its next start goes on at that instant.
//!
//! The VM stands still from `Pause` on, so that its memory and its disks are of one instant. Until the catalogue has the
//! saved state, undoing lets it go on as if nothing had been; afterwards the process is ended, come what may: it must
//! not write to disks that belong to a saved state.

use async_trait::async_trait;
use stillpoint_common::{Reason, SavedState, Vm};

use super::{create::base, machine::memory_is_in};
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::{Facts, SaveFacts},
    ports::{HypervisorError, RunState},
    saga::{Nature, Plan, Step},
};

/// One save.
pub(super) struct Save {
    facts: SaveFacts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaveStep {
    Pause,
    SaveMemory,
    MarkSaved,
    Retire,
}

use SaveStep as S;

const BURSTS: &[&[S]] = &[&[S::Pause, S::SaveMemory], &[S::MarkSaved], &[S::Retire]];

impl Step for SaveStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::SaveMemory => Some("save"),
            Self::Pause | Self::MarkSaved | Self::Retire => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::Pause => Nature::Hold,
            Self::MarkSaved => Nature::Commit,
            // It must not write to disks that belong to a saved state.
            Self::Retire => Nature::Vital,
            Self::SaveMemory => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Save {
    type Step = SaveStep;

    fn bursts(&self) -> &'static [&'static [SaveStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::Save(Box::new(self.facts.clone()))
    }

    async fn ensure(&mut self, step: SaveStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::Pause => {
                memory_is_in(cx, self.facts.instance).await?;
                cx.ports().hypervisor.pause(self.facts.instance).await?;
            }
            S::SaveMemory => self.save_memory(cx).await?,
            S::MarkSaved => return self.mark_saved(cx).await,
            S::Retire => {
                cx.ports().guest.forget(self.facts.instance).await;
                cx.ports().hypervisor.retire(self.facts.instance).await?;
            }
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: SaveStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::Pause => self.let_run(cx).await,
            S::SaveMemory => self.drop_memory(cx).await,
            S::MarkSaved | S::Retire => Ok(()),
        }
    }
}

impl Save {
    pub(super) const fn new(facts: SaveFacts) -> Self {
        Self { facts }
    }

    async fn save_memory(&mut self, cx: &Cx) -> Result<(), StepError> {
        let SaveFacts { instance, saved, .. } = self.facts;
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let base = base::of(&cx.catalogue().checkpoints(&cx.vm).await?, vm.parent);
        let sink = cx.ports().memory.begin(&vm.checkpoint_location, saved, base.as_ref()).await?.stream;
        let kept = cx.ports().hypervisor.save_memory(instance, sink, &cx.reporter.progress()).await;
        kept.map_err(|error| StepError::from(error).blamed_on(Reason::CaptureFailed))?;
        let version = cx.ports().hypervisor.version(instance).await?;
        self.facts.memory = Some(cx.ports().memory.seal(&vm.checkpoint_location, saved, &version).await?);
        Ok(())
    }

    async fn mark_saved(&self, cx: &Cx) -> Result<Changes, StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let now = cx.ports().clock.now();
        let memory = self.facts.memory.clone().ok_or(HypervisorError::Gone)?;
        let saved = SavedState { id: self.facts.saved, memory, was_running: self.facts.was_running, saved: now };
        Ok(Changes::default().set_vm(&Vm { instance: None, saved: Some(saved), updated: now, ..vm }))
    }

    /// A process that still writes its memory out is resumed only when that has been given up. A VM that was paused
    /// before stays as it is.
    async fn let_run(&self, cx: &Cx) -> Result<(), StepError> {
        self.give_up(cx).await?;
        let run = cx.ports().hypervisor.observe(self.facts.instance).await.map(|observed| observed.run);
        if self.facts.was_running && matches!(run, Ok(RunState::Paused) | Err(_)) {
            cx.ports().hypervisor.resume(self.facts.instance).await?;
        }
        Ok(())
    }

    async fn drop_memory(&self, cx: &Cx) -> Result<(), StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        Ok(cx.ports().memory.remove(&vm.checkpoint_location, self.facts.saved).await?)
    }

    async fn give_up(&self, cx: &Cx) -> Result<(), StepError> {
        match cx.ports().hypervisor.cancel_capture(self.facts.instance).await {
            Ok(()) | Err(HypervisorError::Gone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
