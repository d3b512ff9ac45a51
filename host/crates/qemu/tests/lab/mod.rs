//! What the tests on real QEMU share: a folder, a VM of two disks, and a guest that writes for ever.
//!
//! `STILLPOINT_QEMU`, `STILLPOINT_QEMU_IMG` and `STILLPOINT_QEMU_ARGS` choose the QEMU to test on.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use stillpoint_common::{
    AcceleratorChoice, Boot, DiskDefinition, DiskFormat, DiskName, Firmware, InstanceId, LayerFile, LayerId, Tpm,
    VmDefinition,
};
use stillpoint_engine::{
    layout::RuntimeLayout,
    ports::{
        DiskChain, Hypervisor, HypervisorEvent, HypervisorEventKind, Images, LaunchSpec, Observed, OfflineMerge,
        OnPanic, Overlay, ProgressSink, RunState, StartMode,
    },
};
use stillpoint_memory::FileMemoryStates;
use stillpoint_qemu::{
    QemuConfig, QemuHypervisor, QemuImages,
    qmp::{self, Client},
};
use tempfile::TempDir;
use tokio::sync::broadcast;
use uuid::Uuid;

pub const DISK_SIZE: u64 = 16 << 20;
/// The guest's numbers go round in so many sectors, from this one on.
const RING: usize = 4096;
const FIRST_SECTOR: usize = 2048;
/// Far more than anything here takes.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Lab {
    pub folder: TempDir,
    pub layout: RuntimeLayout,
    pub hypervisor: QemuHypervisor,
    pub images: QemuImages,
    pub states: FileMemoryStates,
    /// The chains of the disks `system` and `data`, from the base up.
    pub chains: Vec<DiskChain>,
    pub instance: InstanceId,
}

impl Drop for Lab {
    /// Ends what a failed test left running: by pid, and only if it is still that process's folder.
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.layout.root()) else { return };
        for folder in entries.flatten().map(|entry| entry.path()) {
            if let Some(pid) = pid_in(&folder) {
                kill(pid);
            }
        }
    }
}

pub fn config() -> QemuConfig {
    QemuConfig::from_environment()
}

pub fn disk(name: &str) -> DiskName {
    name.parse().unwrap()
}

pub fn quiet() -> ProgressSink {
    Arc::new(|_| {})
}

impl Lab {
    /// Two qcow2 disks; the guest on the first one writes to both.
    pub async fn new() -> Self {
        Self::with_format(DiskFormat::Qcow2).await
    }

    pub async fn with_format(format: DiskFormat) -> Self {
        let shm = Path::new("/dev/shm");
        let folder = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap();
        let layout = RuntimeLayout::new(folder.path().join("run"));
        let mut chains = Vec::new();
        for (name, content) in [("system", &include_bytes!("writer.bin")[..]), ("data", &[])] {
            let raw = folder.path().join("raw");
            std::fs::write(&raw, content).unwrap();
            std::fs::OpenOptions::new().write(true).open(&raw).unwrap().set_len(DISK_SIZE).unwrap();
            let path = folder.path().join(format!("{name}.{}", format.driver()));
            tool(&["convert", "-f", "raw", "-O", format.driver(), text(&raw), text(&path)]);
            let layer = LayerFile { id: LayerId::generate(), path, format };
            chains.push(DiskChain { disk: disk(name), layers: vec![layer] });
        }
        let hypervisor = QemuHypervisor::new(config(), layout.clone());
        let (images, states) = (QemuImages::new(config()), FileMemoryStates::default());
        Self { folder, layout, hypervisor, images, states, chains, instance: InstanceId::generate() }
    }

    pub fn definition(&self) -> VmDefinition {
        let define = |chain: &DiskChain| {
            let head = chain.layers.last().unwrap();
            DiskDefinition { name: chain.disk.clone(), path: head.path.clone(), format: head.format }
        };
        VmDefinition {
            cpus: 1,
            memory_mib: 64,
            accelerator: AcceleratorChoice::Tcg,
            firmware: Firmware::Bios,
            tpm: Tpm::Absent,
            boot: Boot::Bios,
            disks: self.chains.iter().map(define).collect(),
            pass_through: vec![],
            media: vec![],
            nics: vec![],
            serial_log: Some(self.folder.path().join("serial.log")),
            extra_arguments: vec![],
        }
    }

    pub fn spec(&self) -> LaunchSpec {
        LaunchSpec {
            vm: "lab".parse().unwrap(),
            instance: self.instance,
            uid: Uuid::from_u128(7),
            generation_id: Uuid::new_v4(),
            definition: self.definition(),
            chains: self.chains.clone(),
            tpm: None,
            mode: StartMode::Fresh,
            on_panic: OnPanic::GoOn,
        }
    }

    pub async fn launch(&self) {
        self.hypervisor.launch(&self.spec()).await.unwrap();
    }

    /// Launches, lets it run, and waits until the guest has written a few numbers.
    pub async fn run(&self) {
        self.launch().await;
        self.hypervisor.resume(self.instance).await.unwrap();
        self.progress(5).await;
    }

