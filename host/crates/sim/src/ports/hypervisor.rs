//! The port to instances.

use std::{os::fd::OwnedFd, time::Duration};

use async_trait::async_trait;
use stillpoint_common::{InstanceId, LayerId, Progress};
use stillpoint_engine::ports::{
    Capture, Hypervisor, HypervisorError, HypervisorEvent, Intake, LaunchSpec, Launched, LiveMerge, LiveStream, Loaded,
    MemoryFrom, MemorySink, Observed, OnPanic, Overlay, ProgressSink, RunState,
};
use tokio::{sync::broadcast, time::Instant};

use crate::{
    Call, PowerScript,
    captures::NO_SPACE,
    images::pid_of,
    instance::Saving,
    machines::{VERSION, refused},
    merging::Merged,
    process::{Point, Process},
    state::State,
};

type Outcome<T = ()> = Result<T, HypervisorError>;

pub(super) struct SimHypervisor {
    process: Process,
}

impl SimHypervisor {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }

    async fn captured(&self, id: InstanceId, progress: &ProgressSink) -> Outcome {
        loop {
            let done_at = self.process.act(|state| {
                Ok(match &state.instance(id)?.saving {
                    Saving::Active { done_at, .. } => Some(*done_at),
                    Saving::Completed => None,
                    Saving::Failed(message) if message.contains(NO_SPACE) => {
                        return Err(HypervisorError::NoSpace { message: message.clone() });
                    }
                    Saving::Failed(message) => return refused("migrate", message.clone()),
                    Saving::None | Saving::Prepared(_) => {
                        return Err(HypervisorError::WrongState("no capture was started".to_owned()));
                    }
                })
            })?;
            let Some(done_at) = done_at else { break };
            progress(Progress { done: 0, total: 1 });
            let step = Duration::from_millis(50);
            self.process.pass_until(done_at.min(Instant::now() + step)).await;
        }
        progress(Progress { done: 1, total: 1 });
        Ok(())
    }

    async fn streamed(&self, point: &Point<'_>, id: InstanceId, stream: &LiveStream, to: &ProgressSink) -> Outcome {
        if !self.process.act(|state| state.begin_stream(id, stream))? {
            return Ok(());
        }
        let total = self.process.act(|state| Ok::<_, HypervisorError>(state.blocks_to_stream(id, &stream.disk)))?;
        let mut done = 0;
        loop {
            tokio::task::yield_now().await;
            self.process.living().await;
            self.process.pass(point.latency).await;
            match self.process.act(|state| state.stream_some(id, &stream.disk))? {
                Merged::Whole => return Ok(()),
                Merged::Part(moved) => done += moved,
            }
            to(Progress { done, total });
        }
    }

    async fn merged(&self, point: &Point<'_>, id: InstanceId, merge: &LiveMerge, progress: &ProgressSink) -> Outcome {
        if !self.process.act(|state| state.begin_merge(id, merge))? {
            return Ok(());
        }
        let total = self.process.act(|state| Ok::<_, HypervisorError>(state.blocks_to_merge(id, &merge.disk)))?;
        let mut done = 0;
        loop {
            tokio::task::yield_now().await;
            self.process.living().await;
            self.process.pass(point.latency).await;
            match self.process.act(|state| state.merge_some(id, &merge.disk))? {
                Merged::Whole => return Ok(()),
                Merged::Part(moved) => done += moved,
            }
            progress(Progress { done, total });
        }
    }
}

#[async_trait]
impl Hypervisor for SimHypervisor {
    async fn observe(&self, instance: InstanceId) -> Outcome<Observed> {
        let gone = |state: &State| Observed {
            run: RunState::Gone,
            chains: Default::default(),
            attached: Default::default(),
            capture: Capture::None,
            intake: state.lost.get(&instance).cloned().map_or(Intake::Over, Intake::Lost),
        };
        self.process
            .call(Call::Observe, |state| {
                Ok(state.instances.get(&instance).map_or_else(|| gone(state), |instance| instance.observed()))
            })
            .await
    }

    async fn process(&self, instance: InstanceId) -> Option<u32> {
        self.process.act(|state| state.instances.contains_key(&instance).then(|| pid_of(instance)))
    }

    async fn launch(&self, spec: &LaunchSpec) -> Outcome<Launched> {
        self.process.call(Call::Launch, |state| state.launch(spec)).await
    }

    async fn load_memory(&self, instance: InstanceId, from: MemoryFrom, _within: Duration) -> Outcome<Loaded> {
        let load = |state: &mut State| match from {
            MemoryFrom::Stream(source) => state.load_memory(instance, source).map(|()| Loaded::Whole),
            MemoryFrom::Pages(memory) => state.load_pages(instance, &memory),
        };
        self.process.call(Call::LoadMemory, load).await
    }

