//! The port to memory states on disk.

use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use stillpoint_common::{MemoryId, MemoryState};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

/// Keeps memory states: one per checkpoint with memory, and one per saved VM. A sealed state never changes.
#[async_trait]
pub trait MemoryStates: Send + Sync {
    /// Begins to take in a memory state, to be kept in this folder, which is made if it is not there. The
    /// hypervisor writes its stream to the descriptor, which never refuses: what goes wrong is told when it is sealed.
    ///
    /// Pages that are equal to some of `base`, an earlier state of the same VM, need not be kept twice; the base can
    /// be removed at any time after. What an earlier, unfinished attempt left under the same id is overwritten.
    async fn begin(&self, location: &Path, id: MemoryId, base: Option<&MemoryState>)
    -> Result<MemorySink, MemoryError>;

    /// Waits, for a limited time, until all that the hypervisor wrote is taken in, and seals it: durable, hashed,
    /// complete. Fails if nothing whole was written. A dropped future leaves nothing that can be sealed.
    async fn seal(&self, location: &Path, id: MemoryId, qemu_version: &str) -> Result<MemoryState, MemoryError>;

    /// Opens a sealed state for a hypervisor to load. Damage that can be seen at once (size, absence) is refused.
    async fn open(&self, state: &MemoryState) -> Result<OpenedMemory, MemoryError>;

    /// How a sealed state can be loaded. Damage that can be seen at once is refused.
    async fn reach(&self, state: &MemoryState) -> Result<Reach, MemoryError>;

    /// Keeps a sealed state a second time, in the folder where it is and under another id, durable on return: each of the
    /// two is removed by itself and the other stays. Takes next to no space. What was there under that id is overwritten.
    async fn keep(&self, state: &MemoryState, id: MemoryId) -> Result<MemoryState, MemoryError>;

    /// Files of pages in this folder that no state there needs, and that are not being written: left over by a crash, or
    /// put there by somebody else. None if it cannot be told, since a state there cannot be read.
    async fn unneeded(&self, location: &Path) -> Result<Vec<PathBuf>, MemoryError>;

    /// Removes what is kept under an id, sealed or not. Nothing there is fine.
    async fn remove(&self, location: &Path, id: MemoryId) -> Result<(), MemoryError>;
}

/// How a sealed state can be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// At any page: as a stream, or by page while the VM runs.
    AnyPage,
    /// As a stream alone; why, in words.
    StreamAlone(String),
}

/// Why a memory state was not kept or found.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Missing or damaged.
    #[error("the memory state {path} is {problem}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file system is full.
    #[error("no space left for the memory state {path}")]
    NoSpace {
        /// The file.
        path: String,
    },
    /// What the hypervisor wrote cannot be kept.
    #[error("the memory cannot be kept: {message}")]
    Unusable {
        /// Why.
        message: String,
    },
    /// It was not on disk in time.
    #[error("the memory was not written within {waited:?}")]
    Unanswered {
        /// How long.
        waited: Duration,
    },
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// What a hypervisor writes its memory to.
#[derive(Debug)]
pub struct MemorySink {
    /// Where its stream goes.
    pub stream: OwnedFd,
    /// Told by the other end.
    pub first_page: FirstPage,
}

impl From<OwnedFd> for MemorySink {
    /// One whose other end tells nothing.
    fn from(stream: OwnedFd) -> Self {
        Self { stream, first_page: FirstPage::default() }
    }
}

impl From<File> for MemorySink {
    /// One whose other end tells nothing.
    fn from(stream: File) -> Self {
        OwnedFd::from(stream).into()
    }
}

/// Tells that the first page of a memory has come. Nobody need tell it: whoever waits asks elsewhere, too.
#[derive(Debug, Clone, Default)]
pub struct FirstPage(Arc<Notify>);

impl FirstPage {
    /// It has come.
    pub fn tell(&self) {
        self.0.notify_one();
    }

    /// Returns when it has come, to one caller, and never if nobody tells it.
    pub async fn has_come(&self) {
        self.0.notified().await;
    }
}

/// A memory state on its way to a hypervisor: a stream to read, and a word, at its end, on whether it was whole.
#[derive(Debug)]
pub struct OpenedMemory {
    /// What the hypervisor loads.
    pub stream: OwnedFd,
    /// About how many bytes it will have.
    pub bytes: u64,
    outcome: Option<oneshot::Receiver<Result<(), MemoryError>>>,
}

impl OpenedMemory {
    /// A file, which is there as a whole.
    #[must_use]
    pub const fn file(stream: OwnedFd, bytes: u64) -> Self {
        Self { stream, bytes, outcome: None }
    }

    /// A stream that is being written while it is read; who writes it says in the end how that went.
    pub fn written(stream: OwnedFd, bytes: u64) -> (Self, impl FnOnce(Result<(), MemoryError>) + Send + 'static) {
        let (tell, outcome) = oneshot::channel();
        (Self { stream, bytes, outcome: Some(outcome) }, move |told| drop(tell.send(told)))
    }

    /// The stream, and what is to be awaited once it is read.
    #[must_use]
    pub fn split(self) -> (OwnedFd, MemoryOutcome) {
        (self.stream, MemoryOutcome(self.outcome))
    }
}

/// Whether a stream was whole.
#[derive(Debug)]
pub struct MemoryOutcome(Option<oneshot::Receiver<Result<(), MemoryError>>>);

impl MemoryOutcome {
    /// To be asked when the stream's other end is closed, or all of it read. A writer that does not know by then has
    /// not failed.
    ///
    /// # Errors
    /// If the state could not be read to its end.
    pub async fn told(self, within: Duration) -> Result<(), MemoryError> {
        match self.0 {
            None => Ok(()),
            Some(outcome) => match timeout(within, outcome).await {
                Ok(Ok(told)) => told,
                Ok(Err(_)) | Err(_) => Ok(()),
            },
        }
    }
}
