//! What a VM is made of: `VmSpec` and [`VmDefinition`].

use std::path::{Path, PathBuf};

use stillpoint_common::{
    AcceleratorChoice, Boot, DiskDefinition, DiskFormat, DiskName, Failure, Firmware, NicBackend, NicDefinition,
    PassThroughDisk, Tpm, VmDefinition,
};

use super::{
    inside, known,
    medium::{medium, medium_message},
};
use crate::v1 as pb;

/// Reads a definition and checks that its parts fit together.
///
/// # Errors
/// The first field that is wrong, as a path below `field`: `vm.spec.disks[1].path`.
pub fn definition(spec: Option<&pb::VmSpec>, field: &str) -> Result<VmDefinition, Failure> {
    let spec = spec.ok_or_else(|| Failure::field(field, "is missing"))?;
    let definition = VmDefinition {
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        accelerator: accelerator(spec.accelerator, &inside(field, "accelerator"))?,
        firmware: firmware(spec.uefi.as_ref()),
        tpm: if spec.tpm { Tpm::V2 } else { Tpm::Absent },
        boot: boot(spec.kernel.as_ref(), field)?,
        disks: each(&spec.disks, field, "disks", disk)?,
        pass_through: each(&spec.pass_through, field, "pass_through", pass_through)?,
        media: each(&spec.media, field, "media", medium)?,
        nics: spec.nics.iter().map(nic).collect(),
        serial_log: path(&spec.serial_log),
        extra_arguments: spec.extra_arguments.clone(),
    };
    definition.check().map_err(|error| Failure::field(inside(field, &wire_field(&error.field)), error.problem))?;
    Ok(definition)
}

/// The definition as it travels.
#[must_use]
pub fn spec(definition: &VmDefinition) -> pb::VmSpec {
    pb::VmSpec {
        cpus: definition.cpus,
        memory_mib: definition.memory_mib,
        accelerator: pb::AcceleratorChoice::from(definition.accelerator).into(),
        uefi: uefi_message(&definition.firmware),
        tpm: definition.tpm == Tpm::V2,
        kernel: kernel_message(&definition.boot),
        disks: definition.disks.iter().map(disk_message).collect(),
        pass_through: definition.pass_through.iter().map(pass_through_message).collect(),
        media: definition.media.iter().map(medium_message).collect(),
        nics: definition.nics.iter().map(nic_message).collect(),
        serial_log: definition.serial_log.as_deref().map(text).unwrap_or_default(),
        extra_arguments: definition.extra_arguments.clone(),
    }
}

/// Reads a disk format; `None` for UNSPECIFIED, whose meaning the message says.
///
/// # Errors
/// The value is not known.
pub fn format(value: i32, field: &str) -> Result<Option<DiskFormat>, Failure> {
    Ok(match known(value, field)? {
        pb::DiskFormat::Unspecified => None,
        pb::DiskFormat::Raw => Some(DiskFormat::Raw),
        pb::DiskFormat::Qcow2 => Some(DiskFormat::Qcow2),
        pb::DiskFormat::Vhdx => Some(DiskFormat::Vhdx),
        pb::DiskFormat::Vpc => Some(DiskFormat::Vpc),
    })
}

impl From<DiskFormat> for pb::DiskFormat {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Raw => Self::Raw,
            DiskFormat::Qcow2 => Self::Qcow2,
            DiskFormat::Vhdx => Self::Vhdx,
            DiskFormat::Vpc => Self::Vpc,
        }
    }
}

impl From<AcceleratorChoice> for pb::AcceleratorChoice {
    fn from(choice: AcceleratorChoice) -> Self {
        match choice {
            AcceleratorChoice::Auto => Self::Auto,
            AcceleratorChoice::Kvm => Self::Kvm,
            AcceleratorChoice::Tcg => Self::Tcg,
        }
    }
}

/// A path as it travels.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A path that came; `None` if it is empty.
pub(crate) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// The domain says `boot.kernel` where the message has `kernel.kernel`; every other field has the same path.
fn wire_field(field: &str) -> String {
    field.strip_prefix("boot.").map_or_else(|| field.to_owned(), |rest| format!("kernel.{rest}"))
}

