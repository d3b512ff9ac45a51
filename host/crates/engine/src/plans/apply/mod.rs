//! Applying a checkpoint: the VM goes back to it, Now is lost, every checkpoint stays.

mod decide;
mod run;

use async_trait::async_trait;
use stillpoint_common::{
    Checkpoint, HeldMemory, InstanceId, Layer, MemoryState, NicBackend, Restore, RestoredWriter, SavedState, Vm,
    VmDefinition,
};

pub(crate) use self::{
    decide::{Landing, landing, warning},
    run::{apply, what_remains},
};
use super::{
    disks::{create_overlays, remove_overlays, verify_layers},
    held::drop_held,
    machine::{can_take_in, drop_saved, launch, let_run, load_memory, set_clock, tell_restored, unload_memory},
};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    job::{ApplyFacts, Facts},
    ports::{HypervisorError, StartMode},
    saga::{Nature, Plan, Step},
    tpm::drop_folder,
};

/// One apply.
pub(super) struct Apply {
    facts: ApplyFacts,
    checkpoint: Checkpoint,
    /// Layers that `CreateOverlays` has made.
    made: Vec<Layer>,
    launched: Option<stillpoint_common::Accelerator>,
    /// The checkpoint's memory, kept once more for the VM, if it is saved afterwards.
    kept: Option<MemoryState>,
    /// The same memory, held for the process while it takes it in.
    held: Option<HeldMemory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApplyStep {
    CreateOverlays,
    PutTpm,
    FreeHost,
    LaunchNew,
    LoadMemory,
    KeepState,
    MoveHead,
    Describe,
    StopOld,
    Resume,
    SetClock,
    DropState,
}

use ApplyStep as S;

/// The machine goes on: the old process is given up only when the new one has taken the state.
const TO_RUNNING: &[&[S]] = &[
    &[S::CreateOverlays, S::PutTpm, S::LaunchNew, S::LoadMemory],
    &[S::MoveHead],
    &[S::Describe, S::StopOld, S::Resume, S::SetClock, S::DropState],
];

/// The same for a VM with host resources that two processes cannot share: the old one has to give them up first.
const TO_RUNNING_EXCLUSIVE: &[&[S]] = &[
    &[S::CreateOverlays, S::PutTpm, S::FreeHost, S::LaunchNew, S::LoadMemory],
    &[S::MoveHead],
    &[S::Describe, S::Resume, S::SetClock, S::DropState],
];

/// The machine will go on at the next start.
const TO_SAVED: &[&[S]] =
    &[&[S::CreateOverlays, S::PutTpm, S::KeepState], &[S::MoveHead], &[S::Describe, S::StopOld, S::DropState]];

/// There is no memory, or it is not wanted: the VM is off afterwards.
const TO_OFF: &[&[S]] = &[&[S::CreateOverlays, S::PutTpm], &[S::MoveHead], &[S::Describe, S::StopOld, S::DropState]];

impl Step for ApplyStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::CreateOverlays => Some("overlays"),
            Self::LaunchNew => Some("launch"),
            Self::LoadMemory => Some("load"),
            Self::StopOld | Self::FreeHost => Some("stop"),
            Self::SetClock => Some("clock"),
            Self::PutTpm | Self::MoveHead | Self::Describe | Self::Resume | Self::KeepState | Self::DropState => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::MoveHead => Nature::Commit,
            // Of two processes of one VM one must go: it would run on, unknown to everybody.
            Self::LaunchNew | Self::StopOld => Nature::Vital,
            Self::CreateOverlays
            | Self::PutTpm
            | Self::FreeHost
            | Self::LoadMemory
            | Self::Describe
            | Self::KeepState
            | Self::Resume
            | Self::SetClock
            | Self::DropState => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Apply {
    type Step = ApplyStep;

    fn bursts(&self) -> &'static [&'static [ApplyStep]] {
        match (self.facts.new, self.facts.new_saved) {
            (None, None) => TO_OFF,
            (None, Some(_)) => TO_SAVED,
            (Some(_), _) if self.facts.old.is_some() && is_exclusive(&self.checkpoint.definition) => {
                TO_RUNNING_EXCLUSIVE
            }
            (Some(_), _) => TO_RUNNING,
        }
    }

