//! Exports, and VMs that are made of them.

use stillpoint_common::VmId;
use stillpoint_proto::v1::{self as pb, transfers_client::TransfersClient, verify_export_response::Event};
use tonic::transport::Channel;

use super::{Client, ClientError, request_id};
use crate::view::{ExportVerified, Inspection, Operation, Spec};

/// A VM to make of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmToImport {
    /// Its name.
    pub id: VmId,
    /// The folder of the export.
    pub folder: String,
    /// What becomes of its files.
    pub mode: pb::ImportMode,
    /// The folder that is made for its disks; empty: they stay where they are.
    pub target: String,
    /// What it is made of; `None`: what the export says.
    pub spec: Option<Spec>,
    /// The memory is left out.
    pub without_memory: bool,
    /// What the export's definition takes from the host may be taken.
    pub accept_host_paths: bool,
}

/// A check of an export, as it goes.
pub struct VerifyStream {
    client: Client,
    stream: tonic::Streaming<pb::VerifyExportResponse>,
}

/// What a check of an export tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyEvent {
    /// Bytes that have been read, and bytes to read.
    Progress(u64, u64),
    /// All has been read.
    Verified(ExportVerified),
}

impl Client {
    /// What an import would be, and what stands against it.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn inspect_export(&self, vm: &VmToImport) -> Result<Inspection, ClientError> {
        let request = pb::InspectExportRequest { import: Some(message(vm)) };
        let answer = self.transfers().inspect_export(request).await;
        Ok(self.answered(answer)?.into())
    }

    /// Begins to make a VM of an export.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn import_vm(&self, vm: &VmToImport) -> Result<Operation, ClientError> {
        let answer = self.transfers().import_vm(message(vm)).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to compare an export with its hashes. Dropping the stream stops it.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn verify_export(&self, folder: &str) -> Result<VerifyStream, ClientError> {
        let answer = self.transfers().verify_export(pb::VerifyExportRequest { folder: folder.to_owned() }).await;
        Ok(VerifyStream { client: self.clone(), stream: self.answered(answer)? })
    }

    fn transfers(&self) -> TransfersClient<Channel> {
        TransfersClient::new(self.channel.clone())
    }
}

fn message(vm: &VmToImport) -> pb::ImportVmRequest {
    pb::ImportVmRequest {
        vm_id: vm.id.to_string(),
        folder: vm.folder.clone(),
        mode: vm.mode.into(),
        target_folder: vm.target.clone(),
        spec: vm.spec.as_ref().map(pb::VmSpec::from),
        without_memory: vm.without_memory,
        accept_host_paths: vm.accept_host_paths,
        request_id: request_id(),
    }
}

impl VerifyStream {
    /// What is told next; `None` at the end.
    ///
    /// # Errors
    /// The export cannot be read, or the service cannot be reached any more.
    pub async fn next(&mut self) -> Result<Option<VerifyEvent>, ClientError> {
        loop {
            let message = self.stream.message().await;
            let message = message.map_err(|status| ClientError::from_status(&self.client.socket, &status))?;
            let Some(message) = message else { return Ok(None) };
            match message.event {
                Some(Event::Progress(progress)) => {
                    return Ok(Some(VerifyEvent::Progress(progress.done_bytes, progress.total_bytes)));
                }
                Some(Event::Verified(verified)) => return Ok(Some(VerifyEvent::Verified(verified.into()))),
                // Something that a later service tells.
                None => {}
            }
        }
    }
}
