//! Bringing the catalogue in line with processes that ended by themselves.

use std::time::Duration;

use stillpoint_common::{Event, EventKind, InstanceId, OperationKind, PowerState, Reason, Vm};

use super::{automatic::at_clean_stop, collect::replaced};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    failing::FailureRecord,
    ports::{Intake, Observed, RunState},
};

/// If the VM's process has ended, or its guest has switched itself off, the VM is off. Answers what is true then.
///
/// A VM that we had paused for a moment and could not let go on goes on first.
pub(crate) async fn settle(cx: &Cx) -> Result<PowerState, StepError> {
    release_hold(cx).await?;
    let mut vm = cx.catalogue().vm(&cx.vm).await?;
    let Some(instance) = vm.instance else { return Ok(without_process(&vm)) };
    let observed = cx.ports().hypervisor.observe(instance).await?;
    if reconcile_heads(cx, &observed).await? {
        vm = cx.catalogue().vm(&cx.vm).await?;
    }
    match observed.run {
        RunState::Running => Ok(PowerState::Running),
        RunState::Paused | RunState::AwaitingMemory => Ok(PowerState::Paused),
        RunState::Critical(_) => Ok(PowerState::PausedCritical),
        RunState::Panicked => {
            note_panic(cx, &vm, instance, None).await?;
            Ok(PowerState::Paused)
        }
        RunState::Gone | RunState::ShutDown => {
            if let Intake::Lost(why) = &observed.intake {
                // Why goes with the files of the process: it is written down before.
                note_lost(cx, &vm, instance, why).await?;
            }
            clear(cx, instance).await?;
            vm.instance = None;
            vm.updated = cx.ports().clock.now();
            let changes = match observed.run {
                RunState::ShutDown => switched_off(cx, &mut vm).await?,
                RunState::Gone
                | RunState::AwaitingMemory
                | RunState::Paused
                | RunState::Running
                | RunState::Panicked
                | RunState::Critical(_) => died(cx, &vm, instance).await?,
            };
            cx.catalogue().commit(changes.set_vm(&vm)).await?;
            Ok(PowerState::Off)
        }
    }
}

/// The guest has switched itself off.
async fn switched_off(cx: &Cx, vm: &mut Vm) -> Result<Changes, StepError> {
    let changes = at_clean_stop(cx, vm).await?;
    let text = "its guest has switched itself off";
    Ok(changes.event(&Event::of_vm(cx.ports().clock.now(), EventKind::VmStopped, &cx.vm, text)))
}

/// The process has ended by itself: a failure, unless what is at work has ended it, or the host has.
async fn died(cx: &Cx, vm: &Vm, instance: InstanceId) -> Result<Changes, StepError> {
    let (now, reason) = (cx.ports().clock.now(), Reason::VmStoppedUnexpectedly);
    let earlier = cx.catalogue().failure(&cx.vm).await?;
    if earlier.as_ref().is_some_and(|known| known.is_of(instance, Reason::MemoryLost)) {
        return Ok(Changes::default());
    }
    if vm.host_boot != cx.world.config.host_boot {
        let event = Event::of_vm(now, EventKind::VmDied, &cx.vm, "its process has ended with the host");
        return Ok(Changes::default().event(&event));
    }
    let event = Event::of_vm(now, EventKind::VmDied, &cx.vm, "its process has ended by itself");
    let changes = Changes::default().event(&Event { reason: Some(reason), ..event });
    if ends_processes(cx.reporter.now().kind) {
        return Ok(changes);
    }
    let record = FailureRecord::seen(earlier, reason, instance, vm.settings.on_failure, now);
    Ok(changes.set_failure(&cx.vm, &record))
}

/// Writes down, once, that a process was ended because the rest of its memory could not be had.
async fn note_lost(cx: &Cx, vm: &Vm, instance: InstanceId, why: &str) -> Result<(), StepError> {
    let (earlier, reason) = (cx.catalogue().failure(&cx.vm).await?, Reason::MemoryLost);
    if earlier.as_ref().is_some_and(|known| known.is_of(instance, reason)) {
        return Ok(());
    }
    let text = format!("it was stopped while it was still taking in its memory: {why}");
    let event = Event::of_vm(cx.ports().clock.now(), EventKind::VmDied, &cx.vm, text);
    let record = FailureRecord::seen(earlier, reason, instance, vm.settings.on_failure, event.time);
    let changes = Changes::default().set_failure(&cx.vm, &record).event(&Event { reason: Some(reason), ..event });
    Ok(cx.catalogue().commit(changes).await?)
}

