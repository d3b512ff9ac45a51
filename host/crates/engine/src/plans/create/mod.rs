//! Creating a checkpoint: the plans of its three kinds, and what each step does.

mod backup;
pub(super) mod base;
mod decide;
mod publish;
mod undo;

use async_trait::async_trait;
use stillpoint_common::{InstanceId, Kind, Layer, QuiesceRequest, Thawed, Vm, WriterRequest};
use tokio::time::Instant;

use self::decide::capture_failed;
pub(crate) use self::decide::kind_of;
pub(super) use self::decide::{cannot_be_asked, default_name, quiesce_reason};
use super::{
    critical::while_it_runs,
    disks::{as_overlays, create_overlays, remove_overlays},
    machine::memory_is_in,
};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    job::{CreateFacts, Facts},
    ports::{HypervisorError, QuiesceError},
    saga::{Nature, Plan, Step},
};

/// One attempt to create a checkpoint.
pub(super) struct Create {
    facts: CreateFacts,
    /// Layers that `CreateOverlays` has made.
    made: Vec<Layer>,
    /// The layers that were written to until the cut, as they are since.
    frozen: Vec<Layer>,
    /// The VM as it will be, once `Describe` has described it.
    published: Option<Vm>,
    frozen_at: Option<Instant>,
    paused_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateStep {
    CreateOverlays,
    AttachOverlays,
    PrepareWriters,
    Freeze,
    TakeTpm,
    SwitchHeads,
    Thaw,
    SettleWriters,
    BeginMemory,
    KeepState,
    Pause,
    StartCapture,
    Resume,
    CaptureMemory,
    Describe,
    Publish,
    FinishWriters,
}

use CreateStep as S;

/// Everything slow comes before `Freeze` or after `Thaw`; the guest is held for one transaction and nothing else but, if it
/// has a TPM, the reading of some kilobytes. All that is decided is decided before the first step: one mark serves for all.
const PRODUCTION: &[&[S]] = &[
    &[
        S::CreateOverlays,
        S::AttachOverlays,
        S::PrepareWriters,
        S::Freeze,
        S::TakeTpm,
        S::SwitchHeads,
        S::Thaw,
        S::SettleWriters,
        S::Describe,
    ],
    &[S::Publish],
    &[S::FinishWriters],
];

/// The VM stands still from `Pause` to `Resume`; its memory is written while it runs again.
const STANDARD: &[&[S]] = &[
    &[
        S::CreateOverlays,
        S::AttachOverlays,
        S::BeginMemory,
        S::Pause,
        S::TakeTpm,
        S::SwitchHeads,
        S::StartCapture,
        S::Resume,
        S::CaptureMemory,
        S::Describe,
    ],
    &[S::Publish],
];

/// Both at once: the guest is quiet in its memory too. It is held until the VM runs again, for the pause longer than for
/// a production checkpoint without memory.
const QUIESCED: &[&[S]] = &[
    &[
        S::CreateOverlays,
        S::AttachOverlays,
        S::BeginMemory,
        S::PrepareWriters,
        S::Freeze,
        S::Pause,
        S::TakeTpm,
        S::SwitchHeads,
        S::StartCapture,
        S::Resume,
        S::Thaw,
        S::SettleWriters,
        S::CaptureMemory,
        S::Describe,
    ],
    &[S::Publish],
    &[S::FinishWriters],
];

/// The disks of a guest that is not asked, as after a power cut.
const AS_IT_IS: &[&[S]] =
    &[&[S::CreateOverlays, S::AttachOverlays, S::TakeTpm, S::SwitchHeads, S::Describe], &[S::Publish]];

/// The VM is off: its disks are all there is.
const OFFLINE: &[&[S]] = &[&[S::CreateOverlays, S::TakeTpm, S::Describe], &[S::Publish]];

/// The VM is saved: its state never changes, so that a second name of it is as good as a copy.
const SAVED: &[&[S]] = &[&[S::CreateOverlays, S::KeepState, S::TakeTpm, S::Describe], &[S::Publish]];

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
            | Self::TakeTpm
            | Self::SettleWriters
            | Self::BeginMemory
            | Self::KeepState
            | Self::Pause
            | Self::StartCapture
            | Self::Resume
            | Self::Describe
            | Self::Publish
            | Self::FinishWriters => None,
        }
    }

    fn nature(self) -> Nature {
        match self {
            Self::Freeze | Self::Pause => Nature::Hold,
            // The guest writes to the new layers from then on.
            Self::SwitchHeads => Nature::Vital,
            Self::Publish => Nature::Commit,
            Self::CreateOverlays
            | Self::AttachOverlays
            | Self::PrepareWriters
            | Self::TakeTpm
            | Self::Thaw
            | Self::SettleWriters
            | Self::BeginMemory
            | Self::KeepState
            | Self::StartCapture
            | Self::Resume
            | Self::CaptureMemory
            | Self::Describe
            | Self::FinishWriters => Nature::Plain,
        }
    }
}

#[async_trait]
impl Plan for Create {
    type Step = CreateStep;

