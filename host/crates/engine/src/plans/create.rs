//! Creating a checkpoint.

use async_trait::async_trait;
use stillpoint_common::{
    Checkpoint, CheckpointPolicy, Consistency, FallbackReason, InstanceId, Kind, Layer, LeftOut, PassThroughDisk,
    QuiesceRequest, Reason, Thawed, VmDefinition,
};
use tokio::time::Instant;

use super::disks::{as_overlays, create_overlays, layer_of, remove_overlays};
use crate::{
    catalogue::Changes,
    context::Cx,
    error::StepError,
    job::{CreateFacts, Facts},
    ports::{HypervisorError, ImageError, QuiesceError, RunState},
    saga::{Nature, Plan, Step},
};

/// One attempt to create a checkpoint.
pub(super) struct Create {
    facts: CreateFacts,
    /// Layers that `CreateOverlays` has made.
    made: Vec<Layer>,
    frozen_at: Option<Instant>,
    paused_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateStep {
    CreateOverlays,
    AttachOverlays,
    PrepareWriters,
    Freeze,
    SwitchHeads,
    Thaw,
    BeginMemory,
    Pause,
    StartCapture,
    Resume,
    CaptureMemory,
    Publish,
    FinishWriters,
}

use CreateStep as S;

/// Everything slow comes before `Freeze`; the guest is held for one transaction and nothing else.
const PRODUCTION: &[&[S]] = &[
    &[S::CreateOverlays, S::AttachOverlays, S::PrepareWriters],
    &[S::Freeze, S::SwitchHeads, S::Thaw],
    &[S::Publish],
    &[S::FinishWriters],
];

/// The VM stands still for the third line; its memory is written while it runs again.
const STANDARD: &[&[S]] = &[
    &[S::CreateOverlays, S::AttachOverlays, S::BeginMemory],
    &[S::Pause, S::SwitchHeads, S::StartCapture, S::Resume],
    &[S::CaptureMemory],
    &[S::Publish],
];

/// The VM is off: its disks are all there is.
const OFFLINE: &[&[S]] = &[&[S::CreateOverlays], &[S::Publish]];

impl Step for CreateStep {
    fn phase(self) -> Option<&'static str> {
        match self {
            Self::CreateOverlays => Some("overlays"),
            Self::PrepareWriters => Some("prepare"),
            Self::Freeze => Some("freeze"),
            Self::SwitchHeads => Some("cut"),
            Self::Thaw => Some("thaw"),
            Self::CaptureMemory => Some("capture"),
            Self::AttachOverlays
            | Self::BeginMemory
            | Self::Pause
            | Self::StartCapture
            | Self::Resume
            | Self::Publish
            | Self::FinishWriters => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::Freeze | Self::Pause => Nature::Hold,
            Self::Publish => Nature::Commit,
            Self::CreateOverlays
            | Self::AttachOverlays
            | Self::PrepareWriters
            | Self::SwitchHeads
            | Self::Thaw
            | Self::BeginMemory
            | Self::StartCapture
            | Self::Resume
            | Self::CaptureMemory
            | Self::FinishWriters => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Create {
    type Step = CreateStep;

    fn bursts(&self) -> &'static [&'static [CreateStep]] {
        match (self.facts.instance, self.facts.checkpoint.kind) {
            (None, Kind::Production | Kind::Standard) => OFFLINE,
            (Some(_), Kind::Production) => PRODUCTION,
            (Some(_), Kind::Standard) => STANDARD,
        }
    }

    fn facts(&self) -> Facts {
        Facts::Create(Box::new(self.facts.clone()))
    }

    async fn ensure(&mut self, step: CreateStep, cx: &Cx) -> Result<Changes, StepError> {
        match step {
            S::CreateOverlays => self.create_overlays(cx).await?,
            S::AttachOverlays => {
                cx.ports().hypervisor.attach_overlays(self.instance()?, &as_overlays(&self.facts.overlays)).await?;
            }
            S::PrepareWriters => self.prepare(cx).await?,
            S::Freeze => self.freeze(cx).await?,
            S::SwitchHeads => {
                cx.ports().hypervisor.switch_heads(self.instance()?, &as_overlays(&self.facts.overlays)).await?;
            }
            S::Thaw => self.thaw(cx).await?,
            S::BeginMemory => self.begin_memory(cx).await?,
            S::Pause => {
                self.paused_at = Some(Instant::now());
                cx.ports().hypervisor.pause(self.instance()?).await?;
            }
            S::StartCapture => cx.ports().hypervisor.start_capture(self.instance()?).await.map_err(capture_failed)?,
            S::Resume => self.resume(cx).await?,
            S::CaptureMemory => self.capture(cx).await?,
            S::Publish => return self.publish(cx).await,
            S::FinishWriters => self.finish_writers(cx).await,
        }
        Ok(Changes::default())
    }

    async fn undo(&mut self, step: CreateStep, cx: &Cx) -> Result<(), StepError> {
        match step {
            S::CreateOverlays => remove_overlays(cx, &self.facts.overlays).await,
            S::AttachOverlays => self.detach(cx).await,
            S::PrepareWriters | S::Freeze => self.let_go(cx).await,
            S::SwitchHeads => self.adopt(cx).await,
            S::BeginMemory => self.drop_memory(cx).await,
            S::Pause => self.let_run(cx).await,
            S::Thaw | S::StartCapture | S::Resume | S::CaptureMemory | S::Publish | S::FinishWriters => Ok(()),
        }
    }
}

impl Create {
    pub(super) fn new(facts: CreateFacts) -> Self {
        Self { facts, made: Vec::new(), frozen_at: None, paused_at: None }
    }

