//! Applying a checkpoint: the VM goes back to it, Now is lost, every checkpoint stays.

use async_trait::async_trait;
use stillpoint_common::{Checkpoint, GuestService, InstanceId, Layer, NicBackend, Reason, Vm, VmDefinition};
use tokio::time::{Instant, sleep};

use super::disks::{create_overlays, launch_chains, remove_overlays, verify_layers};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    job::{ApplyFacts, Facts},
    ports::{HypervisorError, LaunchSpec, RunState, StartMode},
    saga::{Nature, Plan, Step, up_to},
};

/// One apply.
pub(super) struct Apply {
    facts: ApplyFacts,
    checkpoint: Checkpoint,
    /// Layers that `CreateOverlays` has made.
    made: Vec<Layer>,
    launched: Option<stillpoint_common::Accelerator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApplyStep {
    CreateOverlays,
    FreeHost,
    LaunchNew,
    LoadMemory,
    MoveHead,
    Describe,
    StopOld,
    Resume,
    SetClock,
}

use ApplyStep as S;

/// The checkpoint has memory: the old process is given up only when the new one has taken the state.
const WITH_MEMORY: &[&[S]] = &[
    &[S::CreateOverlays, S::LaunchNew, S::LoadMemory],
    &[S::MoveHead],
    &[S::Describe, S::StopOld, S::Resume, S::SetClock],
];

/// The same for a VM with host resources that two processes cannot share: the old one has to give them up first.
const WITH_MEMORY_EXCLUSIVE: &[&[S]] = &[
    &[S::CreateOverlays, S::FreeHost, S::LaunchNew, S::LoadMemory],
    &[S::MoveHead],
    &[S::Describe, S::Resume, S::SetClock],
];

/// The checkpoint has no memory: the VM is off afterwards.
const DISKS_ONLY: &[&[S]] = &[&[S::CreateOverlays], &[S::MoveHead], &[S::Describe, S::StopOld]];

impl Step for ApplyStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::CreateOverlays => Some("overlays"),
            Self::LaunchNew => Some("launch"),
            Self::LoadMemory => Some("load"),
            Self::StopOld | Self::FreeHost => Some("stop"),
            Self::SetClock => Some("clock"),
            Self::MoveHead | Self::Describe | Self::Resume => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::MoveHead => Nature::Commit,
            // Of two processes of one VM one must go: it would run on, unknown to everybody.
            Self::LaunchNew | Self::StopOld => Nature::Vital,
            Self::CreateOverlays
            | Self::FreeHost
            | Self::LoadMemory
            | Self::Describe
            | Self::Resume
            | Self::SetClock => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Apply {
    type Step = ApplyStep;

    fn bursts(&self) -> &'static [&'static [ApplyStep]] {
        match self.facts.new {
            None => DISKS_ONLY,
            Some(_) if self.facts.old.is_some() && is_exclusive(&self.checkpoint.definition) => WITH_MEMORY_EXCLUSIVE,
            Some(_) => WITH_MEMORY,
        }
    }

    fn facts(&self) -> Facts {
        Facts::Apply(Box::new(self.facts.clone()))
    }

    async fn ensure(&mut self, step: ApplyStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::CreateOverlays => self.create_overlays(cx).await?,
            S::FreeHost => self.free_host(cx).await?,
            S::LaunchNew => self.launch(cx).await?,
            S::LoadMemory => self.load(cx).await?,
            S::MoveHead => return self.move_head(cx).await,
            // Before the guest can write to what nobody would find again without the catalogue.
            S::Describe => describe::now_only(cx).await,
            S::StopOld => self.stop_old(cx).await?,
            S::Resume => self.resume(cx).await?,
            S::SetClock => self.set_clock(cx).await,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: ApplyStep, cx: &Cx) -> Result<(), StepError> {
        match (step, self.facts.new) {
            (S::CreateOverlays, _) => remove_overlays(cx, &self.facts.overlays).await,
            (S::LaunchNew, Some(new)) => {
                cx.ports().guest.forget(new).await;
                Ok(cx.ports().hypervisor.retire(new).await?)
            }
            (
                S::LaunchNew
                | S::FreeHost
                | S::LoadMemory
                | S::MoveHead
                | S::Describe
                | S::StopOld
                | S::Resume
                | S::SetClock,
                None | Some(_),
            ) => Ok(()),
        }
    }
}

