//! The port to image files that no running VM is writing to.

use std::{
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
    slice,
};

use async_trait::async_trait;
use stillpoint_common::{DiskFormat, FileIdentity, FileStamp, LayerFile};

use super::{ProgressSink, Stop};

/// Works on image files. Never probes a format, never follows a backing file it was not told of.
#[async_trait]
pub trait Images: Send + Sync {
    /// What is true of this file now. Also works while a VM has it open.
    async fn stat(&self, path: &Path, format: DiskFormat) -> Result<ImageFacts, ImageError>;

    /// What can be seen of files without a tool, in their order: cheap, and also while a VM has them open. Nothing they
    /// name is opened.
    async fn look_at(&self, files: &[LayerFile]) -> Result<Vec<Result<Seen, ImageError>>, ImageError>;

    /// Image files in this folder that name a backing file, finished or not, and what is seen of them.
    async fn beside(&self, folder: &Path) -> Result<Vec<(PathBuf, Seen)>, ImageError>;

    /// Which of these files are not there.
    async fn missing(&self, paths: &[PathBuf]) -> Result<BTreeSet<PathBuf>, ImageError>;

    /// Processes, other than the service and its tools, that can write to one of these files or hold a lock on it.
    /// Those that cannot be looked into are not among them.
    async fn users(&self, paths: &[PathBuf]) -> Result<Vec<FileUser>, ImageError>;

    /// Room on the file system that this path is on, or would be: a path that is not there stands for the nearest
    /// folder above it that is. Cheap.
    async fn space(&self, path: &Path) -> Result<Space, ImageError>;

    /// Makes an empty qcow2 layer over `backing`, in the same folder, of the given virtual size, durable on return.
    ///
    /// A file that is there already is accepted if it is empty and lies on the same backing file; any other file is
    /// [`ImageError::Exists`] and stays as it is.
    async fn create_overlay(
        &self,
        overlay: &Path,
        backing: &LayerFile,
        virtual_size: u64,
    ) -> Result<FileIdentity, ImageError>;

    /// Makes a qcow2 image with the variables of a UEFI that has never run, durable on return. A file that is there
    /// already stays as it is.
    async fn create_variables(&self, path: &Path) -> Result<(), ImageError>;

    /// Moves the data of a child down into its parent. No VM has either of them open. The child is left as it was;
    /// whatever reads through it reads the same bytes before, during and after. Asked to stop, it stops at once; when it
    /// returns, nobody has the files open any more.
    async fn merge_offline(
        &self,
        merge: &OfflineMerge,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError>;

    /// Bytes that a parent grows by when this child is merged into it. Also while a VM has them open; then it is an
    /// estimate. Takes longer for large images.
    async fn merge_growth(&self, child: &LayerFile, parent: &LayerFile) -> Result<u64, ImageError>;

    /// What one layer itself holds of a part of its disk, in order, none of it twice: data, and zeros that hide what lies
    /// below. Of what lies below it nothing is told, and nothing of it is opened. What lies past its end is not told of.
    ///
    /// For layers that nobody writes to as the head of a disk; of one that another layer is being merged into, at least
    /// what it held before is told.
    async fn extents(&self, layer: &LayerFile, part: &Range<u64>) -> Result<Vec<Extent>, ImageError>;

    /// Moves what the child does not have of its parent's data up into it, and writes into the child that its backing
    /// file now is the one below the parent, of which there must be one. No VM has either of them open. The child reads
    /// the same at every moment; durable on return. Asked to stop, it stops at once, and what had moved has moved; when
    /// it returns, nobody has the files open any more.
    async fn stream_offline(
        &self,
        merge: &OfflineMerge,
        stop: &Stop,
        progress: &ProgressSink,
    ) -> Result<Moved, ImageError>;

    /// Image files in the same folder that name `path` as their backing file: writing to it would destroy them.
    async fn overlays_of(&self, path: &Path) -> Result<Vec<PathBuf>, ImageError>;

    /// Writes into `overlay` that its backing file now is `backing` (same folder). The caller vouches that the content
    /// is the same.
    async fn repoint(&self, overlay: &LayerFile, backing: &LayerFile) -> Result<(), ImageError>;

    /// Copies what a chain reads as into one stand-alone file, sparse, durable on return. The chain may be open for
    /// reading elsewhere. On failure or drop the target may be there in part.
    async fn flatten(&self, flatten: &Flatten, progress: &ProgressSink) -> Result<(), ImageError>;

    /// Removes what [`Images::create_overlay`] leaves behind if the service dies in the middle of it. Only for an
    /// overlay that is not there; fine if nothing was left. An adapter that makes files at once has nothing to do.
    async fn clear_unfinished(&self, _overlay: &Path) -> Result<(), ImageError> {
        Ok(())
    }

    /// Removes a file if it is the one that is meant. A file that is not there is fine.
    ///
    /// Another file under the same name is [`ImageError::Changed`] and stays.
    async fn remove(&self, path: &Path, identity: FileIdentity) -> Result<(), ImageError>;
}

/// What is true of an image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Which file it is.
    pub identity: FileIdentity,
    /// Size of the disk as a guest sees it.
    pub virtual_size: u64,
    /// Bytes it takes on the host's disk.
    pub allocated: u64,
    /// The backing file it names, absolute.
    pub backing: Option<PathBuf>,
    /// The format says that the image is damaged.
    pub corrupt: bool,
    /// Its format is raw, and it begins as a qcow2 image does. A guest can write that too: only of interest before it is
    /// anybody's disk.
    pub begins_as_qcow2: bool,
}