    fn facts(&self) -> Facts {
        Facts::Apply(Box::new(self.facts.clone()))
    }

    async fn ensure(&mut self, step: ApplyStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::CreateOverlays => self.create_overlays(cx).await?,
            S::PutTpm => self.put_tpm(cx).await?,
            S::FreeHost => self.free_host(cx).await?,
            S::LaunchNew => self.launch(cx).await?,
            S::LoadMemory => self.load(cx).await?,
            S::KeepState => self.keep_state(cx).await?,
            S::MoveHead => return self.move_head(cx).await,
            // Before the guest can write to what nobody would find again without the catalogue.
            S::Describe => describe::now_only(cx).await,
            S::StopOld => self.stop_old(cx).await?,
            S::Resume if self.checkpoint.was_running => let_run(cx, self.new_instance()?).await?,
            S::SetClock if self.checkpoint.was_running => {
                set_clock(cx, self.new_instance()?).await;
                tell_restored(cx).await;
            }
            S::Resume | S::SetClock => {}
            S::DropState => self.drop_state(cx).await,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: ApplyStep, cx: &Cx) -> Result<(), StepError> {
        match (step, self.facts.new) {
            (S::CreateOverlays, _) => remove_overlays(cx, &self.facts.overlays).await,
            (S::PutTpm, _) => self.remove_tpm(cx).await,
            (S::LaunchNew, Some(new)) => {
                cx.ports().guest.forget(new).await;
                cx.ports().hypervisor.retire(new).await?;
                self.forget_held(cx).await;
                Ok(())
            }
            (S::KeepState, _) => self.forget_kept(cx).await,
            (
                S::LaunchNew
                | S::FreeHost
                | S::LoadMemory
                | S::MoveHead
                | S::Describe
                | S::StopOld
                | S::Resume
                | S::SetClock
                | S::DropState,
                None | Some(_),
            ) => Ok(()),
        }
    }
}

impl Apply {
    pub(super) fn new(facts: ApplyFacts, checkpoint: Checkpoint) -> Self {
        Self { facts, checkpoint, made: Vec::new(), launched: None, kept: None, held: None }
    }

    fn new_instance(&self) -> Result<InstanceId, StepError> {
        Ok(self.facts.new.ok_or(HypervisorError::Gone)?)
    }

    async fn create_overlays(&mut self, cx: &Cx) -> Result<(), StepError> {
        let forest = cx.catalogue().forest(&cx.vm).await?;
        verify_layers(cx.ports(), &forest, &self.checkpoint.disks).await?;
        self.made = create_overlays(cx, &forest, &self.facts.overlays).await?;
        Ok(())
    }

    /// The TPM as it was at the checkpoint, in a folder of its own: that of the past stays Now's until the commit.
    async fn put_tpm(&self, cx: &Cx) -> Result<(), StepError> {
        let Some(folder) = &self.facts.new_tpm else { return Ok(()) };
        let state = self.checkpoint.tpm.clone().unwrap_or_default();
        Ok(cx.ports().tpm.put(folder, &state).await?)
    }

    async fn remove_tpm(&self, cx: &Cx) -> Result<(), StepError> {
        match &self.facts.new_tpm {
            Some(folder) => Ok(cx.ports().tpm.remove(folder).await?),
            None => Ok(()),
        }
    }

    /// The VM as it will be.
    fn applied(&self, vm: Vm, cx: &Cx) -> Vm {
        let now = cx.ports().clock.now();
        Vm {
            definition: self.checkpoint.definition.clone(),
            parent: Some(self.checkpoint.id),
            heads: self.facts.overlays.iter().map(|(disk, overlay)| (disk.clone(), overlay.file.id)).collect(),
            detached: Vec::new(),
            instance: self.facts.new,
            host_boot: cx.world.config.host_boot.clone(),
            saved: self.saved(now),
            held: self.held.clone(),
            tpm: self.facts.new_tpm.clone(),
            generation_id: self.facts.generation_id,
            accelerator: self.launched.clone().or(vm.accelerator),
            updated: now,
            ..vm
        }
    }