    async fn memory_is_in(&self, instance: InstanceId, _progress: &ProgressSink) -> Outcome {
        self.process.call(Call::MemoryIsIn, |state| state.take_in(instance)).await
    }

    async fn retire(&self, instance: InstanceId) -> Outcome {
        self.process
            .call(Call::Retire, |state| {
                state.end_instance(instance);
                Ok(())
            })
            .await
    }

    async fn press_power_button(&self, instance: InstanceId) -> Outcome {
        self.process
            .call(Call::PressPowerButton, |state| {
                let vm = state.instance(instance)?.spec.vm.clone();
                match state.script(&vm).power {
                    PowerScript::Obeys => state.shut_down(instance),
                    PowerScript::Ignores | PowerScript::Refuses => {}
                }
                Ok(())
            })
            .await
    }

    async fn pause(&self, instance: InstanceId) -> Outcome {
        self.process.call(Call::Pause, |state| state.pause(instance)).await
    }

    async fn set_on_panic(&self, instance: InstanceId, on_panic: OnPanic) -> Outcome {
        self.process.call(Call::SetOnPanic, |state| state.set_on_panic(instance, on_panic)).await
    }

    async fn resume(&self, instance: InstanceId) -> Outcome {
        self.process.call(Call::Resume, |state| state.resume(instance)).await
    }

    async fn attach_overlays(&self, instance: InstanceId, overlays: &[Overlay]) -> Outcome {
        self.process.call(Call::AttachOverlays, |state| state.attach(instance, overlays)).await
    }

    async fn detach_overlays(&self, instance: InstanceId, overlays: &[LayerId]) -> Outcome {
        self.process.call(Call::DetachOverlays, |state| state.detach(instance, overlays)).await
    }

    async fn switch_heads(&self, instance: InstanceId, overlays: &[Overlay]) -> Outcome {
        self.process.call(Call::SwitchHeads, |state| state.switch(instance, overlays)).await
    }

    async fn prepare_capture(&self, instance: InstanceId, sink: MemorySink) -> Outcome {
        self.process.call(Call::PrepareCapture, |state| state.prepare_capture(instance, sink.stream)).await
    }

    async fn start_capture(&self, instance: InstanceId) -> Outcome {
        self.process.call(Call::StartCapture, |state| state.start_capture(instance)).await
    }

    async fn finish_capture(&self, instance: InstanceId, progress: &ProgressSink) -> Outcome {
        let point = self.process.enter(Call::FinishCapture).await?;
        let result = self.captured(instance, progress).await;
        point.leave(result).await
    }

    async fn save_memory(&self, instance: InstanceId, sink: OwnedFd, progress: &ProgressSink) -> Outcome {
        let point = self.process.enter(Call::SaveMemory).await?;
        let result = match self.process.act(|state| state.save_memory(instance, sink)) {
            Ok(()) => self.captured(instance, progress).await,
            Err(error) => Err(error),
        };
        point.leave(result).await
    }

    async fn cancel_capture(&self, instance: InstanceId) -> Outcome {
        self.process
            .call(Call::CancelCapture, |state| {
                state.instance(instance)?.saving = Saving::None;
                Ok(())
            })
            .await
    }

    async fn merge(&self, instance: InstanceId, merge: &LiveMerge, progress: &ProgressSink) -> Outcome {
        let point = self.process.enter(Call::Merge).await?;
        let result = self.merged(&point, instance, merge, progress).await;
        point.leave(result).await
    }

    async fn finish_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Outcome {
        self.process.call(Call::FinishMerge, |state| state.finish_merge(instance, merge)).await
    }

    async fn cancel_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Outcome {
        self.process
            .call(Call::CancelMerge, |state| {
                state.cancel_merge(instance, &merge.disk);
                Ok(())
            })
            .await
    }

    async fn stream(&self, instance: InstanceId, stream: &LiveStream, progress: &ProgressSink) -> Outcome {
        let point = self.process.enter(Call::Stream).await?;
        let result = self.streamed(&point, instance, stream, progress).await;
        point.leave(result).await
    }

    async fn cancel_stream(&self, instance: InstanceId, stream: &LiveStream) -> Outcome {
        self.process
            .call(Call::CancelStream, |state| {
                state.cancel_stream(instance, &stream.disk);
                Ok(())
            })
            .await
    }

    async fn version(&self, instance: InstanceId) -> Outcome<String> {
        self.process.call(Call::Version, |state| state.instance(instance).map(|_| VERSION.to_owned())).await
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.process.world().with(|state| state.events.subscribe())
    }
}
