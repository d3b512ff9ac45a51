//! Which instances we are attached to. Attaching is the same for a process that was just started and for one that
//! an earlier service left running.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use stillpoint_common::{DiskName, InstanceId};
use stillpoint_engine::{
    layout::RuntimeLayout,
    ports::{HypervisorError, HypervisorEvent, HypervisorEventKind, Intake},
};
use tokio::{
    sync::{OnceCell, broadcast},
    time::{Instant, sleep},
};

use crate::{
    accelerator::AcceleratorTrial,
    attached::{Attached, explained},
    capture::Memo,
    config::QemuConfig,
    events::translate,
    launch::AGENT,
    observe, pages,
    process::ProcessIdentity,
    qmp::{
        Client, Event, QmpError,
        commands::{QueryBlock, QueryChardev, QueryVersion},
    },
};

type Reached = (ProcessIdentity, Client, broadcast::Receiver<Event>);
type Cell = Arc<OnceCell<Arc<Attached>>>;

/// What all parts of the adapter share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: QemuConfig,
    pub(crate) layout: RuntimeLayout,
    pub(crate) accelerator: AcceleratorTrial,
    pub(crate) events: broadcast::Sender<HypervisorEvent>,
    /// One cell an instance. The lock covers looking one up; attaching happens in the cell.
    instances: Mutex<HashMap<InstanceId, Cell>>,
    /// Those that are looked after while they take their memory in. The lock covers the set.
    taking_in: Mutex<HashSet<InstanceId>>,
}

impl Shared {
    pub(crate) fn new(config: QemuConfig, layout: RuntimeLayout) -> Self {
        let (events, _) = broadcast::channel(1024);
        let accelerator = AcceleratorTrial::default();
        Self { config, layout, accelerator, events, instances: Mutex::default(), taking_in: Mutex::default() }
    }

    /// Those that are looked after while they take their memory in.
    pub(crate) fn taking_in(&self) -> MutexGuard<'_, HashSet<InstanceId>> {
        self.taking_in.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance's connection, made now if there is none. Two callers share one attempt.
    ///
    /// [`HypervisorError::Gone`] if there is no process.
    pub(crate) async fn attach(self: &Arc<Self>, instance: InstanceId) -> Result<Arc<Attached>, HypervisorError> {
        self.attach_within(instance, self.config.deadlines.greeting).await
    }

    /// As [`attach`](Self::attach), with time for a process that has just been started.
    pub(crate) async fn attach_within(
        self: &Arc<Self>,
        instance: InstanceId,
        within: Duration,
    ) -> Result<Arc<Attached>, HypervisorError> {
        let cell = {
            let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(instances.entry(instance).or_default())
        };
        let attached = cell.get_or_try_init(|| self.connect(instance, within)).await;
        match attached {
            Ok(attached) if !attached.client.is_closed() => Ok(Arc::clone(attached)),
            Ok(attached) if !attached.process.is_alive() => Err(HypervisorError::Gone),
            // The watcher forgets the connection in a moment, or finds that the process has ended.
            Ok(_) => Err(explained(QmpError::Closed)),
            Err(error) => {
                self.forget_if(instance, |known| Arc::ptr_eq(known, &cell) && known.get().is_none());
                Err(error)
            }
        }
    }

    async fn connect(
        self: &Arc<Self>,
        instance: InstanceId,
        within: Duration,
    ) -> Result<Arc<Attached>, HypervisorError> {
        if pages::intake(&self.layout.pages(instance)) != Intake::Over
            && let Some(process) = ProcessIdentity::read(&self.layout.instance(instance))
        {
            // An earlier service has let it run before all of its memory was in. It may not even greet.
            pages::watch(self, instance, process);
        }
        let (process, client, events) = self.reach(instance, within).await?;
        let (deadlines, pace) = (self.config.deadlines, self.config.pace);
        let version = client.execute(&QueryVersion {}, deadlines.command).await.map_err(explained)?.qemu;
        let (log, capture) = (self.layout.log(instance), Memo::default());
        let attached = Arc::new(Attached { client, process, log, deadlines, pace, version, capture });
        let chardevs = attached.run(&QueryChardev {}).await?;
        if chardevs.iter().any(|chardev| chardev.label == AGENT && chardev.frontend_open) {
            self.tell(instance, HypervisorEventKind::AgentChannel(true));
        }
        tokio::spawn(watch(Arc::downgrade(self), instance, attached.process.clone(), events));
        Ok(attached)
    }

