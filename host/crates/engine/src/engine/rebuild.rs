//! Making the catalogue again from description files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use stillpoint_common::{Checkpoint, CheckpointState, Failure, FileIdentity, Layer, Vm, VmId};

use super::Engine;
use crate::{
    actor::VmActor,
    catalogue::Changes,
    describe::{self, VM_ENDING, VmDescription, is_newer, read},
    error::StepError,
    ports::{FoundDescription, RunState},
    rebuild::{Evidence, LeftFile, Process, Rebuilt, TakenVm, Verdict, judge},
};

/// Records in one transaction.
const AT_ONCE: usize = 40;

impl Engine {
    /// Takes VMs into the catalogue that are described in these folders, or right below them, or below the service's own
    /// folder for checkpoints, and that the catalogue does not have. A VM whose own description is lost, or is none, is
    /// put together from those of its checkpoints, and described anew; else nothing is written but the catalogue.
    ///
    /// May be called again: what is there already is not touched. A service that dies in the middle leaves each VM
    /// taken or not.
    ///
    /// # Errors
    /// If a folder that is named, or the catalogue, cannot be read.
    pub async fn rebuild(&self, folders: &[PathBuf]) -> Result<Rebuilt, Failure> {
        let mut rebuilt = Rebuilt::default();
        let (mut done, mut described) = (BTreeSet::new(), BTreeSet::new());
        for found in self.descriptions_in(folders, VM_ENDING).await? {
            if !done.insert(found.path.clone()) {
                continue;
            }
            if found.content.as_ref().is_ok_and(|bytes| is_newer(bytes)) {
                // Whoever wrote it knows more of the VM than its checkpoints do.
                described.extend(vm_of_file(&found.path));
            }
            let read = |bytes: Vec<u8>| read::<VmDescription>(&bytes).map_err(|failure| failure.message);
            let vm = found.content.map_err(|why| format!("it cannot be read: {why}")).and_then(read);
            described.extend(vm.as_ref().ok().map(|described| described.vm.id.clone()));
            self.take(&mut rebuilt, found.path, vm, Vec::new()).await?;
        }
        for told in self.told_by_checkpoints(folders, &described, &mut rebuilt.left).await? {
            if self.take(&mut rebuilt, told.file, told.vm, vec![told.note]).await? {
                describe::settled(&self.world, &told.id).await;
            }
        }
        Ok(rebuilt)
    }

    /// Takes a VM, or says why not. Answers whether it did.
    async fn take(
        &self,
        rebuilt: &mut Rebuilt,
        file: PathBuf,
        described: Result<VmDescription, String>,
        notes: Vec<String>,
    ) -> Result<bool, Failure> {
        let taken = match described {
            Ok(described) => self.take_up(&file, described).await?,
            Err(why) => Err(why),
        };
        let was_taken = taken.is_ok();
        match taken {
            Ok(taken) => {
                let notes = notes.into_iter().chain(taken.notes).collect();
                rebuilt.taken.push(TakenVm { notes, ..taken });
            }
            Err(why) => rebuilt.left.push(LeftFile { file, why }),
        }
        Ok(was_taken)
    }

    pub(super) async fn descriptions_in(
        &self,
        folders: &[PathBuf],
        ending: &str,
    ) -> Result<Vec<FoundDescription>, Failure> {
        let port = &self.world.ports.descriptions;
        // Our own folder may not exist yet.
        let mut found = port.find(&self.world.config.checkpoints_folder, ending).await.unwrap_or_default();
        for folder in folders {
            found.extend(port.find(folder, ending).await.map_err(StepError::from)?);
        }
        Ok(found)
    }

    async fn take_up(&self, file: &Path, described: VmDescription) -> Result<Result<TakenVm, String>, Failure> {
        let evidence = self.evidence(&described).await?;
        let (vm, notes) = match judge(&described, &evidence) {
            Verdict::Take(vm, notes) => (*vm, notes),
            Verdict::Leave(why) => return Ok(Err(why)),
        };
        if !self.write_down(&vm, &described, &evidence).await? {
            return Ok(Err(format!("VM {} was defined in the meantime", vm.id)));
        }
        let actor = VmActor::spawn(self.world.clone(), self.hub.clone(), vm.id.clone(), Vec::new());
        self.actors.lock().await.insert(vm.id.clone(), actor);
        tracing::info!(vm = %vm.id, file = %file.display(), "taken into the catalogue");
        let (checkpoints, layers) = (described.checkpoints.len(), described.layers.len());
        let running = vm.instance.is_some();
        Ok(Ok(TakenVm { vm: vm.id, file: file.to_owned(), checkpoints, layers, running, notes }))
    }

