//! The port to what TPMs keep.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use stillpoint_common::TpmState;

/// Keeps the state of TPMs: a folder each, in which the TPM of a running VM writes.
#[async_trait]
pub trait TpmStates: Send + Sync {
    /// Makes the folder, with this state in it and nothing else; with an empty one it is that of a new TPM. Durable on
    /// return. No TPM may run on it.
    async fn put(&self, folder: &Path, state: &TpmState) -> Result<(), TpmError>;

    /// Reads what a TPM keeps: as it was before or after each of its writes, also while it runs.
    async fn take(&self, folder: &Path) -> Result<TpmState, TpmError>;

    /// Removes the folder. Not there is fine. No TPM may run on it.
    async fn remove(&self, folder: &Path) -> Result<(), TpmError>;
}

/// Why the state of a TPM was not kept or found.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The host has no TPM for its VMs.
    #[error("there is no TPM for VMs on this host: {} was not found", program.display())]
    NoEmulator {
        /// The program that is missing.
        program: PathBuf,
    },
    /// It is missing, or cannot be the state of a TPM.
    #[error("the state of the TPM in {} cannot be used: {message}", folder.display())]
    Unusable {
        /// Where it lies.
        folder: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file system is full.
    #[error("no space left for the state of the TPM in {}", folder.display())]
    NoSpace {
        /// Where it lies.
        folder: PathBuf,
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
