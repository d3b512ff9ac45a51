//! Takes a stream from QEMU and makes a memory state of it, as fast as it comes.
//!
//! ```text
//! pipe ─▶ ingest: reads, finds the pages ─▶ batches ─▶ workers: hash │ sort, in order │ compress, write
//! ```
//! Everything between is bounded: when the disk or the workers are slower than QEMU, QEMU waits. Memory is that of
//! some batches, of [`Known`](crate::state::Known), and of the index, one 512th of the guest's RAM at the very most.
//!
//! While the pipe is full, QEMU and its guest can stand still: whatever writes to a page that is not saved yet waits for
//! it, QEMU's main thread not excepted. So the pipe is read as soon as there is one, and whatever can be done before is.
//!
//! **The pipe never refuses.** A capture that has failed, for want of space or because of what the stream says, reads
//! on to the end: to QEMU before 9.0 a broken pipe is a guest that hangs.

mod batch;
mod ingest;
mod sort;
mod workers;

use std::{os::fd::OwnedFd, path::PathBuf, sync::PoisonError};

use stillpoint_common::MemoryId;
use stillpoint_engine::ports::FirstPage;
use tokio::sync::oneshot;

use crate::{
    state::{Draft, PackWriter, SavedMemory, StateError},
    stream::StreamError,
};
use ingest::Source;
use workers::Workers;

/// What is to be captured.
pub(crate) struct Wanted {
    /// Where QEMU's end writes to.
    pub(crate) source: OwnedFd,
    /// The capture is given up when the other end of this is closed.
    pub(crate) stop: OwnedFd,
    pub(crate) checkpoint: MemoryId,
    /// The new pack's file, under its unfinished name.
    pub(crate) pack: PathBuf,
    /// The state whose pages need not be stored again, in the same folder.
    pub(crate) base: Option<SavedMemory>,
    /// Told when the base is read and the pipe will be.
    pub(crate) ready: oneshot::Sender<()>,
    /// Told when a page has come.
    pub(crate) first_page: FirstPage,
}

/// Why a capture came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaptureError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("reading what QEMU writes")]
    Source(#[source] std::io::Error),
    #[error("the capture was given up")]
    Stopped,
}

/// Captures, and answers all that is to be known for a manifest but the version of QEMU. Returns at the end of the stream, or as soon as it is told to stop.
pub(crate) fn capture(wanted: Wanted) -> Result<Draft, CaptureError> {
    let mut source = Source::new(wanted.source, wanted.stop, wanted.first_page);
    let made = match PackWriter::create(&wanted.pack, wanted.checkpoint) {
        Ok(pack) => {
            let workers = Workers::new(pack, wanted.checkpoint, wanted.base);
            let _ = wanted.ready.send(());
            let read = workers.run(&mut source);
            read.and_then(|(prologue, devices)| workers.finish(prologue, devices))
        }
        Err(error) => Err(error.into()),
    };
    if made.is_err() {
        source.drain();
    }
    made
}

/// A lock whose value is sound whoever panicked while holding it.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
