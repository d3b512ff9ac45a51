//! The engine on the simulated world, with one VM: what suites without a real guest begin with.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use stillpoint_common::{
    Checkpoint, CheckpointId, CheckpointPolicy, CriticalSettings, DiskName, Failure, MemoryState, Operation,
    OperationState, Outcome, Tpm, VmDefinition, VmId, VmSettings,
};
use stillpoint_engine::{
    CheckpointView, Engine, EngineConfig, NewCheckpoint, NewVm, PortLimits, Request, StopMode, VmChange,
};
use stillpoint_sim::{Content, World, definition};

/// Size of each disk.
const DISK: u64 = 1 << 30;

/// A host service on a simulated world. Its VM is called `web` and has the disks `system` and `data`.
pub struct SimHost {
    /// The world.
    pub world: World,
    /// The engine of the present process.
    pub engine: Engine,
}

/// Which disk is meant.
///
/// # Panics
/// If it is not the name of a disk.
#[must_use]
pub fn disk(name: &str) -> DiskName {
    name.parse().expect("a disk name")
}

/// The engine's settings in tests.
#[must_use]
pub fn config() -> EngineConfig {
    let seconds = Duration::from_secs;
    let limits = PortLimits { look: seconds(10), act: seconds(30), stall: seconds(600), bulk: seconds(900) };
    // Agents are asked for signs of life where a test wants it: calls are counted and struck by their number.
    EngineConfig { clock_after_apply: seconds(1), heartbeat: None, limits, ..EngineConfig::new("/state") }
}

impl SimHost {
    /// A host whose VM is off.
    ///
    /// # Panics
    /// If the VM cannot be defined.
    pub async fn new() -> Self {
        let world = World::new();
        for path in ["/vm/system.qcow2", "/vm/data.qcow2"] {
            world.add_image(path, DISK);
        }
        world.add_folder("/exports");
        let engine = Engine::open(world.ports(), config()).await.expect("the store opens");
        let host = Self { world, engine };
        let new = NewVm {
            id: host.vm(),
            definition: definition(&[("system", "/vm/system.qcow2"), ("data", "/vm/data.qcow2")]),
            checkpoint_policy: CheckpointPolicy::Production,
            checkpoint_location: None,
            critical: CriticalSettings::default(),
            settings: VmSettings::default(),
        };
        host.engine.create_vm(new, None).await.expect("the VM is fine");
        host
    }

    /// A host whose VM runs and has written block 1 = 1 to both disks.
    ///
    /// # Panics
    /// If the VM does not start.
    pub async fn running() -> Self {
        let host = Self::new().await;
        host.run(Request::Start).await.expect("it starts");
        host.write(1, 1);
        host
    }

    /// The same, of a VM with a TPM, which keeps 1.
    ///
    /// # Panics
    /// If the VM does not start.
    pub async fn running_with_tpm() -> Self {
        let host = Self::new().await;
        let known = host.engine.vm(&host.vm()).await.expect("it is there").vm.definition;
        let definition = Some(VmDefinition { tpm: Tpm::V2, ..known });
        let change = VmChange { definition, ..VmChange::default() };
        host.engine.update_vm(&host.vm(), change).await.expect("it can have one");
        host.run(Request::Start).await.expect("it starts");
        host.write(1, 1);
        assert!(host.world.write_tpm(&host.vm(), 1), "it has a TPM");
        host
    }

