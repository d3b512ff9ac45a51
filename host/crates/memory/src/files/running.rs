//! A capture at work, on a thread of its own.

use std::{collections::BTreeSet, os::fd::OwnedFd, path::Path, thread, time::Duration};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use stillpoint_common::MemoryId;
use stillpoint_engine::ports::{FirstPage, MemoryError, MemorySink};
use tokio::{sync::oneshot, time::timeout};

use super::work::{described, explained};
use crate::{
    capture::{CaptureError, Wanted, capture},
    state::{Draft, SavedMemory, manifest_path, pack_path, unfinished},
};

/// What QEMU may have written and we have not read.
const PIPE_SIZE: usize = 1 << 20;

type Outcome = Result<Draft, CaptureError>;

/// The capture ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    /// Packs that it writes or builds on.
    pub(super) packs: BTreeSet<MemoryId>,
    outcome: Option<oneshot::Receiver<Outcome>>,
    /// Closed by being dropped, which ends the capture.
    _stop: OwnedFd,
}

impl Running {
    /// Begins, and answers what QEMU is to write to, and what tells when it may.
    pub(super) fn begin(
        location: &Path,
        checkpoint: MemoryId,
        base: Option<SavedMemory>,
    ) -> Result<(Self, MemorySink, oneshot::Receiver<()>), MemoryError> {
        let failed = |error: rustix::io::Errno| explained(location, "opening a way for", error.into());
        let (source, sink) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        // A smaller pipe does it too.
        let _ = fcntl_setpipe_size(&sink, PIPE_SIZE);
        let (stop, stopper) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let mut packs = BTreeSet::from([checkpoint]);
        packs.extend(base.iter().flat_map(SavedMemory::packs));
        let (ready, may_begin) = oneshot::channel();
        let pack = unfinished(&pack_path(location, checkpoint));
        let first_page = FirstPage::default();
        let wanted = Wanted { source, stop, checkpoint, pack, base, ready, first_page: first_page.clone() };
        let (told, outcome) = oneshot::channel();
        let work = move || drop(told.send(capture(wanted)));
        let spawned = thread::Builder::new().name("capture".to_owned()).spawn(work);
        spawned.map_err(|error| explained(location, "starting a thread for", error))?;
        Ok((Self { packs, outcome: Some(outcome), _stop: stopper }, MemorySink { stream: sink, first_page }, may_begin))
    }

    /// What the capture will come to; can be had once.
    pub(super) fn take_outcome(&mut self) -> Option<oneshot::Receiver<Outcome>> {
        self.outcome.take()
    }

    /// Waits until all that QEMU has written is on disk.
    pub(super) async fn outcome(
        outcome: oneshot::Receiver<Outcome>,
        location: &Path,
        checkpoint: MemoryId,
        within: Duration,
    ) -> Result<Draft, MemoryError> {
        let path = manifest_path(location, checkpoint);
        match timeout(within, outcome).await {
            Ok(Ok(Ok(captured))) => Ok(captured),
            Ok(Ok(Err(error))) => Err(described(&path, error)),
            Ok(Err(_)) => Err(MemoryError::Unusable { message: "the capture ended without a word".to_owned() }),
            Err(_) => Err(MemoryError::Unanswered { waited: within }),
        }
    }

    /// Ends it, and waits until it lets go of its files.
    pub(super) async fn give_up(self, within: Duration) {
        let Self { outcome, _stop, packs: _ } = self;
        drop(_stop);
        if let Some(outcome) = outcome {
            let _ = timeout(within, outcome).await;
        }
    }
}
