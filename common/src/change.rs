//! What differs between two definitions, in the words of their fields. Pure.

use serde::{Deserialize, Serialize};

use crate::{
    Boot, DiskDefinition, Drive, Firmware, Medium, NicBackend, NicDefinition, PassThroughDisk, Tpm, VmDefinition,
};

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefinitionChange {
    /// Path of the field: `cpus`, `disks.data`, `nics[0]`.
    pub field: String,
    /// What it was; empty: there was none.
    pub from: String,
    /// What it is; empty: there is none any more.
    pub to: String,
}

impl VmDefinition {
    /// What changes if this definition is replaced by `new`, in the order of the fields.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Vec<DefinitionChange> {
        let mut changes = Vec::new();
        let mut field = |field: &str, from: String, to: String| {
            if from != to {
                changes.push(DefinitionChange { field: field.to_owned(), from, to });
            }
        };
        field("cpus", self.cpus.to_string(), new.cpus.to_string());
        field("memory_mib", self.memory_mib.to_string(), new.memory_mib.to_string());
        field("accelerator", format!("{:?}", self.accelerator), format!("{:?}", new.accelerator));
        field("firmware", firmware(&self.firmware), firmware(&new.firmware));
        field("tpm", tpm(self.tpm), tpm(new.tpm));
        field("boot", boot(&self.boot), boot(&new.boot));
        for (name, from, to) in by_name(&self.disks, &new.disks, |disk| disk.name.to_string(), disk) {
            field(&format!("disks.{name}"), from, to);
        }
        for (name, from, to) in by_name(&self.pass_through, &new.pass_through, |d| d.name.to_string(), pass_through) {
            field(&format!("pass_through.{name}"), from, to);
        }
        for (name, from, to) in by_name(&self.media, &new.media, |medium| medium.name.to_string(), medium) {
            field(&format!("media.{name}"), from, to);
        }
        for at in 0..self.nics.len().max(new.nics.len()) {
            let text = |nics: &[NicDefinition]| nics.get(at).map(nic).unwrap_or_default();
            field(&format!("nics[{at}]"), text(&self.nics), text(&new.nics));
        }
        let log = |definition: &Self| definition.serial_log.as_ref().map(|path| path.display().to_string());
        field("serial_log", log(self).unwrap_or_default(), log(new).unwrap_or_default());
        field("extra_arguments", self.extra_arguments.join(" "), new.extra_arguments.join(" "));
        changes
    }
}

/// What both lists call by the same name, side by side: the old ones in their order, then those that are new.
fn by_name<T>(
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> String,
    text: impl Fn(&T) -> String,
) -> Vec<(String, String, String)> {
    let find = |list: &[T], wanted: &str| list.iter().find(|item| name(item) == wanted).map(&text).unwrap_or_default();
    let added = new.iter().filter(|item| !old.iter().any(|known| name(known) == name(item)));
    let names = old.iter().chain(added).map(&name);
    names.map(|name| (name.clone(), find(old, &name), find(new, &name))).collect()
}

fn firmware(firmware: &Firmware) -> String {
    match firmware {
        Firmware::Bios => "BIOS".to_owned(),
        Firmware::Uefi { variables: None } => "UEFI".to_owned(),
        Firmware::Uefi { variables: Some(path) } => format!("UEFI with {}", path.display()),
    }
}

fn tpm(tpm: Tpm) -> String {
    match tpm {
        Tpm::Absent => String::new(),
        Tpm::V2 => "2.0".to_owned(),
    }
}

fn boot(boot: &Boot) -> String {
    match boot {
        Boot::Bios => "from its disks".to_owned(),
        Boot::Kernel { kernel, initrd, command_line } => {
            let initrd = initrd.as_ref().map(|initrd| format!(" with {}", initrd.display())).unwrap_or_default();
            format!("{}{initrd}: {command_line}", kernel.display())
        }
    }
}

fn disk(disk: &DiskDefinition) -> String {
    format!("{} ({})", disk.path.display(), disk.format.driver())
}

fn pass_through(disk: &PassThroughDisk) -> String {
    format!("{}{}", disk.device.display(), if disk.read_only { " (read-only)" } else { "" })
}

