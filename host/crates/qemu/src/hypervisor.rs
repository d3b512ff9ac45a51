//! The port, thin: each call finds the instance and hands it to the module that knows.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use async_trait::async_trait;
use stillpoint_common::{InstanceId, LayerId};
use stillpoint_engine::{
    layout::RuntimeLayout,
    ports::{
        Hypervisor, HypervisorError, HypervisorEvent, LaunchSpec, Launched, LiveMerge, LiveStream, Loaded, MemoryFrom,
        MemorySink, Observed, OnPanic, Overlay, ProgressSink,
    },
};
use tokio::sync::broadcast;

use crate::{
    capture,
    config::QemuConfig,
    disks, launch, merge, observe, pages,
    process::ProcessIdentity,
    qmp::commands::{Quit, SetAction, SystemPowerdown},
    registry::Shared,
    tpm,
};

/// Runs VMs on QEMU.
///
/// Dropping it closes the control connections and leaves the VMs running; another one, with the same runtime layout,
/// attaches to them when it is asked for them. Only one at a time: QEMU serves one control connection.
#[derive(Debug)]
pub struct QemuHypervisor {
    pub(crate) shared: Arc<Shared>,
}

impl QemuHypervisor {
    /// With this QEMU, and runtime files in this layout. Nothing is started or touched yet.
    #[must_use]
    pub fn new(config: QemuConfig, layout: RuntimeLayout) -> Self {
        Self { shared: Arc::new(Shared::new(config, layout)) }
    }
}

#[async_trait]
impl Hypervisor for QemuHypervisor {
    async fn observe(&self, instance: InstanceId) -> Result<Observed, HypervisorError> {
        let folder = self.shared.layout.pages(instance);
        let observed = match self.shared.attach(instance).await {
            Ok(attached) => observe::observe(&attached, pages::intake(&folder)).await,
            Err(error) => Err(error),
        };
        match observed {
            Err(HypervisorError::Gone) => Ok(observe::gone(pages::intake_of_gone(&folder))),
            other => other,
        }
    }

