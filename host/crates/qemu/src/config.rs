//! What the adapter is told from outside.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// Which QEMU to use, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// The emulator. Default: `qemu-system-x86_64`, searched in `PATH`.
    pub qemu: PathBuf,
    /// The image tool. Default: `qemu-img`.
    pub qemu_img: PathBuf,
    /// The server of disks of backups. Default: `qemu-nbd`.
    pub qemu_nbd: PathBuf,
    /// Put before all other arguments of the emulator: `-L` and a folder with firmware, say. Default: none.
    pub prefix_arguments: Vec<String>,
    /// UEFI for VMs that start through it, as it is; the guest cannot write to it. Default: that of Debian's package
    /// `ovmf`, `/usr/share/OVMF/OVMF_CODE_4M.fd`.
    pub uefi_code: PathBuf,
    /// The variables of a UEFI that has never run: each VM gets a copy. Default: `/usr/share/OVMF/OVMF_VARS_4M.fd`.
    pub uefi_variables: PathBuf,
    /// The emulator of TPMs. Default: `swtpm`, searched in `PATH`.
    pub swtpm: PathBuf,
    /// What serves the pages of a memory to a VM that runs before it has all of them; `None`: memories are loaded as a
    /// whole. Default: `None`; the service names itself.
    pub page_server: Option<PageServer>,
    /// Machine type. A numbered one, since a memory state can be loaded only into the machine that it was saved from,
    /// and the plain `q35` is another machine after each update of QEMU. Default: `pc-q35-7.2`, which every supported
    /// QEMU has.
    pub machine: String,
    /// Limits of every wait.
    pub deadlines: Deadlines,
    /// When and how far a merge is slowed down for the guest's sake.
    pub pace: MergePace,
}

/// A program that serves the pages of a memory on its standard input, a socket. It is told which with `--memory`,
/// `--blake3` and `--folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// Its path.
    pub program: PathBuf,
    /// Put before the others.
    pub arguments: Vec<String>,
}

/// When a merge is slowed down, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergePace {
    /// Writes of the guest that take longer than this, and four times as long as before the merge, slow the merge down.
    /// Default: 50 ms.
    pub bearable: Duration,
    /// Bytes a second below which no merge is slowed down. Default: 16 MiB.
    pub floor: u64,
}

impl Default for MergePace {
    fn default() -> Self {
        Self { bearable: Duration::from_millis(50), floor: 16 << 20 }
    }
}

/// Limits of every wait on QEMU and its tools.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// From the start of a process until it answers. Default: 30 s.
    pub start: Duration,
    /// For QEMU to greet on its control socket. Default: 5 s.
    pub greeting: Duration,
    /// For commands that do not wait for disks. Default: 10 s.
    pub command: Duration,
    /// For commands that wait until disk writes in flight are done. Default: 60 s.
    pub drain: Duration,
    /// For a process to close its images and end when it is told to; then it is killed. Default: 10 s.
    pub quit: Duration,
    /// For the trial of hardware acceleration. Default: 5 s.
    pub trial: Duration,
    /// For a capture to become active. Default: 30 s.
    pub arm: Duration,
    /// For image tools at work that does not grow with the image. Default: 30 s.
    pub image: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            start: seconds(30),
            greeting: seconds(5),
            command: seconds(10),
            drain: seconds(60),
            quit: seconds(10),
            trial: seconds(5),
            arm: seconds(30),
            image: seconds(30),
        }
    }
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            qemu_img: "qemu-img".into(),
            qemu_nbd: "qemu-nbd".into(),
            prefix_arguments: Vec::new(),
            uefi_code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            uefi_variables: "/usr/share/OVMF/OVMF_VARS_4M.fd".into(),
            swtpm: "swtpm".into(),
            page_server: None,
            machine: "pc-q35-7.2".into(),
            deadlines: Deadlines::default(),
            pace: MergePace::default(),
        }
    }
}

impl QemuConfig {
    /// The default, changed by the environment: `STILLPOINT_QEMU`, `STILLPOINT_QEMU_IMG`, `STILLPOINT_QEMU_NBD`, `STILLPOINT_UEFI_CODE`,
    /// `STILLPOINT_UEFI_VARS` and `STILLPOINT_SWTPM` are paths, `STILLPOINT_QEMU_ARGS` are prefix arguments, separated by white space.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::with(|name| std::env::var_os(name))
    }

    fn with(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut config = Self::default();
        let paths = [
            ("STILLPOINT_QEMU", &mut config.qemu),
            ("STILLPOINT_QEMU_IMG", &mut config.qemu_img),
            ("STILLPOINT_QEMU_NBD", &mut config.qemu_nbd),
            ("STILLPOINT_UEFI_CODE", &mut config.uefi_code),
            ("STILLPOINT_UEFI_VARS", &mut config.uefi_variables),
            ("STILLPOINT_SWTPM", &mut config.swtpm),
        ];
        for (name, path) in paths {
            if let Some(chosen) = variable(name) {
                *path = chosen.into();
            }
        }
        if let Some(arguments) = variable("STILLPOINT_QEMU_ARGS") {
            config.prefix_arguments = arguments.to_string_lossy().split_whitespace().map(str::to_owned).collect();
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_another_qemu() {
        let config = QemuConfig::with(|name| (name == "STILLPOINT_QEMU_ARGS").then(|| " -L /a  -L /b".into()));
        assert_eq!(config.prefix_arguments, ["-L", "/a", "-L", "/b"]);
        assert_eq!(config.qemu, PathBuf::from("qemu-system-x86_64"));
        let config = QemuConfig::with(|name| (name == "STILLPOINT_UEFI_CODE").then(|| "/u/code".into()));
        assert_eq!(config.uefi_code, PathBuf::from("/u/code"));
        assert_eq!(config.uefi_variables, QemuConfig::default().uefi_variables);
    }
}
