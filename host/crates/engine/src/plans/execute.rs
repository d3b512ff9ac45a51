//! From a request to its plan, and from a journal back to it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use stillpoint_common::{
    BackupType, Checkpoint, CheckpointId, CheckpointState, Consistency, Failure, GuestService, InstanceId, Kind,
    MemoryId, OperationKind, Outcome, PowerState, Reason, SessionId, Vm,
};

use super::{
    apply::{self, Apply},
    automatic, backup, collect,
    create::{self, Create},
    critical,
    delete::Delete,
    devices::follow_devices,
    discard::Discard,
    disks::plan_overlays,
    export::{self, Export},
    forget_memory::ForgetMemory,
    hazards,
    held::release,
    import::{self, Import},
    power::{Power, PowerPlan},
    room,
    save::Save,
    settle::settle,
    unsupported,
    wake::Wake,
};
use crate::{
    ApplyRequest, NewCheckpoint, Request,
    context::Cx,
    error::StepError,
    fallback::{self, Next},
    job::{CreateFacts, Facts, Job, SaveFacts},
    ports::QuiesceError,
    saga::{self, Journal, Plan, wait_after},
    tpm::folder_of,
    tree::subtree,
};

/// Does what a job asks for. On failure it has been undone, or stands as far as it is committed.
pub(crate) async fn execute(journal: &mut Journal, cx: &Cx) -> Result<Outcome, Failure> {
    if let Some(Request::Import(asked)) = journal.job().request.clone() {
        import::import(&asked, journal, cx).await?;
        return Ok(Outcome::Vm);
    }
    let power = match (settle(cx).await, &journal.job().request) {
        (Ok(power), _) => {
            settle_merges(cx).await;
            power
        }
        // Pulling the plug is for the VM that does not answer.
        (Err(_), Some(Request::Stop(_))) => PowerState::Paused,
        (Err(error), _) => return Err(error.into()),
    };
    let stops = matches!(journal.job().request, Some(Request::Stop(_)));
    if !stops && let Err(error) = release(cx).await {
        tracing::warn!(vm = %cx.vm, error = %Failure::from(error), "memory that nobody needs any more stays for now");
    }
    follow_devices(cx).await?;
    let Some(request) = journal.job().request.clone() else {
        return run(Delete::new(BTreeSet::new()), journal, cx).await.map(|()| Outcome::Gone);
    };
    let vm = cx.catalogue().vm(&cx.vm).await?;
    critical::admit(cx, &vm, power, &request).await?;
    match request {
        Request::Start if power == PowerState::Off => {
            automatic::start(&vm, journal, cx).await?;
            Ok(Outcome::Vm)
        }
        Request::Start if power == PowerState::Saved => wake(&vm, journal, cx).await,
        Request::Start => Ok(Outcome::Vm),
        Request::Stop(mode) => on_instance(&vm, |instance| Power::Stop(instance, mode), false, journal, cx).await,
        Request::Pause => on_instance(&vm, Power::Pause, true, journal, cx).await,
        Request::Resume => on_instance(&vm, Power::Resume, true, journal, cx).await,
        Request::Save => save(&vm, power, journal, cx).await,
        Request::DiscardSaved => match vm.saved {
            Some(saved) => run(Discard { saved }, journal, cx).await.map(|()| Outcome::Vm),
            None => Ok(Outcome::Vm),
        },
        Request::CreateCheckpoint(new) if new.remarks.backup.is_some() => {
            backup::create(vm, power, new, journal, cx).await.map(Outcome::Checkpoint)
        }
        Request::CreateCheckpoint(new) => create(vm, power, new, journal, cx).await.map(Outcome::Checkpoint),
        Request::Apply(request) => apply::apply(&request, power, journal, cx).await.map(|()| Outcome::Vm),
        Request::Revert => apply::apply(&ApplyRequest::revert(), power, journal, cx).await.map(|()| Outcome::Vm),
        Request::DeleteCheckpoint(id) => delete(BTreeSet::from([id]), journal, cx).await,
        Request::DeleteSubtree(id) => {
            delete(subtree(&cx.catalogue().checkpoints(&cx.vm).await?, id), journal, cx).await
        }
        Request::DeleteCheckpoints(ids) => delete(ids, journal, cx).await,
        Request::DeleteMemory(id) => run(ForgetMemory::new(id), journal, cx).await.map(|()| Outcome::Gone),
        Request::Export { checkpoint, folder, format } => {
            let checkpoint = cx.catalogue().checkpoint(&cx.vm, checkpoint).await?;
            room::for_export(cx, &checkpoint, &folder).await?;
            let target = folder.display().to_string();
            // Known before it is made: an attempt that fails while it makes it has left it, perhaps.
            let staged = cx.ports().exports.staging_folder(&folder, cx.reporter.now().id);
            run(Export { checkpoint, target: folder, format, staged }, journal, cx).await?;
            Ok(Outcome::Exported(target))
        }
        // It was seen to above: there was no VM yet.
        Request::Import(_) => Ok(Outcome::Vm),
    }
}