    /// Waits until the guest has written `more` numbers more.
    pub async fn progress(&self, more: u32) {
        let begun = self.written().await;
        while self.written().await < begun + more {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The greatest number on the first disk, read beside the running VM.
    pub async fn written(&self) -> u32 {
        numbers(&self.chains[0].layers).greatest
    }

    pub async fn observe(&self) -> Observed {
        self.hypervisor.observe(self.instance).await.unwrap()
    }

    pub async fn retire(&self) {
        self.hypervisor.retire(self.instance).await.unwrap();
        assert_eq!(self.observe().await.run, RunState::Gone);
        assert!(!self.layout.instance(self.instance).exists());
    }

    /// Makes an overlay for each disk and opens it.
    pub async fn attach_overlays(&self) -> Vec<Overlay> {
        let mut overlays = Vec::new();
        for chain in &self.chains {
            let backing = chain.layers.last().unwrap();
            let id = LayerId::generate();
            let path = backing.path.with_file_name(format!("{}-{id}.qcow2", chain.disk));
            self.images.create_overlay(&path, backing, DISK_SIZE).await.unwrap();
            let file = LayerFile { id, path, format: DiskFormat::Qcow2 };
            overlays.push(Overlay { disk: chain.disk.clone(), backing: backing.id, file });
        }
        self.hypervisor.attach_overlays(self.instance, &overlays).await.unwrap();
        overlays
    }

    /// Lays a new overlay on each disk of the running VM.
    pub async fn cut(&mut self) -> Vec<Overlay> {
        let overlays = self.attach_overlays().await;
        self.hypervisor.switch_heads(self.instance, &overlays).await.unwrap();
        self.lay(&overlays);
        overlays
    }

    pub fn lay(&mut self, overlays: &[Overlay]) {
        for (chain, overlay) in self.chains.iter_mut().zip(overlays) {
            chain.layers.push(overlay.file.clone());
        }
    }

    /// The chains as QEMU has them are those we think.
    pub async fn assert_chains(&self) {
        let observed = self.observe().await;
        for chain in &self.chains {
            let ids: Vec<_> = chain.layers.iter().rev().map(|layer| layer.id).collect();
            assert_eq!(observed.chains[&chain.disk], ids, "{}", chain.disk);
        }
        assert_eq!(observed.chains.len(), self.chains.len());
    }

    /// A second control connection, as a person with a debugger has it.
    pub async fn debug(&self) -> Client {
        Client::connect(&self.layout.debug_socket(self.instance), LONG).await.unwrap().0
    }

    pub fn pid(&self) -> i32 {
        pid_in(&self.layout.instance(self.instance)).unwrap()
    }
}

/// Runs a command of QEMU's human monitor.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Human {
    pub command_line: String,
}

impl qmp::Command for Human {
    const NAME: &'static str = "human-monitor-command";
    type Ok = String;
}

/// Writes a pattern to a disk of a running VM, as a guest would.
pub async fn write_pattern(debug: &Client, disk: &str, pattern: u8, at: &str, length: &str) {
    let device = format!("/machine/peripheral/disk-{disk}/virtio-backend");
    let command_line = format!("qemu-io -d {device} \"write -P {pattern} {at} {length}\"");
    let said = debug.execute(&Human { command_line }, LONG).await.unwrap();
    // What it wrote goes to QEMU's own output; only a refusal is answered.
    assert!(said.trim().is_empty(), "{said}");
}

fn pid_in(folder: &Path) -> Option<i32> {
    let stat = std::fs::read_to_string(folder.join("process")).ok()?;
    let pid: i32 = stat.split(' ').next()?.parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&line).contains(text(folder)).then_some(pid)
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// The next event of this kind, or a failed test.
pub async fn event(events: &mut broadcast::Receiver<HypervisorEvent>, wanted: &HypervisorEventKind) {
    let seen = async {
        loop {
            if events.recv().await.unwrap().kind == *wanted {
                break;
            }
        }
    };
    tokio::time::timeout(LONG, seen).await.unwrap_or_else(|_| panic!("no event {wanted:?}"));
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs qemu-img.
pub fn tool(arguments: &[&str]) -> String {
    run(&config().qemu_img, arguments)
}

/// Runs the qemu-io that lies beside qemu-img.
pub fn io(arguments: &[&str]) -> String {
    let program = config().qemu_img;
    run(&program.with_file_name("qemu-io"), arguments)
}

fn run(program: &PathBuf, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a chain reads as.
pub fn content(layers: &[LayerFile]) -> Vec<u8> {
    let top = layers.last().unwrap();
    let target = tempfile::NamedTempFile::new().unwrap();
    tool(&["convert", "-U", "-f", top.format.driver(), "-O", "raw", text(&top.path), text(target.path())]);
    std::fs::read(target.path()).unwrap()
}

/// The numbers that the guest has written.
#[derive(Debug, PartialEq, Eq)]
pub struct Numbers {
    pub greatest: u32,
    /// Numbers that ought to be there and are not.
    pub missing: Vec<u32>,
}

pub fn numbers(layers: &[LayerFile]) -> Numbers {
    let content = content(layers);
    let number = |slot: usize| {
        let at = (FIRST_SECTOR + slot) * 512;
        u32::from_le_bytes(content[at..at + 4].try_into().unwrap())
    };
    let greatest = (0..RING).map(number).max().unwrap();
    let first = greatest.saturating_sub(u32::try_from(RING).unwrap() - 1).max(1);
    let missing = (first..=greatest).filter(|wanted| number(*wanted as usize % RING) != *wanted).collect();
    Numbers { greatest, missing }
}

/// A merge on files of three layers: the superfluous one is the second, its child the third.
pub fn offline(layers: &[LayerFile]) -> OfflineMerge {
    OfflineMerge { child: layers[2].clone(), parent: layers[1].clone(), below: vec![layers[0].clone()] }
}
