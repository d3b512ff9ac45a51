//! What a hypervisor does with its instances, by QEMU's rules.

use std::{collections::BTreeMap, time::Duration};

use stillpoint_common::{Accelerator, DiskFormat, InstanceId, LayerFile, LayerId};
use stillpoint_engine::ports::{
    DiskChain, HypervisorError, HypervisorEventKind, LaunchSpec, Launched, OnPanic, Overlay, RunState, StartMode,
    Trouble,
};

use crate::{
    AgentScript,
    files::BLOCK_BYTES,
    instance::{Instance, OpenLayer, Saving},
    state::State,
};

/// Version of the simulated hypervisor.
pub(crate) const VERSION: &str = "10.0.2";

pub(crate) type Outcome<T = ()> = Result<T, HypervisorError>;

pub(crate) fn refused<T>(command: &str, message: impl Into<String>) -> Outcome<T> {
    Err(HypervisorError::Refused { command: command.to_owned(), message: message.into() })
}

pub(crate) fn wrong_state<T>(message: &str) -> Outcome<T> {
    Err(HypervisorError::WrongState(message.to_owned()))
}

impl State {
    pub(crate) fn instance(&mut self, id: InstanceId) -> Outcome<&mut Instance> {
        self.instances.get_mut(&id).ok_or(HypervisorError::Gone)
    }

    pub(crate) fn launch(&mut self, spec: &LaunchSpec) -> Outcome<Launched> {
        let launched = Launched { accelerator: Accelerator::Tcg("simulated".to_owned()), version: VERSION.to_owned() };
        if self.instances.contains_key(&spec.instance) {
            return Ok(launched);
        }
        let failed = |message| HypervisorError::LaunchFailed { message };
        if !spec.definition.layered().map(|disk| disk.name).eq(spec.chains.iter().map(|chain| chain.disk.clone())) {
            return Err(failed("the chains are not those of the definition's disks".to_owned()));
        }
        let mut disks = BTreeMap::new();
        for chain in &spec.chains {
            let layers = self.open_chain(chain).map_err(failed)?;
            disks.insert(chain.disk.clone(), layers);
        }
        let run = match spec.mode {
            StartMode::Fresh => RunState::Paused,
            StartMode::Restore => RunState::AwaitingMemory,
        };
        let mut instance = Instance {
            spec: spec.clone(),
            run,
            disks,
            attached: BTreeMap::new(),
            memory: 0,
            saving: Saving::None,
            taking_in: None,
            believed: BTreeMap::new(),
            clock_behind: Duration::ZERO,
            agent_started: false,
            values: None,
        };
        self.lock_all(&instance).map_err(failed)?;
        self.read_media(spec).map_err(failed)?;
        if let Some(folder) = &spec.tpm {
            self.power_tpm(folder).map_err(HypervisorError::Tpm)?;
        }
        for layer in instance.open() {
            self.files.open_mut(layer.inode).into_iter().for_each(|image| image.merged_away = false);
        }
        let names = instance.disks.keys().cloned();
        instance.believed = names.map(|disk| (disk.clone(), self.files.read(&instance.stack(&disk)))).collect();
        self.instances.insert(spec.instance, instance);
        Ok(launched)
    }

    /// Opens a chain; answers it from the head down.
    fn open_chain(&mut self, chain: &DiskChain) -> Result<Vec<OpenLayer>, String> {
        let mut opened: Vec<OpenLayer> = vec![];
        for file in &chain.layers {
            let layer = self.open_layer(file)?;
            let below = opened.first().map(|layer| &layer.path);
            if self.files.named(&file.path).and_then(|image| image.backing.as_ref()) != below {
                // QEMU would take what it is told; the guest would read something else from the next start on.
                self.violations.push(format!("launch with {} not over the file that it names", file.path.display()));
            }
            opened.insert(0, layer);
        }
        if opened.is_empty() { Err(format!("disk {} has no layers", chain.disk)) } else { Ok(opened) }
    }