    fn instance(&self) -> Result<InstanceId, StepError> {
        Ok(self.facts.instance.ok_or(HypervisorError::Gone)?)
    }

    async fn create_overlays(&mut self, cx: &Cx) -> Result<(), StepError> {
        let forest = cx.catalogue().forest(&cx.vm).await?;
        self.made = create_overlays(cx, &forest, &self.facts.overlays).await?;
        Ok(())
    }

    async fn prepare(&mut self, cx: &Cx) -> Result<(), StepError> {
        let request = QuiesceRequest { session: self.facts.session, lease: cx.world.config.lease };
        let prepared = cx.ports().guest.prepare(self.instance()?, &request).await?;
        self.facts.checkpoint.file_systems = prepared.file_systems;
        self.facts.checkpoint.writers = prepared.writers;
        Ok(())
    }

    async fn freeze(&mut self, cx: &Cx) -> Result<(), StepError> {
        let frozen = cx.ports().guest.freeze(self.instance()?, self.facts.session).await?;
        self.frozen_at = Some(Instant::now());
        self.facts.checkpoint.file_systems = frozen.file_systems;
        self.facts.checkpoint.writers = frozen.writers;
        Ok(())
    }

    /// The guest's own word, after the cut, that it was held all the time is what makes it a production checkpoint.
    async fn thaw(&mut self, cx: &Cx) -> Result<(), StepError> {
        let thawed = cx.ports().guest.thaw(self.instance()?, self.facts.session).await;
        self.frozen_at.take().into_iter().for_each(|since| cx.reporter.record("held", since));
        match thawed? {
            Thawed::HeldThroughout => Ok(()),
            Thawed::Lapsed => {
                let why = "the guest had let go of its file systems before the disks were cut".to_owned();
                Err(QuiesceError::Lapsed { why }.into())
            }
        }
    }

    async fn begin_memory(&mut self, cx: &Cx) -> Result<(), StepError> {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let sink = cx.ports().memory.begin(&vm.checkpoint_location, self.facts.checkpoint.id).await?;
        cx.ports().hypervisor.prepare_capture(self.instance()?, sink).await.map_err(capture_failed)
    }

    async fn resume(&mut self, cx: &Cx) -> Result<(), StepError> {
        if self.facts.checkpoint.was_running {
            cx.ports().hypervisor.resume(self.instance()?).await?;
        }
        self.paused_at.take().into_iter().for_each(|since| cx.reporter.record("pause", since));
        Ok(())
    }

    async fn capture(&mut self, cx: &Cx) -> Result<(), StepError> {
        let instance = self.instance()?;
        let finished = cx.ports().hypervisor.finish_capture(instance, &cx.reporter.progress()).await;
        finished.map_err(capture_failed)?;
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let version = cx.ports().hypervisor.version(instance).await?;
        let state = cx.ports().memory.seal(&vm.checkpoint_location, self.facts.checkpoint.id, &version).await?;
        self.facts.checkpoint.memory = Some(state);
        Ok(())
    }

    async fn publish(&mut self, cx: &Cx) -> Result<Changes, StepError> {
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        let checkpoint = &mut self.facts.checkpoint;
        checkpoint.consistency = consistency(checkpoint, self.facts.instance.is_some());
        checkpoint.phases = cx.reporter.now().phases;
        vm.parent = Some(checkpoint.id);
        vm.heads.extend(self.facts.overlays.iter().map(|(disk, overlay)| (disk.clone(), overlay.file.id)));
        vm.updated = cx.ports().clock.now();
        let layers = self.made.iter().fold(Changes::default(), |changes, layer| changes.new_layer(&cx.vm, layer));
        Ok(layers.set_checkpoint(checkpoint).set_vm(&vm))
    }

    async fn finish_writers(&mut self, cx: &Cx) {
        let Some(instance) = self.facts.instance else { return };
        if let Err(error) = cx.ports().guest.finish(instance, self.facts.session).await {
            cx.reporter.warn(format!("the guest could not be told that the checkpoint is made: {error}"));
        }
    }

    // --- undo

