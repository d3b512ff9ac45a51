//! One actor per VM: all work on a VM goes through its mailbox, one operation at a time.
//!
//! ```text
//!  started ── recover open jobs ── idle ⇄ running(operation) ── gone
//!                                   │  settle when a process ended, and until that succeeds
//!                                   ├─ changes of the record, deletion
//!                                   └─ collect layers, when nothing else is asked for
//! ```
//! What only merges layers makes way: a request that comes is accepted, waits until the merge has stopped, and begins.
//!
//! A panic, here or in an operation, is a defect; it is logged, what the operation had begun is recovered as after a
//! restart of the service, and the actor goes on.

mod background;
mod backups;
mod caught;
mod change;
mod critical;
mod failing;
mod missing;
mod points;
mod reconnect;
mod schedule;
mod submit;
mod work;

use std::{path::PathBuf, sync::Arc, time::Duration};

use stillpoint_common::{
    Backup, BackupId, CheckpointId, DiskName, Failure, InstanceId, LayerId, Merges, Operation, OperationId,
    OperationKind, OperationState, PowerState, Reason, ReferencePoint, ReferencePointId, VmId,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::backups::EndBackup;
use self::{
    backups::Sessions,
    caught::caught,
    critical::Watch,
    schedule::Schedule,
    work::{From, is_absent, see_through},
};
use crate::{
    CheckpointChange, NewBackup, Reconnect, Request, VmChange,
    context::{Cx, Reporter, World},
    describe,
    hub::Hub,
    job::Job,
    plans,
    way::Way,
};

/// How many messages may wait for an actor.
const MAILBOX: usize = 64;
/// How long to wait before a VM that could not be settled is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What can be asked of a VM's actor.
pub(crate) enum Message {
    Submit {
        request: Request,
        request_id: Option<String>,
        reply: oneshot::Sender<Result<Operation, Failure>>,
    },
    Change {
        change: Box<VmChange>,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Remark {
        checkpoint: CheckpointId,
        change: CheckpointChange,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Reconnect {
        asked: Box<Reconnect>,
        reply: oneshot::Sender<Result<Vec<LayerId>, Failure>>,
    },
    Merges {
        merges: Merges,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    KeepPoint {
        checkpoint: CheckpointId,
        request_id: Option<String>,
        reply: oneshot::Sender<Result<ReferencePoint, Failure>>,
    },
    ForgetPoint {
        point: ReferencePointId,
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    StartBackup {
        new: Box<NewBackup>,
        request_id: Option<String>,
        reply: oneshot::Sender<Result<Backup, Failure>>,
    },
    RenewBackup {
        backup: BackupId,
        reply: oneshot::Sender<Result<Backup, Failure>>,
    },
    OpenDisk {
        backup: BackupId,
        disk: DiskName,
        reply: oneshot::Sender<Result<PathBuf, Failure>>,
    },
    EndBackup {
        backup: BackupId,
        end: EndBackup,
        reply: oneshot::Sender<Result<Backup, Failure>>,
    },
    Idle {
        reply: oneshot::Sender<()>,
    },
    Delete {
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    Cancel {
        operation: OperationId,
    },
    Ended {
        instance: InstanceId,
    },
    Stopped {
        instance: Option<InstanceId>,
    },
    Panicked {
        instance: InstanceId,
    },
    MemoryIsIn,
    Look,
    Stop,
}

/// The actor of one VM.
pub(crate) struct VmActor {
    world: Arc<World>,
    hub: Arc<Hub>,
    vm: VmId,
    running: Option<Running>,
    /// What was accepted and begins when what runs has made way.
    waiting: Option<(Job, Cx)>,
    /// What runs is the recovery of open jobs.
    recovering: bool,
    /// The record may differ from the process, or the VM may be paused by us: to be looked at again.
    unsettled: bool,
    /// Its process ended while something was at work, which may not have written it down.
    ended_meanwhile: bool,
    /// Its description files are not as the catalogue is: to be written again. Nobody waits for that.
    undescribed: bool,
    tasks: JoinSet<()>,
    backups: Sessions,
    critical: Watch,
    schedule: Schedule,
    /// Layers are to be collected, at once or when the schedule says so.
    owed: bool,
    /// Who wants to know when nothing is at work any more.
    idle: Vec<oneshot::Sender<()>>,
}

struct Running {
    reporter: Reporter,
    cancel: CancellationToken,
    way: Way,
}

impl Running {
    fn of(cx: &Cx) -> Self {
        Self { reporter: cx.reporter.clone(), cancel: cx.cancel.clone(), way: cx.way.clone() }
    }
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
            waiting: None,
            recovering: false,
            unsettled: false,
            ended_meanwhile: false,
            undescribed: false,
            tasks: JoinSet::new(),
            backups: Sessions::default(),
            critical: Watch::default(),
            schedule: Schedule::default(),
            owed: false,
            idle: Vec::new(),
        };
        tokio::spawn(actor.run(mailbox, open));
        sender
    }

    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>, open: Vec<Job>) {
        while let Err(panic) = caught(self.recover(open.clone())).await {
            tracing::error!(vm = %self.vm, %panic, "a defect in the recovery of the VM, which is tried again");
            sleep(LOOK_AGAIN).await;
        }
        loop {
            let turn = caught(self.turn(&mut mailbox)).await;
            match turn {
                Ok(After::GoOn) => {}
                Ok(After::End) => break,
                // Whoever waits for an answer learns that there is none.
                Err(panic) => {
                    tracing::error!(vm = %self.vm, %panic, "a defect in the actor of the VM");
                    self.unsettled = true;
                }
            }
        }
        self.running.iter().filter(|running| running.way.is_open()).for_each(|running| running.way.ask());
        while self.tasks.join_next().await.is_some() {}
        self.backups.all_told().await;
        if let Some((job, cx)) = self.waiting.take() {
            let message = "the service ended before what was at work had made way; nothing was begun";
            self.refuse(job, cx, Failure::new(Reason::Interrupted, message)).await;
        }
    }

    /// Waits for what comes next, and does it.
    async fn turn(&mut self, mailbox: &mut mpsc::Receiver<Message>) -> After {
        let (next_look, next_collection, next_lapse) = (self.next_look(), self.next_collection(), self.next_lapse());
        tokio::select! {
            message = mailbox.recv() => match message {
                Some(message) => return self.handle(message).await,
                None => return After::End,
            },
            Some(_) = self.tasks.join_next() => self.task_ended().await,
            () = until(next_look) => self.look().await,
            () = until(next_collection) => self.collect().await,
            () = until(next_lapse) => self.lapse().await,
            () = self.backups.one_told() => {}
            () = sleep(LOOK_AGAIN), if self.looks_again() => self.recovered().await,
        }
        After::GoOn
    }

    /// Memory that was held for a process that has taken it in is let go of. While something is at work, that comes after it.
    async fn release_memory(&mut self) {
        if self.running.is_some() {
            return;
        }
        if let Err(error) = plans::release_memory(&self.idle_cx()).await {
            let failure = Failure::from(error);
            if !is_absent(&failure) {
                tracing::warn!(vm = %self.vm, %failure, "memory that nobody needs any more could not be removed yet");
                self.unsettled = true;
            }
        }
    }

    async fn task_ended(&mut self) {
        let ended = self.running.take();
        let (recovered, died) = (std::mem::take(&mut self.recovering), std::mem::take(&mut self.ended_meanwhile));
        ended.iter().filter(|_| !recovered).for_each(|running| self.note_end(running));
        if recovered || died {
            self.settle().await;
        } else {
            // A note that is still there is of a VM that the operation could not let go on.
            self.unsettled = !matches!(self.world.catalogue.hold(&self.vm).await, Ok(None));
        }
        match self.waiting.take() {
            Some((job, cx)) => self.begin_waiting(job, cx).await,
            None if self.unsettled => {}
            None => self.look_for_work().await,
        }
    }

    /// Brings the record in line with the process, while nothing is at work.
    async fn settle(&mut self) {
        let settled = plans::settle(&self.idle_cx()).await.map_err(Failure::from);
        self.unsettled = settled.as_ref().is_err_and(|failure| !is_absent(failure));
        match settled {
            Ok(PowerState::Off | PowerState::Saved) => {}
            Ok(PowerState::PausedCritical) => self.suspect(),
            Ok(PowerState::Running | PowerState::Paused) => self.suspect_if_it_stood().await,
            Err(failure) if is_absent(&failure) => {}
            Err(failure) => tracing::warn!(vm = %self.vm, %failure, "the VM could not be settled"),
        }
    }

    /// What is owed to the description files is written, or tried again with the next look.
    async fn describe(&mut self) {
        self.undescribed = !describe::settled(&self.world, &self.vm).await;
    }

    fn looks_again(&self) -> bool {
        (self.unsettled || self.undescribed) && self.running.is_none()
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
        if let Err(error) = plans::release_hold(&self.idle_cx()).await {
            tracing::error!(vm = %self.vm, error = %Failure::from(error), "a paused VM could not be resumed");
            self.unsettled = true;
        }
        if open.is_empty() {
            return self.recovered().await;
        }
        let jobs: Vec<(Job, Cx)> = open.into_iter().map(|job| (job.clone(), self.enter(&job))).collect();
        self.recovering = true;
        let hub = self.hub.clone();
        self.tasks.spawn(async move {
            for (job, cx) in jobs {
                see_through(job, cx, &hub, From::TheJournal).await;
            }
        });
    }

    /// Brings the record in line with the process, and begins to collect what the past has left.
    async fn recovered(&mut self) {
        self.settle().await;
        if self.unsettled {
            return;
        }
        self.look_for_work().await;
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
            Message::Reconnect { asked, reply } => {
                let _ = reply.send(self.reconnect(&asked).await);
            }
            Message::Merges { merges, reply } => {
                let _ = reply.send(self.set_merges(merges).await);
            }
            Message::KeepPoint { checkpoint, request_id, reply } => {
                let _ = reply.send(self.keep_point(checkpoint, request_id).await);
            }
            Message::ForgetPoint { point, reply } => {
                let _ = reply.send(self.forget_point(point).await);
            }
            Message::StartBackup { new, request_id, reply } => {
                let _ = reply.send(self.start_backup(*new, request_id).await);
            }
            Message::RenewBackup { backup, reply } => {
                let _ = reply.send(self.renew_backup(backup).await);
            }
            Message::OpenDisk { backup, disk, reply } => {
                let _ = reply.send(self.open_disk(backup, &disk).await);
            }
            Message::EndBackup { backup, end, reply } => self.end_backup(backup, end, reply).await,
            Message::Idle { reply } => {
                self.idle.push(reply);
                self.tell_idle();
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
            Message::Panicked { instance } => self.panicked(instance).await,
            Message::MemoryIsIn if self.running.is_none() => {
                self.release_memory().await;
                self.describe().await;
            }
            Message::MemoryIsIn => {}
            Message::Look if self.running.is_none() => self.recovered().await,
            Message::Look => self.stopped(None).await,
            Message::Stop => return After::End,
        }
        After::GoOn
    }

    /// Sets a job to work, in a task of its own, so that the actor can go on answering.
    fn begin(&mut self, job: Job) {
        let cx = self.enter(&job);
        self.work(job, cx);
    }

    fn work(&mut self, job: Job, cx: Cx) {
        let hub = self.hub.clone();
        self.tasks.spawn(async move { see_through(job, cx, &hub, From::TheBeginning).await });
    }

    /// Makes a job what the VM is busy with.
    fn enter(&mut self, job: &Job) -> Cx {
        let cx = self.announce(job);
        self.running = Some(Running::of(&cx));
        cx
    }

    /// Shows a job to those who watch.
    fn announce(&self, job: &Job) -> Cx {
        let cx = self.cx(Reporter::new(job.operation.clone()));
        self.hub.enter(&cx.reporter);
        cx
    }

    /// A process has ended. What is at work may have ended it, or will see it, or not: the catalogue is told when that
    /// is over, otherwise now.
    async fn ended(&mut self, instance: InstanceId) {
        if self.running.is_some() {
            self.ended_meanwhile = true;
            return;
        }
        let vm = self.world.catalogue.vm(&self.vm).await;
        if vm.map_or(true, |vm| vm.instance == Some(instance)) {
            self.settle().await;
            // A guest that has switched itself off has let go of its automatic checkpoint.
            self.look_for_work().await;
        }
    }

    /// For acts that belong to no operation, and that nobody watches.
    fn idle_cx(&self) -> Cx {
        self.cx(Reporter::new(self.own_job().operation))
    }

    fn cx(&self, reporter: Reporter) -> Cx {
        let way = Way::of(reporter.now().kind);
        Cx { world: self.world.clone(), vm: self.vm.clone(), reporter, cancel: CancellationToken::new(), way }
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
