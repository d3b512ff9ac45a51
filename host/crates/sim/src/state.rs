//! The plain state of the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use stillpoint_common::{BackupId, DiskName, InstanceId, OperationId, Restore, SessionId, VmId, WriterRequest};
use stillpoint_engine::ports::{HypervisorEvent, HypervisorEventKind, RunState, Trouble};
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::{
    Call, Fault, FaultPlan, GuestScript, NotWritten,
    exports::Manifest,
    files::{BLOCK_BYTES, Files},
    instance::Instance,
    intake::IntakeScript,
    memory::Memory,
    merging::LiveJob,
    sessions::Session,
    store::KeyValues,
    streaming::StreamJob,
};

const EVENTS: usize = 256;
/// 2026-01-01, when every simulated world begins.
const BEGINNING: i64 = 1_767_225_600;
/// Blocks that a busy guest writes to.
const BUSY_BLOCKS: u64 = 16;

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) files: Files,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) scripts: BTreeMap<VmId, GuestScript>,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// What was asked of the writers of guests.
    pub(crate) asked_of_writers: BTreeMap<VmId, Vec<WriterRequest>>,
    /// The restores that guests were told of.
    pub(crate) restores: BTreeMap<VmId, Vec<Restore>>,
    pub(crate) memories: BTreeMap<PathBuf, Memory>,
    /// Folders of TPMs, and what each has in it.
    pub(crate) tpms: BTreeMap<PathBuf, Vec<u8>>,
    /// Files that a program which is none of ours has open, and its name.
    pub(crate) strangers: BTreeMap<PathBuf, String>,
    /// Disks of backups that are served, and their topmost layers.
    pub(crate) endpoints: BTreeMap<(BackupId, DiskName), PathBuf>,
    /// Description files.
    pub(crate) descriptions: BTreeMap<PathBuf, Vec<u8>>,
    /// Folders that exist.
    pub(crate) folders: BTreeSet<PathBuf>,
    /// What finished exports say of themselves.
    pub(crate) manifests: BTreeMap<PathBuf, Manifest>,
    /// Folders of VMs in the making, and whose they are.
    pub(crate) marks: BTreeMap<PathBuf, OperationId>,
    pub(crate) merges: BTreeMap<(InstanceId, DiskName), LiveJob>,
    pub(crate) streams: BTreeMap<(InstanceId, DiskName), StreamJob>,
    pub(crate) store: KeyValues,
    pub(crate) points: Points,
    pub(crate) violations: Vec<String>,
    pub(crate) latencies: BTreeMap<Call, Duration>,
    pub(crate) capture_time: Duration,
    pub(crate) intake: IntakeScript,
    /// Instances that were ended since the rest of their memory could not be had, and why.
    pub(crate) lost: BTreeMap<InstanceId, String>,
    pub(crate) full: bool,
    /// Folders that are file systems of their own, and how much each can hold.
    pub(crate) volumes: BTreeMap<PathBuf, u64>,
    pub(crate) busy: BTreeSet<VmId>,
    pub(crate) written: u64,
    pub(crate) events: broadcast::Sender<HypervisorEvent>,
    pub(crate) crashed: watch::Sender<bool>,
    /// Whether what guests read is looked at after each call.
    pub(crate) looks: bool,
    process: u64,
    began: Instant,
}

/// Calls made by the present process since its fault plan was set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Points {
    pub(crate) plan: FaultPlan,
    pub(crate) calls: Vec<Call>,
    pub(crate) counts: BTreeMap<Call, u64>,
    pub(crate) struck: u64,
    /// Those that change something and were made while a guest was held.
    pub(crate) while_held: Vec<Call>,
}