    async fn free_host(&self, cx: &Cx) -> Result<(), StepError> {
        cx.reporter.warn(
            "the VM has network cards or disks of the host that two processes cannot share: it was stopped before \
             its past was loaded",
        );
        self.stop_old(cx).await
    }

    /// The saved state that the VM will have.
    fn saved(&self, now: jiff::Timestamp) -> Option<SavedState> {
        let (id, memory) = (self.facts.new_saved?, self.kept.clone()?);
        Some(SavedState { id, memory, was_running: self.checkpoint.was_running, saved: now })
    }

    async fn launch(&mut self, cx: &Cx) -> Result<(), StepError> {
        let vm = self.applied(cx.catalogue().vm(&cx.vm).await?, cx);
        let mut forest = cx.catalogue().forest(&cx.vm).await?;
        forest.extend(self.made.iter().cloned());
        let launched = launch(cx, vm, &forest, self.new_instance()?, StartMode::Restore).await?;
        self.launched = Some(launched.accelerator);
        Ok(())
    }

    async fn load(&mut self, cx: &Cx) -> Result<(), StepError> {
        let Some(memory) = &self.checkpoint.memory else { return Ok(()) };
        self.held = load_memory(cx, self.new_instance()?, memory, self.facts.held).await?;
        Ok(())
    }

    /// The checkpoint's own state stays with it: the VM gives its own up when it starts.
    async fn keep_state(&mut self, cx: &Cx) -> Result<(), StepError> {
        let (Some(memory), Some(saved)) = (&self.checkpoint.memory, self.facts.new_saved) else { return Ok(()) };
        self.kept = Some(cx.ports().memory.keep(memory, saved).await?);
        Ok(())
    }

    async fn forget_kept(&self, cx: &Cx) -> Result<(), StepError> {
        let Some(saved) = self.facts.new_saved else { return Ok(()) };
        let vm = cx.catalogue().vm(&cx.vm).await?;
        Ok(cx.ports().memory.remove(&vm.checkpoint_location, saved).await?)
    }

    /// Only when the process that may take it in is gone.
    async fn forget_held(&self, cx: &Cx) {
        if let Some(memory) = &self.checkpoint.memory {
            unload_memory(cx, memory, self.facts.held).await;
        }
    }

    async fn drop_state(&self, cx: &Cx) {
        if let Some(saved) = &self.facts.old_saved {
            drop_saved(cx, saved).await;
        }
        if let Some(held) = &self.facts.old_held {
            drop_held(cx, held).await;
        }
        if let Some(folder) = &self.facts.old_tpm {
            drop_folder(cx, folder).await;
        }
    }

    /// The configuration goes back too; the operation tells what that changes.
    async fn move_head(&self, cx: &Cx) -> Result<Changes, StepError> {
        if self.held.is_some() {
            // Nothing of Now has been given up yet.
            can_take_in(cx, self.new_instance()?).await?;
        }
        let now = cx.catalogue().vm(&cx.vm).await?;
        cx.reporter.set_changes(now.definition.changes(&self.checkpoint.definition));
        let vm = self.applied(now, cx);
        let layers = self.made.iter().fold(Changes::default(), |changes, layer| changes.new_layer(&cx.vm, layer));
        Ok(layers.set_vm(&vm).set_restore(&cx.vm, &self.restore()))
    }

    /// What the guest is told as soon as it can be.
    fn restore(&self) -> Restore {
        Restore {
            id: self.facts.generation_id,
            checkpoint: self.checkpoint.id,
            with_memory: self.facts.new.is_some() || self.facts.new_saved.is_some(),
            writers: self.checkpoint.writers.iter().map(RestoredWriter::from).collect(),
        }
    }

    async fn stop_old(&self, cx: &Cx) -> Result<(), StepError> {
        let Some(old) = self.facts.old else { return Ok(()) };
        cx.ports().guest.forget(old).await;
        Ok(cx.ports().hypervisor.retire(old).await?)
    }
}

/// Whether two processes of this definition could not run side by side for a moment.
fn is_exclusive(definition: &VmDefinition) -> bool {
    let tap = definition.nics.iter().any(|nic| matches!(nic.backend, NicBackend::Tap { .. }));
    tap || !definition.pass_through.is_empty()
}
