//! Deleting a checkpoint: it is gone first, which stays true; then its layers are collected.

use async_trait::async_trait;
use stillpoint_common::{CheckpointId, CheckpointState, Event, EventKind, Reason};

use super::collect::{Collected, collect};
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::Facts,
    saga::{Nature, Plan, Step},
};

/// One deletion; without a checkpoint, the collection of what something else left.
pub(super) struct Delete {
    checkpoint: Option<CheckpointId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeleteStep {
    MarkGone,
    CollectLayers,
}

const BURSTS: &[&[DeleteStep]] = &[&[DeleteStep::MarkGone], &[DeleteStep::CollectLayers]];

impl Step for DeleteStep {
    fn phase(self) -> Option<&'static str> {
        None
    }

    fn nature(self) -> Nature {
        match self {
            Self::MarkGone => Nature::Commit,
            Self::CollectLayers => Nature::Plain,
        }
    }
}

impl Delete {
    pub(super) const fn new(checkpoint: Option<CheckpointId>) -> Self {
        Self { checkpoint }
    }

    /// Its children, and Now if it is one, become children of its parent.
    async fn mark_gone(&self, cx: &Cx) -> Result<Changes, StepError> {
        let Some(id) = self.checkpoint else { return Ok(Changes::default()) };
        let mut gone = cx.catalogue().checkpoint(&cx.vm, id).await?;
        let mut changes = Changes::default();
        for mut child in cx.catalogue().checkpoints(&cx.vm).await? {
            if child.parent == Some(id) {
                child.parent = gone.parent;
                changes = changes.set_checkpoint(&child);
            }
        }
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        if vm.parent == Some(id) {
            vm.parent = gone.parent;
            changes = changes.set_vm(&vm);
        }
        gone.state = CheckpointState::Deleting;
        let text = format!("{:?} is gone", gone.name.as_str());
        let event = Event {
            checkpoint: Some(id),
            operation: Some(cx.reporter.now().id),
            ..Event::of_vm(cx.ports().clock.now(), EventKind::CheckpointDeleted, &cx.vm, text)
        };
        Ok(changes.set_checkpoint(&gone).event(&event))
    }
}

/// What the caller should know of a collection that is not over.
const fn said(collected: Collected) -> Option<&'static str> {
    match collected {
        Collected::All => None,
        Collected::MadeWay => Some("merging made way for something more urgent; it goes on by itself afterwards"),
        Collected::Suspended => Some("merges of this VM are suspended: its layers are merged when they are resumed"),
    }
}

#[async_trait]
impl Plan for Delete {
    type Step = DeleteStep;

    fn bursts(&self) -> &'static [&'static [DeleteStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::None
    }

    async fn ensure(&mut self, step: DeleteStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            DeleteStep::MarkGone => self.mark_gone(cx).await,
            DeleteStep::CollectLayers => match collect(cx).await {
                Ok(collected) => {
                    said(collected).into_iter().for_each(|later| cx.reporter.warn(later));
                    Ok(Changes::default())
                }
                Err(error) => Err(error.blamed_on(Reason::MergeFailed).into()),
            },
        }
    }

    async fn undo(&mut self, step: DeleteStep, _: &Cx) -> Result<(), StepError> {
        match step {
            DeleteStep::MarkGone | DeleteStep::CollectLayers => Ok(()),
        }
    }
}
