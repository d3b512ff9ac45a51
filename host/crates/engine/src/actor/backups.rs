//! Backup sessions begin, are renewed, and end.

use std::{collections::BTreeSet, future::pending, path::PathBuf, time::Duration};

use stillpoint_common::{
    Backup, BackupId, BackupState, CheckpointPolicy, DiskName, Event, EventKind, Failure, Reason, Remarks, WritersTold,
};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use super::{LOOK_AGAIN, VmActor};
use crate::{
    NewBackup, NewCheckpoint, Request,
    backups::{Abort, Complete, aborted, may_abort, may_complete, over, superfluous, tell, to_forget, used},
    catalogue::Changes,
    error::StepError,
    job::Job,
    plans::{self, mark_gone},
};

/// How a session is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndBackup {
    /// Its client has the data, safely.
    Complete {
        /// The point that it builds on is given up, in the same transaction.
        replace: bool,
    },
    /// It is given up.
    Abort,
}

/// What the actor knows of its VM's sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    /// There may be some that are open, or something may be left of one.
    any: bool,
    /// When the next one may lapse.
    next: Option<Instant>,
    /// Telling writers how a backup has ended. Nothing waits for it but who asked.
    telling: JoinSet<()>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { any: true, next: None, telling: JoinSet::new() }
    }
}

impl Sessions {
    /// Returns when some writers have been told. Cancel-safe.
    pub(super) async fn one_told(&mut self) {
        if self.telling.join_next().await.is_none() {
            pending().await
        }
    }

    pub(super) async fn all_told(&mut self) {
        while self.telling.join_next().await.is_some() {}
    }

    fn look_in(&mut self, wait: Duration) {
        self.next = Some(Instant::now() + wait);
    }
}

type Reply = oneshot::Sender<Result<Backup, Failure>>;

impl VmActor {
    /// Begins a session: its record and the job that makes its checkpoint are one transaction. The same request again
    /// answers the session that it has begun.
    pub(super) async fn start_backup(&mut self, new: NewBackup, request_id: Option<String>) -> Result<Backup, Failure> {
        self.world.catalogue.vm(&self.vm).await?;
        let known = self.world.catalogue.backups(&self.vm).await?;
        let made = |backup: &&Backup| backup.request_id.is_some() && backup.request_id == request_id;
        if let Some(made) = known.iter().find(made) {
            let same = (made.backup_type, made.asked, made.lease, made.from_point)
                == (new.backup_type, new.asked, new.lease, new.from_point);
            let message = format!("it has begun backup session {}, which is another request", made.id);
            let reused = || Failure::new(Reason::RequestIdReused, message).at("request_id");
            return same.then(|| made.clone()).ok_or_else(reused);
        }
        if let Some(open) = known.iter().find(|backup| backup.is_open() && !backup.has_lapsed(self.now())) {
            let message = format!("backup session {} of VM {} is open", open.id, self.vm);
            return Err(Failure::new(Reason::BackupOpen, message));
        }
        match new.from_point {
            Some(point) => drop(self.world.catalogue.point(&self.vm, point).await?),
            None => self.room_for_point(0).await?,
        }
        if self.running.is_none() {
            self.see_to_backups().await;
        }
        let forgotten = to_forget(&known);
        let changes = forgotten.iter().fold(Changes::default(), |changes, id| changes.forget_backup(&self.vm, *id));
        let backup = self.draft(&new, request_id);
        let remarks = Remarks { backup: Some(backup.id), creator: new.creator, ..Remarks::default() };
        let policy = Some(CheckpointPolicy::ProductionOnly);
        let checkpoint = NewCheckpoint { policy, backup_type: new.backup_type, remarks, ..NewCheckpoint::default() };
        self.backups.any = true;
        let of_job = |job: &Job| Backup { operation: job.operation.id, ..backup.clone() };
        let with = |job: &Job| changes.set_backup(&of_job(job));
        let operation = self.accept(Request::CreateCheckpoint(checkpoint), None, with).await?;
        Ok(Backup { operation: operation.id, ..backup })
    }

    fn draft(&self, new: &NewBackup, request_id: Option<String>) -> Backup {
        let created = self.now();
        let backup = Backup {
            id: BackupId::generate(),
            vm: self.vm.clone(),
            created,
            backup_type: new.backup_type,
            asked: new.asked,
            from_point: new.from_point,
            lease: new.lease,
            deadline: created,
            operation: stillpoint_common::OperationId::generate(),
            checkpoint: None,
            quiesce: None,
            state: BackupState::Starting,
            request_id,
        };
        backup.renewed(created)
    }