impl Points {
    /// Counts a call, and says what is to go wrong with it.
    pub(crate) fn count(&mut self, call: Call) -> Option<Fault> {
        self.calls.push(call);
        let nth = self.counts.entry(call).or_default();
        *nth += 1;
        let fault = self.plan.strikes(call, *nth, self.calls.len() as u64);
        self.struck += u64::from(fault.is_some());
        fault
    }
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            files: Files::default(),
            instances: BTreeMap::new(),
            scripts: BTreeMap::new(),
            sessions: BTreeMap::new(),
            asked_of_writers: BTreeMap::new(),
            restores: BTreeMap::new(),
            memories: BTreeMap::new(),
            tpms: BTreeMap::new(),
            strangers: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            descriptions: BTreeMap::new(),
            folders: BTreeSet::from([PathBuf::from("/")]),
            manifests: BTreeMap::new(),
            marks: BTreeMap::new(),
            merges: BTreeMap::new(),
            streams: BTreeMap::new(),
            store: KeyValues::default(),
            points: Points::default(),
            violations: vec![],
            latencies: BTreeMap::new(),
            capture_time: Duration::ZERO,
            intake: IntakeScript::default(),
            lost: BTreeMap::new(),
            full: false,
            volumes: BTreeMap::new(),
            busy: BTreeSet::new(),
            written: 0,
            events: broadcast::Sender::new(EVENTS),
            crashed: watch::Sender::new(false),
            looks: true,
            process: 0,
            began: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let beginning = Timestamp::from_second(BEGINNING).unwrap_or_default();
        beginning.saturating_add(self.began.elapsed()).unwrap_or(beginning)
    }

    /// Counts a call; answers the fault that strikes it, and how long it takes.
    pub(crate) fn count(&mut self, call: Call) -> (Option<Fault>, Duration) {
        if call.changes() && self.sessions.values().any(Session::is_held) {
            self.points.while_held.push(call);
        }
        (self.points.count(call), self.latencies.get(&call).copied().unwrap_or_default())
    }

    pub(crate) fn lives(&self, process: u64) -> bool {
        self.process == process && !*self.crashed.borrow()
    }

    /// The present process dies: no call of it has an effect any more.
    pub(crate) fn crash(&mut self) {
        self.crashed.send_replace(true);
        self.host_is_lost();
    }

    /// Begins the next process. What QEMU was doing by itself, it has gone on doing.
    pub(crate) fn restart(&mut self) -> u64 {
        self.host_is_lost();
        self.finish_orphaned_merges();
        self.finish_orphaned_streams();
        self.process += 1;
        self.points = Points::default();
        self.crashed.send_replace(false);
        self.process
    }

    /// The same world, apart from this one: nothing that happens in one is known in the other.
    pub(crate) fn fork(&self) -> Self {
        let (events, crashed) = (broadcast::Sender::new(EVENTS), watch::Sender::new(false));
        Self { events, crashed, points: Points::default(), ..self.clone() }
    }

    /// Does what became due while nobody looked.
    pub(crate) fn settle(&mut self) {
        self.end_leases();
        self.end_captures();
    }

    pub(crate) fn tell(&self, instance: InstanceId, kind: HypervisorEventKind) {
        // Nobody may be listening.
        let _ = self.events.send(HypervisorEvent { instance, kind });
    }

    pub(crate) fn script(&self, vm: &VmId) -> GuestScript {
        self.scripts.get(vm).cloned().unwrap_or_default()
    }

    /// The instance in which this VM's guest runs.
    pub(crate) fn running(&self, vm: &VmId) -> Option<InstanceId> {
        let runs = |instance: &&Instance| instance.spec.vm == *vm && instance.run == RunState::Running;
        self.instances.iter().find(|(_, instance)| runs(instance)).map(|(id, _)| *id)
    }

    pub(crate) fn guest_write(&mut self, vm: &VmId, disk: &DiskName, block: u64, to: u64) -> Result<(), NotWritten> {
        let id = self.running(vm).ok_or(NotWritten::NotRunning)?;
        if self.is_held(id) {
            return Err(NotWritten::Held);
        }
        let mirror = self.mirror(id, disk);
        let Some(instance) = self.instances.get(&id) else { return Err(NotWritten::NotRunning) };
        let head = instance.disks.get(disk).and_then(|layers| layers.first()).ok_or(NotWritten::NoSuchDisk)?;
        let targets: Vec<_> = mirror.into_iter().chain([head.inode]).collect();
        let has = |inode: &u64| self.files.open(*inode).is_some_and(|image| image.blocks.contains_key(&block));
        let new: Vec<_> =
            targets.iter().filter(|inode| !has(inode)).filter_map(|inode| self.files.path_of(*inode)).collect();
        if new.iter().any(|path| self.lacks(path, BLOCK_BYTES * new.len() as u64)) {
            let Some(instance) = self.instances.get_mut(&id) else { return Err(NotWritten::NotRunning) };
            instance.run = RunState::Critical(Trouble { disk: Some(disk.clone()), no_space: true });
            self.tell(id, HypervisorEventKind::Critical(Some(disk.clone())));
            return Err(NotWritten::NoSpace);
        }
        for target in targets {
            self.files.open_mut(target).into_iter().for_each(|image| image.blocks.extend([(block, to)]));
        }
        let Some(instance) = self.instances.get_mut(&id) else { return Err(NotWritten::NotRunning) };
        let believed = instance.believed.entry(disk.clone()).or_default();
        believed.insert(block, to);
        believed.retain(|_, value| *value != 0);
        Ok(())
    }

    /// Each busy guest writes the same new value to all its disks, and keeps it in memory.
    pub(crate) fn guests_write(&mut self) {
        for vm in self.busy.clone() {
            let Some(id) = self.running(&vm).filter(|id| !self.is_held(*id)) else { continue };
            self.written += 1;
            let value = self.written;
            let Some(instance) = self.instances.get_mut(&id) else { continue };
            instance.memory = value;
            let disks: Vec<_> = instance.disks.keys().cloned().collect();
            for disk in disks {
                // A full disk has stopped the guest by itself.
                let _ = self.guest_write(&vm, &disk, value % BUSY_BLOCKS, value);
            }
        }
    }

    /// Looks whether every guest still reads what it has reason to believe.
    pub(crate) fn check(&mut self) {
        if !self.looks {
            return;
        }
        for (id, instance) in &mut self.instances {
            let stacks: Vec<_> = instance.disks.keys().map(|disk| (disk.clone(), instance.stack(disk))).collect();
            for (disk, stack) in stacks {
                let reads = self.files.read(&stack);
                if instance.believed.get(&disk) != Some(&reads) {
                    let vm = &instance.spec.vm;
                    self.violations.push(format!("disk {disk} of {vm} changed under instance {id}"));
                    instance.believed.insert(disk, reads);
                }
            }
        }
    }
}
