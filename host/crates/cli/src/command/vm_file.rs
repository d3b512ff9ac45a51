//! A new VM, from flags or from a JSON file.
//!
//! The file is what `vm show --json` prints; what only the service says in it (state, uid, …) is passed over. A key that
//! is not known is refused, so that a slip of the pen is not taken for silence.

use std::{
    io::{self, Read as _},
    path::Path,
};

use serde::{Deserialize, de::IgnoredAny};
use stillpoint_common::{CheckpointPolicy, VmId, VmSettings};

use crate::{
    CliError,
    args::{CreateVm, FirmwareArg, HardwareFlags, parse},
    client::VmToCreate,
    view::{CriticalSettings, KernelBoot, Spec, Uefi},
};

/// A VM in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmFile {
    /// What it is made of.
    pub(crate) spec: Spec,
    id: Option<VmId>,
    name: Option<String>,
    checkpoint_policy: Option<CheckpointPolicy>,
    checkpoint_location: Option<String>,
    critical_settings: Option<CriticalSettings>,
    #[serde(rename = "critical")]
    _critical: Option<IgnoredAny>,
    settings: Option<serde_json::Value>,
    #[serde(rename = "uid")]
    _uid: Option<IgnoredAny>,
    #[serde(rename = "state")]
    _state: Option<IgnoredAny>,
    #[serde(rename = "status_line")]
    _status_line: Option<IgnoredAny>,
    #[serde(rename = "parent_checkpoint")]
    _parent_checkpoint: Option<IgnoredAny>,
    #[serde(rename = "disks")]
    _disks: Option<IgnoredAny>,
    #[serde(rename = "accelerator")]
    _accelerator: Option<IgnoredAny>,
    #[serde(rename = "generation_id")]
    _generation_id: Option<IgnoredAny>,
    #[serde(rename = "operation")]
    _operation: Option<IgnoredAny>,
    #[serde(rename = "create_time")]
    _create_time: Option<IgnoredAny>,
    #[serde(rename = "update_time")]
    _update_time: Option<IgnoredAny>,
    #[serde(rename = "merges_suspended")]
    _merges_suspended: Option<IgnoredAny>,
    #[serde(rename = "tpm_state")]
    _tpm_state: Option<IgnoredAny>,
    #[serde(rename = "growth")]
    _growth: Option<IgnoredAny>,
    #[serde(rename = "failure")]
    _failure: Option<IgnoredAny>,
    #[serde(rename = "saved")]
    _saved: Option<IgnoredAny>,
    #[serde(rename = "undo_checkpoint")]
    _undo_checkpoint: Option<IgnoredAny>,
    #[serde(rename = "detached_disks")]
    _detached_disks: Option<IgnoredAny>,
}

/// Reads a VM from a file, `-` for standard input.
pub(crate) fn read(path: &Path) -> Result<VmFile, CliError> {
    let failed = |source| CliError::Io { what: path.display().to_string(), source };
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text).map_err(failed)?;
    } else {
        text = std::fs::read_to_string(path).map_err(failed)?;
    }
    serde_json::from_str(&text).map_err(|error| {
        CliError::usage(
            format!("{}: {error}", path.display()),
            "Write it as `stillpoint vm show VM --json` prints it: name, spec, checkpoint_policy, checkpoint_location, critical_settings.",
        )
    })
}

/// The VM that was typed.
pub(crate) fn to_create(create: &CreateVm) -> Result<VmToCreate, CliError> {
    let mut vm = match &create.from {
        Some(path) => from_file(create, read(path)?)?,
        None => VmToCreate {
            id: create.vm.clone().ok_or_else(no_name)?,
            spec: spec(create, &create.hardware)?,
            checkpoint_policy: None,
            checkpoint_location: None,
            critical: Default::default(),
            settings: VmSettings::default(),
        },
    };
    vm.settings.automatic_checkpoints |= create.automatic_checkpoints;
    vm.settings.labels.extend(create.label.iter().cloned());
    if let Some(policy) = create.policy {
        vm.checkpoint_policy = Some(policy.into());
    }
    vm.critical = create.critical.over(vm.critical);
    if let Some(location) = &create.checkpoint_location {
        vm.checkpoint_location = Some(absolute(location)?);
    }
    Ok(vm)
}