    async fn detach(&self, cx: &Cx) -> Result<(), StepError> {
        let overlays: Vec<_> = self.facts.overlays.values().map(|overlay| overlay.file.id).collect();
        match cx.ports().hypervisor.detach_overlays(self.instance()?, &overlays).await {
            Ok(()) | Err(HypervisorError::Gone) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the guest write again. If it cannot be asked, its own lease lets it.
    async fn let_go(&self, cx: &Cx) -> Result<(), StepError> {
        if let Err(error) = cx.ports().guest.finish(self.instance()?, self.facts.session).await {
            tracing::info!(vm = %cx.vm, %error, "the guest could not be told to go on; its lease ends the hold");
        }
        Ok(())
    }

    async fn let_run(&self, cx: &Cx) -> Result<(), StepError> {
        let instance = self.instance()?;
        let paused = cx.ports().hypervisor.observe(instance).await?.run == RunState::Paused;
        if self.facts.checkpoint.was_running && paused {
            cx.ports().hypervisor.resume(instance).await?;
        }
        Ok(())
    }

    /// Once the guest may have written to an overlay, the overlay is its disk: it becomes the head, and collection
    /// merges it down. Of a process that is gone nobody knows whether it had switched; an overlay that it had not
    /// switched to is empty and reads as what it lies on, so that taking it is right in either case.
    async fn adopt(&self, cx: &Cx) -> Result<(), StepError> {
        let observed = cx.ports().hypervisor.observe(self.instance()?).await?;
        let gone = observed.run == RunState::Gone;
        let mut vm = cx.catalogue().vm(&cx.vm).await?;
        let mut changes = Changes::default();
        for (disk, overlay) in &self.facts.overlays {
            let is_head = observed.chains.get(disk).and_then(|chain| chain.first()) == Some(&overlay.file.id);
            if !(gone || is_head) {
                continue;
            }
            match cx.ports().images.stat(&overlay.file.path, overlay.file.format).await {
                Ok(facts) => {
                    vm.heads.insert(disk.clone(), overlay.file.id);
                    let layer = layer_of(disk, overlay, facts.identity, facts.virtual_size);
                    changes = changes.set_layer(&cx.vm, &layer);
                }
                Err(ImageError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(cx.catalogue().commit(changes.set_vm(&vm)).await?)
    }

    async fn drop_memory(&self, cx: &Cx) -> Result<(), StepError> {
        match cx.ports().hypervisor.cancel_capture(self.instance()?).await {
            Ok(()) | Err(HypervisorError::Gone) => {}
            Err(error) => cx.reporter.warn(format!("giving up the memory capture: {error}")),
        }
        let vm = cx.catalogue().vm(&cx.vm).await?;
        Ok(cx.ports().memory.remove(&vm.checkpoint_location, self.facts.checkpoint.id).await?)
    }
}

fn capture_failed(error: HypervisorError) -> StepError {
    match error {
        HypervisorError::Gone | HypervisorError::NoSpace { .. } => error.into(),
        other @ (HypervisorError::Refused { .. }
        | HypervisorError::Unanswered { .. }
        | HypervisorError::WrongState(_)
        | HypervisorError::Io { .. }
        | HypervisorError::LaunchFailed { .. }
        | HypervisorError::AcceleratorMissing { .. }) => StepError::from(other).blamed_on(Reason::CaptureFailed).into(),
    }
}

/// What is proven of a checkpoint whose plan has come to its end.
fn consistency(checkpoint: &Checkpoint, was_on: bool) -> Consistency {
    match (was_on, checkpoint.kind) {
        (false, Kind::Production | Kind::Standard) => Consistency::Offline,
        (true, Kind::Standard) => Consistency::Memory,
        (true, Kind::Production) if checkpoint.writers.is_empty() => Consistency::FileSystem,
        (true, Kind::Production) => Consistency::Application,
    }
}

/// The reason, if what failed is making the guest quiet.
pub(super) fn quiesce_reason(error: &StepError) -> Option<FallbackReason> {
    match error {
        StepError::Quiesce(error) => Some(error.fallback_reason()),
        StepError::Hypervisor(_)
        | StepError::Image(_)
        | StepError::Memory(_)
        | StepError::Export(_)
        | StepError::Store(_)
        | StepError::Refused(_)
        | StepError::Cancelled => None,
    }
}

/// What a policy asks for first.
pub(super) const fn kind_of(policy: CheckpointPolicy) -> Kind {
    match policy {
        CheckpointPolicy::Production | CheckpointPolicy::ProductionOnly => Kind::Production,
        CheckpointPolicy::Standard | CheckpointPolicy::Disabled => Kind::Standard,
    }
}

/// Says which of a VM's disks a checkpoint leaves out.
pub(super) fn left_out(definition: &VmDefinition) -> Vec<LeftOut> {
    let left_out = |disk: &PassThroughDisk| LeftOut {
        disk: disk.name.clone(),
        why: format!("{} is passed through from the host: it has no layers", disk.device.display()),
    };
    definition.pass_through.iter().map(left_out).collect()
}
