//! Bringing the catalogue in line with processes that ended by themselves.

use stillpoint_common::{Event, EventKind, InstanceId, PowerState, Vm};

use super::{automatic::at_clean_stop, collect::replaced};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    error::StepError,
    ports::{Observed, RunState},
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
        RunState::Gone | RunState::ShutDown => {
            clear(cx, instance).await?;
            vm.instance = None;
            vm.updated = cx.ports().clock.now();
            let changes = match observed.run {
                RunState::ShutDown => at_clean_stop(cx, &mut vm).await?,
                RunState::Gone
                | RunState::AwaitingMemory
                | RunState::Paused
                | RunState::Running
                | RunState::Critical(_) => Changes::default(),
            };
            cx.catalogue().commit(changes.set_vm(&vm).event(&ended(cx, &observed.run))).await?;
            Ok(PowerState::Off)
        }
    }
}

fn ended(cx: &Cx, run: &RunState) -> Event {
    let (kind, text) = match run {
        RunState::ShutDown => (EventKind::VmStopped, "its guest has switched itself off"),
        RunState::Gone | RunState::AwaitingMemory | RunState::Paused | RunState::Running | RunState::Critical(_) => {
            (EventKind::VmDied, "its process has ended by itself")
        }
    };
    Event::of_vm(cx.ports().clock.now(), kind, &cx.vm, text)
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
