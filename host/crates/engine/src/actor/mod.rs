//! One actor per VM: all work on a VM goes through its mailbox, one operation at a time.
//!
//! ```text
//!  started ── recover open jobs ── idle ⇄ running(operation) ── gone
//!                                   │  settle when a process ended
//!                                   └─ changes of the record, deletion
//! ```

mod change;
mod critical;

use std::sync::Arc;

use stillpoint_common::{
    CheckpointId, Failure, InstanceId, Operation, OperationId, OperationKind, OperationState, PowerState, Reason, VmId,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::critical::Watch;
use crate::{
    CheckpointChange, Request, VmChange,
    admission::Situation,
    catalogue::Changes,
    context::{Cx, Reporter, World},
    hub::Hub,
    job::Job,
    plans,
    saga::Journal,
};

/// How many messages may wait for an actor.
const MAILBOX: usize = 64;

/// What can be asked of a VM's actor.
pub(crate) enum Message {
    Submit { request: Request, request_id: Option<String>, reply: oneshot::Sender<Result<Operation, Failure>> },
    Change { change: Box<VmChange>, reply: oneshot::Sender<Result<(), Failure>> },
    Remark { checkpoint: CheckpointId, change: CheckpointChange, reply: oneshot::Sender<Result<(), Failure>> },
    Delete { reply: oneshot::Sender<Result<(), Failure>> },
    Cancel { operation: OperationId },
    Ended { instance: InstanceId },
    Stopped { instance: Option<InstanceId> },
    Stop,
}

/// The actor of one VM.
pub(crate) struct VmActor {
    world: Arc<World>,
    hub: Arc<Hub>,
    vm: VmId,
    running: Option<Running>,
    /// What runs is the recovery of open jobs.
    recovering: bool,
    tasks: JoinSet<()>,
    critical: Watch,
}

struct Running {
    reporter: Reporter,
    cancel: CancellationToken,
}

/// What comes after a message.
enum After {
    GoOn,
    End,
}

impl VmActor {
    /// Starts the actor; it recovers these open jobs before it takes a message.
    pub(crate) fn spawn(world: Arc<World>, hub: Arc<Hub>, vm: VmId, open: Vec<Job>) -> mpsc::Sender<Message> {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let actor = Self {
            world,
            hub,
            vm,
            running: None,
            recovering: false,
            tasks: JoinSet::new(),
            critical: Watch::default(),
        };
        tokio::spawn(actor.run(mailbox, open));
        sender
    }

    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>, open: Vec<Job>) {
        self.recover(open).await;
        loop {
            let next_look = self.next_look();
            tokio::select! {
                message = mailbox.recv() => {
                    let Some(message) = message else { break };
                    match self.handle(message).await {
                        After::GoOn => {}
                        After::End => break,
                    }
                }
                Some(_) = self.tasks.join_next() => self.task_ended().await,
                () = until(next_look) => self.look().await,
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn task_ended(&mut self) {
        self.running = None;
        if std::mem::take(&mut self.recovering) {
            self.recovered().await;
        }
    }

    /// Who has been told that an operation ended must not hear that the VM is still busy with it: its task is over in a
    /// moment.
    async fn let_end(&mut self) {
        let has_ended = |running: &Running| running.reporter.now().state != OperationState::Running;
        if self.running.as_ref().is_some_and(has_ended) && self.tasks.join_next().await.is_some() {
            self.task_ended().await;
        }
    }

    /// Lets a guest go on that we had paused, and sets the recovery of open jobs to work. Until that is done the VM is
    /// busy with the operation that is recovered.
    async fn recover(&mut self, open: Vec<Job>) {
        let idle = self.idle_cx();
        if let Err(error) = plans::release_hold(&idle).await {
            tracing::error!(vm = %self.vm, error = %Failure::from(error), "a paused VM could not be resumed");
        }
        if open.is_empty() {
            return self.recovered().await;
        }
        let jobs: Vec<(Job, Cx)> = open.into_iter().map(|job| (job.clone(), self.enter(&job))).collect();
        self.recovering = true;
        let hub = self.hub.clone();
        self.tasks.spawn(async move {
            for (job, cx) in jobs {
                let id = job.operation.id;
                tracing::info!(vm = %cx.vm, operation = %id, "recovering");
                let mut journal = Journal::new(job, cx.world.catalogue.clone(), cx.reporter.clone());
                let result = plans::recover(&mut journal, &cx).await;
                journal.end(result, cx.ports().clock.now()).await;
                hub.leave(id);
            }
        });
    }

    /// Brings the record in line with the process, and begins to collect what the past has left.
    async fn recovered(&mut self) {
        let idle = self.idle_cx();
        match plans::settle(&idle).await {
            Ok(PowerState::Off) => {}
            Ok(PowerState::PausedCritical) => self.suspect(),
            Ok(PowerState::Running | PowerState::Paused) => self.suspect_if_it_stood().await,
            Err(error) => {
                tracing::error!(vm = %self.vm, error = %Failure::from(error), "the VM's process could not be observed");
            }
        }
        if plans::collection_is_due(&idle).await {
            let job = self.own_job();
            if self.world.catalogue.commit(Changes::default().set_job(&job)).await.is_ok() {
                self.begin(job);
            }
        }
    }

    /// Work that the engine gives itself.
    fn own_job(&self) -> Job {
        Job::new(OperationKind::CollectLayers, self.vm.clone(), None, self.now())
    }

    async fn handle(&mut self, message: Message) -> After {
        self.let_end().await;
        match message {
            Message::Submit { request, request_id, reply } => {
                let _ = reply.send(self.submit(request, request_id).await);
            }
            Message::Change { change, reply } => {
                let _ = reply.send(self.change(*change).await);
            }
            Message::Remark { checkpoint, change, reply } => {
                let _ = reply.send(self.remark(checkpoint, change).await);
            }
            Message::Delete { reply } => {
                let deleted = self.delete().await;
                let done = deleted.is_ok();
                let _ = reply.send(deleted);
                if done {
                    return After::End;
                }
            }
            Message::Cancel { operation } => self.cancel(operation),
            Message::Ended { instance } => self.ended(instance).await,
            Message::Stopped { instance } => self.stopped(instance).await,
            Message::Stop => return After::End,
        }
        After::GoOn
    }

    async fn submit(&mut self, request: Request, request_id: Option<String>) -> Result<Operation, Failure> {
        if let Some(known) = self.known(&request, request_id.as_deref()).await? {
            return Ok(known);
        }
        let vm = self.world.catalogue.vm(&self.vm).await?;
        let checkpoints = self.world.catalogue.checkpoints(&self.vm).await?;
        let running = self.running.as_ref().map(|running| running.reporter.now());
        let max_checkpoints = self.world.config.max_checkpoints;
        Situation { vm: &vm, checkpoints: &checkpoints, running: running.as_ref(), max_checkpoints }.admit(&request)?;
        let job = Job { request_id, ..Job::new(request.kind(), self.vm.clone(), Some(request), self.now()) };
        let changes = Changes::default().set_job(&job).new_request(&job);
        self.world.catalogue.commit(changes).await.map_err(crate::error::StepError::from)?;
        let operation = job.operation.clone();
        self.begin(job);
        Ok(operation)
    }

    /// The operation that this request id was used for, if it was.
    async fn known(&self, request: &Request, request_id: Option<&str>) -> Result<Option<Operation>, Failure> {
        let Some(request_id) = request_id else { return Ok(None) };
        let Some(id) = self.world.catalogue.request(&self.vm, request_id).await? else { return Ok(None) };
        let job = self.world.catalogue.job(id).await?;
        if job.request.as_ref() != Some(request) {
            let message = format!("request_id {request_id} belongs to operation {id}, which is another request");
            return Err(Failure::new(Reason::RequestIdReused, message).at("request_id"));
        }
        Ok(Some(self.hub.find(id).unwrap_or(job.operation)))
    }

    /// Sets a job to work, in a task of its own, so that the actor can go on answering.
    fn begin(&mut self, job: Job) {
        let cx = self.enter(&job);
        let hub = self.hub.clone();
        self.tasks.spawn(async move {
            let id = job.operation.id;
            tracing::info!(vm = %cx.vm, operation = %id, kind = ?job.operation.kind, "begun");
            let mut journal = Journal::new(job, cx.world.catalogue.clone(), cx.reporter.clone());
            let result = plans::execute(&mut journal, &cx).await;
            if let Err(failure) = &result {
                tracing::warn!(vm = %cx.vm, operation = %id, reason = failure.reason.code(), %failure, "failed");
            }
            if let Err(error) = plans::settle(&cx).await {
                tracing::warn!(vm = %cx.vm, error = %Failure::from(error), "the VM's process could not be observed");
            }
            journal.end(result, cx.ports().clock.now()).await;
            hub.leave(id);
        });
    }

    /// Makes a job what the VM is busy with.
    fn enter(&mut self, job: &Job) -> Cx {
        let cx = self.cx(Reporter::new(job.operation.clone()));
        self.hub.enter(&cx.reporter);
        self.running = Some(Running { reporter: cx.reporter.clone(), cancel: cx.cancel.clone() });
        cx
    }

    fn cancel(&self, operation: OperationId) {
        if let Some(running) = self.running.as_ref().filter(|running| running.reporter.now().id == operation) {
            running.cancel.cancel();
        }
    }

    /// A process has ended by itself. An operation that runs will see it; otherwise the catalogue is told now.
    async fn ended(&self, instance: InstanceId) {
        let is_ours = self.world.catalogue.vm(&self.vm).await.is_ok_and(|vm| vm.instance == Some(instance));
        if !is_ours || self.running.is_some() {
            return;
        }
        let cx = self.idle_cx();
        if let Err(error) = plans::settle(&cx).await {
            tracing::warn!(vm = %self.vm, error = %Failure::from(error), "the VM's process could not be observed");
        }
    }

    /// For acts that belong to no operation, and that nobody watches.
    fn idle_cx(&self) -> Cx {
        self.cx(Reporter::new(self.own_job().operation))
    }

    fn cx(&self, reporter: Reporter) -> Cx {
        Cx { world: self.world.clone(), vm: self.vm.clone(), reporter, cancel: CancellationToken::new() }
    }

    fn now(&self) -> jiff::Timestamp {
        self.world.ports.clock.now()
    }
}

/// Returns then, or never.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
