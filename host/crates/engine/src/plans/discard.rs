//! Giving up a saved state: the VM is off afterwards, its disks are as they were when it was saved.

use async_trait::async_trait;
use stillpoint_common::{SavedState, Vm};

use super::machine::drop_saved;
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::Facts,
    saga::{Nature, Plan, Step},
};

/// One saved state to give up.
pub(super) struct Discard {
    pub(super) saved: SavedState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiscardStep {
    MarkOff,
    DropState,
}

const BURSTS: &[&[DiscardStep]] = &[&[DiscardStep::MarkOff], &[DiscardStep::DropState]];

impl Step for DiscardStep {
    fn phase(self) -> Option<&'static str> {
        None
    }

    fn nature(self) -> Nature {
        match self {
            Self::MarkOff => Nature::Commit,
            Self::DropState => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Discard {
    type Step = DiscardStep;

    fn bursts(&self) -> &'static [&'static [DiscardStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::Discard(Box::new(self.saved.clone()))
    }

    async fn ensure(&mut self, step: DiscardStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            DiscardStep::MarkOff => {
                let vm = cx.catalogue().vm(&cx.vm).await?;
                Ok(Changes::default().set_vm(&Vm { saved: None, updated: cx.ports().clock.now(), ..vm }))
            }
            DiscardStep::DropState => {
                drop_saved(cx, &self.saved).await;
                Ok(Changes::default())
            }
        }
    }

    async fn undo(&mut self, step: DiscardStep, _: &Cx) -> Result<(), StepError> {
        match step {
            DiscardStep::MarkOff | DiscardStep::DropState => Ok(()),
        }
    }
}