    fn bursts(&self) -> &'static [&'static [CreateStep]] {
        match (self.facts.instance, &self.facts.saved, self.facts.checkpoint.kind) {
            (None, Some(_), Kind::Production | Kind::Standard) => SAVED,
            (None, None, Kind::Production | Kind::Standard) => OFFLINE,
            (Some(_), _, Kind::Production) if self.facts.as_it_is => AS_IT_IS,
            (Some(_), _, Kind::Production) if self.facts.with_memory => QUIESCED,
            (Some(_), _, Kind::Production) => PRODUCTION,
            (Some(_), _, Kind::Standard) => STANDARD,
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
            S::TakeTpm => self.take_tpm(cx).await?,
            S::SwitchHeads => {
                cx.ports().hypervisor.switch_heads(self.instance()?, &as_overlays(&self.facts.overlays)).await?;
            }
            S::Thaw => self.thaw(cx).await?,
            S::SettleWriters => self.settle_writers(cx).await?,
            S::BeginMemory => self.begin_memory(cx).await?,
            S::KeepState => self.keep_state(cx).await?,
            S::Pause => {
                self.paused_at = Some(Instant::now());
                cx.ports().hypervisor.pause(self.instance()?).await?;
            }
            S::StartCapture => cx.ports().hypervisor.start_capture(self.instance()?).await.map_err(capture_failed)?,
            S::Resume => self.resume(cx).await?,
            S::CaptureMemory => self.capture(cx).await?,
            S::Describe => self.describe(cx).await?,
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
            S::BeginMemory => {
                self.give_up_capture(cx).await;
                self.drop_memory(cx).await
            }
            S::KeepState => self.drop_memory(cx).await,
            S::Describe => describe::take_back(cx, self.facts.checkpoint.id).await,
            S::Pause => self.let_run(cx).await,
            S::TakeTpm
            | S::Thaw
            | S::SettleWriters
            | S::StartCapture
            | S::Resume
            | S::CaptureMemory
            | S::Publish
            | S::FinishWriters => Ok(()),
        }
    }
}

impl Create {
    pub(super) fn new(facts: CreateFacts) -> Self {
        Self { facts, made: Vec::new(), frozen: Vec::new(), published: None, frozen_at: None, paused_at: None }
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
        let config = &cx.world.config;
        let writers = WriterRequest { backup_type: self.facts.checkpoint.backup_type, ..config.writers.clone() };
        let request = QuiesceRequest { session: self.facts.session, lease: config.lease, writers };
        let instance = self.instance()?;
        let prepared = while_it_runs(cx, instance, cx.ports().guest.prepare(instance, &request)).await?;
        self.facts.checkpoint.file_systems = prepared.file_systems;
        self.facts.checkpoint.writers = prepared.writers;
        Ok(())
    }

    async fn freeze(&mut self, cx: &Cx) -> Result<(), StepError> {
        let instance = self.instance()?;
        let frozen = while_it_runs(cx, instance, cx.ports().guest.freeze(instance, self.facts.session)).await?;
        self.frozen_at = Some(Instant::now());
        self.facts.checkpoint.file_systems = frozen.file_systems;
        self.facts.checkpoint.writers = frozen.writers;
        Ok(())
    }

    async fn take_tpm(&mut self, cx: &Cx) -> Result<(), StepError> {
        if let Some(folder) = &self.facts.tpm {
            self.facts.checkpoint.tpm = Some(cx.ports().tpm.take(folder).await?);
        }
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

    /// A guest without writers has nobody to settle.
    async fn settle_writers(&mut self, cx: &Cx) -> Result<(), StepError> {
        if !self.facts.checkpoint.writers.is_empty() {
            let settled = cx.ports().guest.settle(self.instance()?, self.facts.session).await?;
            self.facts.checkpoint.writers = settled;
        }
        Ok(())
    }

    async fn begin_memory(&mut self, cx: &Cx) -> Result<(), StepError> {
        memory_is_in(cx, self.instance()?).await?;
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let base = base::of(&cx.catalogue().checkpoints(&cx.vm).await?, vm.parent);
        let (location, checkpoint) = (&vm.checkpoint_location, self.facts.checkpoint.id.into());
        let sink = cx.ports().memory.begin(location, checkpoint, base.as_ref()).await?;
        cx.ports().hypervisor.prepare_capture(self.instance()?, sink).await.map_err(capture_failed)
    }

    async fn keep_state(&mut self, cx: &Cx) -> Result<(), StepError> {
        let Some(saved) = &self.facts.saved else { return Ok(()) };
        let checkpoint = &mut self.facts.checkpoint;
        checkpoint.memory = Some(cx.ports().memory.keep(&saved.memory, checkpoint.id.into()).await?);
        Ok(())
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
        let state = cx.ports().memory.seal(&vm.checkpoint_location, self.facts.checkpoint.id.into(), &version).await?;
        self.facts.checkpoint.memory = Some(state);
        Ok(())
    }

    /// The checkpoint is published: its data is safe. That of a backup is when its client says so.
    async fn finish_writers(&mut self, cx: &Cx) {
        if self.quiesce_of_backup().is_some() {
            return;
        }
        let Some(instance) = self.facts.instance else { return };
        let (guest, session) = (&cx.ports().guest, self.facts.session);
        if !self.facts.checkpoint.writers.is_empty()
            && let Err(error) = guest.complete(instance, session).await
        {
            cx.reporter.warn(format!("writers of the guest could not be told that the checkpoint is safe: {error}"));
        }
        if let Err(error) = guest.finish(instance, session).await {
            cx.reporter.warn(format!("the guest could not be told that the checkpoint is made: {error}"));
        }
    }
}
