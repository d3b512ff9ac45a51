//! Checkpoints.

use stillpoint_common::{CheckpointId, CheckpointPolicy, DiskFormat, VmId};
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, checkpoints_client::CheckpointsClient},
};
use tonic::transport::Channel;

use super::{Client, ClientError, request_id, resolve, vms::policy_value};
use crate::view::{Checkpoint, Operation};

impl Client {
    /// Begins to make a checkpoint. An empty name lets the service choose; without a policy the VM's own counts.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn create_checkpoint(
        &self,
        vm: &VmId,
        display_name: &str,
        policy: Option<CheckpointPolicy>,
    ) -> Result<Operation, ClientError> {
        let request = pb::CreateCheckpointRequest {
            parent: names::vm(vm),
            display_name: display_name.to_owned(),
            policy: policy_value(policy),
            request_id: request_id(),
        };
        let answer = self.checkpoints().create_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// One checkpoint.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn checkpoint(&self, vm: &VmId, id: CheckpointId) -> Result<Checkpoint, ClientError> {
        let answer =
            self.checkpoints().get_checkpoint(pb::GetCheckpointRequest { name: names::checkpoint(vm, id) }).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// A VM's checkpoints, oldest first.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn list_checkpoints(&self, vm: &VmId) -> Result<Vec<Checkpoint>, ClientError> {
        let (mut checkpoints, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListCheckpointsRequest { parent: names::vm(vm), page_size: 0, page_token };
            let answer = self.checkpoints().list_checkpoints(request).await;
            let page = self.answered(answer)?;
            for checkpoint in page.checkpoints {
                checkpoints.push(Checkpoint::try_from(checkpoint)?);
            }
            if page.next_page_token.is_empty() {
                return Ok(checkpoints);
            }
            page_token = page.next_page_token;
        }
    }

    /// The checkpoint that a person calls by its id, the beginning of its id, or its name; see [`resolve`].
    ///
    /// # Errors
    /// CHECKPOINT_NOT_FOUND, CHECKPOINT_AMBIGUOUS, or the service refused or cannot be reached.
    pub async fn find_checkpoint(&self, vm: &VmId, called: &str) -> Result<Checkpoint, ClientError> {
        let checkpoints = self.list_checkpoints(vm).await?;
        Ok(resolve(vm, called, &checkpoints)?.clone())
    }

    /// Begins to bring the VM back to a checkpoint. What happened in Now since is lost.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn apply_checkpoint(&self, vm: &VmId, id: CheckpointId) -> Result<Operation, ClientError> {
        let now = pb::NowDisposition::Discard.into();
        let request = pb::ApplyCheckpointRequest { name: names::checkpoint(vm, id), now, request_id: request_id() };
        let answer = self.checkpoints().apply_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to bring the VM back to the checkpoint Now is a child of. What happened in Now since is lost.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn revert_vm(&self, vm: &VmId) -> Result<Operation, ClientError> {
        let now = pb::NowDisposition::Discard.into();
        let request = pb::RevertVmRequest { name: names::vm(vm), now, request_id: request_id() };
        let answer = self.checkpoints().revert_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Gives a checkpoint another name.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn rename_checkpoint(
        &self,
        vm: &VmId,
        id: CheckpointId,
        display_name: &str,
    ) -> Result<Checkpoint, ClientError> {
        let checkpoint = pb::Checkpoint {
            name: names::checkpoint(vm, id),
            display_name: display_name.to_owned(),
            ..pb::Checkpoint::default()
        };
        let mask = prost_types::FieldMask { paths: vec!["display_name".to_owned()] };
        let request = pb::UpdateCheckpointRequest { checkpoint: Some(checkpoint), update_mask: Some(mask) };
        let answer = self.checkpoints().update_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Deletes a checkpoint and begins to merge the layers that nothing needs any more.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_checkpoint(&self, vm: &VmId, id: CheckpointId) -> Result<Operation, ClientError> {
        let request = pb::DeleteCheckpointRequest { name: names::checkpoint(vm, id), request_id: request_id() };
        let answer = self.checkpoints().delete_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to copy a checkpoint into a new folder of the host.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn export_checkpoint(
        &self,
        vm: &VmId,
        id: CheckpointId,
        folder: &str,
        format: Option<DiskFormat>,
    ) -> Result<Operation, ClientError> {
        let request = pb::ExportCheckpointRequest {
            name: names::checkpoint(vm, id),
            target_folder: folder.to_owned(),
            format: format.map_or(pb::DiskFormat::Unspecified, pb::DiskFormat::from).into(),
            request_id: request_id(),
        };
        let answer = self.checkpoints().export_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    fn checkpoints(&self) -> CheckpointsClient<Channel> {
        CheckpointsClient::new(self.channel.clone())
    }
}
