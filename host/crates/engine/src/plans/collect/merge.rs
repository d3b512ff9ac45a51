//! One merge: of layers that no process has open, and of layers of a running VM.

use stillpoint_common::{InstanceId, Layer, LayerId, MergeDirection, Vm};
use tokio::time::{Instant, timeout};

use super::{
    leftovers::remove_leftovers,
    whole::{Merge, repoint, write_down},
};
use crate::{
    catalogue::Changes,
    context::Cx,
    describe,
    direction::{Sizes, direction},
    error::StepError,
    forest::Forest,
    plans::{disks::verify_at_a_glance, room},
    points::{after_merge, held_above},
    ports::{HypervisorError, Moved, RunState},
    saga::up_to,
    truth::{self, freeze},
};

/// Merges two neighbouring layers, whichever way is shorter. Stopped, both are in place and read as before.
pub(super) async fn merge(cx: &Cx, parent: Layer, child: Layer) -> Result<Moved, StepError> {
    let vm = cx.catalogue().vm(&cx.vm).await?;
    let forest = cx.catalogue().forest(&cx.vm).await?;
    verify_at_a_glance(cx.ports(), &forest, &child).await?;
    let mut merge = Merge::new(&forest, parent, child);
    let live = live_chain(cx, &vm, &merge.child).await?;
    let sizes = sizes(cx, &merge, live.as_ref()).await?;
    let direction = choose(cx, &merge, sizes).await;
    let forest = match direction {
        MergeDirection::Down => {
            room::for_merge(cx, &merge.parent, (&merge.child, sizes.child)).await?;
            truth::open(cx, &merge.parent, &merge.child).await?
        }
        MergeDirection::Up => {
            merge.held = held_above(cx, &merge.parent, &merge.child).await?;
            truth::open_one(cx, &merge.child).await?
        }
    };
    let phase = cx.reporter.begin("merge");
    tracing::debug!(vm = %cx.vm, ?direction, child = %merge.child.file.path.display(), "merging");
    let moved = match (live, direction) {
        (None, direction) => merge_offline(cx, &forest, &merge, direction).await?,
        (Some(live), MergeDirection::Down) => merge_live(cx, &live, &forest, &merge).await?,
        (Some(live), MergeDirection::Up) => stream_live(cx, &live, &forest, &merge).await?,
    };
    if moved == Moved::Whole {
        cx.world.merge_speed.note(sizes.moved(direction), phase.1.elapsed());
    }
    cx.reporter.end(phase);
    Ok(moved)
}

/// The way in which fewer bytes move; downwards also where there may be no room for it upwards, since how much the parent
/// grows is known more exactly.
async fn choose(cx: &Cx, merge: &Merge, sizes: Sizes) -> MergeDirection {
    match direction(&merge.parent, sizes) {
        MergeDirection::Up if room::for_merge_up(cx, &merge.child, sizes.parent).await.is_ok() => MergeDirection::Up,
        MergeDirection::Up | MergeDirection::Down => MergeDirection::Down,
    }
}

/// How large two layers are on the host's disk.
async fn sizes(cx: &Cx, merge: &Merge, live: Option<&Live>) -> Result<Sizes, StepError> {
    let images = &cx.ports().images;
    let is_live = live.is_some_and(|live| live.chain.first() == Some(&merge.child.file.id));
    let parent = images.look(&merge.parent.file).await?.allocated;
    let child = images.look(&merge.child.file).await?.allocated;
    Ok(Sizes { parent, child, is_live })
}

async fn merge_offline(cx: &Cx, forest: &Forest, merge: &Merge, direction: MergeDirection) -> Result<Moved, StepError> {
    let (images, offline, stop, progress) =
        (&cx.ports().images, merge.offline(), cx.way.stop(), cx.reporter.progress());
    let moved = match direction {
        MergeDirection::Down => images.merge_offline(&offline, stop, &progress).await?,
        MergeDirection::Up => images.stream_offline(&offline, stop, &progress).await?,
    };
    match moved {
        Moved::Whole => write_down(cx, forest, &[], merge, direction).await?,
        Moved::Stopped => {}
    }
    Ok(moved)
}

/// A running process and the layers of one of its disks, head first.
pub(super) struct Live {
    pub(super) instance: InstanceId,
    pub(super) chain: Vec<LayerId>,
}

/// The running process, if the child's or the parent's file is open there.
pub(super) async fn live_chain(cx: &Cx, vm: &Vm, child: &Layer) -> Result<Option<Live>, StepError> {
    let Some(instance) = vm.instance else { return Ok(None) };
    let observed = cx.ports().hypervisor.observe(instance).await?;
    if observed.run == RunState::Gone {
        return Ok(None);
    }
    let chain = observed.chains.get(&child.disk).cloned().unwrap_or_default();
    let open = chain.iter().any(|layer| *layer == child.file.id || Some(*layer) == child.backing);
    Ok(open.then_some(Live { instance, chain }))
}

