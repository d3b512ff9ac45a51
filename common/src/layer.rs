//! Layers: the image files that disks are made of.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DiskFormat, DiskName, LayerId};

/// Where an image file is and in which format. The format is declared, never probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFile {
    /// Which layer this file holds.
    pub id: LayerId,
    /// Absolute path.
    pub path: PathBuf,
    /// Declared format.
    pub format: DiskFormat,
}

/// What makes a file the same file as before, whatever its name: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What tells that a file was written to, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileStamp {
    /// Its length.
    pub bytes: u64,
    /// When it was last written to, by the file system's clock.
    pub modified: Timestamp,
}

/// One image file in the forest of a VM.
///
/// A layer is *needed* while a checkpoint or Now refers to it. What nothing needs is collected: removed if nothing
/// lies on it, merged if exactly one layer does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The file.
    pub file: LayerFile,
    /// Whose disk it belongs to.
    pub disk: DiskName,
    /// The layer it records changes over; `None` for the user's own image.
    pub backing: Option<LayerId>,
    /// Checked before the file is unlinked or written offline.
    pub identity: FileIdentity,
    /// Size of the disk as the guest sees it, in bytes.
    pub virtual_size: u64,
    /// What the file was like when it ceased to be written to. `None` for the head of a disk, while we merge into it
    /// ourselves, and for layers of catalogues that did not keep it.
    #[serde(default)]
    pub frozen: Option<FileStamp>,
    /// When we made the file. `None` for the user's own image, and for layers of catalogues that did not keep it.
    #[serde(default)]
    pub made: Option<Timestamp>,
}

/// Which of two neighbouring layers takes in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MergeDirection {
    /// The parent takes the child's data, and its place. The only way into the user's own image, which keeps its name.
    Down,
    /// The child takes what it does not have of the parent's data; the parent goes.
    Up,
}
