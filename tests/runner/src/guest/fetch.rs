//! Debian packages whose content the guest is made of: fetched once, unpacked below the target folder, never
//! installed on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages;
use crate::problem::{Outcome, Problem};
use crate::shell;

/// The folder with `package`'s files, unpacked into `folder/name`. Fetches only when it is not there.
pub(super) fn unpacked(folder: &Path, package: &str, name: &str) -> Outcome<PathBuf> {
    all_unpacked(folder, &[package], name)
}

/// The same for several packages, one over the other.
pub(super) fn all_unpacked(folder: &Path, packages: &[&str], name: &str) -> Outcome<PathBuf> {
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
    let what = if let [package] = packages { format!("package {package}") } else { format!("packages for {name}") };
    eprintln!("  fetching the Debian {what} (for the guest; nothing is installed here)");
    download(&work, packages)?;
    for deb in debs(&work, packages.len())? {
        shell::read(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    }
    std::fs::rename(&tree, &done).map_err(Problem::file(&done))?;
    std::fs::remove_dir_all(&work).map_err(Problem::file(&work))?;
    Ok(done)
}

/// Package lists may be missing or too old to fetch by: they are brought up to date once, and only then.
fn download(folder: &Path, packages: &[&str]) -> Outcome {
    let mut get = Command::new("apt-get");
    get.current_dir(folder).args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(packages);
    if shell::read(&mut get).is_ok() {
        return Ok(());
    }
    packages::update()?;
    shell::read(&mut get).map(drop)
}

fn debs(folder: &Path, wanted: usize) -> Outcome<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Problem::file(folder))?;
    let files = entries.flatten().map(|entry| entry.path());
    let found: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    if found.len() == wanted {
        return Ok(found);
    }
    Err(Problem::new(format!("apt-get download said success and left {} of {wanted} packages", found.len())))
}
