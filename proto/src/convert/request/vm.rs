//! Requests of `VirtualMachines`.

use std::path::PathBuf;

use stillpoint_common::{CheckpointPolicy, CriticalSettings, Failure, SettingsChange, VmDefinition, VmId, VmSettings};
use uuid::Uuid;

use super::{absolute, mask, request_id};
use crate::{
    convert::{critical, known, names, page::Page, policy::policy, settings, spec},
    v1 as pb,
};

/// A VM to define.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateVm {
    /// Its name.
    pub id: VmId,
    /// What it is made of.
    pub definition: VmDefinition,
    /// What a checkpoint of it shall be.
    pub checkpoint_policy: CheckpointPolicy,
    /// Where its checkpoints are kept; `None`: the service chooses.
    pub checkpoint_location: Option<PathBuf>,
    /// What is done when it stands still because a disk could not be written.
    pub critical: CriticalSettings,
    /// What is set beside.
    pub settings: VmSettings,
    /// Names the request, if the caller wants it done once.
    pub request_id: Option<Uuid>,
}

/// Reads a `CreateVmRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn create_vm(request: &pb::CreateVmRequest) -> Result<CreateVm, Failure> {
    let vm = request.vm.as_ref().ok_or_else(|| Failure::field("vm", "is missing"))?;
    let location = Some(vm.checkpoint_location.as_str()).filter(|location| !location.is_empty());
    Ok(CreateVm {
        id: request.vm_id.parse().map_err(|problem| Failure::field("vm_id", problem))?,
        definition: spec::definition(vm.spec.as_ref(), "vm.spec")?,
        checkpoint_policy: policy(vm.checkpoint_policy, "vm.checkpoint_policy")?.unwrap_or_default(),
        checkpoint_location: location.map(|text| absolute(text, "vm.checkpoint_location")).transpose()?,
        critical: critical::parse_settings(vm.critical_settings.as_ref(), "vm.critical_settings")?,
        settings: settings::settings(vm.settings.as_ref(), "vm.settings")?,
        request_id: request_id(&request.request_id)?,
    })
}

/// Changes to a VM; `None` leaves a part as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateVm {
    /// Which VM.
    pub id: VmId,
    /// New policy.
    pub checkpoint_policy: Option<CheckpointPolicy>,
    /// Whether an apply that discards Now makes a checkpoint of it first.
    pub undo_checkpoint: Option<bool>,
    /// New checkpoint location.
    pub checkpoint_location: Option<PathBuf>,
    /// New settings for a VM that stands still by itself.
    pub critical: Option<CriticalSettings>,
    /// New definition.
    pub definition: Option<VmDefinition>,
    /// New settings.
    pub settings: SettingsChange,
}

/// Reads an `UpdateVmRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn update_vm(request: &pb::UpdateVmRequest) -> Result<UpdateVm, Failure> {
    let vm = request.vm.as_ref().ok_or_else(|| Failure::field("vm", "is missing"))?;
    let mut update = UpdateVm {
        id: names::parse_vm(&vm.name, "vm.name")?,
        checkpoint_policy: None,
        undo_checkpoint: None,
        checkpoint_location: None,
        critical: None,
        definition: None,
        settings: SettingsChange::default(),
    };
    let allowed = [
        &["checkpoint_policy", "undo_checkpoint", "checkpoint_location", "critical_settings", "spec"],
        settings::PATHS,
    ]
    .concat();
    let paths = mask(request.update_mask.as_ref(), &allowed)?;
    update.settings = settings::change(vm.settings.as_ref(), &paths, "vm.settings")?;
    for path in paths {
        match path.as_str() {
            "checkpoint_policy" => {
                update.checkpoint_policy =
                    Some(policy(vm.checkpoint_policy, "vm.checkpoint_policy")?.unwrap_or_default());
            }
            "undo_checkpoint" => update.undo_checkpoint = Some(vm.undo_checkpoint),
            "checkpoint_location" => {
                update.checkpoint_location = Some(absolute(&vm.checkpoint_location, "vm.checkpoint_location")?);
            }
            "critical_settings" => {
                let settings = vm.critical_settings.as_ref();
                update.critical = Some(critical::parse_settings(settings, "vm.critical_settings")?);
            }
            named if settings::PATHS.contains(&named) => {}
            _ => update.definition = Some(spec::definition(vm.spec.as_ref(), "vm.spec")?),
        }
    }
    Ok(update)
}

/// How to stop a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ask the guest, and wait for it.
    Graceful,
    /// Pull the plug.
    TurnOff,
}

/// Reads a `StopVmRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn stop_vm(request: &pb::StopVmRequest) -> Result<(VmId, StopMode, Option<Uuid>), Failure> {
    let mode = match known(request.mode, "mode")? {
        pb::StopMode::Unspecified | pb::StopMode::Graceful => StopMode::Graceful,
        pb::StopMode::TurnOff => StopMode::TurnOff,
    };
    Ok((names::parse_vm(&request.name, "name")?, mode, request_id(&request.request_id)?))
}

/// Reads a `ListVmsRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn list_vms(request: &pb::ListVmsRequest) -> Result<Page, Failure> {
    Page::parse(request.page_size, &request.page_token, 50, 1000)
}