    /// Finds the process and connects to it. The socket of one that has just been started appears in a moment.
    async fn reach(&self, instance: InstanceId, within: Duration) -> Result<Reached, HypervisorError> {
        let folder = self.layout.instance(instance);
        let socket = self.layout.control_socket(instance);
        let deadline = Instant::now() + within;
        // The folder is made before the process; without it there is nothing to wait for.
        while folder.exists() {
            let process = ProcessIdentity::find(&folder)
                .map_err(|source| HypervisorError::Io { what: "looking for QEMU".to_owned(), source })?;
            if process.as_ref().is_some_and(|process| !process.is_alive()) {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match (process, Client::connect(&socket, left).await) {
                (Some(process), Ok((client, events))) => return Ok((process, client, events)),
                (_, Ok(_) | Err(QmpError::Connect { .. } | QmpError::Closed)) if !left.is_zero() => {}
                (None, _) => break,
                (Some(_), Err(error)) => return Err(explained(error)),
            }
            sleep(Duration::from_millis(5)).await;
        }
        Err(HypervisorError::Gone)
    }

    pub(crate) fn tell(&self, instance: InstanceId, kind: HypervisorEventKind) {
        // Nobody listens: then nobody wants to know.
        let _ = self.events.send(HypervisorEvent { instance, kind });
    }

    /// Forgets the connection to a process that has ended or was lost. One to a later process stays.
    pub(crate) fn forget(&self, instance: InstanceId, process: &ProcessIdentity) {
        self.forget_if(instance, |cell| cell.get().is_some_and(|attached| attached.process == *process));
    }

    fn forget_if(&self, instance: InstanceId, condition: impl FnOnce(&Cell) -> bool) {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if instances.get(&instance).is_some_and(condition) {
            instances.remove(&instance);
        }
    }
}

/// Passes on what happens to an instance, from the moment it is attached until its process ends.
async fn watch(
    shared: Weak<Shared>,
    instance: InstanceId,
    process: ProcessIdentity,
    mut events: broadcast::Receiver<Event>,
) {
    loop {
        match events.recv().await {
            Ok(event) => {
                let Some(shared) = shared.upgrade() else { return };
                match translate(&event) {
                    // QEMU before 9.2 does not say which disk it was.
                    Some(HypervisorEventKind::Critical(None)) => {
                        let disk = failed_disk(&shared, instance).await;
                        shared.tell(instance, HypervisorEventKind::Critical(disk));
                    }
                    Some(kind) => shared.tell(instance, kind),
                    None => {}
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => tracing::warn!(%instance, missed, "QMP events missed"),
            Err(broadcast::error::RecvError::Closed) => break,
        }
    }
    let ended = process.ended(Duration::from_secs(1)).await;
    let Some(shared) = shared.upgrade() else { return };
    shared.forget(instance, &process);
    if ended {
        shared.tell(instance, HypervisorEventKind::Gone);
    } else {
        tracing::warn!(%instance, "lost the connection to QEMU's control socket");
        reattach(Arc::downgrade(&shared), instance).await;
    }
}

async fn failed_disk(shared: &Arc<Shared>, instance: InstanceId) -> Option<DiskName> {
    let attached = shared.instances.lock().unwrap_or_else(PoisonError::into_inner).get(&instance)?.get().cloned()?;
    observe::failed_disk(&attached.run(&QueryBlock {}).await.ok()?)
}

/// The process lives and its connection was lost: attach again, so that its events are heard.
///
/// Boxed, since attaching starts the watching that may end here.
fn reattach(shared: Weak<Shared>, instance: InstanceId) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        while let Some(shared) = shared.upgrade() {
            match shared.attach(instance).await {
                Ok(_) => return,
                Err(HypervisorError::Gone) => return shared.tell(instance, HypervisorEventKind::Gone),
                Err(_) => {}
            }
            drop(shared);
            sleep(Duration::from_secs(1)).await;
        }
    })
}
