//! Templates of the guest's data disks. Tests copy them, and never write to them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::problem::{Outcome, Problem};
use crate::shell;

const DATA_MIB: u64 = 1024;
const INNER_MIB: u64 = 96;

/// Makes the templates that are missing: `data.qcow2`, an empty ext4 labelled `data`; `stacked.qcow2`, the same
/// with an ext4 in the file `inner.img` on it, which the guest mounts through a loop device: it must be frozen
/// before the disk that carries it.
pub(super) fn ensure(folder: &Path) -> Outcome {
    let empty = folder.join("disk.tree");
    for (name, inner) in [("data.qcow2", false), ("stacked.qcow2", true)] {
        if folder.join(name).exists() {
            continue;
        }
        eprintln!("  making the data disk {name}");
        std::fs::create_dir_all(&empty).map_err(Problem::file(&empty))?;
        if inner {
            ext4(&empty.join("inner.img"), "inner", INNER_MIB, None)?;
        }
        let raw = folder.join("disk.raw");
        ext4(&raw, "data", DATA_MIB, Some(&empty))?;
        to_qcow2(&raw, &folder.join(name))?;
        std::fs::remove_file(&raw).map_err(Problem::file(&raw))?;
        std::fs::remove_dir_all(&empty).map_err(Problem::file(&empty))?;
    }
    Ok(())
}

/// Everything is written at once: a file system that went on initialising itself in the background would write
/// while a test counts writes.
pub(super) fn ext4(image: &Path, label: &str, mib: u64, content: Option<&Path>) -> Outcome {
    let file = File::create(image).map_err(Problem::file(image))?;
    file.set_len(mib << 20).map_err(Problem::file(image))?;
    let mkfs = shell::find("mkfs.ext4").unwrap_or_else(|| PathBuf::from("mkfs.ext4"));
    let mut mkfs = Command::new(mkfs);
    mkfs.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-L", label]);
    if let Some(content) = content {
        mkfs.arg("-d").arg(content);
    }
    shell::read(mkfs.arg(image)).map(drop)
}

pub(super) fn to_qcow2(raw: &Path, qcow2: &Path) -> Outcome {
    let part = qcow2.with_extension("part");
    let mut convert = Command::new(crate::packages::qemu_img());
    shell::read(convert.args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(&part))?;
    std::fs::rename(&part, qcow2).map_err(Problem::file(qcow2))
}
