//! Work that the engine gives itself, and how it makes way for what is asked for.

use stillpoint_common::{Failure, Merges, OperationState};
use tokio::time::Instant;

use super::{Running, VmActor, schedule::Ended, work::is_absent};
use crate::{
    admission::{Admitted, Situation},
    backups,
    catalogue::Changes,
    context::Cx,
    job::Job,
    plans,
    saga::Journal,
    way::collects_layers,
};

impl VmActor {
    /// Accepts a job that begins when what runs has made way, and asks it to.
    pub(super) fn wait_for_way(&mut self, job: Job) {
        let cx = self.announce(&job);
        self.ask_for_way();
        self.waiting = Some((job, cx));
    }

    fn ask_for_way(&self) {
        if let Some(running) = &self.running {
            tracing::info!(vm = %self.vm, operation = %running.reporter.now().id, "asked to make way");
            running.way.ask();
        }
    }

    /// What ran has ended. The job that waited for it begins, if what it asks for is still possible.
    pub(super) async fn begin_waiting(&mut self, job: Job, cx: Cx) {
        match self.is_still_possible(&job).await {
            Ok(()) => {
                self.running = Some(Running::of(&cx));
                self.work(job, cx);
            }
            Err(failure) => {
                self.refuse(job, cx, failure).await;
                self.look_for_work().await;
            }
        }
    }

    /// Ends a job that was accepted and cannot begin.
    pub(super) async fn refuse(&self, job: Job, cx: Cx, failure: Failure) {
        let id = job.operation.id;
        let failed = backups::failed(&self.world.catalogue, &job, &failure).await;
        let mut journal = Journal::new(job, self.world.catalogue.clone(), cx.reporter);
        journal.add(failed);
        journal.end(Err(failure), self.now()).await;
        self.hub.leave(id);
    }

    pub(super) async fn is_still_possible(&self, job: &Job) -> Result<(), Failure> {
        let Some(request) = &job.request else { return Ok(()) };
        let vm = self.world.catalogue.vm(&self.vm).await?;
        let checkpoints = self.world.catalogue.checkpoints(&self.vm).await?;
        let max_checkpoints = self.world.config.max_checkpoints;
        let admitted =
            Situation { vm: &vm, checkpoints: &checkpoints, running: None, max_checkpoints }.admit(request)?;
        debug_assert_eq!(admitted, Admitted::Now, "nothing runs");
        Ok(())
    }

    /// Waits until nothing runs that makes way.
    pub(super) async fn make_way(&mut self) {
        self.ask_for_way();
        while self.running.is_some() && self.tasks.join_next().await.is_some() {
            self.running.take().iter().for_each(|running| self.note_end(running));
        }
        self.owed = true;
    }

    /// Learns from how an operation that collects has ended.
    pub(super) fn note_end(&mut self, running: &Running) {
        let operation = running.reporter.now();
        if !collects_layers(operation.kind) {
            return;
        }
        let ended = match &operation.state {
            _ if running.cancel.is_cancelled() => Ended::Cancelled,
            OperationState::Failed(_) => Ended::Badly,
            // Of a deletion, too: what stood against an earlier merge may have been mended.
            OperationState::Done(_) | OperationState::Running => Ended::Well,
        };
        self.schedule.ended(ended, self.world.config.merge_again, Instant::now());
    }

    /// Nothing is asked for: are there layers to collect?
    pub(super) async fn look_for_layers(&mut self) {
        match plans::collection_is_due(&self.idle_cx()).await {
            Ok(true) => self.owed = true,
            Ok(false) => {
                self.owed = false;
                self.describe().await;
            }
            Err(failure) if is_absent(&failure) => self.owed = false,
            Err(failure) => {
                tracing::error!(vm = %self.vm, %failure, "it is not known what is to be collected");
                (self.owed, self.unsettled) = (false, true);
            }
        }
        if self.owed && self.schedule.not_before(Instant::now()).is_none() {
            self.collect().await;
        }
        self.tell_idle();
    }

    /// When the next collection begins by itself, if one does.
    pub(super) fn next_collection(&self) -> Option<Instant> {
        let free = self.running.is_none() && self.waiting.is_none() && !self.unsettled;
        let now = Instant::now();
        (free && self.owed).then(|| self.schedule.not_before(now).unwrap_or(now))
    }

    /// Begins to collect what nothing needs any more.
    pub(super) async fn collect(&mut self) {
        self.owed = false;
        let job = self.own_job();
        match self.enlist(&job, Changes::default().set_job(&job)).await {
            Ok(()) => self.begin(job),
            Err(failure) => {
                tracing::error!(vm = %self.vm, %failure, "what is to be collected has to wait");
                self.unsettled = true;
            }
        }
    }

    /// Tells those who wait for it that nothing is at work, if so.
    pub(super) fn tell_idle(&mut self) {
        let due = self.next_collection().is_some_and(|at| at <= Instant::now());
        if self.running.is_none() && self.waiting.is_none() && !self.unsettled && !due {
            for waits in self.idle.drain(..) {
                // Who does not listen any more does not mind.
                let _ = waits.send(());
            }
        }
    }

    /// Suspends merges, or resumes them at once.
    pub(super) async fn set_merges(&mut self, merges: Merges) -> Result<(), Failure> {
        let mut vm = self.idle_vm().await?;
        vm.merges = merges;
        vm.updated = self.now();
        self.schedule.reset();
        self.owed = true;
        self.write(Changes::default().set_vm(&vm)).await
    }
}