    /// Serves a disk of a session's checkpoint to programs of this host, until the session ends; answers the socket.
    pub(super) async fn open_disk(&mut self, id: BackupId, disk: &DiskName) -> Result<PathBuf, Failure> {
        let backup = self.renew_backup(id).await?;
        // A disk is asked for once for each of its ranges: its layers are looked at when it is opened, and stay as they are.
        if let Some(opened) = self.world.ports.endpoints.find(id, disk).await.map_err(StepError::from)? {
            return Ok(opened);
        }
        let being_made = || may_complete(&backup, self.now()).err().unwrap_or_else(|| gone(disk));
        let checkpoint = backup.checkpoint.ok_or_else(being_made)?;
        let checkpoint = self.world.catalogue.checkpoint(&self.vm, checkpoint).await?;
        let head = *checkpoint.disks.get(disk).ok_or_else(|| gone(disk))?;
        let forest = self.world.catalogue.forest(&self.vm).await?;
        plans::verify_layers(&self.world.ports, &forest, [(disk, &head)]).await?;
        let torn = || Failure::new(Reason::CatalogueDamaged, format!("a layer of disk {disk} is not known"));
        let head = &forest.get(head).ok_or_else(torn)?.file;
        let opened = self.world.ports.endpoints.open(id, disk, head).await;
        Ok(opened.map_err(StepError::from)?)
    }

    /// Its client lives.
    pub(super) async fn renew_backup(&mut self, id: BackupId) -> Result<Backup, Failure> {
        let known = self.world.catalogue.backup(&self.vm, id).await?;
        let renewed = used(known.clone(), self.now())?;
        if renewed != known {
            self.write(Changes::default().set_backup(&renewed)).await?;
        }
        Ok(renewed)
    }

    /// Ends a session. Who asked is answered when the writers of the guest have been told, if there are any; nothing else
    /// waits for that.
    pub(super) async fn end_backup(&mut self, id: BackupId, end: EndBackup, reply: Reply) {
        let ended = match end {
            EndBackup::Complete { replace } => self.complete_backup(id, replace).await,
            EndBackup::Abort => self.abort_backup(id).await,
        };
        match ended {
            Ok(Ended::Now(backup)) => self.tell(backup, Some(reply)),
            // Who does not listen any more does not mind.
            Ok(Ended::Before(backup)) => drop(reply.send(Ok(backup))),
            Err(failure) => drop(reply.send(Err(failure))),
        }
    }

    fn tell(&mut self, backup: Backup, reply: Option<Reply>) {
        let world = self.world.clone();
        self.backups.telling.spawn(async move {
            let told = tell(world, backup).await;
            reply.into_iter().for_each(|reply| drop(reply.send(Ok(told.clone()))));
        });
    }

    async fn complete_backup(&mut self, id: BackupId, replace: bool) -> Result<Ended, Failure> {
        let backup = self.world.catalogue.backup(&self.vm, id).await?;
        let Complete::Now(checkpoint) = may_complete(&backup, self.now())? else { return Ok(Ended::Before(backup)) };
        self.idle_vm().await?;
        let old = match backup.from_point.filter(|_| replace) {
            Some(old) => self.world.catalogue.points(&self.vm).await?.into_iter().find(|point| point.id == old),
            None => None,
        };
        self.room_for_point(usize::from(old.is_some())).await?;
        let (point, changes) = self.new_point(checkpoint, None).await?;
        let changes = old.iter().fold(changes, |changes, old| changes.delete_point(old));
        let writers = match backup.quiesce {
            None => WritersTold::None,
            // Until they have been, and for ever if the service dies before.
            Some(_) => WritersTold::NotTold { why: "the service ended before they were told".to_owned() },
        };
        let ended = Backup { state: BackupState::Completed { point: point.id, writers }, ..backup };
        self.close_endpoints(std::slice::from_ref(&ended)).await?;
        let gone = mark_gone(&self.idle_cx(), &[checkpoint].into(), None).await?;
        let event = self.event(EventKind::BackupCompleted, format!("backup session {id} was completed"));
        let event = Event { checkpoint: Some(checkpoint), ..event };
        self.let_go(gone.and(changes).set_backup(&ended).event(&event), std::slice::from_ref(&ended)).await?;
        Ok(Ended::Now(ended))
    }

    async fn abort_backup(&mut self, id: BackupId) -> Result<Ended, Failure> {
        let backup = self.world.catalogue.backup(&self.vm, id).await?;
        match may_abort(&backup)? {
            Abort::Already => return Ok(Ended::Before(backup)),
            Abort::GiveUp => self.cancel(backup.operation),
            Abort::Now => {}
        }
        self.idle_vm().await?;
        let ended = aborted(backup, "its client has given it up");
        self.abort(std::slice::from_ref(&ended)).await?;
        Ok(Ended::Now(ended))
    }

