//! From a request to a job that is written down; and giving one up.

use stillpoint_common::{Failure, Operation, OperationId, Reason};

use super::VmActor;
use crate::{
    Request,
    admission::{Admitted, AtWork, Situation, busy_with, exists},
    catalogue::Changes,
    error::StepError,
    job::Job,
};

impl VmActor {
    pub(super) async fn submit(&mut self, request: Request, request_id: Option<String>) -> Result<Operation, Failure> {
        if let Some(known) = self.known(&request, request_id.as_deref()).await? {
            return Ok(known);
        }
        if matches!(request, Request::Import(_)) {
            return self.submit_import(request, request_id).await;
        }
        self.accept(request, request_id, |_| Changes::default()).await
    }

    /// Accepts a request that is new, if it may begin. `with`: what is to be written down with its job.
    pub(super) async fn accept(
        &mut self,
        request: Request,
        request_id: Option<String>,
        with: impl FnOnce(&Job) -> Changes + Send,
    ) -> Result<Operation, Failure> {
        let vm = self.world.catalogue.vm(&self.vm).await?;
        let checkpoints = self.world.catalogue.checkpoints(&self.vm).await?;
        let busy = self.busy();
        let running = busy.as_ref().map(|(operation, makes_way)| AtWork { operation, makes_way: *makes_way });
        let max_checkpoints = self.world.config.max_checkpoints;
        let admitted = Situation { vm: &vm, checkpoints: &checkpoints, running, max_checkpoints }.admit(&request)?;
        self.refuse_missing(&vm, &checkpoints, &request).await?;
        let job = Job { request_id, ..Job::new(request.kind(), self.vm.clone(), Some(request), self.now()) };
        let changes = with(&job).set_job(&job).new_request(&job);
        let changes = match &job.request {
            Some(request) => self.taken_in_hand(request, changes).await?,
            None => changes,
        };
        self.enlist(&job, changes).await?;
        let operation = job.operation.clone();
        match admitted {
            Admitted::Now => self.begin(job),
            Admitted::AfterMakingWay => self.wait_for_way(job),
        }
        Ok(operation)
    }

    /// There is no VM yet, and this is what makes one.
    async fn submit_import(&mut self, request: Request, request_id: Option<String>) -> Result<Operation, Failure> {
        if self.world.catalogue.find_vm(&self.vm).await?.is_some() {
            return Err(exists(&self.vm));
        }
        if let Some((operation, _)) = self.busy() {
            return Err(busy_with(&self.vm, &operation));
        }
        let job = Job { request_id, ..Job::new(request.kind(), self.vm.clone(), Some(request), self.now()) };
        self.enlist(&job, Changes::default().set_job(&job).new_request(&job)).await?;
        let operation = job.operation.clone();
        self.begin(job);
        Ok(operation)
    }

    /// What a request that comes now has to reckon with, and whether it makes way.
    pub(super) fn busy(&self) -> Option<(Operation, bool)> {
        match (&self.waiting, &self.running) {
            (Some((_, cx)), _) => Some((cx.reporter.now(), false)),
            (None, Some(running)) => Some((running.reporter.now(), running.way.is_open() && !self.recovering)),
            (None, None) => None,
        }
    }

    /// Writes a new job down. A store that failed may have written it all the same, or do so later: nobody may be told
    /// no, and then find an operation that never ends.
    pub(super) async fn enlist(&self, job: &Job, changes: Changes) -> Result<(), Failure> {
        let Err(error) = self.world.catalogue.commit(changes).await else { return Ok(()) };
        match self.world.catalogue.settled_job(job.operation.id).await? {
            Some(_) => Ok(()),
            None => Err(StepError::from(error).into()),
        }
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

    pub(super) fn cancel(&self, operation: OperationId) {
        if let Some(running) = self.running.as_ref().filter(|running| running.reporter.now().id == operation) {
            running.cancel.cancel();
            if running.way.is_open() {
                running.way.ask();
            }
        }
        if let Some((_, cx)) = self.waiting.as_ref().filter(|(job, _)| job.operation.id == operation) {
            cx.cancel.cancel();
        }
    }
}
