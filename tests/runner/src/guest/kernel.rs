//! The guest's kernel: Debian's own cloud kernel, as it is packaged.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::guest::fetch;
use crate::packages;
use crate::problem::{Outcome, Problem};
use crate::shell;

/// The packages that stand for "the current kernel of this series", best first: 6.12 where Debian 12 offers it,
/// and its own 6.1 otherwise.
const SERIES: [&str; 2] = ["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"];

/// A kernel on disk.
pub(super) struct Kernel {
    /// The compressed kernel, as QEMU's `-kernel` takes it.
    pub(super) image: PathBuf,
    /// Where its modules are.
    pub(super) modules: PathBuf,
    /// Its version, `6.12.x…-cloud-amd64`.
    pub(super) version: String,
}

/// The kernel that was fetched before, or the current one.
pub(super) fn ensure(folder: &Path) -> Outcome<Kernel> {
    let tree = folder.join("kernel");
    if !tree.is_dir() {
        fetch::unpacked(folder, &current()?, "kernel")?;
    }
    let boot = tree.join("boot");
    let names = std::fs::read_dir(&boot).map_err(Problem::file(&boot))?.flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let image = names.find(|name| name.starts_with("vmlinuz-"));
    let image = image.ok_or_else(|| Problem::new(format!("{} has no kernel", boot.display())))?;
    let version = image.trim_start_matches("vmlinuz-").to_owned();
    let modules = ["lib/modules", "usr/lib/modules"].map(|path| tree.join(path).join(&version));
    let modules = modules.into_iter().find(|path| path.is_dir());
    let modules = modules.ok_or_else(|| Problem::new(format!("{} has no modules", tree.display())))?;
    Ok(Kernel { image: boot.join(image), modules, version })
}

/// The package that the best known series depends on, after an update of the lists if none is known.
fn current() -> Outcome<String> {
    if let Some(package) = SERIES.iter().find_map(|series| image_of(series)) {
        return Ok(package);
    }
    packages::update()?;
    let found = SERIES.iter().find_map(|series| image_of(series));
    found.ok_or_else(|| Problem::new(format!("apt knows none of {}: is this Debian 12?", SERIES.join(", "))))
}

fn image_of(series: &str) -> Option<String> {
    let depends = shell::read(Command::new("apt-cache").args(["depends", "--important", series])).ok()?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}
