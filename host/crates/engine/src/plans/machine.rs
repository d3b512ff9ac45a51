//! What several plans do with a VM's process and its memory.

use stillpoint_common::{Failure, GuestService, HeldMemory, InstanceId, MemoryId, MemoryState, Reason, SavedState, Vm};
use tokio::time::{Duration, Instant, sleep};

use super::{
    disks::launch_chains,
    held::{drop_held, held_as},
};
use crate::{
    context::Cx,
    error::StepError,
    forest::Forest,
    media,
    ports::{HypervisorError, Intake, LaunchSpec, Launched, Loaded, MemoryFrom, Reach, RunState, StartMode},
    restore,
    saga::up_to,
    tpm::folder_of,
};

/// How often to look whether an agent answers again.
const LOOK: Duration = Duration::from_millis(50);

/// Starts a process for the VM as its record says.
pub(super) async fn launch(
    cx: &Cx,
    vm: Vm,
    forest: &Forest,
    instance: InstanceId,
    mode: StartMode,
) -> Result<Launched, StepError> {
    let spec = LaunchSpec {
        vm: vm.id.clone(),
        instance,
        uid: vm.uid,
        generation_id: vm.generation_id,
        chains: launch_chains(forest, &vm)?,
        on_panic: vm.settings.on_failure.into(),
        definition: media::at_hand(cx, &vm, mode).await?,
        tpm: folder_of(&vm),
        mode,
    };
    Ok(cx.ports().hypervisor.launch(&spec).await?)
}

/// Loads a memory state into a process that awaits one; its VM is paused afterwards, and can run.
///
/// Where that is possible it runs before all of its pages are in: then the state is kept under the name `held` until they
/// are, and the answer says so. Why it is not possible, is told.
pub(super) async fn load_memory(
    cx: &Cx,
    instance: InstanceId,
    memory: &MemoryState,
    held: Option<MemoryId>,
) -> Result<Option<HeldMemory>, StepError> {
    if let Some(held) = held.filter(|_| cx.world.config.load_by_page) {
        match load_by_page(cx, instance, memory, held).await? {
            Reached::Loaded(held) => return Ok(held),
            Reached::StreamAlone(why) => {
                cx.reporter.warn(format!("the VM waits until all of its memory is loaded: {why}"))
            }
        }
    }
    let (source, outcome) = cx.ports().memory.open(memory).await?.split();
    let loaded = cx.ports().hypervisor.load_memory(instance, source.into(), cx.world.config.memory_load).await;
    // Damage that is found while the state is read is the cause of whatever the hypervisor says.
    outcome.told(cx.world.config.memory_told).await?;
    loaded.map(|_| None).map_err(not_restored)
}

/// What came of a load by page.
enum Reached {
    /// Loaded; with what is held, if pages are still to come.
    Loaded(Option<HeldMemory>),
    /// Nothing is loaded.
    StreamAlone(String),
}

async fn load_by_page(cx: &Cx, instance: InstanceId, memory: &MemoryState, id: MemoryId) -> Result<Reached, StepError> {
    let (states, hypervisor) = (&cx.ports().memory, &cx.ports().hypervisor);
    if let Reach::StreamAlone(why) = states.reach(memory).await? {
        return Ok(Reached::StreamAlone(why));
    }
    let held = held_as(memory, id);
    let kept = match states.keep(memory, id).await {
        Ok(kept) => kept,
        // A folder in which nothing can be written can be read.
        Err(error) => {
            drop_held(cx, &held).await;
            return Ok(Reached::StreamAlone(format!("it cannot be held until it is: {error}")));
        }
    };
    let from = MemoryFrom::Pages(kept);
    let loaded = hypervisor.load_memory(instance, from, cx.world.config.memory_load).await.map_err(not_restored)?;
    Ok(match loaded {
        Loaded::WhileItRuns => Reached::Loaded(Some(held)),
        Loaded::Whole => {
            drop_held(cx, &held).await;
            Reached::Loaded(None)
        }
        Loaded::NotByPage(why) => {
            drop_held(cx, &held).await;
            Reached::StreamAlone(why)
        }
    })
}

