//! The port to the folders that VMs are imported from and to.

use std::{os::fd::OwnedFd, path::Path};

use async_trait::async_trait;
use stillpoint_common::OperationId;

use super::{ExportError, ProgressSink};
use crate::ExportedFile;

/// Reads finished exports, whoever made them, and makes the folders of imported VMs. No link is followed in an export.
#[async_trait]
pub trait ExportSources: Send + Sync {
    /// The manifest of the export in this folder; [`ExportError::NotAnExport`] if there is none that can be read.
    async fn manifest(&self, folder: &Path) -> Result<serde_json::Value, ExportError>;

    /// Which of these files are not what the manifest says. All bytes are read only if `depth` asks for it.
    async fn compare(
        &self,
        folder: &Path,
        files: &[ExportedFile],
        depth: Depth,
        progress: &ProgressSink,
    ) -> Result<Vec<FileDamage>, ExportError>;

    /// Reads a small file. One that is larger than `at_most` bytes is [`ExportError::ExportDamaged`].
    async fn read(&self, folder: &Path, file: &str, at_most: u64) -> Result<Vec<u8>, ExportError>;

    /// Writes a file of the export to a descriptor, and closes that.
    async fn send(&self, folder: &Path, file: &str, sink: OwnedFd, progress: &ProgressSink) -> Result<(), ExportError>;

    /// Makes the folder of a VM that is imported, with a mark in it that it is this operation's. Refuses one that exists
    /// without that mark, and one whose parent folder does not exist.
    async fn claim(&self, target: &Path, operation: OperationId) -> Result<(), ExportError>;

    /// Removes the folder with all that is in it if it has the mark of this operation; anything else stays.
    async fn give_back(&self, target: &Path, operation: OperationId) -> Result<(), ExportError>;

    /// Takes the mark out: the folder is the VM's.
    async fn keep(&self, target: &Path, operation: OperationId) -> Result<(), ExportError>;

    /// The files of an export have become those of a VM, which writes to them: its manifest is put aside, so that nobody
    /// takes it for an export any more. Done already is fine.
    async fn retire(&self, folder: &Path) -> Result<(), ExportError>;
}

/// How closely files are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// That they are there, and how large they are.
    Sizes,
    /// Every byte, against the hash.
    Content,
}

/// A file of an export that is not what the manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDamage {
    /// Which one, relative to the folder.
    pub path: String,
    /// What is wrong with it, in words.
    pub problem: String,
}