    fn open_layer(&self, file: &LayerFile) -> Result<OpenLayer, String> {
        let shown = file.path.display();
        let inode = self.files.inode(&file.path).ok_or_else(|| format!("Could not open '{shown}': No such file"))?;
        let fits = self.files.named(&file.path).is_some_and(|image| image.format == file.format && !image.corrupt);
        if !fits {
            return Err(format!("Image '{shown}' is not in {} format", file.format.driver()));
        }
        Ok(OpenLayer { id: file.id, path: file.path.clone(), inode })
    }

    /// Opens the media. Any number of processes may read the same one, while none writes to it.
    fn read_media(&self, spec: &LaunchSpec) -> Result<(), String> {
        for file in spec.definition.media.iter().filter_map(|medium| medium.file.as_ref()) {
            let opened = LayerFile { id: LayerId::generate(), path: file.path.clone(), format: file.format };
            let medium = self.open_layer(&opened)?;
            if self.instances.values().any(|instance| instance.writes_to(medium.inode)) {
                return Err(format!("Failed to get shared \"write\" lock on '{}'", file.path.display()));
            }
        }
        Ok(())
    }

    /// Takes QEMU's locks: one writer of a file, and nobody who reads through it beside that one.
    fn lock_all(&mut self, new: &Instance) -> Result<(), String> {
        for layer in new.open() {
            let writes = new.writes_to(layer.inode);
            let shared = |other: &Instance| {
                other.writes_to(layer.inode) || (writes && other.open().any(|open| open.inode == layer.inode))
            };
            let again = new.open().filter(|other| other.inode == layer.inode).count() > 1;
            if again && writes || self.instances.values().any(shared) {
                return Err(format!("Failed to get \"write\" lock on '{}'", layer.path.display()));
            }
            let children = self.files.children(&layer.path).into_iter();
            let mut in_use = children.filter(|(_, child)| !child.blocks.is_empty() && !child.merged_away);
            if let Some((child, _)) = in_use.next().filter(|_| writes) {
                let (child, parent) = (child.display(), layer.path.display());
                self.violations.push(format!("launch writes to {parent} although {child} lies on it"));
            }
        }
        Ok(())
    }

    /// A process ends, for whatever reason.
    pub(crate) fn end_instance(&mut self, id: InstanceId) {
        if self.instances.remove(&id).is_some() {
            self.end_holds(id);
            self.merges.retain(|(of, _), _| *of != id);
            self.streams.retain(|(of, _), _| *of != id);
            self.tell(id, HypervisorEventKind::Gone);
        }
    }

