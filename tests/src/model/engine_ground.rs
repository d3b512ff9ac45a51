//! Stories told to an engine: on the simulated world, and on real image files of a VM that is off.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use stillpoint_common::{
    CheckpointId, CheckpointPolicy, CriticalSettings, DiskFormat, Failure, Outcome, Reason, VmId, VmSettings,
};
use stillpoint_engine::{
    Doomed, Engine, EngineConfig, NewCheckpoint, NewVm, Ports, Request, StopMode, ports::SystemClock,
};
use stillpoint_memory::FileMemoryStates;
use stillpoint_qemu::{QemuConfig, QemuImages};
use stillpoint_sim::{World, definition};
use stillpoint_store::RedbStore;
use stillpoint_transfer::FolderExports;

use super::{BLOCKS, Blocks, Ground};
use crate::{
    bare::qemu_img,
    sim_host::{SimHost, disk},
};

const MOMENT: Duration = Duration::from_millis(20);
/// How long the merges of a few blocks may take.
const MERGED: Duration = Duration::from_secs(60);
/// Bytes of one block on a real image.
const BLOCK: u64 = 64 << 10;

/// An engine with one VM, and the bytes below it.
pub struct EngineGround<B> {
    host: SimHost,
    bytes: B,
    exports: u32,
}

/// Where the bytes are.
pub trait Bytes {
    /// The folder that exports go to.
    fn exports(&self) -> PathBuf;
    /// Writes to Now.
    fn write(&self, host: &SimHost, head: &Path, block: u64, value: u64);
    /// What an image reads as, through its chain.
    fn read(&self, host: &SimHost, path: &Path) -> Blocks;
    /// A new process of the service.
    fn restart(&self, host: &mut SimHost) -> impl Future<Output = ()>;
}

/// Bytes of the simulated world.
#[derive(Debug, Clone, Copy)]
pub struct Simulated;

/// Bytes of image files in this folder; a simulated world stands for all that is not a file.
#[derive(Debug)]
pub struct RealImages {
    folder: tempfile::TempDir,
    /// A program in the place of `qemu-img`, for the service alone.
    qemu_img: Option<PathBuf>,
}

impl EngineGround<Simulated> {
    /// A VM that runs.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn simulated() -> Self {
        let host = SimHost::new().await;
        host.run(Request::Start).await.expect("it starts");
        Self { host, bytes: Simulated, exports: 0 }
    }

    /// Nothing is left over, and no rule of the world was broken.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_sound(&mut self) {
        self.host.world.assert_sound();
        let referenced = self.host.referenced().await;
        assert_eq!(self.host.world.orphans(&referenced), [].into(), "left over");
        assert_eq!(self.host.world.missing(&referenced), [].into(), "missing");
    }
}

impl EngineGround<RealImages> {
    /// A VM that is off, with one empty qcow2 image.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn real_images() -> io::Result<Self> {
        Self::real_images_by(None).await
    }

    /// The same, where the service uses this program as its `qemu-img`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub async fn real_images_by(qemu_img_of_service: Option<PathBuf>) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("system.qcow2");
        run(Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("1M"));
        std::fs::create_dir(folder.path().join("exports"))?;
        let world = World::new();
        let bytes = RealImages { folder, qemu_img: qemu_img_of_service };
        let engine = bytes.open(&world).await;
        let host = SimHost { world, engine };
        let new = NewVm {
            id: host.vm(),
            definition: definition(&[("system", &image.display().to_string())]),
            checkpoint_policy: CheckpointPolicy::Production,
            critical: CriticalSettings::default(),
            checkpoint_location: None,
            settings: VmSettings::default(),
        };
        host.engine.create_vm(new, None).await.map_err(io::Error::other)?;
        Ok(Self { host, bytes, exports: 0 })
    }

    /// qemu-img finds nothing wrong with any image, and no image is there that nothing refers to.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_sound(&mut self) {
        let layers = self.host.engine.layer_files(&self.host.vm()).await.expect("the catalogue can be read");
        let found = std::fs::read_dir(self.bytes.folder.path()).expect("the folder is there").flatten();
        let images = found.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "qcow2"));
        let (mut images, mut layers): (Vec<_>, _) = (images.collect(), layers);
        images.sort();
        layers.sort();
        assert_eq!(images, layers, "images that are there, layers that are known");
        for image in images {
            run(Command::new(qemu_img()).args(["check", "-q", "-f", "qcow2"]).arg(image));
        }
    }

    /// Waits until nothing is left to merge.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn merged(&mut self) {
        let none = BTreeSet::new();
        let merging = async {
            let left = async || self.host.engine.preview_delete(&self.host.vm(), &Doomed::These(none.clone())).await;
            while !left().await.expect("the catalogue can be read").merges.is_empty() {
                tokio::time::sleep(MOMENT).await;
            }
            self.host.quiet().await;
        };
        tokio::time::timeout(MERGED, merging).await.expect("what is left is merged");
    }

    /// What the catalogue says and what the files are do not differ, and no image is damaged. Clusters that nothing uses
    /// may be left in one whose merge was broken off.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_undamaged(&mut self, what: &str) {
        assert_eq!(self.host.engine.check(Some(&self.host.vm())).await.expect("it can be read"), [], "{what}");
        for image in self.host.engine.layer_files(&self.host.vm()).await.expect("the catalogue can be read") {
            let check = Command::new(qemu_img()).args(["check", "-q", "-f", "qcow2"]).arg(&image).status();
            let code = check.expect("qemu-img").code();
            assert!(matches!(code, Some(0 | 3)), "{what}: {} is damaged", image.display());
        }
    }
}

