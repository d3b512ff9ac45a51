//! The port to the folders that exports go to.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use stillpoint_common::{MemoryState, OperationId};

use super::ProgressSink;
use crate::ExportedFile;

/// Makes export folders: everything is written under a temporary name beside the target, the manifest last, and then
/// renamed. A folder without a manifest is not an export.
#[async_trait]
pub trait ExportTargets: Send + Sync {
    /// The path of the temporary folder of this operation beside `target`.
    fn staging_folder(&self, target: &Path, operation: OperationId) -> PathBuf;

    /// Makes the temporary folder of this operation beside `target`; one that is there already is used again.
    ///
    /// Refuses a target that exists, and one whose parent folder does not.
    async fn stage(&self, target: &Path, operation: OperationId) -> Result<PathBuf, ExportError>;

    /// Copies a memory state into the temporary folder under this name, as a plain stream. If it is kept as one, its
    /// hash is checked on the way; of any other format, who opened it says whether it was whole.
    async fn copy_memory(
        &self,
        source: MemorySource<'_>,
        to: &Path,
        progress: &ProgressSink,
    ) -> Result<(), ExportError>;

    /// Writes a small file of these bytes into the temporary folder, readable for the service alone.
    async fn write(&self, bytes: &[u8], to: &Path) -> Result<(), ExportError>;

    /// Hashes and syncs what is in the temporary folder, writes the manifest (`manifest.json`: `describe` and the list
    /// of files) and renames the folder to `target`. Answers the files, the manifest last.
    ///
    /// `describe` names the operation (`operation`), for [`is_sealed`](Self::is_sealed). Called again after the rename, it
    /// only answers.
    async fn seal(
        &self,
        staged: &Path,
        target: &Path,
        describe: serde_json::Value,
    ) -> Result<Vec<ExportedFile>, ExportError>;

    /// Whether `target` is a finished export that this operation has made: its manifest names it. If so, its name is
    /// durable on return. Anything else there, or nothing, is not.
    async fn is_sealed(&self, target: &Path, operation: OperationId) -> Result<bool, ExportError>;

    /// Removes the temporary folder, or the finished one of an operation that is undone. Not there is fine.
    async fn discard(&self, folder: &Path) -> Result<(), ExportError>;

    /// Reads the list of files of a finished export, the manifest last.
    async fn files(&self, target: &Path) -> Result<Vec<ExportedFile>, ExportError>;
}

/// A memory state that is to be copied.
#[derive(Debug)]
pub struct MemorySource<'a> {
    /// What the catalogue keeps of it.
    pub state: &'a MemoryState,
    /// Its stream, opened.
    pub stream: OwnedFd,
    /// About how many bytes that has.
    pub bytes: u64,
}

/// Why an export was not made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The target exists.
    #[error("{} exists already", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// The target cannot be made.
    #[error("{} cannot be made: {message}", path.display())]
    TargetUnusable {
        /// The target.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A file system is full.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What was written.
        path: PathBuf,
    },
    /// What was to be copied is missing or damaged.
    #[error("{} is missing or damaged: {message}", path.display())]
    SourceDamaged {
        /// What was read.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The folder is no export that can be read.
    #[error("{} is no export: {message}", path.display())]
    NotAnExport {
        /// The folder.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A file of an export is not what its manifest says.
    #[error("{} is not what the manifest of its export says: {message}", path.display())]
    ExportDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A system call failed.
    #[error("{what}: {message}")]
    Failed {
        /// What was tried.
        what: String,
        /// In its own words.
        message: String,
    },
}
