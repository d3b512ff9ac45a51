//! The guest's root: an archive that the kernel unpacks into memory, so that a boot reads no disk and two guests
//! can share it. It is not compressed: unpacking costs more than reading when the CPU is emulated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::cpio::Archive;
use super::modules::{self, Modules};
use crate::problem::{Outcome, Problem};

const FOLDERS: [&str; 17] = [
    "bin",
    "sbin",
    "etc",
    "proc",
    "sys",
    "dev",
    "run",
    "tmp",
    "usr",
    "usr/bin",
    "var",
    "etc/acpi",
    "etc/acpi/PWRF",
    "lib",
    "lib/modules",
    "data",
    "root",
];

/// Modules by the number of the virtio device that needs them (`/sys/bus/virtio/devices/*/device`), and by the name
/// under which the guest's `load` command knows them.
const DRIVERS: [(&str, &str); 17] = [
    ("bus", "virtio_pci"),
    ("virtio-0x0001", "virtio_net"),
    ("virtio-0x0002", "virtio_blk"),
    ("virtio-0x0003", "virtio_console"),
    ("virtio-0x0004", "virtio_rng"),
    ("virtio-0x0005", "virtio_balloon"),
    ("virtio-0x0008", "virtio_scsi"),
    ("virtio-0x0013", "vmw_vsock_virtio_transport"),
    ("loop", "loop"),
    ("xfs", "xfs"),
    ("dm", "dm_mod"),
    ("evdev", "evdev"),
    ("button", "button"),
    ("pvpanic", "pvpanic_pci"),
    ("ahci", "ahci"),
    ("cdrom", "sr_mod"),
    ("efivarfs", "efivarfs"),
];

/// What goes into the root beside modules.
pub(super) struct Content<'a> {
    /// The first program, a shell script.
    pub(super) init: &'a Path,
    /// The folder with the scripts for `/bin`.
    pub(super) scripts: &'a Path,
    /// Our own programs, by the name of their file.
    pub(super) programs: &'a [PathBuf],
    /// Everything else is busybox.
    pub(super) busybox: &'a Path,
}

/// Writes the archive to `file`, at once: a guest that is just starting sees the old or the new one.
pub(super) fn write(file: &Path, content: &Content<'_>, modules: &Modules) -> Outcome {
    let part = file.with_extension("part");
    let out = BufWriter::new(File::create(&part).map_err(Problem::file(&part))?);
    let mut root = Root { archive: Archive::new(out), part: &part };
    FOLDERS.iter().try_for_each(|name| root.folder(name))?;
    root.copy("init", content.init)?;
    root.busybox(content.busybox)?;
    for entry in std::fs::read_dir(content.scripts).map_err(Problem::file(content.scripts))?.flatten() {
        root.copy(&format!("sbin/{}", entry.file_name().to_string_lossy()), &entry.path())?;
    }
    for program in content.programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        root.copy(&format!("bin/{name}"), program)?;
    }
    root.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\nexec /sbin/poweroff\n")?; // the power button
    root.modules(modules)?;
    root.archive.finish().map_err(Problem::file(&part))?;
    std::fs::rename(&part, file).map_err(Problem::file(file))
}

struct Root<'a> {
    archive: Archive<BufWriter<File>>,
    part: &'a Path,
}

impl Root<'_> {
    fn folder(&mut self, name: &str) -> Outcome {
        self.archive.folder(name).map_err(Problem::file(self.part))
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Outcome {
        self.archive.file(name, content).map_err(Problem::file(self.part))
    }

    fn copy(&mut self, name: &str, from: &Path) -> Outcome {
        let content = std::fs::read(from).map_err(Problem::file(from))?;
        self.file(name, &content)
    }

    fn busybox(&mut self, busybox: &Path) -> Outcome {
        self.copy("bin/busybox", busybox)?;
        for name in modules::applets(busybox)?.iter().filter(|name| *name != "busybox") {
            self.archive.link(&format!("bin/{name}"), "busybox").map_err(Problem::file(self.part))?;
        }
        Ok(())
    }

    /// `/lib/modules/NAME.ko`, and for each driver a list `/lib/modules/DRIVER` of what to load, in order.
    fn modules(&mut self, modules: &Modules) -> Outcome {
        let mut files = BTreeMap::new();
        for (driver, name) in DRIVERS {
            let order = modules.with_dependencies(name)?;
            let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
            self.file(&format!("lib/modules/{driver}"), format!("{}\n", names.join(" ")).as_bytes())?;
            files.extend(order);
        }
        files.iter().try_for_each(|(name, file)| self.copy(&format!("lib/modules/{name}.ko"), file))
    }
}
