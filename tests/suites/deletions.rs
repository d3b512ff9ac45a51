//! What is deleted together, what of a checkpoint can be deleted alone, and what is said of it beforehand; on the
//! simulator.

use std::{collections::BTreeMap, path::Path, time::Duration};

use stillpoint_common::{
    CheckpointId, CheckpointPolicy, Consistency, EventToken, Kind, MergeDirection, OperationKind, Outcome, PowerState,
    Reason,
};
use stillpoint_engine::{Doomed, EventsFrom, Request};
use stillpoint_proto::convert::status_line::status_line;
use stillpoint_sim::Call;
use stillpoint_tests::sim_host::{SimHost, disk};

/// `a (1) ── b (2) ─┬─ c (3)`
/// `                └─ Now (4)`, the numbers being what block 1 reads as.
async fn with_a_branch() -> (SimHost, [CheckpointId; 3]) {
    let host = SimHost::running().await;
    let mut made = Vec::new();
    for value in 1..=3 {
        host.write(1, value);
        made.push(host.create(CheckpointPolicy::Standard).await.expect("it works").id);
    }
    host.run(Request::Apply(made[1].into())).await.expect("it works");
    host.write(1, 4);
    (host, [made[0], made[1], made[2]])
}

async fn parents(host: &SimHost) -> BTreeMap<CheckpointId, Option<CheckpointId>> {
    host.checkpoints().await.into_iter().map(|view| (view.checkpoint.id, view.checkpoint.parent)).collect()
}

async fn now_parent(host: &SimHost) -> Option<CheckpointId> {
    host.engine.vm(&host.vm()).await.expect("it is there").vm.parent
}

async fn assert_nothing_left_over(host: &SimHost) {
    host.world.assert_sound();
    let referenced = host.referenced().await;
    assert_eq!(host.world.orphans(&referenced), [].into());
    assert_eq!(host.world.missing(&referenced), [].into());
    host.assert_described().await;
}

#[tokio::test(start_paused = true)]
async fn a_subtree_goes_and_now_stays_with_its_data_although_it_came_after_it() {
    let (host, [a, b, _]) = with_a_branch().await;
    assert_eq!(host.run(Request::DeleteSubtree(b)).await, Ok(Outcome::Gone));
    assert_eq!(parents(&host).await, [(a, None)].into());
    assert_eq!(now_parent(&host).await, Some(a));
    assert_eq!(host.read(1), 4);
    assert_nothing_left_over(&host).await;
    assert_eq!(host.world.files().len(), 4 + 1, "for each disk the user's image and Now's layer, and one memory");
    host.run(Request::Revert).await.unwrap();
    assert_eq!(host.read(1), 1, "what was not deleted can be applied");
}

#[tokio::test(start_paused = true)]
async fn many_go_at_once_in_one_operation_and_each_is_told_of() {
    let (host, [a, b, c]) = with_a_branch().await;
    let before = host.engine.operations().await.unwrap().len();
    assert_eq!(host.run(Request::DeleteCheckpoints([a, b].into())).await, Ok(Outcome::Gone));
    let operations = host.engine.operations().await.unwrap();
    assert_eq!(operations.len(), before + 1);
    assert_eq!((operations[0].kind, operations[0].checkpoint), (OperationKind::DeleteCheckpoint, None));
    assert_eq!(parents(&host).await, [(c, None)].into());
    assert_eq!(now_parent(&host).await, None);
    assert_eq!(host.read(1), 4);
    assert_nothing_left_over(&host).await;
    let mut events = host.engine.events(EventsFrom::After(EventToken::default()), None, false).await.unwrap();
    let mut gone = Vec::new();
    while let Some((_, event)) = events.next().await.unwrap() {
        gone.extend(event.checkpoint.filter(|_| event.text.ends_with("is gone")));
    }
    assert_eq!(gone, [a, b]);
    host.run(Request::Apply(c.into())).await.unwrap();
    assert_eq!(host.read(1), 3);
}

