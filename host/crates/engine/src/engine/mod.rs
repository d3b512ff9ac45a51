//! The engine as its service sees it.

mod backups;
mod checkpoints;
mod define;
mod guests;
mod images;
mod import;
mod operations;
mod preview;
mod rebuild;
mod rebuild_checkpoints;
mod sessions;
mod truth;
mod view;

pub use self::{backups::PointView, guests::GuestValues, images::ImageProgress, sessions::BackupLease};

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use stillpoint_common::{Event, Failure, GuestDescription, Merges, Operation, Reason, VmId};
use tokio::sync::{Mutex, broadcast::error::RecvError, mpsc, oneshot};

use crate::{
    Advice, EngineConfig, ExportedFile, Ports, Request, VmChange, VmView,
    actor::{Message, VmActor},
    advice,
    bounded::bounded,
    catalogue::{Catalogue, Changes},
    contact::{self, Contacts},
    context::World,
    error::StepError,
    events::{self, EventReader, EventsFrom},
    hub::Hub,
    job::Job,
    ports::{HypervisorEvent, HypervisorEventKind},
    speed::Speed,
};

/// How many jobs one transaction forgets.
const FORGET_AT_ONCE: usize = 50;

type Actors = Arc<Mutex<HashMap<VmId, mpsc::Sender<Message>>>>;

/// The checkpoint engine: VMs, checkpoints, operations.
#[derive(Clone)]
pub struct Engine {
    world: Arc<World>,
    hub: Arc<Hub>,
    /// Mailboxes of the VMs' actors. Held for a look-up or an insertion, never while an actor works.
    actors: Actors,
}

