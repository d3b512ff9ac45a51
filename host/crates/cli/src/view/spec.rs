//! What a VM is made of, as it stands in a JSON file.

use serde::{Deserialize, Serialize};
use stillpoint_common::{AcceleratorChoice, DiskFormat, Failure, VmDefinition};
use stillpoint_proto::{convert::spec, v1 as pb};

use super::Medium;

/// What a VM is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// What the CPUs run on: `AUTO`, `KVM`, `TCG`.
    #[serde(default)]
    pub accelerator: AcceleratorChoice,
    /// Starts through UEFI; `null`: through the BIOS.
    #[serde(default)]
    pub uefi: Option<Uefi>,
    /// It has a TPM 2.0.
    #[serde(default)]
    pub tpm: bool,
    /// Boots this kernel; `null`: boots from the disks.
    #[serde(default)]
    pub kernel: Option<KernelBoot>,
    /// Disks that belong to the VM's checkpoints.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Host block devices, never part of a checkpoint.
    #[serde(default)]
    pub pass_through: Vec<PassThroughDisk>,
    /// What the guest can read and not write to, never part of a checkpoint.
    #[serde(default)]
    pub media: Vec<Medium>,
    /// Network cards.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// File that the first serial port is written to; empty: none.
    #[serde(default)]
    pub serial_log: String,
    /// Appended to QEMU's command line as they are.
    #[serde(default)]
    pub extra_arguments: Vec<String>,
}

/// UEFI, and where it keeps its variables.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uefi {
    /// Image with the variables; empty: the service chooses.
    #[serde(default)]
    pub variables: String,
}

/// A Linux kernel given from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelBoot {
    /// Kernel image.
    pub kernel: String,
    /// Initial RAM disk; may be empty.
    #[serde(default)]
    pub initrd: String,
    /// Kernel command line.
    #[serde(default)]
    pub command_line: String,
}

/// A disk that belongs to the VM's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name in the VM.
    pub name: String,
    /// The image file.
    pub path: String,
    /// `RAW`, `QCOW2`, `VHDX`, `VPC`.
    pub format: DiskFormat,
}

/// A host block device given to the guest as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassThroughDisk {
    /// Its name in the VM.
    pub name: String,
    /// The block device on the host.
    pub device: String,
    /// The guest cannot write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// A network card: `user` or `tap`; neither means `user`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// QEMU's user-mode network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserNetwork>,
    /// A tap interface of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapNetwork>,
    /// Hardware address; empty: chosen.
    #[serde(default)]
    pub mac: String,
}

/// QEMU's user-mode network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserNetwork {}

/// A tap interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapNetwork {
    /// Its name on the host.
    pub interface: String,
}

impl Spec {
    /// The same in the words of the domain.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn definition(&self) -> Result<VmDefinition, Failure> {
        spec::definition(Some(&pb::VmSpec::from(self)), "spec")
    }
}

impl TryFrom<&pb::VmSpec> for Spec {
    type Error = Failure;

    fn try_from(message: &pb::VmSpec) -> Result<Self, Failure> {
        Ok(Self {
            cpus: message.cpus,
            memory_mib: message.memory_mib,
            accelerator: spec::accelerator(message.accelerator, "spec.accelerator")?,
            uefi: message.uefi.as_ref().map(|uefi| Uefi { variables: uefi.variables.clone() }),
            tpm: message.tpm,
            kernel: message.kernel.as_ref().map(KernelBoot::from),
            disks: message.disks.iter().map(Disk::try_from).collect::<Result<_, Failure>>()?,
            pass_through: message.pass_through.iter().map(PassThroughDisk::from).collect(),
            media: message.media.iter().map(Medium::try_from).collect::<Result<_, Failure>>()?,
            nics: message.nics.iter().map(Nic::from).collect(),
            serial_log: message.serial_log.clone(),
            extra_arguments: message.extra_arguments.clone(),
        })
    }
}

impl From<&Spec> for pb::VmSpec {
    fn from(spec: &Spec) -> Self {
        let disk = |disk: &Disk| pb::Disk {
            name: disk.name.clone(),
            path: disk.path.clone(),
            format: pb::DiskFormat::from(disk.format).into(),
        };
        let pass_through = |disk: &PassThroughDisk| pb::PassThroughDisk {
            name: disk.name.clone(),
            device: disk.device.clone(),
            read_only: disk.read_only,
        };
        Self {
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            accelerator: pb::AcceleratorChoice::from(spec.accelerator).into(),
            uefi: spec.uefi.as_ref().map(|uefi| pb::Uefi { variables: uefi.variables.clone() }),
            tpm: spec.tpm,
            kernel: spec.kernel.as_ref().map(pb::KernelBoot::from),
            disks: spec.disks.iter().map(disk).collect(),
            pass_through: spec.pass_through.iter().map(pass_through).collect(),
            media: spec.media.iter().map(pb::Medium::from).collect(),
            nics: spec.nics.iter().map(pb::Nic::from).collect(),
            serial_log: spec.serial_log.clone(),
            extra_arguments: spec.extra_arguments.clone(),
        }
    }
}

impl From<&pb::KernelBoot> for KernelBoot {
    fn from(boot: &pb::KernelBoot) -> Self {
        let pb::KernelBoot { kernel, initrd, command_line } = boot.clone();
        Self { kernel, initrd, command_line }
    }
}

impl From<&KernelBoot> for pb::KernelBoot {
    fn from(boot: &KernelBoot) -> Self {
        let KernelBoot { kernel, initrd, command_line } = boot.clone();
        Self { kernel, initrd, command_line }
    }
}

impl TryFrom<&pb::Disk> for Disk {
    type Error = Failure;

    fn try_from(disk: &pb::Disk) -> Result<Self, Failure> {
        let format = spec::format(disk.format, "spec.disks.format")?;
        let format = format.ok_or_else(|| Failure::field("spec.disks.format", "is missing"))?;
        Ok(Self { name: disk.name.clone(), path: disk.path.clone(), format })
    }
}

impl From<&pb::PassThroughDisk> for PassThroughDisk {
    fn from(disk: &pb::PassThroughDisk) -> Self {
        Self { name: disk.name.clone(), device: disk.device.clone(), read_only: disk.read_only }
    }
}

impl From<&pb::Nic> for Nic {
    fn from(nic: &pb::Nic) -> Self {
        let mac = nic.mac.clone();
        match &nic.backend {
            None | Some(pb::nic::Backend::User(_)) => Self { user: Some(UserNetwork {}), tap: None, mac },
            Some(pb::nic::Backend::Tap(tap)) => {
                Self { user: None, tap: Some(TapNetwork { interface: tap.interface.clone() }), mac }
            }
        }
    }
}

impl From<&Nic> for pb::Nic {
    fn from(nic: &Nic) -> Self {
        let backend = match &nic.tap {
            Some(tap) => pb::nic::Backend::Tap(pb::TapNetwork { interface: tap.interface.clone() }),
            None => pb::nic::Backend::User(pb::UserNetwork {}),
        };
        Self { backend: Some(backend), mac: nic.mac.clone() }
    }
}