    async fn process(&self, instance: InstanceId) -> Option<u32> {
        let process = ProcessIdentity::read(&self.shared.layout.instance(instance)).filter(ProcessIdentity::is_alive);
        process.and_then(|process| u32::try_from(process.pid().as_raw_nonzero().get()).ok())
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Launched, HypervisorError> {
        launch::launch(&self.shared, spec).await
    }

    async fn version(&self, instance: InstanceId) -> Result<String, HypervisorError> {
        Ok(self.shared.attach(instance).await?.version.to_string())
    }

    async fn load_memory(
        &self,
        instance: InstanceId,
        from: MemoryFrom,
        within: Duration,
    ) -> Result<Loaded, HypervisorError> {
        match from {
            MemoryFrom::Stream(source) => {
                capture::load(&*self.shared.attach(instance).await?, source, within).await.map(|()| Loaded::Whole)
            }
            MemoryFrom::Pages(memory) => capture::load_by_page(&self.shared, instance, &memory, within).await,
        }
    }

    async fn memory_is_in(&self, instance: InstanceId, progress: &ProgressSink) -> Result<(), HypervisorError> {
        let folder = self.shared.layout.pages(instance);
        capture::is_in(&*self.shared.attach(instance).await?, &folder, progress).await
    }

    /// QEMU is told to close its images and end; one that does not within the deadline is killed.
    async fn retire(&self, instance: InstanceId) -> Result<(), HypervisorError> {
        let folder = self.shared.layout.instance(instance);
        let deadline = self.shared.config.deadlines.quit;
        let io = |what: &str, source| HypervisorError::Io { what: what.to_owned(), source };
        let found = ProcessIdentity::find(&folder).map_err(|source| io("looking for QEMU", source))?;
        if let Some(process) = found.filter(ProcessIdentity::is_alive) {
            if let Ok(attached) = self.shared.attach(instance).await {
                // It often hangs up before it answers.
                let _ = attached.client.execute(&Quit {}, deadline).await;
            }
            if !process.ended(deadline).await {
                tracing::warn!(%instance, pid = %process.pid().as_raw_nonzero(), "QEMU does not end: killing it");
                process.kill().map_err(|source| io("killing QEMU", source))?;
                if !process.ended(deadline).await {
                    return Err(HypervisorError::Unanswered { command: "SIGKILL".to_owned(), waited: deadline });
                }
            }
        }
        let ended = tpm::end(&self.shared.layout.tpm(instance)).await;
        ended.map_err(|source| io("ending the TPM of the VM", source))?;
        let ended = pages::end(&self.shared.layout.pages(instance)).await;
        ended.map_err(|source| io("ending what serves the memory of the VM", source))?;
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("removing the runtime folder of the VM", error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn press_power_button(&self, instance: InstanceId) -> Result<(), HypervisorError> {
        self.shared.attach(instance).await?.run(&SystemPowerdown {}).await.map(drop)
    }

    async fn pause(&self, instance: InstanceId) -> Result<(), HypervisorError> {
        capture::pause(&*self.shared.attach(instance).await?).await
    }

    async fn resume(&self, instance: InstanceId) -> Result<(), HypervisorError> {
        capture::resume(&*self.shared.attach(instance).await?).await
    }

    async fn set_on_panic(&self, instance: InstanceId, on_panic: OnPanic) -> Result<(), HypervisorError> {
        let panic = launch::panic_action(on_panic);
        self.shared.attach(instance).await?.run(&SetAction { panic }).await.map(drop)
    }

    async fn attach_overlays(&self, instance: InstanceId, overlays: &[Overlay]) -> Result<(), HypervisorError> {
        disks::attach(&*self.shared.attach(instance).await?, overlays).await
    }

    async fn detach_overlays(&self, instance: InstanceId, overlays: &[LayerId]) -> Result<(), HypervisorError> {
        disks::detach(&*self.shared.attach(instance).await?, overlays).await
    }

    async fn switch_heads(&self, instance: InstanceId, overlays: &[Overlay]) -> Result<(), HypervisorError> {
        disks::switch(&*self.shared.attach(instance).await?, overlays).await
    }

    async fn prepare_capture(&self, instance: InstanceId, sink: MemorySink) -> Result<(), HypervisorError> {
        capture::prepare(&*self.shared.attach(instance).await?, sink).await
    }

    async fn start_capture(&self, instance: InstanceId) -> Result<(), HypervisorError> {
        capture::start(&*self.shared.attach(instance).await?).await
    }

    async fn finish_capture(&self, instance: InstanceId, progress: &ProgressSink) -> Result<(), HypervisorError> {
        capture::finish(&*self.shared.attach(instance).await?, progress).await
    }

    async fn save_memory(
        &self,
        instance: InstanceId,
        sink: OwnedFd,
        progress: &ProgressSink,
    ) -> Result<(), HypervisorError> {
        capture::save(&*self.shared.attach(instance).await?, sink, progress).await
    }

    async fn cancel_capture(&self, instance: InstanceId) -> Result<(), HypervisorError> {
        capture::cancel(&*self.shared.attach(instance).await?).await
    }

    async fn merge(
        &self,
        instance: InstanceId,
        merge: &LiveMerge,
        progress: &ProgressSink,
    ) -> Result<(), HypervisorError> {
        merge::merge(&*self.shared.attach(instance).await?, merge, progress).await
    }

    async fn finish_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Result<(), HypervisorError> {
        merge::finish(&*self.shared.attach(instance).await?, merge).await
    }

    async fn cancel_merge(&self, instance: InstanceId, merge: &LiveMerge) -> Result<(), HypervisorError> {
        merge::cancel(&*self.shared.attach(instance).await?, merge).await
    }

    async fn stream(
        &self,
        instance: InstanceId,
        stream: &LiveStream,
        progress: &ProgressSink,
    ) -> Result<(), HypervisorError> {
        merge::stream(&*self.shared.attach(instance).await?, stream, progress).await
    }

    async fn cancel_stream(&self, instance: InstanceId, stream: &LiveStream) -> Result<(), HypervisorError> {
        merge::cancel_stream(&*self.shared.attach(instance).await?, stream).await
    }

    fn events(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.shared.events.subscribe()
    }
}