fn each<M, T>(
    messages: &[M],
    parent: &str,
    field: &str,
    read: fn(&M, &str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let field = inside(parent, field);
    messages.iter().enumerate().map(|(i, message)| read(message, &format!("{field}[{i}]"))).collect()
}

/// Reads a choice of accelerator; UNSPECIFIED means AUTO.
///
/// # Errors
/// The value is not known.
pub fn accelerator(value: i32, field: &str) -> Result<AcceleratorChoice, Failure> {
    Ok(match known(value, field)? {
        pb::AcceleratorChoice::Unspecified | pb::AcceleratorChoice::Auto => AcceleratorChoice::Auto,
        pb::AcceleratorChoice::Kvm => AcceleratorChoice::Kvm,
        pb::AcceleratorChoice::Tcg => AcceleratorChoice::Tcg,
    })
}

fn firmware(uefi: Option<&pb::Uefi>) -> Firmware {
    uefi.map_or(Firmware::Bios, |uefi| Firmware::Uefi { variables: path(&uefi.variables) })
}

fn uefi_message(firmware: &Firmware) -> Option<pb::Uefi> {
    match firmware {
        Firmware::Bios => None,
        Firmware::Uefi { variables } => {
            Some(pb::Uefi { variables: variables.as_deref().map(text).unwrap_or_default() })
        }
    }
}

fn boot(kernel: Option<&pb::KernelBoot>, field: &str) -> Result<Boot, Failure> {
    let Some(boot) = kernel else { return Ok(Boot::Bios) };
    let kernel = path(&boot.kernel)
        .ok_or_else(|| Failure::field(inside(field, "kernel.kernel"), "must be an absolute path, not empty"))?;
    Ok(Boot::Kernel { kernel, initrd: path(&boot.initrd), command_line: boot.command_line.clone() })
}

fn disk(disk: &pb::Disk, field: &str) -> Result<DiskDefinition, Failure> {
    let format_field = inside(field, "format");
    let format = format(disk.format, &format_field)?;
    Ok(DiskDefinition {
        name: disk_name(&disk.name, field)?,
        path: PathBuf::from(&disk.path),
        format: format.ok_or_else(|| {
            Failure::field(format_field, "must be declared: RAW, QCOW2, VHDX or VPC; it is not probed")
        })?,
    })
}

fn pass_through(disk: &pb::PassThroughDisk, field: &str) -> Result<PassThroughDisk, Failure> {
    Ok(PassThroughDisk {
        name: disk_name(&disk.name, field)?,
        device: PathBuf::from(&disk.device),
        read_only: disk.read_only,
    })
}

pub(super) fn disk_name(name: &str, field: &str) -> Result<DiskName, Failure> {
    name.parse().map_err(|problem| Failure::field(inside(field, "name"), problem))
}

fn nic(nic: &pb::Nic) -> NicDefinition {
    let backend = match &nic.backend {
        None | Some(pb::nic::Backend::User(_)) => NicBackend::User,
        Some(pb::nic::Backend::Tap(tap)) => NicBackend::Tap { interface: tap.interface.clone() },
    };
    NicDefinition { backend, mac: (!nic.mac.is_empty()).then(|| nic.mac.clone()) }
}

fn kernel_message(boot: &Boot) -> Option<pb::KernelBoot> {
    match boot {
        Boot::Bios => None,
        Boot::Kernel { kernel, initrd, command_line } => Some(pb::KernelBoot {
            kernel: text(kernel),
            initrd: initrd.as_deref().map(text).unwrap_or_default(),
            command_line: command_line.clone(),
        }),
    }
}

pub(super) fn disk_message(disk: &DiskDefinition) -> pb::Disk {
    pb::Disk { name: disk.name.to_string(), path: text(&disk.path), format: pb::DiskFormat::from(disk.format).into() }
}

fn pass_through_message(disk: &PassThroughDisk) -> pb::PassThroughDisk {
    pb::PassThroughDisk { name: disk.name.to_string(), device: text(&disk.device), read_only: disk.read_only }
}

fn nic_message(nic: &NicDefinition) -> pb::Nic {
    let backend = match &nic.backend {
        NicBackend::User => pb::nic::Backend::User(pb::UserNetwork {}),
        NicBackend::Tap { interface } => pb::nic::Backend::Tap(pb::TapNetwork { interface: interface.clone() }),
    };
    pb::Nic { backend: Some(backend), mac: nic.mac.clone().unwrap_or_default() }
}