/// Room on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Which one: the same number is the same file system.
    pub file_system: u64,
    /// Where it is mounted.
    pub mounted_on: PathBuf,
    /// Bytes that the hypervisor and the service can still write.
    pub free: u64,
}

/// A piece of what a layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Which bytes of the disk.
    pub bytes: Range<u64>,
    /// It is known to read as zeros.
    pub zero: bool,
}

/// What is seen of an image file at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Which file it is.
    pub identity: FileIdentity,
    /// Whether it was written to since.
    pub stamp: FileStamp,
    /// Bytes it takes on the host's disk.
    pub allocated: u64,
    /// The backing file it names, absolute.
    pub backing: Option<PathBuf>,
    /// The format that it says its backing file has.
    pub backing_format: Option<DiskFormat>,
}

/// A process that has an image file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUser {
    /// Which file.
    pub path: PathBuf,
    /// Its process id.
    pub pid: u32,
    /// Its name, as the system has it.
    pub program: String,
    /// It can write to the file.
    pub writes: bool,
}

/// A merge of two neighbouring layers that no VM has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineMerge {
    /// The layer whose data moves.
    pub child: LayerFile,
    /// The layer right below it, which takes the data.
    pub parent: LayerFile,
    /// All layers below `parent`, from the one right below down to the user's image.
    pub below: Vec<LayerFile>,
}

impl OfflineMerge {
    /// The whole chain, from the user's image up to the child.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerFile> {
        self.below.iter().rev().chain([&self.parent, &self.child]).cloned().collect()
    }
}

/// How far the data of a layer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// All of it has moved.
    Whole,
    /// Some of it, or none: it was asked to stop. As good as not begun.
    Stopped,
}

/// A copy of a chain into one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flatten {
    /// The chain, from the user's image up to the layer whose content is wanted.
    pub layers: Vec<LayerFile>,
    /// The file to write; its folder exists.
    pub target: PathBuf,
    /// Its format.
    pub format: DiskFormat,
}

impl dyn Images + '_ {
    /// What can be seen of one file without a tool.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub async fn look(&self, file: &LayerFile) -> Result<Seen, ImageError> {
        let seen = self.look_at(slice::from_ref(file)).await?.pop();
        seen.unwrap_or_else(|| Err(ImageError::Missing { path: file.path.clone() }))
    }
}

/// Why an image operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// Something else is there under that name.
    #[error("{} exists already and is not ours", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// It is not the file that is meant.
    #[error("{} is not the file it was", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{} is in use by another process: {message}", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
        /// The tool's words.
        message: String,
    },
    /// It is not an image of the declared format, or damaged.
    #[error("{} cannot be used: {message}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// The tool's words.
        message: String,
    },
    /// The host has no UEFI for its VMs.
    #[error("there is no UEFI for VMs on this host: {} does not exist", path.display())]
    NoFirmware {
        /// The file of it that is missing.
        path: PathBuf,
    },
    /// A file system is full.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// Which file.
        path: PathBuf,
    },
    /// A tool or a system call failed.
    #[error("{what}: {message}")]
    Failed {
        /// What was tried.
        what: String,
        /// In its own words.
        message: String,
    },
}