impl Engine {
    /// Opens the catalogue, attaches to running VMs and recovers what an earlier service left open. Requests may be
    /// sent at once: each VM takes them when its own recovery is done.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn open(ports: Ports, config: EngineConfig) -> Result<Self, Failure> {
        let ports = bounded(ports, config.limits);
        if let Err(error) = ports.endpoints.close_all().await {
            tracing::error!(error = %Failure::from(StepError::from(error)), "what served disks of backups has not ended");
        }
        let catalogue = Catalogue::new(ports.store.clone());
        let world =
            Arc::new(World { ports, catalogue, config, merge_speed: Speed::default(), contacts: Contacts::default() });
        let engine = Self { world, hub: Arc::default(), actors: Arc::default() };
        engine.forget_old_operations().await?;
        events::keep(engine.world.clone()).await?;
        let mut open: HashMap<VmId, Vec<Job>> = HashMap::new();
        for job in engine.world.catalogue.open_jobs().await? {
            open.entry(job.operation.vm.clone()).or_default().push(job);
        }
        let mut actors = engine.actors.lock().await;
        for vm in engine.world.catalogue.vms().await? {
            let jobs = open.remove(&vm.id).unwrap_or_default();
            let actor = VmActor::spawn(engine.world.clone(), engine.hub.clone(), vm.id.clone(), jobs);
            actors.insert(vm.id, actor);
        }
        // VMs that were being made.
        let unmade: Vec<VmId> = open.keys().cloned().collect();
        for (vm, jobs) in open {
            actors.insert(vm.clone(), VmActor::spawn(engine.world.clone(), engine.hub.clone(), vm, jobs));
        }
        drop(actors);
        unmade.iter().for_each(|vm| engine.forget_actor_of_nobody(vm));
        engine.forward_events();
        contact::keep(&engine.world);
        Ok(engine)
    }

    /// Operations are remembered for a while: so many of those that have ended, the newest.
    async fn forget_old_operations(&self) -> Result<(), Failure> {
        let ended: Vec<Job> = self.world.catalogue.jobs().await?.into_iter().filter(|job| !job.is_open()).collect();
        let old = ended.len().saturating_sub(self.world.config.remembered_operations);
        for jobs in ended[..old].chunks(FORGET_AT_ONCE) {
            let changes = jobs.iter().fold(Changes::default(), |changes, job| changes.forget_job(job));
            self.world.catalogue.commit(changes).await.map_err(StepError::from)?;
        }
        Ok(())
    }

    /// Tells the actors when processes end by themselves. If events were lost, each looks for itself.
    fn forward_events(&self) {
        let mut events = self.world.ports.hypervisor.events();
        let actors = self.actors.clone();
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(HypervisorEvent {
                        instance,
                        kind: HypervisorEventKind::Gone | HypervisorEventKind::ShutDown,
                    }) => tell_all(&actors, || Message::Ended { instance }).await,
                    Ok(HypervisorEvent { instance, kind: HypervisorEventKind::Critical(_) }) => {
                        tell_all(&actors, || Message::Stopped { instance: Some(instance) }).await;
                    }
                    Ok(HypervisorEvent { instance, kind: HypervisorEventKind::Panicked }) => {
                        tell_all(&actors, || Message::Panicked { instance }).await;
                    }
                    Ok(HypervisorEvent { kind: HypervisorEventKind::MemoryIsIn, .. }) => {
                        tell_all(&actors, || Message::MemoryIsIn).await;
                    }
                    Ok(HypervisorEvent {
                        kind: HypervisorEventKind::Reset | HypervisorEventKind::AgentChannel(_),
                        ..
                    }) => {}
                    Err(RecvError::Lagged(_)) => tell_all(&actors, || Message::Look).await,
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Lets every VM finish the operation it is at, and takes no more. VMs go on running. Disks of backups are not served any
    /// more; their sessions go on with the next service.
    pub async fn stop(&self) {
        let actors: Vec<_> = self.actors.lock().await.values().cloned().collect();
        for actor in &actors {
            let _ = actor.send(Message::Stop).await;
        }
        for actor in actors {
            actor.closed().await;
        }
        if let Err(error) = self.world.ports.endpoints.close_all().await {
            tracing::warn!(%error, "what serves disks of backups could not be ended");
        }
    }

    /// Changes a VM's record.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `VM_BUSY`, `VM_RUNNING`, `VM_HAS_CHECKPOINTS`, or the field that is wrong.
    pub async fn update_vm(&self, id: &VmId, change: VmChange) -> Result<VmView, Failure> {
        self.ask(id, |reply| Message::Change { change: Box::new(change), reply }).await??;
        self.vm(id).await
    }

    /// Suspends the merges of a VM, or resumes them. One at work makes way; one that had failed is tried again.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `VM_BUSY`.
    pub async fn set_merges(&self, id: &VmId, merges: Merges) -> Result<VmView, Failure> {
        self.ask(id, |reply| Message::Merges { merges, reply }).await??;
        self.vm(id).await
    }

    /// Returns when nothing is at work on a VM, and no layer of it can be merged now.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn idle(&self, id: &VmId) -> Result<(), Failure> {
        self.ask(id, |reply| Message::Idle { reply }).await
    }

    /// Forgets a VM that is off and has no checkpoints and no reference points. Its image files stay.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `VM_BUSY`, `VM_RUNNING`, `VM_HAS_CHECKPOINTS`, `VM_HAS_REFERENCE_POINTS`.
    pub async fn delete_vm(&self, id: &VmId) -> Result<(), Failure> {
        self.ask(id, |reply| Message::Delete { reply }).await??;
        self.actors.lock().await.remove(id);
        Ok(())
    }

    /// Begins an operation on a VM. The same `request_id` with the same request answers the same operation.
    ///
    /// # Errors
    /// Why it cannot begin: see [`Reason`]. What goes wrong later is in the operation.
    pub async fn submit(&self, id: &VmId, request: Request, request_id: Option<String>) -> Result<Operation, Failure> {
        self.ask(id, |reply| Message::Submit { request, request_id, reply }).await?
    }

    async fn ask<T>(&self, id: &VmId, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, Failure> {
        let absent = || Failure::new(Reason::VmNotFound, format!("there is no VM {id}"));
        let actor = self.actors.lock().await.get(id).cloned().ok_or_else(absent)?;
        let (reply, answer) = oneshot::channel();
        let ended =
            || Failure::new(Reason::Interrupted, format!("VM {id} takes no more requests: the service is ending"));
        actor.send(message(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())
    }

    /// What the agent of a running VM says of its guest.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `VM_NOT_RUNNING`, `GUEST_UNREACHABLE`, `GUEST_TIMED_OUT`.
    pub async fn guest(&self, vm: &VmId) -> Result<GuestDescription, Failure> {
        let record = self.world.catalogue.vm(vm).await?;
        let off = || Failure::new(Reason::VmNotRunning, format!("VM {vm} is off"));
        let instance = record.instance.ok_or_else(off)?;
        Ok(self.world.ports.guest.describe(instance).await.map_err(StepError::from)?)
    }

    /// Which kind of checkpoint fits the VM as it is now, and what speaks against one.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`. A guest that does not answer is part of the advice.
    pub async fn advise(&self, vm: &VmId) -> Result<Advice, Failure> {
        Ok(match self.guest(vm).await {
            Ok(guest) => advice::for_a_guest(&guest),
            Err(failure) if failure.reason == Reason::VmNotRunning => advice::for_a_vm_that_is_off(),
            Err(failure) if failure.reason == Reason::VmNotFound => return Err(failure),
            Err(failure) => advice::for_a_silent_guest(&failure.message),
        })
    }

    /// The files of all layers of a VM, needed or not.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn layer_files(&self, vm: &VmId) -> Result<Vec<PathBuf>, Failure> {
        Ok(self.world.catalogue.forest(vm).await?.iter().map(|layer| layer.file.path.clone()).collect())
    }

    /// What a finished export consists of, the manifest last.
    ///
    /// # Errors
    /// If the folder is no export.
    pub async fn export_files(&self, folder: &Path) -> Result<Vec<ExportedFile>, Failure> {
        Ok(self.world.ports.exports.files(folder).await.map_err(StepError::from)?)
    }

    /// The time, as the engine has it.
    #[must_use]
    pub fn now(&self) -> jiff::Timestamp {
        self.world.ports.clock.now()
    }

    /// Reads the event log from a place on, of one VM or of all; with `follow` it waits for what comes.
    ///
    /// # Errors
    /// `FIELD_INVALID` for a token that this catalogue has not given; if the catalogue cannot be read.
    pub async fn events(&self, from: EventsFrom, vm: Option<VmId>, follow: bool) -> Result<EventReader, Failure> {
        EventReader::begin(self.world.catalogue.clone(), from, vm, follow).await
    }

    /// Tells of the host's own affairs.
    ///
    /// # Errors
    /// If the catalogue cannot be written.
    pub async fn tell_of_host(&self, text: &str) -> Result<(), Failure> {
        let event = Event::of_host(self.world.ports.clock.now(), text);
        Ok(self.world.catalogue.commit(Changes::default().event(&event)).await.map_err(StepError::from)?)
    }

    /// How many VMs are defined.
    pub async fn vm_count(&self) -> usize {
        self.actors.lock().await.len()
    }
}

/// An actor that is late is waited for elsewhere: others shall hear the news all the same.
async fn tell_all(actors: &Actors, message: impl Fn() -> Message) {
    for actor in actors.lock().await.values() {
        if let Err(mpsc::error::TrySendError::Full(message)) = actor.try_send(message()) {
            let actor = actor.clone();
            tokio::spawn(async move {
                let _ = actor.send(message).await;
            });
        }
    }
}
