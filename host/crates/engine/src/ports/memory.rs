//! The port to memory states on disk.

use std::{fmt, os::fd::OwnedFd, path::Path};

use async_trait::async_trait;
use stillpoint_common::{CheckpointId, MemoryState, SavedStateId};

/// Keeps memory states: one per checkpoint with memory, and one per saved VM. A sealed state never changes.
#[async_trait]
pub trait MemoryStates: Send + Sync {
    /// Opens a place for a memory state in this folder, which is made if it is not there; the hypervisor writes its
    /// stream to the descriptor.
    ///
    /// What an earlier, unfinished attempt left in the same place is overwritten.
    async fn begin(&self, location: &Path, of: MemoryOf) -> Result<OwnedFd, MemoryError>;

    /// Seals what was written: durable, hashed, complete. Fails if nothing whole was written.
    async fn seal(&self, location: &Path, of: MemoryOf, qemu_version: &str) -> Result<MemoryState, MemoryError>;

    /// Opens a sealed state for a hypervisor to load. Damage that can be seen at once (size, absence) is refused.
    async fn open(&self, state: &MemoryState) -> Result<OwnedFd, MemoryError>;

    /// Keeps a sealed state a second time, durable on return: each of the two is removed by itself and the other stays.
    /// Needs no space where the file system can share the bytes. What was in the place before is overwritten.
    async fn keep(&self, state: &MemoryState, location: &Path, of: MemoryOf) -> Result<MemoryState, MemoryError>;

    /// Removes what is kept in a place, sealed or not. Nothing there is fine.
    async fn remove(&self, location: &Path, of: MemoryOf) -> Result<(), MemoryError>;
}

/// Whose memory state it is: its place in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryOf {
    /// A checkpoint's.
    Checkpoint(CheckpointId),
    /// A saved VM's.
    Saved(SavedStateId),
}

impl From<CheckpointId> for MemoryOf {
    fn from(checkpoint: CheckpointId) -> Self {
        Self::Checkpoint(checkpoint)
    }
}

impl From<SavedStateId> for MemoryOf {
    fn from(saved: SavedStateId) -> Self {
        Self::Saved(saved)
    }
}

/// The name of its file.
impl fmt::Display for MemoryOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(checkpoint) => write!(f, "{checkpoint}.memory"),
            Self::Saved(saved) => write!(f, "{saved}.saved"),
        }
    }
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
