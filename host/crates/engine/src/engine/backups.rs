//! What backups ask for.

use stillpoint_common::Failure;

use super::Engine;
use crate::{ChangedReader, ChangedRequest};

impl Engine {
    /// Begins to read which parts of a disk differ between two points. Nothing waits for the reader, and it waits for
    /// nothing.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`, `CHECKPOINT_DELETING`, `DISK_NOT_FOUND`; `CHANGES_UNKNOWN` if the disk was
    /// another image then; `DISK_FILE_MISSING`, `DISK_CHANGED` if a layer between them is not what it should be.
    pub async fn changed(&self, asked: ChangedRequest) -> Result<ChangedReader, Failure> {
        self.world.catalogue.vm(&asked.vm).await?;
        ChangedReader::begin(self.world.clone(), asked).await
    }
}
