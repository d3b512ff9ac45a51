//! Deleting the memory of a checkpoint, which stays, with its disks: applied from then on, it leaves the VM off.
//!
//! The catalogue lets go of the memory first, and notes that its file is left over; the file goes after that. So no
//! record ever promises a memory that is not there.

use async_trait::async_trait;
use stillpoint_common::{CheckpointId, Consistency, Event, EventKind, Failure};

use super::collect::remove_memories;
use crate::{
    admission::has_memory,
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::Facts,
    saga::{Nature, Plan, Step},
};

/// One memory that goes.
pub(super) struct ForgetMemory {
    checkpoint: CheckpointId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ForgetMemoryStep {
    LetGo,
    RemoveFile,
}

const BURSTS: &[&[ForgetMemoryStep]] = &[&[ForgetMemoryStep::LetGo], &[ForgetMemoryStep::RemoveFile]];

impl Step for ForgetMemoryStep {
    fn phase(self) -> Option<&'static str> {
        None
    }

    fn nature(self) -> Nature {
        match self {
            Self::LetGo => Nature::Commit,
            Self::RemoveFile => Nature::Plain,
        }
    }
}

impl ForgetMemory {
    pub(super) const fn new(checkpoint: CheckpointId) -> Self {
        Self { checkpoint }
    }

    /// What is left are disks as a guest leaves them whose power fails.
    async fn let_go(&self, cx: &Cx) -> Result<Changes, StepError> {
        let mut checkpoint = cx.catalogue().checkpoint(&cx.vm, self.checkpoint).await?;
        has_memory(&checkpoint)?;
        checkpoint.memory = None;
        checkpoint.consistency = Consistency::Crash;
        let text = format!("the memory of {:?} is gone; its disks stay", checkpoint.name.as_str());
        let event = Event {
            checkpoint: Some(checkpoint.id),
            operation: Some(cx.reporter.now().id),
            ..Event::of_vm(cx.ports().clock.now(), EventKind::MemoryStateDeleted, &cx.vm, text)
        };
        Ok(Changes::default().set_checkpoint(&checkpoint).retire_memory(&cx.vm, checkpoint.id).event(&event))
    }
}

#[async_trait]
impl Plan for ForgetMemory {
    type Step = ForgetMemoryStep;

    fn bursts(&self) -> &'static [&'static [ForgetMemoryStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::None
    }

    async fn ensure(&mut self, step: ForgetMemoryStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            ForgetMemoryStep::LetGo => self.let_go(cx).await,
            ForgetMemoryStep::RemoveFile => {
                if let Err(error) = remove_memories(cx).await {
                    let failure = Failure::from(error);
                    cx.reporter.warn(format!("its file could not be removed yet, which is tried again: {failure}"));
                }
                Ok(Changes::default())
            }
        }
    }

    async fn undo(&mut self, step: ForgetMemoryStep, _: &Cx) -> Result<(), StepError> {
        match step {
            ForgetMemoryStep::LetGo | ForgetMemoryStep::RemoveFile => Ok(()),
        }
    }
}
