//! VMs.

use stillpoint_common::{CheckpointPolicy, CriticalSettings, SettingsChange, VmId, VmSettings};
use stillpoint_proto::{
    convert::{critical, names, settings},
    v1::{self as pb, virtual_machines_client::VirtualMachinesClient},
};
use tonic::transport::Channel;

use super::{Client, ClientError, request_id};
use crate::view::{Operation, Spec, Vm};

/// A VM to define.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmToCreate {
    /// Its name.
    pub id: VmId,
    /// What it is made of.
    pub spec: Spec,
    /// What a checkpoint of it shall be; `None`: production.
    pub checkpoint_policy: Option<CheckpointPolicy>,
    /// Folder for its checkpoints; `None`: the service chooses.
    pub checkpoint_location: Option<String>,
    /// What is done when it stands still because a disk could not be written.
    pub critical: CriticalSettings,
    /// What is set beside.
    pub settings: VmSettings,
}

/// Changes to a VM; `None` leaves a part as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmChange {
    /// New policy.
    pub checkpoint_policy: Option<CheckpointPolicy>,
    /// Whether an apply that discards Now makes a checkpoint of it first.
    pub undo_checkpoint: Option<bool>,
    /// New folder for its checkpoints.
    pub checkpoint_location: Option<String>,
    /// What is done from now on when it stands still because a disk could not be written.
    pub critical: Option<CriticalSettings>,
    /// New spec.
    pub spec: Option<Spec>,
    /// New settings.
    pub settings: SettingsChange,
}

impl Client {
    /// Defines a VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn create_vm(&self, vm: &VmToCreate) -> Result<Vm, ClientError> {
        let message = pb::Vm {
            spec: Some(pb::VmSpec::from(&vm.spec)),
            checkpoint_policy: policy_value(vm.checkpoint_policy),
            checkpoint_location: vm.checkpoint_location.clone().unwrap_or_default(),
            critical_settings: Some(critical::settings(&vm.critical)),
            settings: Some(settings::message(&vm.settings)),
            ..pb::Vm::default()
        };
        let request = pb::CreateVmRequest { vm_id: vm.id.to_string(), vm: Some(message), request_id: request_id() };
        let answer = self.vms().create_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// One VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn vm(&self, vm: &VmId) -> Result<Vm, ClientError> {
        let answer = self.vms().get_vm(pb::GetVmRequest { name: names::vm(vm) }).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Every VM, by name.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn list_vms(&self) -> Result<Vec<Vm>, ClientError> {
        let (mut vms, mut after) = (Vec::new(), String::new());
        loop {
            let (page, next) = self.list_vms_page(after).await?;
            vms.extend(page);
            match next {
                Some(next) => after = next,
                None => return Ok(vms),
            }
        }
    }

    /// The first VMs by name, or those after the page that gave this token; and the token for more, if there are more.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn list_vms_page(&self, after: String) -> Result<(Vec<Vm>, Option<String>), ClientError> {
        let answer = self.vms().list_vms(pb::ListVmsRequest { page_size: 0, page_token: after }).await;
        let page = self.answered(answer)?;
        let vms = page.vms.into_iter().map(Vm::try_from).collect::<Result<_, _>>()?;
        Ok((vms, Some(page.next_page_token).filter(|token| !token.is_empty())))
    }

    /// Changes a VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn update_vm(&self, vm: &VmId, change: &VmChange) -> Result<Vm, ClientError> {
        let named = [
            ("checkpoint_policy", change.checkpoint_policy.is_some()),
            ("undo_checkpoint", change.undo_checkpoint.is_some()),
            ("checkpoint_location", change.checkpoint_location.is_some()),
            ("critical_settings", change.critical.is_some()),
            ("spec", change.spec.is_some()),
        ];
        let paths = named.iter().filter(|(_, changes)| *changes).map(|(path, _)| (*path).to_owned());
        let paths = paths.chain(settings::paths(&change.settings));
        let message = pb::Vm {
            name: names::vm(vm),
            spec: change.spec.as_ref().map(pb::VmSpec::from),
            checkpoint_policy: policy_value(change.checkpoint_policy),
            undo_checkpoint: change.undo_checkpoint.unwrap_or_default(),
            checkpoint_location: change.checkpoint_location.clone().unwrap_or_default(),
            critical_settings: change.critical.as_ref().map(critical::settings),
            settings: Some(settings::message(&change.settings.clone().applied(VmSettings::default()))),
            ..pb::Vm::default()
        };
        let mask = prost_types::FieldMask { paths: paths.collect() };
        let request = pb::UpdateVmRequest { vm: Some(message), update_mask: Some(mask) };
        let answer = self.vms().update_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Forgets a VM. Its image files stay.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_vm(&self, vm: &VmId) -> Result<(), ClientError> {
        let answer = self.vms().delete_vm(pb::DeleteVmRequest { name: names::vm(vm) }).await;
        self.answered(answer)
    }

    /// Begins to start a VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn start_vm(&self, vm: &VmId) -> Result<Operation, ClientError> {
        let request = pb::StartVmRequest { name: names::vm(vm), request_id: request_id() };
        let answer = self.vms().start_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to stop a VM: the guest is asked, or the plug is pulled.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn stop_vm(&self, vm: &VmId, turn_off: bool) -> Result<Operation, ClientError> {
        let mode = if turn_off { pb::StopMode::TurnOff } else { pb::StopMode::Graceful };
        let request = pb::StopVmRequest { name: names::vm(vm), mode: mode.into(), request_id: request_id() };
        let answer = self.vms().stop_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to make a VM stand still.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn pause_vm(&self, vm: &VmId) -> Result<Operation, ClientError> {
        let answer = self.vms().pause_vm(pb::PauseVmRequest { name: names::vm(vm) }).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to let a VM go on.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn resume_vm(&self, vm: &VmId) -> Result<Operation, ClientError> {
        let answer = self.vms().resume_vm(pb::ResumeVmRequest { name: names::vm(vm) }).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Suspends the merges of a VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn suspend_merges(&self, vm: &VmId) -> Result<Vm, ClientError> {
        let answer = self.vms().suspend_merges(pb::SuspendMergesRequest { name: names::vm(vm) }).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Lets the layers of a VM be merged again.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn resume_merges(&self, vm: &VmId) -> Result<Vm, ClientError> {
        let answer = self.vms().resume_merges(pb::ResumeMergesRequest { name: names::vm(vm) }).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to save a VM: its memory is kept, its process ends.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn save_vm(&self, vm: &VmId) -> Result<Operation, ClientError> {
        let request = pb::SaveVmRequest { name: names::vm(vm), request_id: request_id() };
        let answer = self.vms().save_vm(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// Begins to give up the saved state of a VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn discard_saved_state(&self, vm: &VmId) -> Result<Operation, ClientError> {
        let request = pb::DiscardSavedStateRequest { name: names::vm(vm), request_id: request_id() };
        let answer = self.vms().discard_saved_state(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    fn vms(&self) -> VirtualMachinesClient<Channel> {
        VirtualMachinesClient::new(self.channel.clone())
    }
}

pub(super) fn policy_value(policy: Option<CheckpointPolicy>) -> i32 {
    policy.map_or(pb::CheckpointPolicy::Unspecified, pb::CheckpointPolicy::from).into()
}