    /// The VM.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn vm(&self) -> VmId {
        "web".parse().expect("a VM name")
    }

    /// A new process of the service over the world as it is.
    ///
    /// # Panics
    /// If the store cannot be read.
    pub async fn restart(&mut self) {
        self.restart_with(|_| ()).await;
    }

    /// The same, with other settings.
    ///
    /// # Panics
    /// If the store cannot be read.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut EngineConfig)) {
        let mut config = config();
        change(&mut config);
        self.engine = Engine::open(self.world.restart(), config).await.expect("the store opens");
    }

    /// Does a request, to its end, and lets the merges that come of it end.
    ///
    /// # Errors
    /// Why it was refused or failed.
    pub async fn run(&self, request: Request) -> Result<Outcome, Failure> {
        let accepted = self.engine.submit(&self.vm(), request, None).await?;
        let ended = self.end_of(&accepted).await;
        self.quiet().await;
        ended
    }

    /// Returns when nothing is at work on the VM.
    ///
    /// # Panics
    /// If there is no VM.
    pub async fn quiet(&self) {
        self.engine.idle(&self.vm()).await.expect("the VM is there");
    }

    /// Waits for the end of an operation.
    ///
    /// # Errors
    /// Why it failed.
    ///
    /// # Panics
    /// If it is not known.
    pub async fn end_of(&self, operation: &Operation) -> Result<Outcome, Failure> {
        let mut watch = self.engine.watch_operation(operation.id).await.expect("it is known");
        let ended = watch.wait_for(|operation| operation.state != OperationState::Running).await;
        match ended.expect("the last state is kept").state.clone() {
            OperationState::Done(outcome) => Ok(outcome),
            OperationState::Failed(failure) => Err(failure),
            OperationState::Running => unreachable!("it has ended"),
        }
    }

    /// Makes a checkpoint.
    ///
    /// # Errors
    /// Why it was refused or failed.
    ///
    /// # Panics
    /// If something else was made.
    pub async fn create(&self, policy: CheckpointPolicy) -> Result<Checkpoint, Failure> {
        let made = self
            .run(Request::CreateCheckpoint(NewCheckpoint { policy: Some(policy), ..NewCheckpoint::default() }))
            .await?;
        let Outcome::Checkpoint(id) = made else { panic!("{made:?} is no checkpoint") };
        Ok(self.checkpoint(id).await.checkpoint)
    }

    /// A checkpoint that is there.
    ///
    /// # Panics
    /// If it is not.
    pub async fn checkpoint(&self, id: CheckpointId) -> CheckpointView {
        self.engine.checkpoint(&self.vm(), id).await.expect("it is there")
    }

    /// All checkpoints.
    ///
    /// # Panics
    /// If the catalogue cannot be read.
    pub async fn checkpoints(&self) -> Vec<CheckpointView> {
        self.engine.checkpoints(&self.vm()).await.expect("the catalogue can be read")
    }

    /// The guest writes the same to both disks and is told that it is written.
    ///
    /// # Panics
    /// If it could not write.
    pub fn write(&self, block: u64, value: u64) {
        for name in ["system", "data"] {
            self.world.guest_write(&self.vm(), &disk(name), block, value).expect("the guest can write");
        }
    }

    /// What a block of both disks reads as in the guest.
    ///
    /// # Panics
    /// If the two differ, or the VM is off.
    #[must_use]
    pub fn read(&self, block: u64) -> u64 {
        let read = |name| {
            let content: Content = self.world.guest_content(&self.vm(), &disk(name)).expect("the VM runs");
            content.get(&block).copied().unwrap_or_default()
        };
        assert_eq!(read("system"), read("data"), "disks are cut together");
        read("system")
    }

    /// What a checkpoint's disks read as, by disk.
    ///
    /// # Panics
    /// If a file of it is missing.
    #[must_use]
    pub fn content(&self, view: &CheckpointView) -> BTreeMap<DiskName, Content> {
        let content = |(disk, path): (&DiskName, &PathBuf)| {
            (disk.clone(), self.world.content(path).unwrap_or_else(|| panic!("{} is missing", path.display())))
        };
        view.files.iter().map(content).collect()
    }

    /// Every file the catalogue knows of.
    ///
    /// # Panics
    /// If the catalogue cannot be read.
    pub async fn referenced(&self) -> Vec<PathBuf> {
        let view = self.engine.vm(&self.vm()).await.expect("the VM is there");
        let mut files = self.engine.layer_files(&self.vm()).await.expect("the catalogue can be read");
        files.extend(view.disks.into_iter().map(|(_, head, _)| head.path));
        files.extend(view.vm.saved.map(|saved| saved.memory.path));
        files.extend(view.vm.held.map(|held| held.folder.join(format!("{}.memory", held.id))));
        for view in self.checkpoints().await {
            files.extend(view.files.into_values());
            files.extend(view.checkpoint.memory.map(|MemoryState { path, .. }| path));
        }
        files
    }

    /// Makes sure that no promise of a port was broken, and that the files which are there are those the catalogue knows.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_files(&self) {
        self.world.assert_sound();
        let referenced = self.referenced().await;
        assert_eq!(self.world.orphans(&referenced), [].into(), "files nobody refers to");
        assert_eq!(self.world.missing(&referenced), [].into(), "files that are referred to and missing");
    }

    /// As [`assert_files`](Self::assert_files), and that the description files are right too.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_clean(&self) {
        self.assert_files().await;
        self.assert_described().await;
    }

    /// Makes sure that the description files say what the catalogue says, and that there are no others.
    ///
    /// # Panics
    /// If it is not so.
    pub async fn assert_described(&self) {
        let view = self.engine.vm(&self.vm()).await.expect("the VM is there");
        let checkpoints: Vec<Checkpoint> = self.checkpoints().await.into_iter().map(|view| view.checkpoint).collect();
        let location = &view.vm.checkpoint_location;
        let files: BTreeMap<PathBuf, serde_json::Value> = self.world.descriptions().into_iter().map(read).collect();
        let policy = serde_json::to_value(view.vm.checkpoint_policy).expect("JSON");
        let mut expected = vec![location.join("web.vm.json")];
        for checkpoint in &checkpoints {
            let path = location.join(format!("{}.checkpoint.json", checkpoint.id));
            let described = files.get(&path).unwrap_or_else(|| panic!("{} is not described", checkpoint.id));
            assert_eq!(
                described["checkpoint"],
                serde_json::to_value(checkpoint).expect("JSON"),
                "the checkpoint's own file"
            );
            assert_eq!(described["vm"]["checkpoint_policy"], policy, "a setting of its VM");
            expected.push(path);
        }
        expected.sort();
        let there: Vec<PathBuf> = files.keys().cloned().collect();
        assert_eq!(there, expected, "description files");
        let described = &files[&location.join("web.vm.json")];
        assert_eq!(described["vm"], serde_json::to_value(&view.vm).expect("JSON"), "the VM's own file");
        assert_eq!(described["checkpoints"], serde_json::to_value(&checkpoints).expect("JSON"), "its checkpoints");
        let all = described["layers"].as_array().expect("a list");
        for checkpoint in &checkpoints {
            let file = &files[&location.join(format!("{}.checkpoint.json", checkpoint.id))];
            let heads = serde_json::to_value(&checkpoint.disks).expect("JSON");
            let heads = heads.as_object().expect("disks with their heads").values();
            let chains: Vec<_> = heads.flat_map(|head| chain(all, head)).collect();
            assert_eq!(file["layers"], serde_json::Value::Array(chains), "what {} reads through", checkpoint.id);
        }
        let layers: BTreeSet<PathBuf> =
            all.iter().map(|layer| layer["file"]["path"].as_str().expect("a path").into()).collect();
        let known: BTreeSet<PathBuf> =
            self.engine.layer_files(&self.vm()).await.expect("the catalogue can be read").into_iter().collect();
        assert_eq!(layers, known, "its layers");
    }

    /// Pulls the plug.
    ///
    /// # Panics
    /// If that fails.
    pub async fn turn_off(&self) {
        self.run(Request::Stop(StopMode::TurnOff)).await.expect("the plug can be pulled");
    }
}

/// From the user's image up to this head, by the layers of a description.
fn chain(layers: &[serde_json::Value], head: &serde_json::Value) -> Vec<serde_json::Value> {
    let mut chain = Vec::new();
    let mut next = Some(head);
    while let Some(layer) = next.and_then(|id| layers.iter().find(|layer| layer["file"]["id"] == *id)) {
        chain.insert(0, layer.clone());
        next = layer.get("backing");
    }
    chain
}

fn read((path, content): (PathBuf, Vec<u8>)) -> (PathBuf, serde_json::Value) {
    (path, serde_json::from_slice(&content).expect("descriptions are JSON"))
}