async fn merge_live(cx: &Cx, live: &Live, forest: &Forest, merge: &Merge) -> Result<Moved, StepError> {
    let asked = merge.live();
    let progress = cx.reporter.progress();
    let moved = tokio::select! {
        biased;
        merged = cx.ports().hypervisor.merge(live.instance, &asked, &progress) => {
            merged.map(|()| Moved::Whole).map_err(StepError::from)
        }
        () = cx.way.stop().asked() => Ok(Moved::Stopped),
    };
    match moved {
        Ok(Moved::Whole) if live.chain.first() == Some(&merge.child.file.id) => {
            finish_head(cx, live, forest, merge).await?;
            Ok(Moved::Whole)
        }
        Ok(Moved::Whole) => {
            write_down(cx, forest, &live.chain, merge, MergeDirection::Down).await?;
            Ok(Moved::Whole)
        }
        Ok(Moved::Stopped) | Err(_) => {
            give_up(cx, cx.ports().hypervisor.cancel_merge(live.instance, &asked)).await;
            moved
        }
    }
}

/// The guest may write to the child all the while: it reads the same at every moment, so that nothing is delicate at the
/// end.
async fn stream_live(cx: &Cx, live: &Live, forest: &Forest, merge: &Merge) -> Result<Moved, StepError> {
    let Some(asked) = merge.live_up() else { return Ok(Moved::Stopped) };
    let progress = cx.reporter.progress();
    let moved = tokio::select! {
        biased;
        streamed = cx.ports().hypervisor.stream(live.instance, &asked, &progress) => {
            streamed.map(|()| Moved::Whole).map_err(StepError::from)
        }
        () = cx.way.stop().asked() => Ok(Moved::Stopped),
    };
    match moved {
        Ok(Moved::Whole) => write_down(cx, forest, &live.chain, merge, MergeDirection::Up).await?,
        Ok(Moved::Stopped) | Err(_) => {
            give_up(cx, cx.ports().hypervisor.cancel_stream(live.instance, &asked)).await;
        }
    }
    moved
}

/// Takes the merge out of QEMU. One that does not answer in time is left to it: what comes next looks at the chain, and
/// pulling the plug must not wait for a QEMU that hangs.
async fn give_up(cx: &Cx, cancel: impl Future<Output = Result<(), HypervisorError>>) {
    match timeout(cx.world.config.make_way, cancel).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(vm = %cx.vm, %error, "a merge could not be given up"),
        Err(_) => tracing::warn!(vm = %cx.vm, "QEMU did not give up a merge in time"),
    }
}

/// The end of a merge of the layer that the guest writes to.
async fn finish_head(cx: &Cx, live: &Live, forest: &Forest, merge: &Merge) -> Result<(), StepError> {
    let instance = live.instance;
    repoint(cx, forest, &live.chain, merge).await?;
    let hypervisor = &cx.ports().hypervisor;
    let was_running = hypervisor.observe(instance).await?.run == RunState::Running;
    let since = Instant::now();
    if was_running {
        cx.catalogue().commit(Changes::default().set_hold(&cx.vm, instance)).await?;
        hypervisor.pause(instance).await?;
    }
    let switched = switch_to_parent(cx, instance, forest, merge).await;
    if was_running {
        // If this fails, the note of the hold stays, and the VM goes on as soon as it can be told to.
        up_to(5, "letting the VM go on", || hypervisor.resume(instance)).await?;
        cx.reporter.record("merge-pause", since);
    }
    // If the catalogue could not be written, `settle` sees the running chain and writes it later.
    switched?;
    if was_running {
        cx.catalogue().commit(Changes::default().clear_hold(&cx.vm)).await?;
    }
    remove_leftovers(cx).await
}

/// Between pause and resume: the parent takes over, and the catalogue says so.
async fn switch_to_parent(cx: &Cx, instance: InstanceId, forest: &Forest, merge: &Merge) -> Result<(), StepError> {
    cx.ports().hypervisor.finish_merge(instance, &merge.live()).await?;
    let changes = replaced(cx, forest, &merge.parent, &merge.child).await?.retire_layer(&cx.vm, &merge.child);
    cx.catalogue().commit(changes).await?;
    // From now on the guest writes to the parent alone.
    describe::now_only(cx).await;
    Ok(())
}

/// Whoever referred to the child refers to the parent.
pub(in crate::plans) async fn replaced(
    cx: &Cx,
    forest: &Forest,
    parent: &Layer,
    child: &Layer,
) -> Result<Changes, StepError> {
    let (from, to) = (child.file.id, parent.file.id);
    let mut vm = cx.catalogue().vm(&cx.vm).await?;
    let onto_parent = forest.children(from).into_iter().map(|layer| Layer { backing: Some(to), ..layer.clone() });
    let onto_parent: Vec<Layer> = onto_parent.collect();
    let mut changes = onto_parent.iter().fold(Changes::default(), |changes, layer| changes.set_layer(&cx.vm, layer));
    let is_head = |id: LayerId| vm.own_layers().any(|own| own == id);
    let mut closed: Vec<Layer> = onto_parent.into_iter().filter(|layer| !is_head(layer.file.id)).collect();
    closed.extend((!is_head(from)).then(|| parent.clone()));
    for layer in freeze(cx, closed).await? {
        changes = changes.set_layer(&cx.vm, &layer);
    }
    for mut checkpoint in cx.catalogue().checkpoints(&cx.vm).await? {
        if checkpoint.disks.get(&child.disk) == Some(&from) {
            checkpoint.disks.insert(child.disk.clone(), to);
            changes = changes.set_checkpoint(&checkpoint);
        }
    }
    let points = after_merge(cx, parent, child, MergeDirection::Down, None).await?;
    if vm.own_layers().any(|own| own == from) {
        vm.replace_layer(from, to);
        changes = changes.set_vm(&vm);
    }
    Ok(changes.and(points))
}