    pub(crate) fn shut_down(&mut self, id: InstanceId) {
        if let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.run == RunState::Running) {
            instance.run = RunState::ShutDown;
            self.end_holds(id);
            self.tell(id, HypervisorEventKind::ShutDown);
        }
    }

    pub(crate) fn reboot(&mut self, id: InstanceId) {
        if let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.run == RunState::Running) {
            instance.memory = 0;
            instance.values = None;
            self.end_holds(id);
            self.tell(id, HypervisorEventKind::Reset);
        }
    }

    /// The guest's kernel panics: it stands still, or restarts the guest, as most kernels are set to.
    pub(crate) fn panic(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id).filter(|instance| instance.run == RunState::Running) else {
            return;
        };
        match instance.spec.on_panic {
            OnPanic::StandStill => instance.run = RunState::Panicked,
            OnPanic::GoOn => instance.memory = 0,
        }
        self.end_holds(id);
        self.tell(id, HypervisorEventKind::Panicked);
    }

    pub(crate) fn set_on_panic(&mut self, id: InstanceId, on_panic: OnPanic) -> Outcome {
        self.instance(id)?.spec.on_panic = on_panic;
        Ok(())
    }

    pub(crate) fn pause(&mut self, id: InstanceId) -> Outcome {
        let instance = self.instance(id)?;
        match instance.run {
            RunState::Running => instance.run = RunState::Paused,
            RunState::Paused | RunState::Panicked | RunState::Critical(_) | RunState::ShutDown => {}
            RunState::Gone | RunState::AwaitingMemory => return wrong_state("the VM awaits its memory"),
        }
        Ok(())
    }

    pub(crate) fn resume(&mut self, id: InstanceId) -> Outcome {
        let full = self.is_short(id);
        let instance = self.instance(id)?;
        let vm = instance.spec.vm.clone();
        match &instance.run {
            RunState::Running => return Ok(()),
            RunState::Critical(trouble) if full => {
                let disk = trouble.disk.clone();
                self.tell(id, HypervisorEventKind::Critical(disk));
                return Ok(());
            }
            RunState::Paused | RunState::Panicked | RunState::Critical(_) => {}
            RunState::Gone | RunState::AwaitingMemory => return wrong_state("the VM awaits its memory"),
            RunState::ShutDown => return wrong_state("the guest has switched itself off"),
        }
        let first = !std::mem::replace(&mut instance.agent_started, true);
        if let Some(other) = self.running(&vm) {
            self.violations.push(format!("{vm} runs twice: {other} and {id}"));
        }
        self.instance(id)?.run = RunState::Running;
        if first && self.script(&vm).agent != AgentScript::Absent {
            self.tell(id, HypervisorEventKind::AgentChannel(true));
        }
        Ok(())
    }

    /// The write that has stopped an instance would stop it again.
    fn is_short(&self, id: InstanceId) -> bool {
        let Some(instance) = self.instances.get(&id) else { return false };
        let RunState::Critical(Trouble { disk: Some(disk), .. }) = &instance.run else { return false };
        let head = instance.disks.get(disk).and_then(|layers| layers.first());
        head.is_some_and(|head| self.lacks(&head.path, BLOCK_BYTES))
    }

    pub(crate) fn attach(&mut self, id: InstanceId, overlays: &[Overlay]) -> Outcome {
        for overlay in overlays {
            let layer = self.open_layer(&overlay.file).or_else(|message| refused("blockdev-add", message))?;
            let elsewhere = |(other, instance): (&InstanceId, &Instance)| {
                *other != id && instance.open().any(|open| open.inode == layer.inode)
            };
            if self.instances.iter().any(elsewhere) {
                return refused("blockdev-add", "Failed to get \"write\" lock");
            }
            if overlay.file.format != DiskFormat::Qcow2 {
                return refused("blockdev-add", "an overlay is qcow2");
            }
            let instance = self.instance(id)?;
            if !instance.open().any(|open| open.id == layer.id) {
                instance.attached.insert(layer.id, layer);
            }
        }
        self.instance(id).map(drop)
    }

    pub(crate) fn detach(&mut self, id: InstanceId, overlays: &[LayerId]) -> Outcome {
        let instance = self.instance(id)?;
        instance.attached.retain(|layer, _| !overlays.contains(layer));
        Ok(())
    }

    pub(crate) fn switch(&mut self, id: InstanceId, overlays: &[Overlay]) -> Outcome {
        let instance = self.instance(id)?;
        if !matches!(instance.run, RunState::Running | RunState::Paused | RunState::Critical(_)) {
            return wrong_state("disks are switched in a VM that runs or is paused");
        }
        let head = |instance: &Instance, overlay: &Overlay| {
            instance.disks.get(&overlay.disk).and_then(|layers| layers.first()).map(|layer| layer.id)
        };
        if overlays.iter().all(|overlay| head(instance, overlay) == Some(overlay.file.id)) {
            return Ok(());
        }
        if let Some(busy) = overlays.iter().find(|overlay| self.is_head_busy(id, &overlay.disk)) {
            return refused(
                "transaction",
                format!("Node of {} is busy: block device is in use by block job", busy.disk),
            );
        }
        let instance = self.instance(id)?;
        for overlay in overlays {
            if head(instance, overlay) != Some(overlay.backing) {
                return refused("transaction", format!("the head of {} is another one", overlay.disk));
            }
            if !instance.attached.contains_key(&overlay.file.id) {
                return refused("transaction", format!("Cannot find node for {}", overlay.file.id));
            }
        }
        for overlay in overlays {
            let attached = instance.attached.remove(&overlay.file.id);
            if let (Some(layers), Some(layer)) = (instance.disks.get_mut(&overlay.disk), attached) {
                layers.insert(0, layer);
            }
        }
        Ok(())
    }
}
