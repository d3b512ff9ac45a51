//! The programs this machine must have, and how they are installed where they are missing.
//!
//! Nothing is asked of the network while nothing is missing. What will be installed is said first.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::debian;
use crate::problem::{Outcome, Problem};
use crate::shell;

/// A program we start, the Debian package that has it, and the variable that chooses another one instead.
struct Tool {
    program: &'static str,
    package: &'static str,
    chosen_by: Option<&'static str>,
}

const QEMU: &str = "STILLPOINT_QEMU";
const QEMU_IMG: &str = "STILLPOINT_QEMU_IMG";

const TOOLS: [Tool; 6] = [
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86", chosen_by: Some(QEMU) },
    Tool { program: "qemu-img", package: "qemu-utils", chosen_by: Some(QEMU_IMG) },
    Tool { program: "qemu-nbd", package: "qemu-utils", chosen_by: Some("STILLPOINT_QEMU_NBD") },
    Tool { program: "swtpm", package: "swtpm", chosen_by: Some("STILLPOINT_SWTPM") },
    Tool { program: "mkfs.ext4", package: "e2fsprogs", chosen_by: None },
    Tool { program: "dpkg-deb", package: "dpkg", chosen_by: None },
];

/// A file that a package brings, and the variable that chooses another one instead.
struct Data {
    path: &'static str,
    package: &'static str,
    chosen_by: &'static str,
}

const DATA: [Data; 2] = [
    Data { path: "/usr/share/OVMF/OVMF_CODE_4M.fd", package: "ovmf", chosen_by: "STILLPOINT_UEFI_CODE" },
    Data { path: "/usr/share/OVMF/OVMF_VARS_4M.fd", package: "ovmf", chosen_by: "STILLPOINT_UEFI_VARS" },
];

/// The `qemu-img` to use.
pub(crate) fn qemu_img() -> OsString {
    std::env::var_os(QEMU_IMG).unwrap_or_else(|| "qemu-img".into())
}

/// Makes sure that every tool is there; `folder` is where a list of package sources may be written.
pub(crate) fn ensure(folder: &Path) -> Outcome {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("  missing here, and installed now from Debian's packages: {}", missing.join(" "));
    as_root(&missing)?;
    update()?;
    install(&missing, folder)?;
    match self::missing()?.as_slice() {
        [] => Ok(()),
        still => Err(Problem::new(format!("installed, and still not found: {}", still.join(" ")))),
    }
}

fn missing() -> Outcome<Vec<&'static str>> {
    let mut packages = Vec::new();
    for tool in &TOOLS {
        let chosen = tool.chosen_by.and_then(|name| Some((name, std::env::var(name).ok()?)));
        match chosen {
            Some((name, path)) if shell::find(&path).is_none() => {
                return Err(Problem::new(format!("{name} names `{path}`, which is not a program")));
            }
            Some(_) => {}
            None if shell::find(tool.program).is_some() => {}
            None => packages.push(tool.package),
        }
    }
    for data in &DATA {
        match std::env::var(data.chosen_by) {
            Ok(path) if !Path::new(&path).is_file() => {
                return Err(Problem::new(format!("{} names `{path}`, which is not a file", data.chosen_by)));
            }
            Ok(_) => {}
            Err(_) if Path::new(data.path).is_file() || packages.contains(&data.package) => {}
            Err(_) => packages.push(data.package),
        }
    }
    Ok(packages)
}

fn as_root(missing: &[&str]) -> Outcome {
    let user = shell::read(Command::new("id").arg("-u"))?;
    if user.trim() == "0" {
        return Ok(());
    }
    let names = missing.join(" ");
    Err(Problem::new(format!(
        "installing needs root: run `apt-get install --no-install-recommends {names}` as root once"
    )))
}

/// Brings apt's lists up to date. A source that does not answer is apt's to report and not a reason to stop:
/// whether what we need can be had is seen in the next step.
pub(crate) fn update() -> Outcome {
    shell::succeeds(Command::new("apt-get").args(["update", "-q"])).map(drop)
}

/// The plain way, if apt says that it would work without removing anything. It does not where a part of QEMU was installed from backports and
/// that source is no longer listed: the other parts must then come from there too.
fn install(packages: &[&str], folder: &Path) -> Outcome {
    let plain = Vec::new();
    if would_work(packages, &plain) {
        return get(packages, &plain);
    }
    eprintln!("  the packages of this release do not fit what is installed here; taking them from backports");
    let sources = debian::backports(folder)?;
    let mut update = Command::new("apt-get");
    update.args(["update", "-q", "-o", "APT::Get::List-Cleanup=0"]).args(&sources.options);
    shell::run(&mut update)?;
    let mut options = sources.options;
    options.extend(["-t".into(), sources.suite.into()]);
    get(packages, &options)
}

fn would_work(packages: &[&str], options: &[OsString]) -> bool {
    shell::read(apt_install(options).arg("--simulate").args(packages)).is_ok()
}

fn get(packages: &[&str], options: &[OsString]) -> Outcome {
    shell::run(apt_install(options).arg("--yes").args(packages))
}

fn apt_install(options: &[OsString]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
        .args(["install", "-q", "--no-install-recommends", "--no-remove", "-o", "DPkg::Lock::Timeout=300"])
        .args(options);
    command
}
