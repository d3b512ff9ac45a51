//! Making a VM of an export.
//!
//! ```text
//!  claim the folder, check every hash, copy disks and memory, put the TPM ── publish the VM ── let go of the folder
//! ```
//! Until it is published there is no VM, and everything that was made is removed again. The export itself is only read;
//! where its files become those of the VM, its manifest is put aside at the end.

use async_trait::async_trait;
use stillpoint_common::{
    Event, EventKind, Failure, LayerFile, LayerId, MemoryId, Reason, Restore, SavedState, Tpm, TpmState,
};

use super::room;
use crate::{
    catalogue::Changes,
    context::Cx,
    disks::{is_as_declared, stands_alone, take_disks},
    error::StepError,
    import::{ImportMode, ImportRequest, Inspection, inspect},
    job::{Facts, ImportFacts, ImportedMemory},
    media::unfit_media,
    ports::{Depth, ExportError, Flatten},
    record::new_vm,
    saga::{Journal, Nature, Plan, Step, up_to},
    tpm::new_folder,
};

/// One import.
pub(super) struct Import {
    facts: ImportFacts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImportStep {
    Claim,
    Verify,
    CopyDisks,
    CopyMemory,
    PutTpm,
    Publish,
    LetGo,
}

use ImportStep as S;

const BURSTS: &[&[S]] = &[&[S::Claim, S::Verify, S::CopyDisks, S::CopyMemory, S::PutTpm], &[S::Publish], &[S::LetGo]];

impl Step for ImportStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::Verify => Some("verify"),
            Self::CopyDisks => Some("copy"),
            // Its own, if there is a memory.
            Self::CopyMemory => None,
            Self::Claim | Self::PutTpm | Self::Publish | Self::LetGo => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::Publish => Nature::Commit,
            Self::Claim | Self::Verify | Self::CopyDisks | Self::CopyMemory | Self::PutTpm | Self::LetGo => {
                Nature::Plain
            }
        }
    }
}

#[async_trait]
impl Plan for Import {
    type Step = ImportStep;

    fn bursts(&self) -> &'static [&'static [ImportStep]] {
        BURSTS
    }

    fn facts(&self) -> Facts {
        Facts::Import(Box::new(self.facts.clone()))
    }

    async fn ensure(&mut self, step: ImportStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::Claim => {
                if let Some(target) = &self.facts.target {
                    cx.ports().sources.claim(target, cx.reporter.now().id).await?;
                }
            }
            S::Verify => self.verify(cx).await?,
            S::CopyDisks => self.copy_disks(cx).await?,
            S::CopyMemory => self.copy_memory(cx).await?,
            S::PutTpm => self.put_tpm(cx).await?,
            S::Publish => return self.publish(cx).await,
            S::LetGo => self.let_go(cx).await,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: ImportStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::Claim => match &self.facts.target {
                Some(target) => Ok(cx.ports().sources.give_back(target, cx.reporter.now().id).await?),
                None => Ok(()),
            },
            S::CopyMemory => match &self.facts.memory {
                Some(memory) => Ok(cx.ports().memory.remove(&self.facts.vm.checkpoint_location, memory.id).await?),
                None => Ok(()),
            },
            S::PutTpm => match &self.facts.vm.tpm {
                Some(folder) => Ok(cx.ports().tpm.remove(folder).await?),
                None => Ok(()),
            },
            S::Verify | S::CopyDisks | S::Publish | S::LetGo => Ok(()),
        }
    }
}

/// Makes a VM, if nothing stands against it.
pub(super) async fn import(asked: &ImportRequest, journal: &mut Journal, cx: &Cx) -> Result<(), Failure> {
    let inspection = inspect(&cx.world, &cx.vm, asked).await?;
    inspection.admit()?;
    for warning in &inspection.warnings {
        cx.reporter.warn(warning.clone());
    }
    let facts = facts(asked, inspection, cx);
    room::for_import(cx, &facts).await?;
    super::execute::run(Import::new(facts), journal, cx).await
}

/// What the import will make, decided once.
fn facts(asked: &ImportRequest, inspection: Inspection, cx: &Cx) -> ImportFacts {
    let Inspection { manifest, definition, disks, .. } = inspection;
    let machine = manifest.machine;
    let kept = machine.memory.filter(|_| !asked.without_memory);
    let memory = kept.map(|memory| ImportedMemory {
        id: MemoryId::generate(),
        file: memory.file,
        qemu_version: memory.qemu_version,
        was_running: machine.checkpoint.was_running,
        state: None,
    });
    let has_tpm = definition.tpm != Tpm::Absent;
    // Its generation id is new in any case: the guest sees its past again, or another machine's.
    let mut vm = new_vm(&cx.world, cx.vm.clone(), definition);
    vm.uid = match asked.mode {
        ImportMode::Copy => vm.uid,
        ImportMode::Restore | ImportMode::Register => machine.uid.unwrap_or(vm.uid),
    };
    vm.tpm = has_tpm.then(|| new_folder(&vm));
    let restore = Restore {
        id: vm.generation_id,
        checkpoint: machine.checkpoint.id,
        with_memory: memory.is_some(),
        writers: machine.checkpoint.writers,
    };
    let tpm = machine.tpm.map(|tpm| tpm.file).filter(|_| has_tpm);
    let (folder, target, files) = (asked.folder.clone(), asked.target.clone(), manifest.files);
    ImportFacts { vm, folder, target, files, disks, memory, tpm, restore }
}