fn from_file(create: &CreateVm, file: VmFile) -> Result<VmToCreate, CliError> {
    let named = || file.name.as_deref().and_then(|name| parse::vm(name).ok());
    let id = create.vm.clone().or(file.id).or_else(named).ok_or_else(no_name)?;
    let VmFile { spec, checkpoint_policy, checkpoint_location, critical_settings, settings, .. } = file;
    let critical = critical_settings.map(Into::into).unwrap_or_default();
    let settings = settings.map(read_settings).transpose()?.unwrap_or_default();
    Ok(VmToCreate { id, spec, checkpoint_policy, checkpoint_location, critical, settings })
}

/// Settings of a file; those that are not there have their default, and a key that is not known is refused.
fn read_settings(value: serde_json::Value) -> Result<VmSettings, CliError> {
    let known = serde_json::to_value(VmSettings::default()).unwrap_or_default();
    let keys = value.as_object().into_iter().flat_map(|settings| settings.keys());
    if let Some(key) = keys.into_iter().find(|key| known.get(key.as_str()).is_none()) {
        return Err(CliError::usage(
            format!("settings: unknown key {key:?}"),
            "`stillpoint vm show VM --json` has all.",
        ));
    }
    let wrong = |error| CliError::usage(format!("settings: {error}"), "`stillpoint vm show VM --json` prints them.");
    serde_json::from_value(value).map_err(wrong)
}

fn spec(create: &CreateVm, hardware: &HardwareFlags) -> Result<Spec, CliError> {
    let kernel = hardware.kernel.as_deref().map(|kernel| kernel_boot(kernel, hardware)).transpose()?;
    let uefi = uefi(hardware)?;
    let serial_log = hardware.serial_log.as_deref().map(absolute).transpose()?;
    let memory = create.memory.ok_or_else(|| CliError::usage("--memory is missing", "Add --memory 512M."))?;
    Ok(Spec {
        cpus: create.cpus.unwrap_or(1),
        memory_mib: memory,
        accelerator: hardware.accelerator.unwrap_or_default(),
        uefi,
        tpm: hardware.tpm,
        kernel,
        disks: hardware.disk.clone(),
        pass_through: hardware.pass_through.clone(),
        media: hardware.medium.clone(),
        nics: hardware.nic.clone(),
        serial_log: serial_log.unwrap_or_default(),
        extra_arguments: hardware.extra_argument.clone(),
    })
}

fn uefi(hardware: &HardwareFlags) -> Result<Option<Uefi>, CliError> {
    let variables = hardware.uefi_vars.as_deref().map(absolute).transpose()?;
    match (hardware.firmware, variables) {
        (Some(FirmwareArg::Uefi), variables) => Ok(Some(Uefi { variables: variables.unwrap_or_default() })),
        (Some(FirmwareArg::Bios) | None, None) => Ok(None),
        (Some(FirmwareArg::Bios) | None, Some(_)) => {
            Err(CliError::usage("the BIOS has no variables", "Add --firmware uefi, or leave --uefi-vars out."))
        }
    }
}

fn kernel_boot(kernel: &Path, hardware: &HardwareFlags) -> Result<KernelBoot, CliError> {
    let initrd = hardware.initrd.as_deref().map(absolute).transpose()?;
    Ok(KernelBoot {
        kernel: absolute(kernel)?,
        initrd: initrd.unwrap_or_default(),
        command_line: hardware.append.clone().unwrap_or_default(),
    })
}

fn absolute(path: &Path) -> Result<String, CliError> {
    parse::absolute(path).map_err(|problem| CliError::usage(problem, "Give another path."))
}

fn no_name() -> CliError {
    CliError::usage("the VM has no name", "Type it after `vm create`, or write it as `name` into the file.")
}
