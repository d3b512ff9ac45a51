//! Making way: merging layers is work in the background, and stops for whatever is more urgent.
//!
//! ```text
//!  the actor                                what is at work
//!  a request comes ── is_open? ── ask ───▶  stops at the next safe point, ends well
//!                                           (a moment in which the guest stands still is not cut short)
//!  the request begins ◀── ended ───────────
//!  nothing waits any more ── collection begins again
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use stillpoint_common::OperationKind;

use crate::ports::Stop;

/// Whether an operation can be asked to make way, and whether it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    open: Arc<AtomicBool>,
    stop: Stop,
}

impl Way {
    /// For an operation of this kind. What collects layers can make way from the beginning: a deletion has done what it
    /// promised as soon as the checkpoint is gone, which is not interrupted.
    pub(crate) fn of(kind: OperationKind) -> Self {
        let way = Self::default();
        if collects_layers(kind) {
            way.open();
        }
        way
    }

    /// What was promised is kept; all that is left to do can wait.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Asks for the way. What is at work ends soon.
    pub(crate) fn ask(&self) {
        self.stop.ask();
    }

    /// What stops the work.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }
}

/// Whether all that is left of an operation of this kind, once its promise is kept, is to collect layers.
pub(crate) const fn collects_layers(kind: OperationKind) -> bool {
    match kind {
        OperationKind::CollectLayers | OperationKind::DeleteCheckpoint => true,
        OperationKind::StartVm
        | OperationKind::StopVm
        | OperationKind::PauseVm
        | OperationKind::ResumeVm
        | OperationKind::SaveVm
        | OperationKind::DiscardSavedState
        | OperationKind::CreateCheckpoint
        | OperationKind::ApplyCheckpoint
        | OperationKind::DeleteMemoryState
        | OperationKind::ExportCheckpoint
        | OperationKind::ImportVm => false,
    }
}
