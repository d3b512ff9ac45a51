//! What a test can see of the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use stillpoint_common::{DiskName, InstanceId, KeyValues, Restore, VmId, WriterRequest};
use stillpoint_engine::ports::{LaunchSpec, Observed, RunState};
use tokio::time::Instant;

use crate::{Call, Content, World, exports::is_staging};

impl World {
    /// Rules of the world that were broken: each is a way in which a user would have lost something.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.with(|state| {
            state.check();
            state.violations.clone()
        })
    }

    /// # Panics
    /// If a rule of the world was broken.
    #[track_caller]
    pub fn assert_sound(&self) {
        let violations = self.violations();
        assert!(violations.is_empty(), "rules of the world were broken: {violations:#?}");
    }

    /// The time of day in this world.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.with(|state| state.now())
    }

    /// Calls made since the fault plan was set or the service restarted, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.with(|state| state.points.calls.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.calls().len() as u64
    }

    /// How many planned faults have struck.
    #[must_use]
    pub fn faults_struck(&self) -> u64 {
        self.with(|state| state.points.struck)
    }

    /// What is true of an instance, as the port says it, without counting as a call.
    #[must_use]
    pub fn observed(&self, instance: InstanceId) -> Option<Observed> {
        self.with(|state| state.instances.get(&instance).map(|instance| instance.observed()))
    }

    /// All processes of a VM.
    #[must_use]
    pub fn instances(&self, vm: &VmId) -> Vec<InstanceId> {
        self.with(|state| {
            let of_vm = state.instances.iter().filter(|(_, instance)| instance.spec.vm == *vm);
            of_vm.map(|(id, _)| *id).collect()
        })
    }

    /// The instance in which a VM's guest runs, if it runs.
    #[must_use]
    pub fn running(&self, vm: &VmId) -> Option<InstanceId> {
        self.with(|state| state.running(vm))
    }

    /// Whether and how an instance runs.
    #[must_use]
    pub fn run_state(&self, instance: InstanceId) -> RunState {
        self.observed(instance).map_or(RunState::Gone, |observed| observed.run)
    }

    /// How an instance was started.
    #[must_use]
    pub fn launch_spec(&self, instance: InstanceId) -> Option<LaunchSpec> {
        self.with(|state| state.instances.get(&instance).map(|instance| instance.spec.clone()))
    }

    /// What a guest (running or not) reads from its disk; `None` without a process or disk.
    #[must_use]
    pub fn guest_content(&self, vm: &VmId, disk: &DiskName) -> Option<Content> {
        self.with(|state| {
            let mut of_vm = state.instances.values().filter(|instance| instance.spec.vm == *vm);
            let instance = of_vm.find(|instance| instance.disks.contains_key(disk))?;
            Some(state.files.read(&instance.stack(disk)))
        })
    }

    /// What a guest has in memory; `None` without a process.
    #[must_use]
    pub fn guest_memory(&self, vm: &VmId) -> Option<u64> {
        self.with(|state| state.instances.values().find(|instance| instance.spec.vm == *vm).map(|found| found.memory))
    }

    /// What the host has told a guest; `None` without a process, or if it has told nothing yet.
    #[must_use]
    pub fn told_values(&self, vm: &VmId) -> Option<KeyValues> {
        self.with(|state| state.instances.values().find(|it| it.spec.vm == *vm).and_then(|it| it.values.clone()))
    }

    /// What was asked of the writers of a VM's guest, of each session that was prepared.
    #[must_use]
    pub fn asked_of_writers(&self, vm: &VmId) -> Vec<WriterRequest> {
        self.with(|state| state.asked_of_writers.get(vm).cloned().unwrap_or_default())
    }

    /// The restores that the guest of a VM was told of.
    #[must_use]
    pub fn restores(&self, vm: &VmId) -> Vec<Restore> {
        self.with(|state| state.restores.get(vm).cloned().unwrap_or_default())
    }

    /// How far a guest's clock is behind; `None` without a process.
    #[must_use]
    pub fn clock_behind(&self, vm: &VmId) -> Option<Duration> {
        self.with(|state| {
            state.instances.values().find(|instance| instance.spec.vm == *vm).map(|found| found.clock_behind)
        })
    }

    /// What an image file reads as, through the backing files that it names; `None` if one of them is missing.
    #[must_use]
    pub fn content(&self, path: impl AsRef<Path>) -> Option<Content> {
        self.with(|state| state.files.content(path.as_ref()))
    }

    /// One block of it; zero where nothing was written.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>, block: u64) -> Option<u64> {
        self.content(path).map(|content| content.get(&block).copied().unwrap_or_default())
    }

    /// Bytes that are taken below a folder.
    #[must_use]
    pub fn used(&self, folder: impl AsRef<Path>) -> u64 {
        self.with(|state| state.used(folder.as_ref()))
    }

    /// Every file there is: images, and memory states sealed or not.
    #[must_use]
    pub fn files(&self) -> BTreeSet<PathBuf> {
        self.with(|state| state.files.paths().into_iter().chain(state.memories.keys().cloned()).collect())
    }

    /// Every description file and what it says.
    #[must_use]
    pub fn descriptions(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.with(|state| state.descriptions.clone())
    }

    /// Every record of the store.
    #[must_use]
    pub fn records(&self) -> BTreeMap<String, Vec<u8>> {
        self.with(|state| state.store.scan("", None, usize::MAX))
            .into_iter()
            .map(|(key, stored)| (key, stored.value))
            .collect()
    }

    /// Files that nothing in `referenced` names, and that no finished export contains; folders of unfinished exports.
    #[must_use]
    pub fn orphans<P: AsRef<Path>>(&self, referenced: impl IntoIterator<Item = P>) -> BTreeSet<PathBuf> {
        let mut files = self.files();
        self.with(|state| {
            files.retain(|file| !state.manifests.keys().any(|export| file.starts_with(export)));
            files.extend(state.folders.iter().filter(|folder| is_staging(folder)).cloned());
        });
        for path in referenced {
            files.remove(path.as_ref());
        }
        files
    }

    /// What `referenced` names and is not there.
    #[must_use]
    pub fn missing<P: AsRef<Path>>(&self, referenced: impl IntoIterator<Item = P>) -> BTreeSet<PathBuf> {
        let files = self.files();
        let paths = referenced.into_iter().map(|path| path.as_ref().to_owned());
        paths.filter(|path| !files.contains(path)).collect()
    }

    /// What the manifest of a finished export says, without its list of files.
    #[must_use]
    pub fn manifest(&self, target: impl AsRef<Path>) -> Option<serde_json::Value> {
        self.with(|state| state.manifests.get(target.as_ref()).map(|manifest| manifest.describe.clone()))
    }

    /// Whether a folder exists.
    #[must_use]
    pub fn has_folder(&self, folder: impl AsRef<Path>) -> bool {
        self.with(|state| state.folders.contains(folder.as_ref()))
    }

    /// Folders of VMs that are being imported: they have the mark of an operation.
    #[must_use]
    pub fn marked_folders(&self) -> Vec<PathBuf> {
        self.with(|state| state.marks.keys().cloned().collect())
    }

    /// Whether a VM's guest is held now.
    #[must_use]
    pub fn is_held(&self, vm: &VmId) -> bool {
        self.with(|state| state.sessions.values().any(|session| session.vm == *vm && session.is_held()))
    }

    /// How long each hold of a VM's guest has lasted, up to now for one that lasts.
    #[must_use]
    pub fn holds(&self, vm: &VmId) -> Vec<Duration> {
        let now = Instant::now();
        self.with(|state| {
            let holds = state.sessions.values().filter(|session| session.vm == *vm).filter_map(|session| session.hold);
            holds.map(|hold| hold.to.unwrap_or(now).saturating_duration_since(hold.from)).collect()
        })
    }

    /// Whether no hold of any guest has lasted longer than this.
    #[must_use]
    pub fn never_held_longer_than(&self, limit: Duration) -> bool {
        let vms: BTreeSet<_> = self.with(|state| state.sessions.values().map(|session| session.vm.clone()).collect());
        vms.iter().all(|vm| self.holds(vm).iter().all(|held| *held <= limit))
    }

    /// Calls that change something, made by this process while a guest was held.
    ///
    /// After a restart over a held guest it shows what recovery did before the guest was let go: nothing but thaws (and
    /// the commits around them), if all is well.
    #[must_use]
    pub fn changes_while_held(&self) -> Vec<Call> {
        self.with(|state| state.points.while_held.clone())
    }
}