impl RealImages {
    async fn open(&self, world: &World) -> Engine {
        let config = QemuConfig::from_environment();
        let qemu_img = self.qemu_img.clone().unwrap_or_else(|| config.qemu_img.clone());
        open(world, self.folder.path(), QemuConfig { qemu_img, ..config }).await
    }
}

async fn open(world: &World, folder: &Path, qemu: QemuConfig) -> Engine {
    let store = loop {
        match RedbStore::open(&folder.join("catalogue.redb")).await {
            Ok(store) => break store,
            // Tasks of the engine before are on their way out.
            Err(error) if error.to_string().contains("in use") => tokio::time::sleep(MOMENT).await,
            Err(error) => panic!("{error}"),
        }
    };
    let ports = Ports {
        images: Arc::new(QemuImages::new(qemu)),
        memory: Arc::new(FileMemoryStates::default()),
        exports: Arc::new(FolderExports),
        store: Arc::new(store),
        clock: Arc::new(SystemClock),
        ..world.restart()
    };
    Engine::open(ports, EngineConfig::new(folder.join("checkpoints"))).await.expect("the catalogue is read")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

impl Bytes for Simulated {
    fn exports(&self) -> PathBuf {
        "/exports".into()
    }

    fn write(&self, host: &SimHost, _: &Path, block: u64, value: u64) {
        // One that is off cannot write; the story is passed over by whoever tells it.
        for name in ["system", "data"] {
            host.world.guest_write(&host.vm(), &disk(name), block, value).expect("the guest can write");
        }
    }

    fn read(&self, host: &SimHost, path: &Path) -> Blocks {
        host.world.content(path).unwrap_or_else(|| panic!("{} cannot be read", path.display()))
    }

    async fn restart(&self, host: &mut SimHost) {
        host.restart().await;
    }
}

impl Bytes for RealImages {
    fn exports(&self) -> PathBuf {
        self.folder.path().join("exports")
    }

    fn write(&self, _: &SimHost, head: &Path, block: u64, value: u64) {
        let write = format!("write -P {value} {} {BLOCK}", block * BLOCK);
        run(Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(head));
    }

    fn read(&self, _: &SimHost, path: &Path) -> Blocks {
        let mut read = Command::new("qemu-io");
        read.args(["-r", "-f", "qcow2"]);
        for block in 0..BLOCKS {
            // Its first bytes are shown, and all of it is of one value.
            read.args(["-c", &format!("read -v {} 16", block * BLOCK)]);
        }
        let shown = run(read.arg(path));
        let lines = shown.lines().filter_map(|line| line.split_once(":  ")).map(|(_, bytes)| bytes);
        let values = lines.map(|bytes| u64::from_str_radix(&bytes[..2], 16).expect("a byte"));
        (0..).zip(values).filter(|(_, value)| *value != 0).collect()
    }

    /// The store is one process's: the old engine lets go of it first.
    async fn restart(&self, host: &mut SimHost) {
        host.engine.stop().await;
        let nobody = Engine::open(World::new().ports(), EngineConfig::new("/nowhere")).await;
        drop(std::mem::replace(&mut host.engine, nobody.expect("an empty world")));
        host.engine = self.open(&host.world).await;
    }
}

impl<B> EngineGround<B> {
    /// The engine, and what stands for all that is not a file.
    #[must_use]
    pub const fn host(&self) -> &SimHost {
        &self.host
    }
}

impl<B: Bytes> EngineGround<B> {
    fn vm(&self) -> VmId {
        self.host.vm()
    }

    async fn head(&self) -> Result<PathBuf, Failure> {
        let view = self.host.engine.vm(&self.vm()).await?;
        let (_, head, _) = view.disks.into_iter().next_back().expect("it has a disk");
        Ok(head.path)
    }
}

impl<B: Bytes> Ground for EngineGround<B> {
    async fn write(&mut self, block: u64, value: u64) -> Result<(), Failure> {
        self.bytes.write(&self.host, &self.head().await?, block, value);
        Ok(())
    }

    async fn create(&mut self, memory: bool) -> Result<CheckpointId, Failure> {
        let policy = if memory { CheckpointPolicy::Standard } else { CheckpointPolicy::ProductionOnly };
        let new = NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() };
        let made = self.host.run(Request::CreateCheckpoint(new)).await?;
        let Outcome::Checkpoint(id) = made else { panic!("{made:?} is no checkpoint") };
        Ok(id)
    }

    async fn apply(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.host.run(Request::Apply(id.into())).await.map(drop)
    }

    async fn revert(&mut self) -> Result<(), Failure> {
        self.host.run(Request::Revert).await.map(drop)
    }

    async fn delete(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.host.run(Request::DeleteCheckpoint(id)).await.map(drop)
    }

    async fn delete_all(&mut self, ids: BTreeSet<CheckpointId>) -> Result<(), Failure> {
        self.host.run(Request::DeleteCheckpoints(ids)).await.map(drop)
    }

    async fn delete_subtree(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.host.run(Request::DeleteSubtree(id)).await.map(drop)
    }

    async fn delete_memory(&mut self, id: CheckpointId) -> Result<(), Failure> {
        self.host.run(Request::DeleteMemory(id)).await.map(drop)
    }

    async fn export(&mut self, id: CheckpointId) -> Result<Blocks, Failure> {
        self.exports += 1;
        let folder = self.bytes.exports().join(self.exports.to_string());
        let format = DiskFormat::Qcow2;
        self.host.run(Request::Export { checkpoint: id, folder: folder.clone(), format }).await?;
        Ok(self.bytes.read(&self.host, &folder.join("system.qcow2")))
    }

    async fn restart(&mut self) -> Result<(), Failure> {
        self.bytes.restart(&mut self.host).await;
        while let Err(failure) = self.host.engine.update_vm(&self.vm(), stillpoint_engine::VmChange::default()).await {
            assert_eq!(failure.reason, Reason::VmBusy, "{failure}");
            tokio::time::sleep(MOMENT).await;
        }
        Ok(())
    }

    async fn power(&mut self, on: bool) -> Result<(), Failure> {
        let request = if on { Request::Start } else { Request::Stop(StopMode::TurnOff) };
        self.host.run(request).await.map(drop)
    }

    async fn checkpoints(&mut self) -> Result<Vec<(CheckpointId, Option<CheckpointId>)>, Failure> {
        let all = self.host.engine.checkpoints(&self.vm()).await?;
        Ok(all.into_iter().map(|view| (view.checkpoint.id, view.checkpoint.parent)).collect())
    }

    async fn read(&mut self, id: CheckpointId) -> Result<Option<Blocks>, Failure> {
        let view = self.host.engine.checkpoint(&self.vm(), id).await?;
        let read = view.files.values().map(|path| self.bytes.read(&self.host, path));
        let mut all: Vec<Blocks> = read.collect();
        all.dedup();
        assert_eq!(all.len(), 1, "disks are cut together");
        Ok(all.pop())
    }

    async fn now(&mut self) -> Result<Option<Blocks>, Failure> {
        Ok(Some(self.bytes.read(&self.host, &self.head().await?)))
    }
}