/// Undoes or finishes what a job had begun before the service stopped. Tried again while the catalogue cannot be read:
/// what was begun must not be left.
pub(crate) async fn recover(journal: &mut Journal, cx: &Cx) -> Result<Outcome, Failure> {
    for failures in 1.. {
        match recover_once(journal, cx).await {
            Err(failure) if failure.reason == Reason::StoreUnavailable => {
                tracing::error!(vm = %cx.vm, %failure, "not recovered yet");
            }
            recovered => return recovered,
        }
        tokio::time::sleep(wait_after(failures)).await;
    }
    Ok(Outcome::Vm)
}

async fn recover_once(journal: &mut Journal, cx: &Cx) -> Result<Outcome, Failure> {
    let job = journal.job().clone();
    let (finished, outcome) = match job.facts.clone() {
        Facts::Create(facts) if job.request.as_ref().is_some_and(Request::is_apply) => {
            return Err(recover_first(*facts, journal, cx).await);
        }
        Facts::Create(facts) => {
            let outcome = Outcome::Checkpoint(facts.checkpoint.id);
            let told = automatic::made(cx, &facts.checkpoint);
            let finished = saga::recover(&mut Create::new(*facts), journal, cx).await;
            let of_a_start = job.request == Some(Request::Start);
            if of_a_start && matches!(finished, Ok(true)) {
                journal.add(told);
            }
            // The automatic checkpoint was made; the start was not begun.
            (finished.map(|finished| finished && !of_a_start), outcome)
        }
        Facts::Apply(facts) => {
            let checkpoint = cx.catalogue().checkpoint(&cx.vm, facts.checkpoint).await?;
            (saga::recover(&mut Apply::new(*facts, checkpoint), journal, cx).await, Outcome::Vm)
        }
        Facts::Start { instance } => {
            (saga::recover(&mut PowerPlan::new(Power::Start(instance)), journal, cx).await, Outcome::Vm)
        }
        Facts::Save(facts) => (saga::recover(&mut Save::new(*facts), journal, cx).await, Outcome::Vm),
        Facts::Wake { instance, saved } => {
            (saga::recover(&mut Wake::new(instance, *saved), journal, cx).await, Outcome::Vm)
        }
        Facts::Discard(saved) => (saga::recover(&mut Discard { saved: *saved }, journal, cx).await, Outcome::Vm),
        Facts::Export { staged } => export::recover(&job, staged, cx).await,
        Facts::Import(facts) => (saga::recover(&mut Import::new(*facts), journal, cx).await, Outcome::Vm),
        Facts::None => recover_without_facts(&job, journal),
    };
    if finished? {
        return Ok(outcome);
    }
    let message = "the service was stopped in the middle of it; what had been done was undone";
    Err(apply::what_remains(Failure::new(Reason::Interrupted, message), job.operation.first_checkpoint))
}

/// An apply was interrupted while, or right after, the checkpoint of Now was made: nothing was applied.
async fn recover_first(facts: CreateFacts, journal: &mut Journal, cx: &Cx) -> Failure {
    let first = facts.checkpoint.id;
    match saga::recover(&mut Create::new(facts), journal, cx).await {
        Ok(made) => {
            made.then(|| cx.reporter.set_first_checkpoint(first));
            let message = "the service was stopped before the apply was begun: nothing was applied";
            apply::what_remains(Failure::new(Reason::Interrupted, message), made.then_some(first))
        }
        Err(error) => error.into(),
    }
}