fn not_restored(error: HypervisorError) -> StepError {
    StepError::from(error).blamed_on(Reason::RestoreFailed).into()
}

/// Takes back what a load has kept of a memory. What cannot be removed is left over, and said: a VM is not kept from
/// anything by it.
pub(super) async fn unload_memory(cx: &Cx, memory: &MemoryState, held: Option<MemoryId>) {
    if let Some(held) = held.map(|id| held_as(memory, id)) {
        drop_held(cx, &held).await;
    }
}

/// Of a process that runs before its memory is in: that it still can.
pub(super) async fn can_take_in(cx: &Cx, instance: InstanceId) -> Result<(), StepError> {
    let observed = cx.ports().hypervisor.observe(instance).await?;
    match (observed.run, observed.intake) {
        (_, Intake::Lost(why)) => Err(Failure::new(Reason::MemoryLost, why).into()),
        (RunState::Gone, _) => Err(HypervisorError::Gone.into()),
        (_, Intake::Over | Intake::Active(_)) => Ok(()),
    }
}

/// Waits until a process has all of its memory, if it runs before that: it is not saved before. Told as a phase if there is
/// something to wait for.
pub(super) async fn memory_is_in(cx: &Cx, instance: InstanceId) -> Result<(), StepError> {
    if !matches!(cx.ports().hypervisor.observe(instance).await?.intake, Intake::Active(_)) {
        return Ok(());
    }
    let phase = cx.reporter.begin("take in");
    let waited = cx.ports().hypervisor.memory_is_in(instance, &cx.reporter.progress()).await;
    cx.reporter.end(phase);
    Ok(waited?)
}

/// Lets a machine that was brought back run. It is worth several tries: nothing else would.
pub(super) async fn let_run(cx: &Cx, instance: InstanceId) -> Result<(), StepError> {
    Ok(up_to(5, "letting the VM run", || cx.ports().hypervisor.resume(instance)).await?)
}

/// The guest's clock stands where it stood when its memory was saved until somebody sets it. A guest without an agent
/// keeps that time; this is said, and is no failure.
pub(super) async fn set_clock(cx: &Cx, instance: InstanceId) {
    let vm = cx.catalogue().vm(&cx.vm).await;
    if vm.is_ok_and(|vm| vm.settings.services_off.contains(&GuestService::TimeSync)) {
        let why = "service TIME_SYNC is switched off for this VM";
        return cx.reporter.warn(format!("the guest's clock goes on from the time when its memory was saved: {why}"));
    }
    let until = Instant::now() + cx.world.config.clock_after_apply;
    loop {
        match cx.ports().guest.set_clock(instance).await {
            Ok(set) => {
                tracing::info!(vm = %cx.vm, was_off_by_ms = set.was_off_by_ms, "guest clock set");
                return;
            }
            Err(_) if Instant::now() < until && runs(cx, instance).await => sleep(LOOK).await,
            Err(error) => return cx.reporter.warn(format!("the guest's clock was not set: {error}")),
        }
    }
}

/// Tells writers of a guest that goes on that they were brought back to a checkpoint. If it cannot be told now, it is with
/// one of the next signs of life.
pub(super) async fn tell_restored(cx: &Cx) {
    if let Ok(vm) = cx.catalogue().vm(&cx.vm).await {
        restore::tell(&cx.world, &vm).await;
    }
}

async fn runs(cx: &Cx, instance: InstanceId) -> bool {
    cx.ports().hypervisor.observe(instance).await.is_ok_and(|observed| observed.run == RunState::Running)
}

/// Removes the file of a saved state that the catalogue does not know any more. A failure is told: the file stays.
pub(super) async fn drop_saved(cx: &Cx, saved: &SavedState) {
    let path = &saved.memory.path;
    let location = path.parent().unwrap_or(path);
    let remove = || cx.ports().memory.remove(location, saved.id);
    if let Err(error) = up_to(5, "removing a saved state", remove).await {
        cx.reporter.warn(format!("{} is of no use any more and could not be removed: {error}", path.display()));
    }
}
