//! Checkpoints.

use jiff::Timestamp;
use stillpoint_common::{BackupType, CheckpointId, CheckpointPolicy, DiskFormat, VmId};
use stillpoint_proto::{
    convert::{names, time},
    v1::{self as pb, checkpoints_client::CheckpointsClient},
    writer::v1 as wire,
};
use tonic::transport::Channel;

use super::{Client, ClientError, request_id, resolve, vms::policy_value};
use crate::view::{Advice, Checkpoint, Operation};

/// A checkpoint to make; the default says nothing about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointToCreate {
    /// What to call it; empty: the service chooses.
    pub display_name: String,
    /// Overrides the VM's own policy.
    pub policy: Option<CheckpointPolicy>,
    /// A production checkpoint keeps the memory of the quiet guest too.
    pub with_memory: bool,
    /// What the guest's writers are told that it means for their history.
    pub backup_type: BackupType,
    /// Free text.
    pub notes: String,
    /// It is meant to be deleted after this.
    pub keep_until: Option<Timestamp>,
}

/// Changes of what is said about a checkpoint; `None` leaves a part as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointChange {
    /// New name.
    pub display_name: Option<String>,
    /// New notes.
    pub notes: Option<String>,
    /// New end of its time; `Some(None)`: none.
    pub keep_until: Option<Option<Timestamp>>,
}

/// How to bring a VM back to a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyAs {
    /// What becomes of Now.
    pub now: Now,
    /// What becomes of the machine.
    pub machine: Machine,
}

/// What becomes of Now when a checkpoint is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// It is lost, unless the VM's `undo_checkpoint` is set.
    Discard,
    /// A checkpoint is made of it first.
    CheckpointFirst,
}

impl Now {
    fn value(self) -> i32 {
        match self {
            Self::Discard => pb::NowDisposition::Discard,
            Self::CheckpointFirst => pb::NowDisposition::CreateCheckpoint,
        }
        .into()
    }
}

/// Now is lost.
impl From<Machine> for ApplyAs {
    fn from(machine: Machine) -> Self {
        Self { now: Now::Discard, machine }
    }
}

/// The machine is what it was.
impl From<Now> for ApplyAs {
    fn from(now: Now) -> Self {
        Self { now, machine: Machine::AsCaptured }
    }
}

/// What becomes of the machine when a checkpoint is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// What it was when the checkpoint was made.
    AsCaptured,
    /// Saved, to go on at its next start.
    Saved,
    /// Off.
    WithoutMemory,
}

impl Machine {
    fn value(self) -> i32 {
        match self {
            Self::AsCaptured => pb::MachineDisposition::AsCaptured,
            Self::Saved => pb::MachineDisposition::Saved,
            Self::WithoutMemory => pb::MachineDisposition::WithoutMemory,
        }
        .into()
    }
}

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
        let display_name = display_name.to_owned();
        self.create_checkpoint_with(vm, &CheckpointToCreate { display_name, policy, ..Default::default() }).await
    }

    /// Begins to make a checkpoint of which more is said.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn create_checkpoint_with(&self, vm: &VmId, new: &CheckpointToCreate) -> Result<Operation, ClientError> {
        let request = pb::CreateCheckpointRequest {
            parent: names::vm(vm),
            display_name: new.display_name.clone(),
            policy: policy_value(new.policy),
            with_memory: new.with_memory,
            backup_type: wire::BackupType::from(new.backup_type).into(),
            notes: new.notes.clone(),
            keep_until: new.keep_until.map(time::timestamp),
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
        self.filter_checkpoints(vm, "").await
    }

    /// Those of a VM's checkpoints that a filter admits, oldest first: `age > 7d AND name = "before *"`.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn filter_checkpoints(&self, vm: &VmId, filter: &str) -> Result<Vec<Checkpoint>, ClientError> {
        let (mut checkpoints, mut page_token) = (Vec::new(), String::new());
        loop {
            let (parent, filter) = (names::vm(vm), filter.to_owned());
            let request = pb::ListCheckpointsRequest { parent, page_size: 0, page_token, filter };
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
        self.apply_checkpoint_as(vm, id, Machine::AsCaptured).await
    }

    /// The same, saying what becomes of Now and of the machine.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn apply_checkpoint_as(
        &self,
        vm: &VmId,
        id: CheckpointId,
        how: impl Into<ApplyAs>,
    ) -> Result<Operation, ClientError> {
        let how = how.into();
        let request = pb::ApplyCheckpointRequest {
            name: names::checkpoint(vm, id),
            now: how.now.value(),
            request_id: request_id(),
            machine: how.machine.value(),
        };
        let answer = self.checkpoints().apply_checkpoint(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to bring the VM back to the checkpoint Now is a child of. What happened in Now since is lost.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn revert_vm(&self, vm: &VmId) -> Result<Operation, ClientError> {
        self.revert_vm_as(vm, Machine::AsCaptured).await
    }

    /// The same, saying what becomes of Now and of the machine.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn revert_vm_as(&self, vm: &VmId, how: impl Into<ApplyAs>) -> Result<Operation, ClientError> {
        let how = how.into();
        let request = pb::RevertVmRequest {
            name: names::vm(vm),
            now: how.now.value(),
            request_id: request_id(),
            machine: how.machine.value(),
        };
        let answer = self.checkpoints().revert_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Changes what is said about a checkpoint; nothing else of it changes.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn update_checkpoint(
        &self,
        vm: &VmId,
        id: CheckpointId,
        change: &CheckpointChange,
    ) -> Result<Checkpoint, ClientError> {
        let named = [
            ("display_name", change.display_name.is_some()),
            ("notes", change.notes.is_some()),
            ("keep_until", change.keep_until.is_some()),
        ];
        let checkpoint = pb::Checkpoint {
            name: names::checkpoint(vm, id),
            display_name: change.display_name.clone().unwrap_or_default(),
            notes: change.notes.clone().unwrap_or_default(),
            keep_until: change.keep_until.flatten().map(time::timestamp),
            ..pb::Checkpoint::default()
        };
        let paths = named.iter().filter(|(_, changes)| *changes).map(|(path, _)| (*path).to_owned()).collect();
        let mask = prost_types::FieldMask { paths };
        let request = pb::UpdateCheckpointRequest { checkpoint: Some(checkpoint), update_mask: Some(mask) };
        let answer = self.checkpoints().update_checkpoint(request).await;
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

    /// Which kind of checkpoint fits the VM as it is now, and what speaks against one.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn advise_checkpoint(&self, vm: &VmId) -> Result<Advice, ClientError> {
        let answer = self.checkpoints().advise_checkpoint(pb::AdviseCheckpointRequest { name: names::vm(vm) }).await;
        Ok(self.answered(answer)?.into())
    }

    pub(super) fn checkpoints(&self) -> CheckpointsClient<Channel> {
        CheckpointsClient::new(self.channel.clone())
    }
}