fn recover_without_facts(job: &Job, journal: &Journal) -> (Result<bool, StepError>, Outcome) {
    match (&job.request, job.operation.kind) {
        // Past its commit a checkpoint, or a memory, is gone, which is all that was promised; the VM's actor sees to its
        // files.
        (_, OperationKind::DeleteCheckpoint | OperationKind::DeleteMemoryState) => {
            (Ok(journal.committed()), Outcome::Gone)
        }
        (_, OperationKind::StopVm) => (Ok(journal.committed()), Outcome::Vm),
        (Some(_) | None, _) => (Ok(false), Outcome::Vm),
    }
}

pub(super) async fn run(mut plan: impl Plan, journal: &mut Journal, cx: &Cx) -> Result<(), Failure> {
    Ok(saga::run(&mut plan, journal, cx).await?)
}

async fn delete(going: BTreeSet<CheckpointId>, journal: &mut Journal, cx: &Cx) -> Result<Outcome, Failure> {
    run(Delete::new(going), journal, cx).await.map(|()| Outcome::Gone)
}

async fn on_instance(
    vm: &Vm,
    power: impl FnOnce(InstanceId) -> Power,
    must_be_on: bool,
    journal: &mut Journal,
    cx: &Cx,
) -> Result<Outcome, Failure> {
    match vm.instance {
        Some(instance) => run(PowerPlan::new(power(instance)), journal, cx).await?,
        None if must_be_on => return Err(Failure::new(Reason::VmNotRunning, format!("VM {} is off", vm.id))),
        None => {}
    }
    Ok(Outcome::Vm)
}

/// Keeps the machine of a VM that runs or is paused. One that is saved already is as asked.
async fn save(vm: &Vm, power: PowerState, journal: &mut Journal, cx: &Cx) -> Result<Outcome, Failure> {
    let instance = match (power, vm.instance) {
        (PowerState::Saved, _) => return Ok(Outcome::Vm),
        (PowerState::Running | PowerState::Paused, Some(instance)) => instance,
        (PowerState::Off | PowerState::Running | PowerState::Paused | PowerState::PausedCritical, _) => {
            return Err(Failure::new(Reason::VmNotRunning, format!("VM {} is off", vm.id)));
        }
    };
    let was_running = power == PowerState::Running;
    let facts = SaveFacts { instance, saved: MemoryId::generate(), was_running, memory: None };
    room::for_save(cx, vm).await?;
    run(Save::new(facts), journal, cx).await?;
    Ok(Outcome::Vm)
}

async fn wake(vm: &Vm, journal: &mut Journal, cx: &Cx) -> Result<Outcome, Failure> {
    if let Some(saved) = vm.saved.clone() {
        run(Wake::new(InstanceId::generate(), saved), journal, cx).await?;
    }
    Ok(Outcome::Vm)
}

/// At most two attempts: as asked, and, where the policy allows it, a standard one with the reason.
pub(super) async fn create(
    vm: Vm,
    power: PowerState,
    new: NewCheckpoint,
    journal: &mut Journal,
    cx: &Cx,
) -> Result<CheckpointId, Failure> {
    let (policy, with_memory) = (new.policy.unwrap_or(vm.checkpoint_policy), new.with_memory);
    let draft = draft(&vm, power, new, cx.ports().clock.now())?;
    let draft = unsupported::note(draft, &vm, cx).await?;
    let draft = hazards::note(draft, &vm, cx).await?;
    cx.reporter.set_checkpoint(draft.id);
    let how = if with_memory { How::WithMemory } else { How::AsPlanned };
    let first = attempt(&draft, how, power, journal, cx).await;
    let Err(error) = first else { return Ok(draft.id) };
    let reason = create::quiesce_reason(&error);
    let Next::Standard(reason) = fallback::next(policy, reason) else {
        tidy(cx).await;
        return Err(match reason {
            Some(why) => error.blamed_on_quiesce(why),
            None => error.into(),
        });
    };
    let detail = Failure::from(error).message;
    cx.reporter.warn(format!("no production checkpoint was possible, a standard one was made instead: {detail}"));
    journal.next_attempt();
    let standard = Checkpoint {
        kind: Kind::Standard,
        fallback: Some(reason),
        fallback_detail: detail,
        backup_type: BackupType::Copy,
        ..draft
    };
    let second = attempt(&standard, How::AsPlanned, power, journal, cx).await;
    tidy(cx).await;
    Ok(second.map(|()| standard.id)?)
}

