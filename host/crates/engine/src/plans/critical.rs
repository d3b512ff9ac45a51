//! A VM that stands still because a disk could not be read or written: why, and what it cannot take meanwhile.

use std::path::PathBuf;

use stillpoint_common::{Critical, Failure, InstanceId, PowerState, Reason, Vm};
use tokio::sync::broadcast;

use super::{disks::chain_files, room};
use crate::{
    Request,
    context::{Cx, World},
    error::StepError,
    ports::{HypervisorEvent, HypervisorEventKind, QuiesceError, RunState, Space, Trouble},
    space::Need,
};

/// What has stopped a VM, in the words of its disks and their file systems. Of a disk that is not known, the one with
/// the least room is taken.
pub(crate) async fn describe(world: &World, vm: &Vm, trouble: &Trouble) -> Critical {
    let forest = world.catalogue.forest(&vm.id).await.unwrap_or_default();
    let suspects = vm.heads.iter().filter(|(disk, _)| trouble.disk.as_ref().is_none_or(|known| known == *disk));
    let mut worst: Option<(PathBuf, Option<Space>)> = None;
    for (disk, head) in suspects {
        let files = chain_files(&forest, disk, *head).unwrap_or_default();
        let Some(path) = files.into_iter().next_back().map(|file| file.path) else { continue };
        let space = world.ports.images.space(&path).await.ok();
        let free = |space: &Option<Space>| space.as_ref().map_or(u64::MAX, |space| space.free);
        if worst.as_ref().is_none_or(|(_, known)| free(&space) < free(known)) {
            worst = Some((path, space));
        }
    }
    let (path, space) = worst.unzip();
    let space = space.flatten();
    let since = world.catalogue.standstill(&vm.id).await.ok().flatten();
    Critical {
        disk: trouble.disk.clone(),
        no_space: trouble.no_space,
        path,
        mounted_on: space.as_ref().map(|space| space.mounted_on.clone()),
        free: space.as_ref().map(|space| space.free),
        since: since.filter(|known| Some(known.instance) == vm.instance).map(|known| known.since),
    }
}

/// Why a VM stands still by itself; `None` if it does not.
pub(crate) async fn find(world: &World, vm: &Vm) -> Result<Option<Critical>, StepError> {
    let Some(instance) = vm.instance else { return Ok(None) };
    match world.ports.hypervisor.observe(instance).await?.run {
        RunState::Critical(trouble) => Ok(Some(describe(world, vm, &trouble).await)),
        RunState::Gone
        | RunState::AwaitingMemory
        | RunState::Paused
        | RunState::Running
        | RunState::Panicked
        | RunState::ShutDown => Ok(None),
    }
}

/// Asks the guest something, and ends at once if the VM comes to stand still by itself: then nobody answers.
pub(super) async fn while_it_runs<T>(
    cx: &Cx,
    instance: InstanceId,
    asked: impl Future<Output = Result<T, QuiesceError>>,
) -> Result<T, StepError> {
    let mut events = cx.ports().hypervisor.events();
    let mut asked = std::pin::pin!(asked);
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => return Ok(answer?),
            () = may_have_stopped(&mut events, instance) => {}
        }
        if let Some(critical) = find(&cx.world, &cx.catalogue().vm(&cx.vm).await?).await? {
            let reason = if critical.no_space { Reason::NoSpace } else { Reason::VmPausedCritical };
            let message = format!("VM {} came to stand still while its guest was asked: {critical}", cx.vm);
            return Err(Failure::new(reason, message).into());
        }
    }
}

/// Returns when this instance is said to stand still, or when something was missed of what is said.
async fn may_have_stopped(events: &mut broadcast::Receiver<HypervisorEvent>, instance: InstanceId) {
    loop {
        match events.recv().await {
            Ok(HypervisorEvent { instance: of, kind: HypervisorEventKind::Critical(_) }) if of == instance => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Refuses what a VM that stands still by itself cannot take: a checkpoint or a save, whose guest cannot be asked
/// and whose memory cannot be saved while a write hangs; a pause; going on without space.
pub(super) async fn admit(cx: &Cx, vm: &Vm, power: PowerState, request: &Request) -> Result<(), Failure> {
    let critical = match power {
        PowerState::PausedCritical => find(&cx.world, vm).await?,
        PowerState::Off | PowerState::Running | PowerState::Paused | PowerState::Saved => None,
    };
    let Some(critical) = critical else { return Ok(()) };
    let refuse = || {
        let message = format!("VM {} stands still: {critical}", vm.id);
        Err(Failure::new(Reason::VmPausedCritical, message))
    };
    match request {
        Request::CreateCheckpoint(_) | Request::Pause | Request::Save => refuse(),
        Request::Apply(apply) if apply.now.is_kept(vm) => refuse(),
        Request::Revert if vm.undo_checkpoint => refuse(),
        Request::Resume if critical.no_space => {
            let room = cx.world.config.space.layer_room;
            let path = critical.path.iter().map(|path| Need::new("the guest's writes", path.clone(), room));
            Ok(room::make_sure(cx, path.collect(), 0).await?)
        }
        Request::Resume
        | Request::Start
        | Request::Stop(_)
        | Request::DiscardSaved
        | Request::Apply(_)
        | Request::Revert
        | Request::DeleteCheckpoint(_)
        | Request::DeleteSubtree(_)
        | Request::DeleteCheckpoints(_)
        | Request::DeleteMemory(_)
        | Request::Export { .. }
        | Request::Import(_) => Ok(()),
    }
}
