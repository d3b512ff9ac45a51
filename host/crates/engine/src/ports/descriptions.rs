//! The port to description files: what the catalogue says of a VM and its checkpoints, beside its memory states.

use std::path::{Path, PathBuf};

use async_trait::async_trait;

/// Keeps small files from which the catalogue can be made again.
#[async_trait]
pub trait Descriptions: Send + Sync {
    /// Makes the file `name` in this folder, which is made if it is not there, read so. Durable on return.
    ///
    /// At every moment the file reads as before or as after, whole. One that reads so already is not written.
    async fn write(&self, location: &Path, name: &str, content: &[u8]) -> Result<(), DescriptionError>;

    /// Removes a file. Not there is fine.
    async fn remove(&self, location: &Path, name: &str) -> Result<(), DescriptionError>;

    /// Names of all files in a folder, whatever they are. A folder that is not there has none.
    async fn names(&self, folder: &Path) -> Result<Vec<String>, DescriptionError>;

    /// Reads every file with this ending in a folder and in the folders right below it. Files that are being written
    /// are not among them.
    async fn find(&self, folder: &Path, ending: &str) -> Result<Vec<FoundDescription>, DescriptionError>;
}

/// A description that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDescription {
    /// The file.
    pub path: PathBuf,
    /// What it says; or why it cannot be read.
    pub content: Result<Vec<u8>, String>,
}

/// Why a description was not written, removed or found.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// A file system is full.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What was written.
        path: PathBuf,
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
