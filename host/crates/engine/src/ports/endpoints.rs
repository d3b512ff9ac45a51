//! The port to the endpoints through which other programs read disks of backups.

use std::path::PathBuf;

use async_trait::async_trait;
use stillpoint_common::{BackupId, DiskName, LayerFile};

use super::ImageError;

/// Serves disks of backup sessions over NBD: read-only, with `base:allocation`, on a unix socket that only the user of the
/// service may connect to.
#[async_trait]
pub trait Endpoints: Send + Sync {
    /// The socket of a disk that is served.
    async fn find(&self, backup: BackupId, disk: &DiskName) -> Result<Option<PathBuf>, ImageError>;

    /// Serves the disk whose topmost layer this is, and answers the socket. One that is served already stays as it is; one that
    /// has ended by itself is served again. Nothing may write to its layers until it is closed.
    async fn open(&self, backup: BackupId, disk: &DiskName, head: &LayerFile) -> Result<PathBuf, ImageError>;

    /// Ends whatever is served of a session. On return nothing of it has a layer open. None is fine.
    async fn close(&self, backup: BackupId) -> Result<(), ImageError>;

    /// Ends whatever an earlier service has left.
    async fn close_all(&self) -> Result<(), ImageError>;
}
