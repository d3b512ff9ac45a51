//! The declarative definition of a VM.

use std::{collections::BTreeSet, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DiskName, Firmware, Medium, Tpm, UEFI_VARIABLES, medium};

/// What a VM is made of. [`VmDefinition::check`] says whether the parts fit together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDefinition {
    /// Virtual CPUs, 1 to 256.
    pub cpus: u32,
    /// Memory in MiB, 16 to 16,777,216.
    pub memory_mib: u64,
    /// What the CPUs run on.
    pub accelerator: AcceleratorChoice,
    /// What starts it.
    #[serde(default)]
    pub firmware: Firmware,
    /// Whether it has a TPM.
    #[serde(default)]
    pub tpm: Tpm,
    /// How it boots.
    pub boot: Boot,
    /// Disks that belong to its checkpoints.
    pub disks: Vec<DiskDefinition>,
    /// Host block devices given to the guest as they are; never part of a checkpoint.
    pub pass_through: Vec<PassThroughDisk>,
    /// What the guest can read and not write to; never part of a checkpoint.
    #[serde(default)]
    pub media: Vec<Medium>,
    /// Network cards.
    pub nics: Vec<NicDefinition>,
    /// File that the first serial port is written to.
    pub serial_log: Option<PathBuf>,
    /// Appended to QEMU's command line, for administrators; `{runtime}` becomes the process's runtime folder.
    pub extra_arguments: Vec<String>,
}

/// What a VM's virtual CPUs shall run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AcceleratorChoice {
    /// Hardware if a trial shows that it really works, else emulation.
    #[default]
    Auto,
    /// Hardware or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// How a VM boots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Boot {
    /// From its disks, through its firmware.
    #[default]
    Bios,
    /// A Linux kernel given from outside.
    Kernel {
        /// Kernel image.
        kernel: PathBuf,
        /// Initial RAM disk.
        initrd: Option<PathBuf>,
        /// Kernel command line.
        command_line: String,
    },
}

/// A disk that belongs to the VM's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskDefinition {
    /// Its name in the VM.
    pub name: DiskName,
    /// The image file. Checkpoints put layers beside it.
    pub path: PathBuf,
    /// Its format. Declared, never probed.
    pub format: DiskFormat,
}

/// Format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DiskFormat {
    /// Plain bytes.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// Hyper-V's present format.
    Vhdx,
    /// Hyper-V's old format (VHD).
    Vpc,
}

impl DiskFormat {
    /// QEMU's name of the format.
    #[must_use]
    pub const fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
        }
    }
}

/// A host block device given to the guest as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassThroughDisk {
    /// Its name in the VM.
    pub name: DiskName,
    /// The block device on the host.
    pub device: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicDefinition {
    /// What it is connected to.
    pub backend: NicBackend,
    /// Hardware address, `52:54:00:12:34:56`; chosen by QEMU if absent.
    pub mac: Option<String>,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NicBackend {
    /// QEMU's own user-mode network: outgoing connections only.
    User,
    /// An existing tap interface of the host.
    Tap {
        /// Its name.
        interface: String,
    },
}

/// A definition whose parts do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct DefinitionError {
    /// Path of the field: `disks[1].path`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl VmDefinition {
    /// Says which field is wrong, if one is. Looks at the definition only, not at the files it names.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let wrong = |field: &str, problem: String| Err(DefinitionError { field: field.to_owned(), problem });
        if !(1..=256).contains(&self.cpus) {
            return wrong("cpus", format!("must be 1 to 256, not {}", self.cpus));
        }
        if !(16..=16_777_216).contains(&self.memory_mib) {
            return wrong("memory_mib", format!("must be 16 to 16777216, not {}", self.memory_mib));
        }
        self.check_boot()?;
        self.check_disks()?;
        medium::check(&self.media)?;
        self.check_nics()?;
        match &self.serial_log {
            Some(path) if !path.is_absolute() => wrong("serial_log", absolute(path)),
            Some(_) | None => Ok(()),
        }
    }

    fn check_boot(&self) -> Result<(), DefinitionError> {
        let Boot::Kernel { kernel, initrd, .. } = &self.boot else { return Ok(()) };
        for (field, path) in [("boot.kernel", Some(kernel)), ("boot.initrd", initrd.as_ref())] {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                return Err(DefinitionError { field: field.to_owned(), problem: absolute(path) });
            }
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), DefinitionError> {
        let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for place in self.places() {
            let wrong = |part: &str, problem: String| Err(DefinitionError { field: place.field(part), problem });
            if let Some(name) = place.name {
                if name.as_str() == UEFI_VARIABLES {
                    return wrong("name", format!("{UEFI_VARIABLES:?} is the name of the firmware's variables"));
                }
                if !names.insert(name) {
                    return wrong("name", format!("{:?} is used twice", name.as_str()));
                }
            }
            let Some(path) = place.path else { continue };
            if !path.is_absolute() {
                return wrong(place.part, absolute(path));
            }
            if !paths.insert(path) {
                return wrong(place.part, format!("{} is used twice", path.display()));
            }
        }
        Ok(())
    }

    /// Everything that a VM has open, with the field that names it.
    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let place = |list, at, name, part, path| Place { list, at, name, part, path };
        let disks = self.disks.iter().enumerate();
        let disks = disks.map(move |(at, it)| place("disks", at, Some(&it.name), "path", Some(&it.path)));
        let passed = self.pass_through.iter().enumerate();
        let passed = passed.map(move |(at, it)| place("pass_through", at, Some(&it.name), "device", Some(&it.device)));
        let media = self.media.iter().enumerate();
        let media = media.map(move |(at, it)| place("media", at, Some(&it.name), "path", it.path()));
        let variables = match &self.firmware {
            Firmware::Uefi { variables: Some(path) } => Some(place("uefi", 0, None, "variables", Some(path))),
            Firmware::Bios | Firmware::Uefi { variables: None } => None,
        };
        disks.chain(passed).chain(media).chain(variables)
    }

    fn check_nics(&self) -> Result<(), DefinitionError> {
        for (i, nic) in self.nics.iter().enumerate() {
            if let Some(mac) = nic.mac.as_ref().filter(|mac| !is_mac(mac)) {
                let problem = format!("must look like 52:54:00:12:34:56, not {mac:?}");
                return Err(DefinitionError { field: format!("nics[{i}].mac"), problem });
            }
            if let NicBackend::Tap { interface } = &nic.backend
                && !is_interface(interface)
            {
                let problem = format!("must be the name of a tap interface, not {interface:?}");
                return Err(DefinitionError { field: format!("nics[{i}].tap.interface"), problem });
            }
        }
        Ok(())
    }
}

