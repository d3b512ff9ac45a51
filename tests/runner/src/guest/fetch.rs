//! Debian packages whose content the guest is made of: fetched once, unpacked below the target folder, never
//! installed on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages;
use crate::problem::{Outcome, Problem};
use crate::shell;

/// The folder with `package`'s files, unpacked into `folder/name`. Fetches only when it is not there.
pub(super) fn unpacked(folder: &Path, package: &str, name: &str) -> Outcome<PathBuf> {
    let done = folder.join(name);
    if done.is_dir() {
        return Ok(done);
    }
    let work = folder.join(format!("{name}.part"));
    if work.is_dir() {
        std::fs::remove_dir_all(&work).map_err(Problem::file(&work))?;
    }
    let tree = work.join("tree");
    std::fs::create_dir_all(&tree).map_err(Problem::file(&tree))?;
    eprintln!("  fetching the Debian package {package} (for the guest; nothing is installed here)");
    download(&work, package)?;
    shell::read(Command::new("dpkg-deb").arg("-x").arg(deb(&work)?).arg(&tree))?;
    std::fs::rename(&tree, &done).map_err(Problem::file(&done))?;
    std::fs::remove_dir_all(&work).map_err(Problem::file(&work))?;
    Ok(done)
}

/// Package lists may be missing or too old to fetch by: they are brought up to date once, and only then.
fn download(folder: &Path, package: &str) -> Outcome {
    let mut get = Command::new("apt-get");
    get.current_dir(folder).args(["download", "-q", "-o", "APT::Sandbox::User=root", package]);
    if shell::read(&mut get).is_ok() {
        return Ok(());
    }
    packages::update()?;
    shell::read(&mut get).map(drop)
}

fn deb(folder: &Path) -> Outcome<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(Problem::file(folder))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    files
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| Problem::new("apt-get download said success and left no package"))
}
