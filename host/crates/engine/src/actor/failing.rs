//! A VM that has failed is brought back, if it is set so: see [`failing`](crate::failing).

use std::time::Duration;

use stillpoint_common::{EventKind, Failure, InstanceId, OnFailure, OperationId, OperationState, Vm};

use super::VmActor;
use crate::{
    ApplyRequest, Request, StopMode,
    catalogue::Changes,
    error::StepError,
    failing::{Act, FailureRecord, Found, Situation, Stage},
    job::Job,
    plans,
    ports::RunState,
    tree::shown,
};

/// The least time between two events that tell of a panic, of a guest that goes on by itself.
const SELDOM: Duration = Duration::from_secs(60);

impl VmActor {
    /// The kernel of an instance's guest has panicked.
    pub(super) async fn panicked(&mut self, instance: InstanceId) {
        let Ok(vm) = self.world.catalogue.vm(&self.vm).await else { return };
        if vm.instance != Some(instance) {
            return;
        }
        match vm.settings.on_failure {
            OnFailure::Nothing => {
                // The guest then does what its kernel is set to do.
                if let Err(error) = plans::note_panic(&self.idle_cx(), &vm, instance, Some(SELDOM)).await {
                    let failure = Failure::from(error);
                    tracing::warn!(vm = %self.vm, %failure, "a panic of the guest could not be written down");
                }
            }
            OnFailure::Restart | OnFailure::Revert if self.running.is_none() => {
                self.settle().await;
                self.look_for_work().await;
            }
            // What is at work will find it.
            OnFailure::Restart | OnFailure::Revert => {}
        }
    }

    /// Nothing is at work: backups that are over, then what a failure asks for, then layers.
    pub(super) async fn look_for_work(&mut self) {
        self.release_memory().await;
        self.see_to_backups().await;
        match self.look_at_failure().await {
            Ok(true) => {}
            Ok(false) => self.look_for_layers().await,
            Err(failure) => {
                tracing::error!(vm = %self.vm, %failure, "it is not known whether the VM is to be brought back");
                self.unsettled = true;
            }
        }
    }

    /// Does what is to be done about a failure. Answers whether an operation was begun.
    async fn look_at_failure(&mut self) -> Result<bool, Failure> {
        let Some(known) = self.world.catalogue.failure(&self.vm).await? else { return Ok(false) };
        if matches!(known.stage, Stage::Over(_)) {
            return Ok(false);
        }
        let vm = self.world.catalogue.vm(&self.vm).await?;
        let found = self.found(&vm).await?;
        let ended = self.end_of_stage(&known.stage).await?;
        let recoveries = known.lately(self.now());
        let situation = Situation {
            setting: vm.settings.on_failure,
            stage: &known.stage,
            ended: ended.as_ref(),
            found,
            has_parent: shown(&self.world.catalogue.checkpoints(&self.vm).await?, vm.parent).is_some(),
            recoveries: recoveries.len(),
            max_recoveries: self.world.config.recoveries_an_hour,
        };
        let Some(act) = situation.act() else { return Ok(false) };
        self.take(act, FailureRecord { recoveries, ..known }).await
    }

    async fn found(&self, vm: &Vm) -> Result<Found, Failure> {
        let Some(instance) = vm.instance else {
            return Ok(if vm.saved.is_some() { Found::Alive } else { Found::Off });
        };
        let observed = self.world.ports.hypervisor.observe(instance).await.map_err(StepError::from)?;
        Ok(match observed.run {
            RunState::Panicked => Found::Panicked,
            // One that has just ended is settled, and looked at again.
            RunState::Gone
            | RunState::AwaitingMemory
            | RunState::Paused
            | RunState::Running
            | RunState::Critical(_)
            | RunState::ShutDown => Found::Alive,
        })
    }

    async fn end_of_stage(&self, stage: &Stage) -> Result<Option<OperationState>, Failure> {
        let Some(id) = stage.operation() else { return Ok(None) };
        Ok(Some(self.world.catalogue.job(id).await?.operation.state))
    }

    async fn take(&mut self, act: Act, known: FailureRecord) -> Result<bool, Failure> {
        let begins = matches!(known.stage, Stage::Seen);
        let (request, stage, text): (Request, fn(OperationId) -> Stage, &str) = match act {
            Act::End(why) => {
                self.end_recovery(known, why).await?;
                return Ok(false);
            }
            Act::SwitchOff => (Request::Stop(StopMode::TurnOff), Stage::SwitchingOff, "it is switched off"),
            Act::Revert => {
                (Request::Apply(ApplyRequest::revert()), Stage::Reverting, "it is brought back to its last checkpoint")
            }
            Act::Start => (Request::Start, Stage::Starting, "it is started"),
        };
        let job = Job::new(request.kind(), self.vm.clone(), Some(request), self.now());
        if let Err(failure) = self.is_still_possible(&job).await {
            self.end_recovery(known, format!("it could not be brought back: {failure}")).await?;
            return Ok(false);
        }
        let again = known.stage.operation().is_some_and(|_| same(&known.stage, stage(job.operation.id)));
        let mut recoveries = known.recoveries.clone();
        recoveries.extend((begins || again).then(|| self.now()));
        let (times, most) = (recoveries.len(), self.world.config.recoveries_an_hour);
        let event = stillpoint_common::Event {
            reason: Some(known.reason),
            operation: Some(job.operation.id),
            ..self.event(EventKind::VmRecovery, format!("{text}: time {times} of at most {most} within an hour"))
        };
        let record = FailureRecord { stage: stage(job.operation.id), recoveries, ..known };
        let changes = Changes::default().set_job(&job).set_failure(&self.vm, &record).event(&event);
        self.enlist(&job, changes).await?;
        self.begin(job);
        Ok(true)
    }

    async fn end_recovery(&self, known: FailureRecord, why: String) -> Result<(), Failure> {
        let text = format!("done about its failure: {why}");
        let event = stillpoint_common::Event { reason: Some(known.reason), ..self.event(EventKind::VmRecovery, text) };
        let record = FailureRecord { stage: Stage::Over(why), ..known };
        let changes = Changes::default().set_failure(&self.vm, &record).event(&event);
        Ok(self.world.catalogue.commit(changes).await.map_err(StepError::from)?)
    }

    /// What is to be written down with a request that takes the VM in hand: nothing more is done about a failure.
    pub(super) async fn taken_in_hand(&self, request: &Request, changes: Changes) -> Result<Changes, Failure> {
        if !takes_in_hand(request) {
            return Ok(changes);
        }
        let taken = self.world.catalogue.failure(&self.vm).await?.and_then(FailureRecord::taken_in_hand);
        Ok(taken.iter().fold(changes, |changes, record| changes.set_failure(&self.vm, record)))
    }
}

/// Both are of the same kind.
fn same(one: &Stage, other: Stage) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(&other)
}

/// Whether somebody who asks for this says what the VM shall be.
const fn takes_in_hand(request: &Request) -> bool {
    match request {
        Request::Start
        | Request::Stop(_)
        | Request::Pause
        | Request::Resume
        | Request::Save
        | Request::DiscardSaved
        | Request::Apply(_)
        | Request::Revert => true,
        Request::CreateCheckpoint(_)
        | Request::DeleteCheckpoint(_)
        | Request::DeleteSubtree(_)
        | Request::DeleteCheckpoints(_)
        | Request::DeleteMemory(_)
        | Request::Export { .. }
        | Request::Import(_) => false,
    }
}
