//! Starting a saved VM: it goes on at the instant at which it was saved. No apply: its generation id stays.
//!
//! The saved state is given up in the same transaction that records the new process, before the guest's first
//! instruction: a state whose disks may have been written to must never be loaded again. So all of its memory is loaded before
//! that: it is the only copy, and what is wrong with it is found while nothing is lost yet.

use async_trait::async_trait;
use stillpoint_common::{Accelerator, InstanceId, SavedState, Vm};

use super::{
    disks::verify_layers,
    machine::{drop_saved, launch, let_run, load_memory, set_clock, tell_restored},
};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    job::Facts,
    ports::StartMode,
    saga::{Nature, Plan, Step},
};

/// One start from a saved state.
pub(super) struct Wake {
    instance: InstanceId,
    saved: SavedState,
    accelerator: Option<Accelerator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WakeStep {
    Launch,
    LoadMemory,
    MarkStarted,
    Describe,
    Run,
    SetClock,
    DropState,
}

use WakeStep as S;

const BURSTS: &[&[S]] =
    &[&[S::Launch, S::LoadMemory], &[S::MarkStarted], &[S::Describe, S::Run, S::SetClock, S::DropState]];

impl Step for WakeStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::Launch => Some("launch"),
            Self::LoadMemory => Some("load"),
            Self::SetClock => Some("clock"),
            Self::MarkStarted | Self::Describe | Self::Run | Self::DropState => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::MarkStarted => Nature::Commit,
            // A process that nobody knows of would keep the disks.
            Self::Launch => Nature::Vital,
            Self::LoadMemory | Self::Describe | Self::Run | Self::SetClock | Self::DropState => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Wake {
    type Step = WakeStep;

    fn bursts(&self) -> &'static [&'static [WakeStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::Wake { instance: self.instance, saved: Box::new(self.saved.clone()) }
    }

    async fn ensure(&mut self, step: WakeStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::Launch => self.launch(cx).await?,
            S::LoadMemory => drop(load_memory(cx, self.instance, &self.saved.memory, None).await?),
            S::MarkStarted => return self.mark(cx).await,
            // Were the catalogue lost, it must not come back with a state that is used up.
            S::Describe => describe::now_only(cx).await,
            S::Run if self.saved.was_running => let_run(cx, self.instance).await?,
            S::SetClock if self.saved.was_running => {
                set_clock(cx, self.instance).await;
                tell_restored(cx).await;
            }
            S::Run | S::SetClock => {}
            S::DropState => drop_saved(cx, &self.saved).await,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: WakeStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::Launch => {
                cx.ports().guest.forget(self.instance).await;
                Ok(cx.ports().hypervisor.retire(self.instance).await?)
            }
            S::LoadMemory | S::MarkStarted | S::Describe | S::Run | S::SetClock | S::DropState => Ok(()),
        }
    }
}

impl Wake {
    pub(super) const fn new(instance: InstanceId, saved: SavedState) -> Self {
        Self { instance, saved, accelerator: None }
    }

    async fn launch(&mut self, cx: &Cx) -> Result<(), StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let forest = cx.catalogue().forest(&cx.vm).await?;
        verify_layers(cx.ports(), &forest, &vm.heads).await?;
        let launched = launch(cx, vm, &forest, self.instance, StartMode::Restore).await?;
        self.accelerator = Some(launched.accelerator);
        Ok(())
    }

    async fn mark(&self, cx: &Cx) -> Result<Changes, StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let (instance, accelerator) = (Some(self.instance), self.accelerator.clone().or(vm.accelerator));
        let (updated, host_boot) = (cx.ports().clock.now(), cx.world.config.host_boot.clone());
        Ok(Changes::default().set_vm(&Vm { instance, host_boot, accelerator, saved: None, updated, ..vm }))
    }
}
