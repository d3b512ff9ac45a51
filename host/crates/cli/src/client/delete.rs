//! Deleting checkpoints and their memory.

use stillpoint_common::{CheckpointId, VmId};
use stillpoint_proto::{convert::names, v1 as pb};

use super::{Client, ClientError, request_id};
use crate::view::{DeletePreview, Operation};

impl Client {
    /// Deletes a checkpoint and begins to merge the layers that nothing needs any more.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_checkpoint(&self, vm: &VmId, id: CheckpointId) -> Result<Operation, ClientError> {
        self.delete(vm, id, false).await
    }

    /// Deletes a checkpoint and all that came after it, in one operation.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_subtree(&self, vm: &VmId, id: CheckpointId) -> Result<Operation, ClientError> {
        self.delete(vm, id, true).await
    }

    async fn delete(&self, vm: &VmId, id: CheckpointId, subtree: bool) -> Result<Operation, ClientError> {
        let (name, request_id) = (names::checkpoint(vm, id), request_id());
        let request = pb::DeleteCheckpointRequest { name, request_id, subtree };
        let answer = self.checkpoints().delete_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Deletes several checkpoints in one operation: all of them, or none.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_checkpoints(&self, vm: &VmId, ids: &[CheckpointId]) -> Result<Operation, ClientError> {
        let names = ids.iter().map(|id| names::checkpoint(vm, *id)).collect();
        let request = pb::BatchDeleteCheckpointsRequest { parent: names::vm(vm), names, request_id: request_id() };
        let answer = self.checkpoints().batch_delete_checkpoints(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Deletes the memory of a checkpoint, which stays.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_memory_state(&self, vm: &VmId, id: CheckpointId) -> Result<Operation, ClientError> {
        let request = pb::DeleteMemoryStateRequest { name: names::checkpoint(vm, id), request_id: request_id() };
        let answer = self.checkpoints().delete_memory_state(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// What deleting these checkpoints would do; none: what is to be merged anyway.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn preview_delete(&self, vm: &VmId, ids: &[CheckpointId]) -> Result<DeletePreview, ClientError> {
        let names = ids.iter().map(|id| names::checkpoint(vm, *id)).collect();
        let request = pb::PreviewDeleteRequest { parent: names::vm(vm), names, subtree: false };
        let answer = self.checkpoints().preview_delete(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }
}
