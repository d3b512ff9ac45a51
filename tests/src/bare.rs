//! A guest in a plain QEMU, without the product: for testing the guest and the harness themselves, for booting what
//! the product exported, and as what the product is measured against.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, io};

use tokio::process::{Child, Command};

use crate::guest_image::{COMMAND_LINE, GuestSet};
use crate::lab::{self, LabChannel, LabError};
use crate::qmp::Qmp;

/// How long a guest may take to boot on a busy machine without KVM; it takes about five seconds on an idle one.
pub const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// The QEMU to start: `STILLPOINT_QEMU`, or the one in `PATH`.
#[must_use]
pub fn qemu() -> OsString {
    env::var_os("STILLPOINT_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into())
}

/// The `qemu-img` to start: `STILLPOINT_QEMU_IMG`, or the one in `PATH`.
#[must_use]
pub fn qemu_img() -> OsString {
    env::var_os("STILLPOINT_QEMU_IMG").unwrap_or_else(|| "qemu-img".into())
}

/// What a bare guest may be given beside its data disk.
#[derive(Debug, Clone)]
pub struct BareOptions {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Added to the kernel's command line.
    pub append: String,
    /// Added to QEMU's command line.
    pub arguments: Vec<OsString>,
    /// Begins the names of this QEMU's sockets and logs, so that two can share a set of files.
    pub name: String,
}

impl Default for BareOptions {
    fn default() -> Self {
        Self { memory_mib: 512, append: String::new(), arguments: Vec::new(), name: "bare".into() }
    }
}

/// A running QEMU; it ends when this goes.
#[derive(Debug)]
pub struct BareQemu {
    process: Child,
    sockets: PathBuf,
    name: String,
}

impl BareQemu {
    /// Boots a guest from the set, with its data disk as node `disk0` (format layer) and its agent's port on the
    /// socket `NAME.agent`.
    ///
    /// # Errors
    /// If QEMU cannot be started. That it runs is seen by [`BareQemu::lab`] or [`BareQemu::qmp`].
    pub async fn boot(set: &GuestSet, options: BareOptions) -> io::Result<Self> {
        Self::boot_from(set, &set.data_disk, options).await
    }

    /// As [`BareQemu::boot`], from another disk.
    ///
    /// # Errors
    /// As for [`BareQemu::boot`].
    pub async fn boot_from(set: &GuestSet, disk: &Path, options: BareOptions) -> io::Result<Self> {
        let errors = std::fs::File::create(set.path().join(format!("{}.stderr", options.name)))?;
        let mut command = Command::new(qemu());
        command.args(arguments(set, disk, &options)).args(&options.arguments);
        command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors).kill_on_drop(true);
        Ok(Self { process: command.spawn()?, sockets: set.path().to_owned(), name: options.name })
    }

    /// Connects to the guest, waiting until it has booted.
    ///
    /// # Errors
    /// If it does not answer within [`BOOT_LIMIT`].
    pub async fn lab(&self) -> Result<LabChannel, LabError> {
        LabChannel::connect(&self.socket("lab"), BOOT_LIMIT).await
    }

    /// Connects to QEMU's monitor.
    ///
    /// # Errors
    /// If QEMU does not listen, or does not greet (another client has the monitor).
    pub async fn qmp(&self) -> io::Result<Qmp> {
        Qmp::connect(&self.socket("qmp"), Duration::from_secs(10)).await
    }

    /// The socket `NAME.KIND`: `lab`, `agent` or `qmp`.
    #[must_use]
    pub fn socket(&self, kind: &str) -> PathBuf {
        self.sockets.join(format!("{}.{kind}", self.name))
    }

    /// What the guest has printed on its console.
    #[must_use]
    pub fn console(&self) -> String {
        std::fs::read(self.socket("console"))
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// Waits for QEMU's own end, after a power-off, say.
    ///
    /// # Errors
    /// If it takes longer than `limit`.
    pub async fn ended(&mut self, limit: Duration) -> io::Result<()> {
        tokio::time::timeout(limit, self.process.wait()).await.map_err(|_| io::ErrorKind::TimedOut)?.map(drop)
    }

    /// Pulls the plug, and waits until QEMU is gone.
    ///
    /// # Errors
    /// If the process cannot be waited for.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }
}

impl Drop for BareQemu {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = self.console();
            let skip = console.lines().count().saturating_sub(20);
            let last: Vec<&str> = console.lines().skip(skip).collect();
            eprintln!("the console of `{}` ends with:\n{}", self.name, last.join("\n"));
        }
    }
}

fn arguments(set: &GuestSet, disk: &Path, options: &BareOptions) -> Vec<OsString> {
    let path = |kind: &str| set.path().join(format!("{}.{kind}", options.name)).display().to_string();
    let socket = |id: &str| format!("socket,id={id},path={},server=on,wait=off", path(id));
    let append = format!("{COMMAND_LINE} {}", options.append);
    let memory = options.memory_mib.to_string();
    let port = |id: &str, name: &str| format!("virtserialport,chardev={id},name={name},id=port-{id}");
    let words = [
        ["-name", &options.name],
        ["-machine", "q35,accel=tcg"],
        ["-cpu", "max"],
        ["-m", &memory],
        ["-smp", "1"],
        ["-display", "none"],
        ["-append", &append],
        ["-kernel", &set.files.kernel.display().to_string()],
        ["-initrd", &set.files.initrd.display().to_string()],
        ["-serial", &format!("file:{}", path("console"))],
        ["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))],
        ["-blockdev", &format!("driver=qcow2,node-name=disk0,file.driver=file,file.filename={}", disk.display())],
        ["-device", "virtio-blk-pci,drive=disk0,id=vda"],
        ["-device", "virtio-serial-pci,id=serial"],
        ["-chardev", &socket("lab")],
        ["-device", &port("lab", lab::PORT_NAME)],
        ["-chardev", &socket("agent")],
        ["-device", &port("agent", "org.stillpoint.agent.0")],
    ];
    let plain = ["-nodefaults", "-no-user-config"].map(OsString::from);
    plain.into_iter().chain(words.iter().flatten().map(OsString::from)).collect()
}