fn medium(medium: &Medium) -> String {
    let drive = match medium.drive {
        Drive::Cdrom => "CD-ROM drive",
        Drive::Disk => "read-only disk",
    };
    match &medium.file {
        Some(file) => format!("{} ({}) in a {drive}", file.path.display(), file.format.driver()),
        None => format!("an empty {drive}"),
    }
}

fn nic(nic: &NicDefinition) -> String {
    let backend = match &nic.backend {
        NicBackend::User => "user".to_owned(),
        NicBackend::Tap { interface } => format!("tap {interface}"),
    };
    nic.mac.as_ref().map_or_else(|| backend.clone(), |mac| format!("{backend}, {mac}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcceleratorChoice, DiskFormat};

    fn definition() -> VmDefinition {
        VmDefinition {
            cpus: 1,
            memory_mib: 256,
            accelerator: AcceleratorChoice::Auto,
            firmware: Firmware::Bios,
            tpm: Tpm::Absent,
            boot: Boot::Bios,
            disks: vec![named("system"), named("data")],
            pass_through: vec![],
            media: vec![Medium { file: None, ..Medium::cdrom("cd", "/iso") }],
            nics: vec![NicDefinition { backend: NicBackend::User, mac: None }],
            serial_log: None,
            extra_arguments: vec![],
        }
    }

    fn named(name: &str) -> DiskDefinition {
        DiskDefinition { name: name.parse().unwrap(), path: format!("/vm/{name}").into(), format: DiskFormat::Raw }
    }

    #[test]
    fn every_field_that_differs_is_told_once_and_no_other() {
        assert_eq!(definition().changes(&definition()), []);
        type Change = fn(&mut VmDefinition);
        let cases: [(Change, &str, &str, &str); 15] = [
            (|d| d.cpus = 2, "cpus", "1", "2"),
            (|d| d.memory_mib = 512, "memory_mib", "256", "512"),
            (|d| d.accelerator = AcceleratorChoice::Tcg, "accelerator", "Auto", "Tcg"),
            (|d| d.firmware = Firmware::Uefi { variables: Some("/v".into()) }, "firmware", "BIOS", "UEFI with /v"),
            (|d| d.tpm = Tpm::V2, "tpm", "", "2.0"),
            (|d| d.boot = kernel(), "boot", "from its disks", "/k with /i: quiet"),
            (|d| drop(d.disks.remove(0)), "disks.system", "/vm/system (raw)", ""),
            (|d| d.disks.push(named("more")), "disks.more", "", "/vm/more (raw)"),
            (|d| d.disks[1].format = DiskFormat::Qcow2, "disks.data", "/vm/data (raw)", "/vm/data (qcow2)"),
            (|d| d.pass_through.push(passed()), "pass_through.tape", "", "/dev/st0 (read-only)"),
            (
                |d| d.media[0] = Medium::cdrom("cd", "/a"),
                "media.cd",
                "an empty CD-ROM drive",
                "/a (raw) in a CD-ROM drive",
            ),
            (|d| d.media.clear(), "media.cd", "an empty CD-ROM drive", ""),
            (|d| d.nics[0] = tap(), "nics[0]", "user", "tap tap0, 52:54:00:12:34:56"),
            (|d| d.serial_log = Some("/log".into()), "serial_log", "", "/log"),
            (|d| d.extra_arguments.push("-x".into()), "extra_arguments", "", "-x"),
        ];
        for (change, field, from, to) in cases {
            let mut new = definition();
            change(&mut new);
            let expected = DefinitionChange { field: field.into(), from: from.into(), to: to.into() };
            assert_eq!(definition().changes(&new), [expected]);
            assert_eq!(new.changes(&definition()).len(), 1, "{field}, the other way");
        }
    }

    fn kernel() -> Boot {
        Boot::Kernel { kernel: "/k".into(), initrd: Some("/i".into()), command_line: "quiet".into() }
    }

    fn passed() -> PassThroughDisk {
        PassThroughDisk { name: "tape".parse().unwrap(), device: "/dev/st0".into(), read_only: true }
    }

    fn tap() -> NicDefinition {
        let backend = NicBackend::Tap { interface: "tap0".into() };
        NicDefinition { backend, mac: Some("52:54:00:12:34:56".into()) }
    }
}
