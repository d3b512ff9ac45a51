//! The hypervisor's calls.

use std::{os::fd::OwnedFd, time::Duration};

use async_trait::async_trait;
use stillpoint_common::{InstanceId, LayerId};
use tokio::{sync::broadcast, time::timeout};

use super::{Bounded, Moving, named, within};
use crate::ports::{
    Hypervisor, HypervisorError, HypervisorEvent, LaunchSpec, Launched, LiveMerge, LiveStream, Loaded, MemoryFrom,
    MemorySink, Observed, OnPanic, Overlay, ProgressSink,
};

type Answer<T = ()> = Result<T, HypervisorError>;

fn late(command: &'static str) -> impl FnOnce(Duration) -> HypervisorError {
    move |waited| HypervisorError::Unanswered { command: command.to_owned(), waited }
}

#[async_trait]
impl Hypervisor for Bounded<dyn Hypervisor> {
    async fn observe(&self, instance: InstanceId) -> Answer<Observed> {
        within(self.limits.look, late("observe"), named("observe", self.port.observe(instance))).await
    }

    async fn process(&self, instance: InstanceId) -> Option<u32> {
        timeout(self.limits.look, named("process", self.port.process(instance))).await.ok().flatten()
    }

    async fn launch(&self, spec: &LaunchSpec) -> Answer<Launched> {
        within(self.limits.act, late("launch"), named("launch", self.port.launch(spec))).await
    }

    async fn load_memory(&self, instance: InstanceId, from: MemoryFrom, time: Duration) -> Answer<Loaded> {
        let limit = time + self.limits.act;
        within(limit, late("load_memory"), named("load_memory", self.port.load_memory(instance, from, time))).await
    }

    async fn memory_is_in(&self, instance: InstanceId, progress: &ProgressSink) -> Answer {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("memory_is_in", self.port.memory_is_in(instance, &sink));
        Moving::within(seen, self.limits.stall, late("memory_is_in"), call).await
    }

    async fn retire(&self, instance: InstanceId) -> Answer {
        within(self.limits.act, late("retire"), named("retire", self.port.retire(instance))).await
    }

    async fn press_power_button(&self, instance: InstanceId) -> Answer {
        within(
            self.limits.act,
            late("press_power_button"),
            named("press_power_button", self.port.press_power_button(instance)),
        )
        .await
    }

    async fn pause(&self, instance: InstanceId) -> Answer {
        within(self.limits.act, late("pause"), named("pause", self.port.pause(instance))).await
    }

    async fn set_on_panic(&self, instance: InstanceId, on_panic: OnPanic) -> Answer {
        within(self.limits.act, late("set_on_panic"), named("set_on_panic", self.port.set_on_panic(instance, on_panic)))
            .await
    }

    async fn resume(&self, instance: InstanceId) -> Answer {
        within(self.limits.act, late("resume"), named("resume", self.port.resume(instance))).await
    }

    async fn attach_overlays(&self, instance: InstanceId, overlays: &[Overlay]) -> Answer {
        within(
            self.limits.act,
            late("attach_overlays"),
            named("attach_overlays", self.port.attach_overlays(instance, overlays)),
        )
        .await
    }

    async fn detach_overlays(&self, instance: InstanceId, overlays: &[LayerId]) -> Answer {
        within(
            self.limits.act,
            late("detach_overlays"),
            named("detach_overlays", self.port.detach_overlays(instance, overlays)),
        )
        .await
    }

    async fn switch_heads(&self, instance: InstanceId, overlays: &[Overlay]) -> Answer {
        within(self.limits.act, late("switch_heads"), named("switch_heads", self.port.switch_heads(instance, overlays)))
            .await
    }

    async fn version(&self, instance: InstanceId) -> Answer<String> {
        within(self.limits.look, late("version"), named("version", self.port.version(instance))).await
    }

    async fn prepare_capture(&self, instance: InstanceId, sink: MemorySink) -> Answer {
        within(
            self.limits.act,
            late("prepare_capture"),
            named("prepare_capture", self.port.prepare_capture(instance, sink)),
        )
        .await
    }

    async fn start_capture(&self, instance: InstanceId) -> Answer {
        within(self.limits.act, late("start_capture"), named("start_capture", self.port.start_capture(instance))).await
    }

    async fn finish_capture(&self, instance: InstanceId, progress: &ProgressSink) -> Answer {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("finish_capture", self.port.finish_capture(instance, &sink));
        Moving::within(seen, self.limits.stall, late("finish_capture"), call).await
    }

    async fn save_memory(&self, instance: InstanceId, file: OwnedFd, progress: &ProgressSink) -> Answer {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("save_memory", self.port.save_memory(instance, file, &sink));
        Moving::within(seen, self.limits.stall, late("save_memory"), call).await
    }

    /// An old QEMU's capture is not cancelled but waited for.
    async fn cancel_capture(&self, instance: InstanceId) -> Answer {
        within(self.limits.bulk, late("cancel_capture"), named("cancel_capture", self.port.cancel_capture(instance)))
            .await
    }

    async fn merge(&self, instance: InstanceId, merge: &LiveMerge, progress: &ProgressSink) -> Answer {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("merge", self.port.merge(instance, merge, &sink));
        Moving::within(seen, self.limits.stall, late("merge"), call).await
    }

    async fn finish_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Answer {
        within(self.limits.act, late("finish_merge"), named("finish_merge", self.port.finish_merge(instance, merge)))
            .await
    }

    async fn cancel_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Answer {
        within(self.limits.act, late("cancel_merge"), named("cancel_merge", self.port.cancel_merge(instance, merge)))
            .await
    }

    async fn stream(&self, instance: InstanceId, stream: &LiveStream, progress: &ProgressSink) -> Answer {
        let Moving { sink, seen } = Moving::new(progress);
        let call = named("stream", self.port.stream(instance, stream, &sink));
        Moving::within(seen, self.limits.stall, late("stream"), call).await
    }

    async fn cancel_stream(&self, instance: InstanceId, stream: &LiveStream) -> Answer {
        within(
            self.limits.act,
            late("cancel_stream"),
            named("cancel_stream", self.port.cancel_stream(instance, stream)),
        )
        .await
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.port.events()
    }
}