/// How an attempt makes a checkpoint of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// As its kind says.
    AsPlanned,
    /// A production checkpoint with the memory of the quiet guest.
    WithMemory,
    /// A production checkpoint whose guest is not asked.
    AsItIs,
}

pub(super) async fn attempt(
    draft: &Checkpoint,
    how: How,
    power: PowerState,
    journal: &mut Journal,
    cx: &Cx,
) -> Result<(), StepError> {
    let asks = draft.kind == Kind::Production && how != How::AsItIs;
    if let (true, Some(why)) = (asks, create::cannot_be_asked(power)) {
        return Err(QuiesceError::Paused { why: why.to_owned() }.into());
    }
    let vm = cx.catalogue().vm(&cx.vm).await?;
    if asks && vm.instance.is_some() && vm.settings.services_off.contains(&GuestService::Quiesce) {
        return Err(QuiesceError::SwitchedOff.into());
    }
    let forest = cx.catalogue().forest(&cx.vm).await?;
    let facts = CreateFacts {
        checkpoint: Checkpoint { disks: vm.heads.clone(), ..draft.clone() },
        instance: vm.instance,
        saved: vm.saved.clone(),
        tpm: folder_of(&vm),
        with_memory: how == How::WithMemory,
        as_it_is: how == How::AsItIs,
        overlays: plan_overlays(&forest, &vm.heads)?,
        session: SessionId::generate(),
    };
    room::for_create(cx, &vm, &facts).await?;
    saga::run(&mut Create::new(facts), journal, cx).await
}

/// A checkpoint of the VM as it is, before anything is done about it.
pub(super) fn draft(vm: &Vm, power: PowerState, new: NewCheckpoint, now: Timestamp) -> Result<Checkpoint, Failure> {
    let policy = new.policy.unwrap_or(vm.checkpoint_policy);
    let name = match new.name {
        Some(name) => name,
        None => create::default_name(&vm.id, &new.remarks, now)?,
    };
    Ok(Checkpoint {
        id: CheckpointId::generate(),
        vm: vm.id.clone(),
        name,
        parent: vm.parent,
        created: now,
        kind: create::kind_of(policy),
        requested_policy: policy,
        consistency: Consistency::Crash,
        fallback: None,
        fallback_detail: String::new(),
        backup_type: new.backup_type,
        definition: vm.definition.clone(),
        disks: vm.heads.clone(),
        memory: None,
        tpm: None,
        was_running: vm.saved.as_ref().map_or(power == PowerState::Running, |saved| saved.was_running),
        power: Some(power),
        file_systems: Vec::new(),
        writers: Vec::new(),
        phases: Vec::new(),
        left_out: Vec::new(),
        state: CheckpointState::Ready,
        remarks: new.remarks,
    })
}

/// What QEMU merged in full before the service died, or before a merge made way, is so in the catalogue too. Nothing
/// depends on it: a merge that is whole and not written down is merged once more.
async fn settle_merges(cx: &Cx) {
    if let Err(error) = collect::settle_merges(cx).await {
        tracing::warn!(vm = %cx.vm, error = %Failure::from(error), "could not tell whether a merge is whole");
    }
}

/// Collects what the operation left over, unless something more urgent comes. A failure is told and leaves the work for
/// later; nothing is lost by it.
pub(super) async fn tidy(cx: &Cx) {
    cx.way.open();
    if let Err(error) = collect::collect(cx).await {
        let failure = Failure::from(error);
        cx.reporter.warn(format!("layers that nothing needs any more could not be merged yet: {failure}"));
    }
}

/// Whether there are layers or checkpoints to collect.
pub(crate) async fn collection_is_due(cx: &Cx) -> Result<bool, Failure> {
    Ok(collect::is_due(cx).await?)
}
