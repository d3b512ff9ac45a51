//! The port to memory states on disk.

use std::{os::fd::OwnedFd, path::Path};

use async_trait::async_trait;
use stillpoint_common::{CheckpointId, MemoryState};

/// Keeps memory states: one per standard checkpoint.
#[async_trait]
pub trait MemoryStates: Send + Sync {
    /// Opens a place for the memory of a checkpoint in this folder, which is made if it is not there; the hypervisor writes its stream to the descriptor.
    ///
    /// What an earlier, unfinished attempt left under the same checkpoint is overwritten.
    async fn begin(&self, location: &Path, checkpoint: CheckpointId) -> Result<OwnedFd, MemoryError>;

    /// Seals what was written: durable, hashed, complete. Fails if nothing whole was written.
    async fn seal(
        &self,
        location: &Path,
        checkpoint: CheckpointId,
        qemu_version: &str,
    ) -> Result<MemoryState, MemoryError>;

    /// Opens a sealed state for a hypervisor to load. Damage that can be seen at once (size, absence) is refused.
    async fn open(&self, state: &MemoryState) -> Result<OwnedFd, MemoryError>;

    /// Removes what is kept for a checkpoint, sealed or not. Nothing there is fine.
    async fn remove(&self, location: &Path, checkpoint: CheckpointId) -> Result<(), MemoryError>;
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