/// Something that a VM has open.
struct Place<'a> {
    list: &'static str,
    at: usize,
    /// `None`: it is the only one of its kind, and no list.
    name: Option<&'a DiskName>,
    /// The field in it that names the file.
    part: &'static str,
    path: Option<&'a PathBuf>,
}

impl Place<'_> {
    fn field(&self, part: &str) -> String {
        match self.name {
            Some(_) => format!("{}[{}].{part}", self.list, self.at),
            None => format!("{}.{part}", self.list),
        }
    }
}

fn absolute(path: &std::path::Path) -> String {
    format!("must be an absolute path, not {:?}", path.display().to_string())
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_interface(text: &str) -> bool {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 15 && text.chars().all(fit)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn disk(name: &str, path: &str) -> DiskDefinition {
        DiskDefinition { name: name.parse().unwrap(), path: path.into(), format: DiskFormat::Qcow2 }
    }

    fn uefi(variables: &str) -> Firmware {
        Firmware::Uefi { variables: Some(variables.into()) }
    }

    pub(crate) fn good() -> VmDefinition {
        VmDefinition {
            cpus: 1,
            memory_mib: 256,
            accelerator: AcceleratorChoice::Auto,
            firmware: Firmware::Bios,
            tpm: Tpm::Absent,
            boot: Boot::Bios,
            disks: vec![disk("system", "/vm/system.qcow2")],
            pass_through: vec![],
            media: vec![],
            nics: vec![NicDefinition { backend: NicBackend::User, mac: Some("52:54:00:12:34:56".into()) }],
            serial_log: None,
            extra_arguments: vec![],
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(good().check(), Ok(()));
        type Spoil = fn(&mut VmDefinition);
        let cases: [(Spoil, &str); 14] = [
            (|d| d.cpus = 0, "cpus"),
            (|d| d.memory_mib = 1, "memory_mib"),
            (|d| d.disks.push(disk("system", "/vm/other.qcow2")), "disks[1].name"),
            (|d| d.disks.push(disk("data", "/vm/system.qcow2")), "disks[1].path"),
            (|d| d.disks[0].path = "system.qcow2".into(), "disks[0].path"),
            (|d| d.media.push(Medium::cdrom("system", "/iso/a.iso")), "media[0].name"),
            (|d| d.media.push(Medium::cdrom("cd", "/vm/system.qcow2")), "media[0].path"),
            (|d| d.disks.push(disk(UEFI_VARIABLES, "/vm/other")), "disks[1].name"),
            (|d| d.firmware = uefi("vars"), "uefi.variables"),
            (|d| d.firmware = uefi("/vm/system.qcow2"), "uefi.variables"),
            (|d| d.nics[0].mac = Some("52:54".into()), "nics[0].mac"),
            (|d| d.nics[0].backend = NicBackend::Tap { interface: "a,script=x".into() }, "nics[0].tap.interface"),
            (|d| d.serial_log = Some("log".into()), "serial_log"),
            (
                |d| d.boot = Boot::Kernel { kernel: "vmlinuz".into(), initrd: None, command_line: String::new() },
                "boot.kernel",
            ),
        ];
        for (spoil, field) in cases {
            let mut definition = good();
            spoil(&mut definition);
            assert_eq!(definition.check().unwrap_err().field, field);
        }
    }
}