impl Import {
    pub(super) const fn new(facts: ImportFacts) -> Self {
        Self { facts }
    }

    /// Every byte is what was exported, and no image needs a file that is elsewhere.
    async fn verify(&self, cx: &Cx) -> Result<(), StepError> {
        let ImportFacts { folder, files, .. } = &self.facts;
        let damaged = cx.ports().sources.compare(folder, files, Depth::Content, &cx.reporter.progress()).await?;
        if let Some(first) = damaged.first() {
            let (path, message) = (folder.join(&first.path), first.problem.clone());
            return Err(ExportError::ExportDamaged { path, message }.into());
        }
        for disk in &self.facts.disks {
            let image = cx.ports().images.stat(&disk.from, disk.from_format).await?;
            stands_alone(&disk.from, &image)?;
            is_as_declared(&disk.from, &image)?;
        }
        Ok(())
    }

    async fn copy_disks(&self, cx: &Cx) -> Result<(), StepError> {
        if self.facts.target.is_none() {
            return Ok(());
        }
        for disk in &self.facts.disks {
            let (id, path) = (LayerId::generate(), disk.from.clone());
            let from = LayerFile { id, path, format: disk.from_format };
            let flatten = Flatten { layers: vec![from], target: disk.to.clone(), format: disk.to_format };
            cx.ports().images.flatten(&flatten, &cx.reporter.progress()).await?;
        }
        Ok(())
    }

    async fn copy_memory(&mut self, cx: &Cx) -> Result<(), StepError> {
        let Some(memory) = &mut self.facts.memory else { return Ok(()) };
        let phase = cx.reporter.begin("copy-memory");
        let location = &self.facts.vm.checkpoint_location;
        let sink = cx.ports().memory.begin(location, memory.id, None).await?.stream;
        let progress = cx.reporter.progress();
        cx.ports().sources.send(&self.facts.folder, &memory.file, sink, &progress).await?;
        memory.state = Some(cx.ports().memory.seal(location, memory.id, &memory.qemu_version).await?);
        cx.reporter.end(phase);
        Ok(())
    }

    /// What the TPM kept; a new one where the export has none.
    async fn put_tpm(&self, cx: &Cx) -> Result<(), StepError> {
        let Some(folder) = &self.facts.vm.tpm else { return Ok(()) };
        let state = match &self.facts.tpm {
            Some(file) => {
                let bytes = cx.ports().sources.read(&self.facts.folder, file, TpmState::MOST_BYTES as u64).await?;
                let too_many = |message| ExportError::ExportDamaged { path: self.facts.folder.join(file), message };
                TpmState::new(bytes).map_err(too_many)?
            }
            None => TpmState::default(),
        };
        Ok(cx.ports().tpm.put(folder, &state).await?)
    }

    async fn publish(&self, cx: &Cx) -> Result<Changes, StepError> {
        if cx.catalogue().find_vm(&cx.vm).await?.is_some() {
            let message = format!("there is a VM {} by now", cx.vm);
            return Err(Failure::new(Reason::VmExists, message).at("vm_id").into());
        }
        let mut vm = self.facts.vm.clone();
        if let Some((_, failure)) = unfit_media(&cx.world, &vm.definition).await.into_iter().next() {
            return Err(failure.into());
        }
        let layers = take_disks(&cx.world, None, &vm.definition).await?;
        vm.heads = layers.iter().map(|layer| (layer.disk.clone(), layer.file.id)).collect();
        vm.saved = self.facts.memory.as_ref().and_then(|memory| {
            let (id, was_running, saved) = (memory.id, memory.was_running, vm.created);
            Some(SavedState { id, memory: memory.state.clone()?, was_running, saved })
        });
        let text = format!("{} was imported from {}", cx.vm, self.facts.folder.display());
        let event = Event::of_vm(cx.ports().clock.now(), EventKind::VmDefined, &cx.vm, text);
        let changes = Changes::default().new_vm(&vm).set_restore(&cx.vm, &self.facts.restore).event(&event);
        Ok(layers.iter().fold(changes, |changes, layer| changes.new_layer(&cx.vm, layer)))
    }

    /// The VM is there and whole: what cannot be put away any more is only told.
    async fn let_go(&self, cx: &Cx) {
        let (sources, operation) = (&cx.ports().sources, cx.reporter.now().id);
        let done = up_to(5, "letting go of the folder", || match &self.facts.target {
            Some(target) => sources.keep(target, operation),
            None => sources.retire(&self.facts.folder),
        });
        if let Err(error) = done.await {
            cx.reporter.warn(format!("the VM is made, but its folder was not tidied: {error}"));
        }
    }
}
