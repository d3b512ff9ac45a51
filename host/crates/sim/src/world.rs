//! The world as tests hold it: what happens in it, and what goes wrong in it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stillpoint_common::{
    AcceleratorChoice, Boot, DiskDefinition, DiskFormat, DiskName, FileIdentity, Firmware, InstanceId, Tpm,
    VmDefinition, VmId,
};
use stillpoint_engine::{Ports, ports::HypervisorEventKind};

use crate::{
    AgentScript, Call, FaultPlan, GuestScript, IntakeScript, NotWritten,
    files::Image,
    ports::ports_of,
    state::{Points, State},
    store::KeyValues,
};

/// A simulated host with its guests. Clones are the same world.
#[derive(Debug, Clone)]
pub struct World {
    // Protects all there is; held for one plain function at a time, never over an await.
    state: Arc<Mutex<State>>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty world. Make it inside the runtime whose clock it shall follow.
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::new(Mutex::new(State::new())) }
    }

    /// A world that does not look, after each call, at what every guest reads: for measuring what is above it. It finds
    /// no violation of that kind.
    #[must_use]
    pub fn unwatched() -> Self {
        let world = Self::new();
        world.with(|state| state.looks = false);
        world
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.settle();
        act(&mut state)
    }

    /// The ports of the first process of the service; after [`Self::restart`] that one's answer counts.
    #[must_use]
    pub fn ports(&self) -> Ports {
        ports_of(self, 0)
    }

    /// A new process of the service over the world as it is. Faults and counted calls are forgotten, ports given out
    /// before never return again, and what QEMU was merging it has merged.
    #[must_use]
    pub fn restart(&self) -> Ports {
        let process = self.with(State::restart);
        ports_of(self, process)
    }

    /// A second world that is as this one is now. What runs here runs there too; its service is to be started.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { state: Arc::new(Mutex::new(self.with(|state| state.fork()))) }
    }

    /// Kills the service: no call of a port it has returns any more, or has an effect.
    pub fn crash(&self) {
        self.with(State::crash);
    }

    /// Returns when the service has died, by [`Self::crash`] or by a planned fault.
    pub async fn crashed(&self) {
        let mut crashed = self.with(|state| state.crashed.subscribe());
        // The world holds the sender, so that this cannot fail.
        let _ = crashed.wait_for(|crashed| *crashed).await;
    }

    /// Plans faults; calls are counted anew from here.
    pub fn set_faults(&self, plan: FaultPlan) {
        self.with(|state| {
            state.points = Points { plan, ..Points::default() };
        });
    }

    /// Makes each later call of this method take time before it has its effect. A merge takes it at each of its steps.
    pub fn set_latency(&self, call: Call, latency: Duration) {
        self.with(|state| state.latencies.insert(call, latency));
    }

    /// How long an instance takes to save its memory in the background; no time if not said.
    pub fn set_capture_time(&self, time: Duration) {
        self.with(|state| state.capture_time = time);
    }

    /// How instances take in a memory from now on, where it is loaded while they run.
    pub fn script_intake(&self, script: IntakeScript) {
        self.with(|state| state.intake = script);
    }

    /// An instance has taken in all of its memory.
    pub fn take_in(&self, instance: InstanceId) {
        // One that is gone takes nothing in.
        let _ = self.with(|state| state.take_in(instance));
    }

    /// The rest of an instance's memory cannot be had: it is ended, with this reason.
    pub fn lose_memory(&self, instance: InstanceId, why: &str) {
        self.with(|state| state.lose_memory(instance, why));
    }

    /// Whether the file system is full: nothing new can be allocated.
    pub fn set_full(&self, full: bool) {
        self.with(|state| state.full = full);
    }

    /// Makes a folder a file system of its own that can hold so many bytes; again, to change how many.
    pub fn set_capacity(&self, folder: impl AsRef<Path>, bytes: u64) {
        self.with(|state| state.volumes.insert(folder.as_ref().to_owned(), bytes));
    }

    /// Puts down a qcow2 image of the user's, empty, of so many bytes.
    pub fn add_image(&self, path: impl AsRef<Path>, size: u64) -> FileIdentity {
        self.add_image_of(path, DiskFormat::Qcow2, size)
    }

    /// The same, in another format.
    pub fn add_image_of(&self, path: impl AsRef<Path>, format: DiskFormat, size: u64) -> FileIdentity {
        let image = Image { users_own: true, ..Image::empty(format, size) };
        let path = path.as_ref();
        self.add_folder(path.parent().unwrap_or(path));
        self.with(|state| state.files.put(path, image))
    }

    /// Makes a folder. Only the parent folder of an export's target has to exist, and that of a flattened copy.
    pub fn add_folder(&self, path: impl AsRef<Path>) {
        self.with(|state| state.folders.insert(path.as_ref().to_owned()));
    }

    /// Takes the store away, as somebody with `rm` does while the service is stopped.
    pub fn lose_store(&self) {
        self.with(|state| state.store = KeyValues::default());
    }

    /// Puts a description file down, as it is or another.
    pub fn put_description(&self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.with(|state| state.descriptions.insert(path.as_ref().to_owned(), content.into()));
    }

    /// Takes a file away, as somebody with `rm` does. False if there is none.
    pub fn lose_file(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        self.with(|state| {
            let image = state.files.inode(path).is_some();
            state.files.unlink(path);
            let image = state.descriptions.remove(path).is_some() || image;
            state.memories.remove(path).is_some() || image
        })
    }

    /// Puts a file with the same content and another identity in the place of this one, as `cp` and `mv` do.
    pub fn replace_file(&self, path: impl AsRef<Path>) -> bool {
        self.with(|state| {
            let image = state.files.named(path.as_ref()).cloned();
            image.map(|image| state.files.put(path.as_ref(), image)).is_some()
        })
    }

    /// Moves a file, as `mv` does: another name, the same file.
    pub fn move_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        self.with(|state| state.files.rename(from.as_ref(), to.as_ref().to_owned()));
    }

    /// Writes into an image file from outside, as `dd conv=notrunc` does: the same file, another content.
    pub fn overwrite_file(&self, path: impl AsRef<Path>, block: u64, value: u64) -> bool {
        self.with(|state| state.files.named_mut(path.as_ref()).map(|image| image.blocks.insert(block, value)).is_some())
    }

    /// Writes another backing file into an image, as `qemu-img rebase -u` does.
    pub fn name_backing(&self, path: impl AsRef<Path>, backing: impl AsRef<Path>) -> bool {
        let backing = Some(backing.as_ref().to_owned());
        self.with(|state| state.files.named_mut(path.as_ref()).map(|image| image.backing = backing).is_some())
    }

    /// A program that is none of ours opens a file for writing.
    pub fn open_elsewhere(&self, path: impl AsRef<Path>, program: &str) {
        self.with(|state| state.strangers.insert(path.as_ref().to_owned(), program.to_owned()));
    }

    /// Gives an image another size, as somebody with `qemu-img resize` does. False if there is none.
    pub fn resize_file(&self, path: impl AsRef<Path>, size: u64) -> bool {
        self.with(|state| state.files.named_mut(path.as_ref()).map(|image| image.virtual_size = size).is_some())
    }

    /// Marks an image as damaged.
    pub fn corrupt_file(&self, path: impl AsRef<Path>) -> bool {
        self.with(|state| state.files.named_mut(path.as_ref()).map(|image| image.corrupt = true).is_some())
    }

    /// Spoils a sealed memory state, so that no instance can load it.
    pub fn spoil_memory(&self, path: impl AsRef<Path>) -> bool {
        self.with(|state| state.spoil_memory(path.as_ref()))
    }

    /// Changes what the guest of a VM does, now and in later instances.
    pub fn script_guest(&self, vm: &VmId, change: impl FnOnce(&mut GuestScript)) {
        self.with(|state| {
            let before = state.script(vm);
            let mut script = before.clone();
            change(&mut script);
            let open = script.agent != AgentScript::Absent;
            if let Some(id) = state.running(vm).filter(|_| open != (before.agent != AgentScript::Absent)) {
                state.tell(id, HypervisorEventKind::AgentChannel(open));
            }
            state.scripts.insert(vm.clone(), script);
        });
    }

    /// How many disks of backups are served.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.with(|state| state.endpoints.len())
    }

    /// The agent of a VM's guest is killed: its guardian lets go at once, and none answers any more.
    pub fn kill_agent(&self, vm: &VmId) {
        self.script_guest(vm, |script| script.agent = AgentScript::Absent);
        self.with(|state| {
            let of_vm = state.instances.iter().filter(|(_, instance)| instance.spec.vm == *vm);
            let ids: Vec<_> = of_vm.map(|(id, _)| *id).collect();
            ids.into_iter().for_each(|id| state.end_holds(id));
        });
    }

    /// The guest writes a block. Success means that the guest was told its write is done: it must never be lost.
    ///
    /// # Errors
    /// The write was not done, and the guest does not believe it was.
    pub fn guest_write(&self, vm: &VmId, disk: &DiskName, block: u64, value: u64) -> Result<(), NotWritten> {
        self.with(|state| state.guest_write(vm, disk, block, value))
    }

    /// From now on the guest writes by itself between any two calls of a port, while it runs and is not held: one
    /// value, larger each time, to all its disks and its memory.
    pub fn keep_writing(&self, vm: &VmId, busy: bool) {
        self.with(|state| if busy { state.busy.insert(vm.clone()) } else { state.busy.remove(vm) });
    }

    /// Sets what a running guest has in memory. False if it does not run.
    pub fn set_guest_memory(&self, vm: &VmId, value: u64) -> bool {
        self.with(|state| {
            let running = state.running(vm).and_then(|id| state.instances.get_mut(&id));
            running.map(|instance| instance.memory = value).is_some()
        })
    }

    /// Makes the TPM of a running guest keep a value. False if it does not run, or has none.
    pub fn write_tpm(&self, vm: &VmId, value: u64) -> bool {
        self.with(|state| state.write_tpm(vm, value))
    }

    /// The value that the TPM of a running guest keeps, 0 if it is new; `None` if there is none.
    #[must_use]
    pub fn read_tpm(&self, vm: &VmId) -> Option<u64> {
        self.with(|state| state.read_tpm(vm))
    }

    /// The folders of all TPMs.
    #[must_use]
    pub fn tpm_folders(&self) -> Vec<PathBuf> {
        self.with(|state| state.tpms.keys().cloned().collect())
    }

    /// Takes the folder of a TPM away, as somebody with `rm` does.
    pub fn lose_tpm(&self, folder: impl AsRef<Path>) {
        self.with(|state| state.tpms.remove(folder.as_ref()));
    }

    /// The guest switches itself off.
    pub fn shut_guest_down(&self, vm: &VmId) {
        self.with(|state| state.running(vm).into_iter().for_each(|id| state.shut_down(id)));
    }

    /// The guest restarts itself: its memory is as new.
    pub fn reboot_guest(&self, vm: &VmId) {
        self.with(|state| state.running(vm).into_iter().for_each(|id| state.reboot(id)));
    }

    /// The kernel of the guest panics: it stands still if its process was told so, else it restarts.
    pub fn panic_guest(&self, vm: &VmId) {
        self.with(|state| state.running(vm).into_iter().for_each(|id| state.panic(id)));
    }

    /// Somebody lets an instance go on through its control socket, past the service.
    pub fn resume_behind_the_service(&self, instance: InstanceId) {
        // One that cannot go on stays as it is.
        let _ = self.with(|state| state.resume(instance));
    }

    /// Kills the process of an instance from outside.
    pub fn kill_instance(&self, instance: InstanceId) {
        self.with(|state| state.end_instance(instance));
    }
}

/// A small VM with these disks: name and path of a qcow2 image.
///
/// # Panics
/// If a name is not the name of a disk.
#[must_use]
pub fn definition(disks: &[(&str, &str)]) -> VmDefinition {
    let disk = |(name, path): &(&str, &str)| {
        let name = name.parse().unwrap_or_else(|error| panic!("disk name {name:?} {error}"));
        DiskDefinition { name, path: path.into(), format: DiskFormat::Qcow2 }
    };
    VmDefinition {
        cpus: 1,
        memory_mib: 256,
        accelerator: AcceleratorChoice::Auto,
        firmware: Firmware::Bios,
        tpm: Tpm::Absent,
        boot: Boot::Bios,
        disks: disks.iter().map(disk).collect(),
        pass_through: vec![],
        media: vec![],
        nics: vec![],
        serial_log: None,
        extra_arguments: vec![],
    }
}