/// A process that is gone while this is at work may have been ended by it, which was not written down.
const fn ends_processes(kind: OperationKind) -> bool {
    match kind {
        OperationKind::StopVm | OperationKind::ApplyCheckpoint => true,
        OperationKind::StartVm
        | OperationKind::PauseVm
        | OperationKind::ResumeVm
        | OperationKind::SaveVm
        | OperationKind::DiscardSavedState
        | OperationKind::CreateCheckpoint
        | OperationKind::DeleteCheckpoint
        | OperationKind::DeleteMemoryState
        | OperationKind::CollectLayers
        | OperationKind::ExportCheckpoint
        | OperationKind::ImportVm => false,
    }
}

/// Writes down, once, that the kernel of a guest has panicked; or once more if the last time is so long ago.
pub(crate) async fn note_panic(
    cx: &Cx,
    vm: &Vm,
    instance: InstanceId,
    again_after: Option<Duration>,
) -> Result<(), StepError> {
    let (earlier, now) = (cx.catalogue().failure(&cx.vm).await?, cx.ports().clock.now());
    let still_new = |known: &FailureRecord| match again_after {
        None => true,
        Some(long) => Duration::try_from(now.duration_since(known.time)).is_ok_and(|age| age < long),
    };
    if earlier.as_ref().is_some_and(|known| known.is_of(instance, Reason::GuestPanicked) && still_new(known)) {
        return Ok(());
    }
    let record = FailureRecord::seen(earlier, Reason::GuestPanicked, instance, vm.settings.on_failure, now);
    let event = Event::of_vm(now, EventKind::GuestPanicked, &cx.vm, "the kernel of its guest has panicked");
    let event = Event { reason: Some(Reason::GuestPanicked), ..event };
    Ok(cx.catalogue().commit(Changes::default().set_failure(&cx.vm, &record).event(&event)).await?)
}

/// What a VM is that has no process.
pub(crate) const fn without_process(vm: &Vm) -> PowerState {
    match vm.saved {
        Some(_) => PowerState::Saved,
        None => PowerState::Off,
    }
}

async fn clear(cx: &Cx, instance: InstanceId) -> Result<(), StepError> {
    cx.ports().guest.forget(instance).await;
    Ok(cx.ports().hypervisor.retire(instance).await?)
}

/// If we had paused the VM and a crash or a failure came in between, it goes on. The first act of every recovery; only
/// the record (and description) of which layer is the head comes before it, since from then on the guest writes to it.
pub(crate) async fn release_hold(cx: &Cx) -> Result<(), StepError> {
    let Some(instance) = cx.catalogue().hold(&cx.vm).await? else { return Ok(()) };
    let observed = cx.ports().hypervisor.observe(instance).await?;
    if reconcile_heads(cx, &observed).await? {
        describe::now_only(cx).await;
    }
    if observed.run == RunState::Paused {
        cx.ports().hypervisor.resume(instance).await?;
    }
    Ok(cx.catalogue().commit(Changes::default().clear_hold(&cx.vm)).await?)
}

/// A running VM whose disk has the layer right below its head as the head has finished a merge that was not written
/// down. Writes it down; the child's file goes with the next collection. Answers whether there was such a disk.
async fn reconcile_heads(cx: &Cx, observed: &Observed) -> Result<bool, StepError> {
    let mut found = false;
    for (disk, chain) in &observed.chains {
        let vm = cx.catalogue().vm(&cx.vm).await?;
        let forest = cx.catalogue().forest(&cx.vm).await?;
        let (Some(head), Some(child)) = (chain.first(), vm.heads.get(disk).and_then(|id| forest.get(*id))) else {
            continue;
        };
        let Some(parent) = forest.get(*head).filter(|parent| child.backing == Some(parent.file.id)) else { continue };
        let changes = replaced(cx, &forest, parent, child).await?.retire_layer(&cx.vm, child);
        cx.catalogue().commit(changes).await?;
        found = true;
    }
    Ok(found)
}