#[tokio::test(start_paused = true)]
async fn of_many_that_are_named_none_goes_if_one_cannot() {
    let (host, [a, ..]) = with_a_branch().await;
    let unknown = CheckpointId::generate();
    let refused = host.run(Request::DeleteCheckpoints([a, unknown].into())).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CheckpointNotFound);
    assert_eq!(host.run(Request::DeleteCheckpoints([].into())).await.unwrap_err().field.as_deref(), Some("names"));
    assert_eq!(host.run(Request::DeleteSubtree(unknown)).await.unwrap_err().reason, Reason::CheckpointNotFound);
    assert_eq!(parents(&host).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_without_its_memory_keeps_its_disks_and_leaves_the_vm_off_when_it_is_applied() {
    let (host, [_, b, c]) = with_a_branch().await;
    let disks = host.content(&host.checkpoint(b).await);
    assert_eq!(host.run(Request::DeleteMemory(b)).await, Ok(Outcome::Gone));
    let without = host.checkpoint(b).await;
    assert_eq!((without.checkpoint.memory.as_ref(), without.checkpoint.kind), (None, Kind::Standard));
    assert_eq!(without.checkpoint.consistency, Consistency::Crash, "no more is proven of disks alone");
    assert_eq!(host.content(&without), disks);
    assert!(host.checkpoint(c).await.checkpoint.memory.is_some(), "that of another stays");
    assert_nothing_left_over(&host).await;
    assert_eq!(host.run(Request::DeleteMemory(b)).await.unwrap_err().reason, Reason::NoMemoryState);
    host.run(Request::Apply(b.into())).await.unwrap();
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Off);
    host.run(Request::Start).await.unwrap();
    assert_eq!(host.read(1), 2);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_whose_memory_is_missing_is_whole_again_without_it() {
    let (host, [_, b, _]) = with_a_branch().await;
    let memory = host.checkpoint(b).await.checkpoint.memory.unwrap().path;
    assert!(host.world.lose_file(&memory));
    assert_eq!(host.run(Request::Apply(b.into())).await.unwrap_err().reason, Reason::CheckpointMissing);
    host.run(Request::DeleteMemory(b)).await.unwrap();
    assert_eq!(host.checkpoint(b).await.missing, Vec::<std::path::PathBuf>::new());
    host.run(Request::Apply(b.into())).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_preview_names_the_merges_that_the_deletion_does_and_does_nothing_itself() {
    let (host, [a, b, c]) = with_a_branch().await;
    for block in 100..150 {
        host.write(block, block);
    }
    let (files, calls) = (host.world.files(), host.world.calls().len());
    let doomed = Doomed::Subtree(b);
    let preview = host.engine.preview_delete(&host.vm(), &doomed).await.unwrap();
    assert_eq!(preview.checkpoints, [b, c]);
    assert_eq!(preview.takes, None, "nothing was merged yet");
    let moves: BTreeMap<_, _> = preview.merges.iter().map(|merge| (merge.disk.clone(), merge.bytes / 65_536)).collect();
    // What b has lies below Now: the one block of it moves up, not the 51 of Now down.
    assert_eq!(moves, [(disk("data"), 1), (disk("system"), 1)].into());
    assert!(preview.merges.iter().all(|merge| merge.direction == MergeDirection::Up));
    assert_eq!(preview.removed.len(), 2, "the layers of c");
    assert!(preview.memory_bytes > 0);
    assert_eq!(host.world.files(), files);
    let changed = host.world.calls()[calls..].iter().any(|call| call.changes());
    assert!(!changed, "{:?}", &host.world.calls()[calls..]);

    let used = host.world.used("/vm");
    for call in [Call::Merge, Call::Stream] {
        host.world.set_latency(call, Duration::from_secs(1));
    }
    let removed: Vec<_> = preview.removed.iter().map(|file| file.path.clone()).collect();
    host.run(doomed.into()).await.unwrap();
    for gone in preview.merges.iter().map(|merge| &merge.from.path).chain(&removed) {
        assert!(!host.world.files().contains(gone), "{} was to go", gone.display());
    }
    assert!(used - host.world.used("/vm") >= preview.freed, "as much is free again as was said");
    assert_eq!(host.read(149), 149);
    // Into the user's own image there is only the way down. The block that b had Now has written since.
    let next = host.engine.preview_delete(&host.vm(), &Doomed::These([a].into())).await.unwrap();
    let moves: Vec<_> = next.merges.iter().map(|merge| (merge.direction, merge.bytes / 65_536)).collect();
    assert_eq!(moves, [(MergeDirection::Down, 51); 2]);
    host.run(Request::DeleteCheckpoint(a)).await.unwrap();
    // The next one is told from the speed of this.
    let last = host.create(CheckpointPolicy::Production).await.unwrap();
    host.write(1, 5);
    let next = host.engine.preview_delete(&host.vm(), &Doomed::These([last.id].into())).await.unwrap();
    assert!(next.takes.is_some_and(|takes| takes > Duration::ZERO), "{next:?}");
    let nothing = host.engine.preview_delete(&host.vm(), &Doomed::These([].into())).await.unwrap();
    assert_eq!((nothing.merges.len(), nothing.checkpoints.len(), nothing.takes), (0, 0, Some(Duration::ZERO)));
}

#[tokio::test(start_paused = true)]
async fn a_preview_says_what_stays_because_two_branches_lie_on_it_and_which_checkpoint_it_does_not_know() {
    let (host, [_, b, _]) = with_a_branch().await;
    let preview = host.engine.preview_delete(&host.vm(), &Doomed::These([b].into())).await.unwrap();
    assert_eq!((preview.merges.len(), preview.kept.len()), (0, 2));
    assert!(preview.kept.iter().all(|file| file.path.starts_with(Path::new("/vm"))));
    let unknown = Doomed::These([CheckpointId::generate()].into());
    let refused = host.engine.preview_delete(&host.vm(), &unknown).await.unwrap_err();
    assert_eq!(refused.reason, Reason::CheckpointNotFound);
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_vm_says_how_far_its_merge_is_also_one_that_goes_on_by_itself() {
    let host = SimHost::running().await;
    let made = host.create(CheckpointPolicy::Production).await.unwrap();
    (0..100).for_each(|block| host.write(block, 7));
    host.world.set_latency(Call::Merge, Duration::from_secs(600));
    let state = async || {
        tokio::time::sleep(Duration::from_secs(1500)).await;
        let view = host.engine.vm(&host.vm()).await.unwrap();
        (status_line(view.power, view.operation.as_ref()), view.operation.map(|operation| operation.kind))
    };
    let says_how_far = |line: &str| {
        let percent = line.strip_prefix("Merging (").and_then(|rest| rest.strip_suffix("%)")).map(str::parse::<u8>);
        matches!(percent, Some(Ok(1..=99)))
    };
    let delete = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(made.id), None).await.unwrap();
    let (line, kind) = state().await;
    assert!(says_how_far(&line), "{line}");
    assert_eq!(kind, Some(OperationKind::DeleteCheckpoint));
    // Something else comes; the merge goes on by itself, and says so too.
    let pause = host.engine.submit(&host.vm(), Request::Pause, None).await.unwrap();
    host.end_of(&pause).await.unwrap();
    host.end_of(&delete).await.unwrap();
    let (line, kind) = state().await;
    assert!(says_how_far(&line), "{line}");
    assert_eq!(kind, Some(OperationKind::CollectLayers));
}