    /// The VM's record comes last: until then nothing of it counts. Answers false if there is a VM of this name.
    async fn write_down(&self, vm: &Vm, described: &VmDescription, evidence: &Evidence) -> Result<bool, Failure> {
        let layers: Vec<Layer> = described.layers.iter().map(|layer| found_again(layer, evidence)).collect();
        let catalogue = &self.world.catalogue;
        for layers in layers.chunks(AT_ONCE) {
            let changes = layers.iter().fold(Changes::default(), |changes, layer| changes.set_layer(&vm.id, layer));
            catalogue.commit(changes).await.map_err(StepError::from)?;
        }
        let checkpoints: Vec<_> = described.checkpoints.iter().map(without_session).collect();
        for checkpoints in checkpoints.chunks(AT_ONCE) {
            let changes = checkpoints.iter().fold(Changes::default(), Changes::set_checkpoint);
            catalogue.commit(changes).await.map_err(StepError::from)?;
        }
        match catalogue.commit(Changes::default().new_vm(vm)).await {
            Ok(()) => Ok(true),
            Err(crate::ports::StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(StepError::from(error).into()),
        }
    }

    async fn evidence(&self, described: &VmDescription) -> Result<Evidence, Failure> {
        let ports = &self.world.ports;
        let id = &described.vm.id;
        let known = self.world.catalogue.vm(id).await.is_ok();
        let (mut seen, mut owned) = (BTreeMap::new(), BTreeMap::new());
        for layer in &described.layers {
            let found = ports.images.look(&layer.file).await;
            if let Ok(found) = &found {
                let owner = self.world.catalogue.owner(found.identity).await?.filter(|owner| owner != id);
                owned.extend(owner.map(|owner| (layer.file.id, owner)));
            }
            seen.insert(layer.file.id, found);
        }
        let files: BTreeSet<&PathBuf> = described.layers.iter().map(|layer| &layer.file.path).collect();
        let is_head = |layer: &&Layer| described.vm.own_layers().any(|own| own == layer.file.id);
        let heads: Vec<PathBuf> = described.layers.iter().filter(is_head).map(|head| head.file.path.clone()).collect();
        let mut above_heads = BTreeSet::new();
        for head in &heads {
            let above = ports.images.overlays_of(head).await.unwrap_or_default();
            above_heads.extend(above.into_iter().filter(|file| !files.contains(file)));
        }
        let process = self.described_process(&described.vm).await;
        let ours = match &process {
            Process::Lives(instance, _) => ports.hypervisor.process(*instance).await,
            Process::None | Process::Silent(_) => None,
        };
        let mut users = ports.images.users(&heads).await.map_err(StepError::from)?;
        users.retain(|user| Some(user.pid) != ours);
        let memory = described.checkpoints.iter().filter_map(|checkpoint| checkpoint.memory.as_ref());
        let memory = memory.chain(described.vm.saved.iter().map(|saved| &saved.memory));
        let memory: Vec<PathBuf> = memory.map(|memory| memory.path.clone()).collect();
        let missing_memory = ports.images.missing(&memory).await.map_err(StepError::from)?;
        Ok(Evidence { known, seen, owned, above_heads, users, process, missing_memory })
    }

    async fn described_process(&self, vm: &Vm) -> Process {
        let Some(instance) = vm.instance else { return Process::None };
        match self.world.ports.hypervisor.observe(instance).await {
            Ok(observed) if observed.run == RunState::Gone => Process::None,
            Ok(observed) => Process::Lives(instance, observed.chains),
            Err(error) => Process::Silent(error.to_string()),
        }
    }
}

/// The VM that a file is of, by its name.
fn vm_of_file(file: &Path) -> Option<VmId> {
    file.file_name()?.to_str()?.strip_suffix(VM_ENDING)?.parse().ok()
}

/// The checkpoint of a backup session goes with the session, which the catalogue had.
fn without_session(checkpoint: &Checkpoint) -> Checkpoint {
    match checkpoint.remarks.backup {
        Some(_) => Checkpoint { state: CheckpointState::Deleting, ..checkpoint.clone() },
        None => checkpoint.clone(),
    }
}

/// The file system may have come back under another device number.
fn found_again(layer: &Layer, evidence: &Evidence) -> Layer {
    let device = |found: FileIdentity| (found.inode == layer.identity.inode).then_some(found);
    let found = evidence.seen.get(&layer.file.id).and_then(|seen| seen.as_ref().ok());
    let identity = found.and_then(|found| device(found.identity)).unwrap_or(layer.identity);
    Layer { identity, ..layer.clone() }
}