    /// Writes down that these sessions are over, in one transaction with the end of their checkpoints.
    async fn abort(&mut self, ended: &[Backup]) -> Result<(), Failure> {
        self.close_endpoints(ended).await?;
        let checkpoints = self.world.catalogue.checkpoints(&self.vm).await?;
        let over: BTreeSet<BackupId> = ended.iter().map(|backup| backup.id).collect();
        let known = self.world.catalogue.backups(&self.vm).await?;
        let open = known.iter().filter(|backup| backup.is_open() && !over.contains(&backup.id));
        let going = superfluous(&checkpoints, &open.map(|backup| backup.id).collect());
        let mut changes = match going.is_empty() {
            true => Changes::default(),
            false => mark_gone(&self.idle_cx(), &going, None).await?,
        };
        for backup in ended {
            let BackupState::Aborted { why } = &backup.state else { continue };
            let text = format!("backup session {} is over: {why}", backup.id);
            let event = Event { checkpoint: backup.checkpoint, ..self.event(EventKind::BackupAborted, text) };
            changes = changes.set_backup(backup).event(&event);
        }
        self.let_go(changes, ended).await
    }

    /// Nobody reads through their layers any more, before these change.
    async fn close_endpoints(&self, ended: &[Backup]) -> Result<(), Failure> {
        for backup in ended {
            self.world.ports.endpoints.close(backup.id).await.map_err(StepError::from)?;
        }
        Ok(())
    }

    /// Writes down that these sessions have ended, after which layers are to be collected. A write that failed may have been
    /// done, or be done later: nothing goes on before that is known.
    async fn let_go(&mut self, changes: Changes, ended: &[Backup]) -> Result<(), Failure> {
        self.schedule.reset();
        self.owed = true;
        let Err(failure) = self.write(changes).await else { return Ok(()) };
        self.world.catalogue.settled().await.map_err(StepError::from)?;
        for backup in ended {
            if self.world.catalogue.backup(&self.vm, backup.id).await?.state != backup.state {
                return Err(failure);
            }
        }
        if ended.is_empty() { Err(failure) } else { Ok(()) }
    }

    /// Nothing is at work: sessions that are over end, and checkpoints that are left of any go.
    pub(super) async fn see_to_backups(&mut self) {
        if !self.backups.any {
            return;
        }
        if let Err(failure) = self.look_at_backups().await {
            tracing::warn!(vm = %self.vm, %failure, "backup sessions could not be looked at");
            self.backups.look_in(LOOK_AGAIN);
        }
    }

    async fn look_at_backups(&mut self) -> Result<(), Failure> {
        let known = self.world.catalogue.backups(&self.vm).await?;
        let over: Vec<Backup> =
            over(&known, self.now()).into_iter().map(|(backup, why)| aborted(backup, why)).collect();
        let ending: BTreeSet<BackupId> = over.iter().map(|backup| backup.id).collect();
        let open: Vec<&Backup> = known.iter().filter(|known| known.is_open() && !ending.contains(&known.id)).collect();
        let checkpoints = self.world.catalogue.checkpoints(&self.vm).await?;
        let left = superfluous(&checkpoints, &open.iter().map(|backup| backup.id).collect());
        if !over.is_empty() || !left.is_empty() {
            self.abort(&over).await?;
            over.into_iter().for_each(|backup| self.tell(backup, None));
        }
        self.note_lapses(&open);
        Ok(())
    }

    /// When the first of the sessions that are open may lapse.
    fn note_lapses(&mut self, open: &[&Backup]) {
        self.backups.any = !open.is_empty();
        let until =
            |backup: &&Backup| Duration::try_from(backup.deadline.duration_since(self.now())).unwrap_or_default();
        self.backups.next = open.iter().map(until).min().map(|wait| Instant::now() + wait);
    }

    /// When a session may lapse, if one is open and nothing is at work that does not make way for its end.
    pub(super) fn next_lapse(&self) -> Option<Instant> {
        let makes_way = |(_, makes_way): (_, bool)| makes_way;
        self.backups.next.filter(|_| self.busy().is_none_or(makes_way))
    }

    /// A session may have lapsed, if it was not renewed: then merging makes way for its end.
    pub(super) async fn lapse(&mut self) {
        self.backups.look_in(LOOK_AGAIN);
        let Ok(known) = self.world.catalogue.backups(&self.vm).await else { return };
        if !known.iter().any(|backup| backup.has_lapsed(self.now())) {
            let open: Vec<&Backup> = known.iter().filter(|backup| backup.is_open()).collect();
            return self.note_lapses(&open);
        }
        if self.idle_vm().await.is_ok() {
            self.look_for_work().await;
        }
    }
}

fn gone(disk: &DiskName) -> Failure {
    Failure::new(Reason::DiskNotFound, format!("the checkpoint of the session has no disk {disk}")).at("disk")
}

/// A session that has ended.
enum Ended {
    /// With this call.
    Now(Backup),
    /// Earlier.
    Before(Backup),
}
