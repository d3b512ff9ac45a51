//! The product as a user runs it: `stillpointd` in a folder of its own, on real QEMU.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use stillpoint_cli::{
    client::{Client, ClientError, VmToCreate},
    view::{Disk, KernelBoot, Operation, Spec, Vm},
};
use stillpoint_common::{AcceleratorChoice, CheckpointPolicy, CriticalSettings, DiskFormat, VmId, VmSettings};
use tokio::process::{Child, Command};

use crate::{
    guest_image::{COMMAND_LINE, GuestSet},
    lab::{self, LabChannel, LabError},
    programs::program,
};

/// How long a guest may take to boot.
pub const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How long the service may take to serve.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running `stillpointd` with folders of its own. Dropping it ends the service and every VM it has.
pub struct Service {
    folder: PathBuf,
    process: Child,
    environment: Vec<(String, String)>,
}

impl Service {
    /// Starts the service; its folders are below `folder`, whose path must be short.
    ///
    /// # Errors
    /// If it was not built, or does not serve in time.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        Self::start_with(folder, Vec::new()).await
    }

    /// The same, with these environment variables.
    ///
    /// # Errors
    /// If it was not built, or does not serve in time.
    pub async fn start_with(folder: &Path, environment: Vec<(String, String)>) -> io::Result<Self> {
        let process = spawn(folder, &environment)?;
        let service = Self { folder: folder.to_owned(), process, environment };
        service.serving().await?;
        Ok(service)
    }

    async fn serving(&self) -> io::Result<()> {
        let connected = async {
            loop {
                match self.client().await {
                    Ok(client) if client.host().await.is_ok() => return,
                    Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no service: {}", self.log()));
        tokio::time::timeout(START_LIMIT, connected).await.map_err(late)
    }

    /// The socket it serves on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("r/api.sock")
    }

    /// A client of it.
    ///
    /// # Errors
    /// If it does not serve.
    pub async fn client(&self) -> Result<Client, ClientError> {
        Client::connect(self.socket()).await
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("service.log")).unwrap_or_default()
    }

    /// SIGKILL. VMs go on.
    ///
    /// # Errors
    /// If it has ended already.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.process.kill().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it has not after so long.
    pub async fn ended(&mut self, within: Duration) -> io::Result<()> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the service goes on");
        tokio::time::timeout(within, self.process.wait()).await.map_err(late)?.map(drop)
    }

    /// Starts it again over the same folders.
    ///
    /// # Errors
    /// If it does not serve in time.
    pub async fn start_again(&mut self) -> io::Result<()> {
        self.process = spawn(&self.folder, &self.environment)?;
        self.serving().await
    }

    /// Ends it as an init system does, and waits for that.
    ///
    /// # Errors
    /// If it cannot be told.
    pub async fn terminate(&mut self) -> io::Result<()> {
        if let Some(pid) = self.process.id() {
            Command::new("kill").arg(pid.to_string()).status().await?;
        }
        self.process.wait().await.map(drop)
    }

    /// How much memory the service takes, in MiB.
    ///
    /// # Errors
    /// If it has ended.
    pub fn resident_mib(&self) -> io::Result<f64> {
        let pid = self.process.id().ok_or(io::ErrorKind::NotFound)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().map_err(io::Error::other)?;
        Ok(kib / 1024.0)
    }

    /// Runs the command-line client and answers its standard output, its standard error and its exit code.
    ///
    /// # Errors
    /// If it was not built.
    pub async fn stillpoint(&self, arguments: &[&str]) -> io::Result<(String, String, i32)> {
        let mut command = Command::new(program("stillpoint")?);
        command.args(arguments).env("STILLPOINT_SOCKET", self.socket()).env("NO_COLOR", "1").stdin(Stdio::null());
        let output = command.kill_on_drop(true).output().await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1)))
    }

    /// Folders of the VMs' processes.
    #[must_use]
    pub fn instances(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.join("r/vm")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.join("lab").exists()).collect()
    }

    /// Process ids of the VMs' QEMUs.
    #[must_use]
    pub fn qemu_pids(&self) -> Vec<u32> {
        let run = self.folder.join("r/vm").display().to_string();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("qemu-system") && line.contains(&run)
        };
        pids.filter(ours).collect()
    }

    /// The channel into the guest of the only VM that runs, once it has booted.
    ///
    /// # Errors
    /// If no guest answers in time.
    pub async fn lab(&self) -> Result<LabChannel, LabError> {
        let socket = async {
            loop {
                if let Some(instance) = self.instances().into_iter().next_back() {
                    return instance.join("lab");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(BOOT_LIMIT, socket).await;
        LabChannel::connect(&found.unwrap_or_else(|_| self.folder.join("no-vm-runs")), BOOT_LIMIT).await
    }

    /// Defines a VM that boots the test guest on this set's data disk.
    ///
    /// # Errors
    /// If the service refuses.
    pub async fn define(&self, name: &str, set: &GuestSet) -> Result<VmId, ClientError> {
        self.define_as(name, guest_spec(set, 512)).await
    }

    /// The same, of a VM with this specification.
    ///
    /// # Errors
    /// If the service refuses.
    pub async fn define_as(&self, name: &str, spec: Spec) -> Result<VmId, ClientError> {
        let vm = VmToCreate {
            id: name.parse().expect("tests give good names"),
            spec,
            checkpoint_policy: Some(CheckpointPolicy::Production),
            checkpoint_location: None,
            critical: CriticalSettings::default(),
            settings: VmSettings::default(),
        };
        let made: Vm = self.client().await?.create_vm(&vm).await?;
        debug_assert!(made.name.contains(name));
        Ok(vm.id)
    }

    /// Defines a VM, starts it, and waits until its guest has booted.
    ///
    /// # Errors
    /// If any of it fails.
    pub async fn boot(&self, name: &str, set: &GuestSet) -> Result<(VmId, LabChannel), Box<dyn std::error::Error>> {
        self.boot_as(name, guest_spec(set, 512)).await
    }

    /// The same, of a VM with this specification.
    ///
    /// # Errors
    /// If any of it fails.
    pub async fn boot_as(&self, name: &str, spec: Spec) -> Result<(VmId, LabChannel), Box<dyn std::error::Error>> {
        let vm = self.define_as(name, spec).await?;
        let client = self.client().await?;
        let started: Operation = client.start_vm(&vm).await?;
        client.wait(&started.id).await?;
        Ok((vm, self.lab().await?))
    }
}

/// The test guest with this much memory. Its lab channel is in the runtime folder of its process.
#[must_use]
pub fn guest_spec(set: &GuestSet, memory_mib: u64) -> Spec {
    let text = |path: &Path| path.display().to_string();
    let disk = Disk { name: "data".into(), path: text(&set.data_disk), format: DiskFormat::Qcow2 };
    let kernel = KernelBoot {
        kernel: text(&set.files.kernel),
        initrd: text(&set.files.initrd),
        command_line: COMMAND_LINE.to_owned(),
    };
    Spec {
        cpus: 1,
        memory_mib,
        accelerator: AcceleratorChoice::Tcg,
        uefi: None,
        tpm: false,
        kernel: Some(kernel),
        disks: vec![disk],
        pass_through: vec![],
        media: vec![],
        nics: vec![],
        serial_log: text(&set.path().join("console")),
        extra_arguments: lab_arguments(),
    }
}

/// The channel of the tests into the guest: a second port, which the product knows nothing of.
fn lab_arguments() -> Vec<String> {
    let words = [
        "-chardev",
        "socket,id=lab,path={runtime}/lab,server=on,wait=off",
        "-device",
        "virtio-serial-pci,id=lab-serial",
        "-device",
        &format!("virtserialport,bus=lab-serial.0,chardev=lab,name={},id=port-lab", lab::PORT_NAME),
    ];
    words.map(str::to_owned).to_vec()
}

fn spawn(folder: &Path, environment: &[(String, String)]) -> io::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("service.log"))?;
    let mut command = Command::new(program("stillpointd")?);
    command.arg("--state-folder").arg(folder.join("s")).arg("--run-folder").arg(folder.join("r"));
    command.env("STILLPOINT_LOG", "debug,h2=info,hyper=info,tonic=info,tower=info").env("NO_COLOR", "1");
    command.envs(environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn()
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the service's log\n{}", self.log());
        }
        let _ = self.process.start_kill();
        for pid in self.qemu_pids() {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}
