//! Deleting checkpoints: they are gone first, which stays true; then their layers are collected.

use std::collections::BTreeSet;

use async_trait::async_trait;
use stillpoint_common::{Checkpoint, CheckpointId, CheckpointState, Event, EventKind, OperationId, Reason};

use super::collect::{Collected, collect};
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::Facts,
    saga::{Nature, Plan, Step},
    tree::heir,
};

/// One deletion, of all that go in it; without any, the collection of what something else left.
pub(super) struct Delete {
    going: BTreeSet<CheckpointId>,
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
    pub(super) const fn new(going: BTreeSet<CheckpointId>) -> Self {
        Self { going }
    }
}

/// All go in one transaction. What came after them, and Now if it did, comes after the nearest above that stays.
/// `operation`: what lets them go, if an operation does.
pub(crate) async fn mark_gone(
    cx: &Cx,
    going: &BTreeSet<CheckpointId>,
    operation: Option<OperationId>,
) -> Result<Changes, StepError> {
    let all = cx.catalogue().checkpoints(&cx.vm).await?;
    let mut changes = Changes::default();
    for checkpoint in &all {
        let goes = going.contains(&checkpoint.id);
        let parent = heir(&all, going, checkpoint.parent);
        let state = if goes { CheckpointState::Deleting } else { checkpoint.state };
        // Nothing can come back to it: the secrets of its TPM go at once.
        let tpm = checkpoint.tpm.clone().filter(|_| !goes);
        let after = Checkpoint { parent, state, tpm, ..checkpoint.clone() };
        if after != *checkpoint {
            changes = changes.set_checkpoint(&after);
        }
        if goes {
            changes = changes.event(&gone(cx, checkpoint, operation));
        }
    }
    let mut vm = cx.catalogue().vm(&cx.vm).await?;
    let parent = heir(&all, going, vm.parent);
    if vm.parent != parent {
        vm.parent = parent;
        changes = changes.set_vm(&vm);
    }
    Ok(changes)
}

fn gone(cx: &Cx, checkpoint: &Checkpoint, operation: Option<OperationId>) -> Event {
    let text = format!("{:?} is gone", checkpoint.name.as_str());
    Event {
        checkpoint: Some(checkpoint.id),
        operation,
        ..Event::of_vm(cx.ports().clock.now(), EventKind::CheckpointDeleted, &cx.vm, text)
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
            DeleteStep::MarkGone => mark_gone(cx, &self.going, Some(cx.reporter.now().id)).await,
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