impl Apply {
    pub(super) fn new(facts: ApplyFacts, checkpoint: Checkpoint) -> Self {
        Self { facts, checkpoint, made: Vec::new(), launched: None }
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

    /// The VM as it will be.
    fn applied(&self, vm: Vm, now: jiff::Timestamp) -> Vm {
        Vm {
            definition: self.checkpoint.definition.clone(),
            parent: Some(self.checkpoint.id),
            heads: self.facts.overlays.iter().map(|(disk, overlay)| (disk.clone(), overlay.file.id)).collect(),
            instance: self.facts.new,
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

    async fn launch(&mut self, cx: &Cx) -> Result<(), StepError> {
        let vm = self.applied(cx.catalogue().vm(&cx.vm).await?, cx.ports().clock.now());
        let mut forest = cx.catalogue().forest(&cx.vm).await?;
        forest.extend(self.made.iter().cloned());
        let spec = LaunchSpec {
            vm: vm.id.clone(),
            instance: self.new_instance()?,
            uid: vm.uid,
            generation_id: vm.generation_id,
            chains: launch_chains(&forest, &vm)?,
            definition: vm.definition,
            mode: StartMode::Restore,
        };
        self.launched = Some(cx.ports().hypervisor.launch(&spec).await?.accelerator);
        Ok(())
    }

    async fn load(&self, cx: &Cx) -> Result<(), StepError> {
        let Some(memory) = &self.checkpoint.memory else { return Ok(()) };
        let (source, outcome) = cx.ports().memory.open(memory).await?.split();
        let loaded = cx.ports().hypervisor.load_memory(self.new_instance()?, source, cx.world.config.memory_load).await;
        // Damage that is found while the state is read is the cause of whatever the hypervisor says.
        outcome.told(cx.world.config.memory_told).await?;
        Ok(loaded.map_err(|error| StepError::from(error).blamed_on(Reason::RestoreFailed))?)
    }

    async fn move_head(&self, cx: &Cx) -> Result<Changes, StepError> {
        let vm = self.applied(cx.catalogue().vm(&cx.vm).await?, cx.ports().clock.now());
        let layers = self.made.iter().fold(Changes::default(), |changes, layer| changes.new_layer(&cx.vm, layer));
        Ok(layers.set_vm(&vm))
    }

    async fn stop_old(&self, cx: &Cx) -> Result<(), StepError> {
        let Some(old) = self.facts.old else { return Ok(()) };
        cx.ports().guest.forget(old).await;
        Ok(cx.ports().hypervisor.retire(old).await?)
    }

    async fn resume(&self, cx: &Cx) -> Result<(), StepError> {
        if self.checkpoint.was_running {
            let instance = self.new_instance()?;
            up_to(5, "letting the VM run", || cx.ports().hypervisor.resume(instance)).await?;
        }
        Ok(())
    }

    /// The guest's clock stands where it stood at the checkpoint until somebody sets it. A guest without an agent keeps
    /// that time; this is said, and is no failure.
    async fn set_clock(&self, cx: &Cx) {
        let (Ok(instance), true) = (self.new_instance(), self.checkpoint.was_running) else { return };
        let vm = cx.catalogue().vm(&cx.vm).await;
        if vm.is_ok_and(|vm| vm.settings.services_off.contains(&GuestService::TimeSync)) {
            let why = "service TIME_SYNC is switched off for this VM";
            return cx.reporter.warn(format!("the guest's clock goes on from the time of the checkpoint: {why}"));
        }
        let until = Instant::now() + cx.world.config.clock_after_apply;
        loop {
            match cx.ports().guest.set_clock(instance).await {
                Ok(set) => {
                    tracing::info!(vm = %cx.vm, was_off_by_ms = set.was_off_by_ms, "guest clock set");
                    return;
                }
                Err(_) if Instant::now() < until && self.runs(cx).await => {
                    sleep(std::time::Duration::from_millis(50)).await
                }
                Err(error) => return cx.reporter.warn(format!("the guest's clock was not set: {error}")),
            }
        }
    }

    async fn runs(&self, cx: &Cx) -> bool {
        let Some(instance) = self.facts.new else { return false };
        cx.ports().hypervisor.observe(instance).await.is_ok_and(|observed| observed.run == RunState::Running)
    }
}

/// Whether two processes of this definition could not run side by side for a moment.
fn is_exclusive(definition: &VmDefinition) -> bool {
    let tap = definition.nics.iter().any(|nic| matches!(nic.backend, NicBackend::Tap { .. }));
    tap || !definition.pass_through.is_empty()
}
