//! Reference points: what has changed is known since them, although nothing is kept of them.

use std::collections::BTreeSet;

use stillpoint_common::{CheckpointId, CheckpointPolicy, Failure, PowerState, Reason, ReferencePointId, VmDefinition};
use stillpoint_engine::{ChangedFrom, ChangedRequest, PointView, Reconnect, Reconnected, Request, VmChange};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::{SimHost, disk};

const BLOCK: u64 = 64 << 10;

async fn make(host: &SimHost) -> CheckpointId {
    host.create(CheckpointPolicy::Production).await.expect("it can be made").id
}

async fn delete(host: &SimHost, id: CheckpointId) {
    host.run(Request::DeleteCheckpoint(id)).await.expect("it can be deleted");
}

async fn keep(host: &SimHost, of: CheckpointId) -> ReferencePointId {
    host.engine.create_reference_point(&host.vm(), of, None).await.expect("it can be made").point.id
}

async fn forget(host: &SimHost, point: ReferencePointId) {
    host.engine.delete_reference_point(&host.vm(), point).await.expect("it can be given up");
    host.quiet().await;
}

/// A reference point of what is now, of which no checkpoint is left.
async fn point(host: &SimHost) -> ReferencePointId {
    let made = make(host).await;
    let point = keep(host, made).await;
    delete(host, made).await;
    point
}

async fn since(host: &SimHost, point: ReferencePointId, to: CheckpointId) -> Result<BTreeSet<u64>, Failure> {
    let from = ChangedFrom::Point(point);
    let asked = ChangedRequest { vm: host.vm(), disk: disk("data"), from, to, bytes: 0..u64::MAX };
    let mut reader = host.engine.changed(asked).await?;
    let mut blocks = BTreeSet::new();
    while let Some(part) = reader.next().await? {
        blocks.extend(part.ranges.into_iter().flat_map(|range| range.start / BLOCK..range.end / BLOCK));
    }
    Ok(blocks)
}

async fn layers(host: &SimHost) -> usize {
    host.engine.layer_files(&host.vm()).await.expect("they are known").len()
}

async fn views(host: &SimHost) -> Vec<PointView> {
    host.engine.reference_points(&host.vm()).await.expect("they are known")
}

#[tokio::test(start_paused = true)]
async fn a_round_of_backups_costs_two_layers_a_disk_and_each_is_told_exactly_what_changed() {
    let host = SimHost::running().await;
    let mut last = point(&host).await;
    for round in 2..8 {
        host.write(round, 1);
        let backup = make(&host).await;
        assert_eq!(since(&host, last, backup).await.unwrap(), [round].into(), "round {round}");
        let next = keep(&host, backup).await;
        delete(&host, backup).await;
        forget(&host, last).await;
        last = next;
        assert_eq!(layers(&host).await, 4, "round {round}: the image, and what is written, of two disks");
    }
    forget(&host, last).await;
    assert_eq!(layers(&host).await, 2, "all is in the user's own images");
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn points_of_different_age_each_know_what_changed_since_them() {
    let host = SimHost::running().await;
    let mut points = Vec::new();
    for block in 2..6 {
        points.push((point(&host).await, block));
        host.write(block, 1);
    }
    let now = make(&host).await;
    for (point, first) in points {
        assert_eq!(since(&host, point, now).await.unwrap(), (first..6).collect(), "since before block {first}");
    }
    assert_eq!(layers(&host).await, 4, "however many there are: the image, which is the checkpoint now, and one apart");
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_point_on_a_branch_that_is_gone_is_followed_to_what_is_left() {
    let host = SimHost::running().await;
    let root = make(&host).await;
    host.write(2, 1);
    let leaf = make(&host).await;
    let point = keep(&host, leaf).await;
    host.run(Request::Apply(root.into())).await.unwrap();
    host.run(Request::Start).await.unwrap();
    delete(&host, leaf).await;
    host.write(3, 1);
    let now = make(&host).await;
    assert_eq!(since(&host, point, now).await.unwrap(), [2, 3].into(), "block 2 is what it was before");
    delete(&host, root).await;
    assert_eq!(since(&host, point, now).await.unwrap(), [2, 3].into());
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn what_moves_upwards_is_not_taken_for_what_has_changed() {
    let host = SimHost::running().await;
    let base = make(&host).await;
    host.write(2, 1);
    let small = make(&host).await;
    let point = keep(&host, small).await;
    (10..20).for_each(|block| host.write(block, 1));
    let large = make(&host).await;
    host.world.set_faults(FaultPlan::none());
    delete(&host, small).await;
    assert!(host.world.calls().contains(&Call::Stream), "the smaller one moves up");
    assert_eq!(since(&host, point, large).await.unwrap(), (10..20).collect());
    assert_eq!(
        since(&host, point, base).await.unwrap(),
        (10..20).chain([2]).collect(),
        "more than there is, never less"
    );
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_point_is_made_once_and_is_listed_with_what_it_was() {
    let host = SimHost::running().await;
    let made = make(&host).await;
    let once = Some("once".to_owned());
    let first = host.engine.create_reference_point(&host.vm(), made, once.clone()).await.unwrap();
    assert_eq!(host.engine.create_reference_point(&host.vm(), made, once.clone()).await.unwrap(), first);
    assert_eq!(views(&host).await, std::slice::from_ref(&first));
    assert_eq!((first.point.checkpoint, first.point.disks[&disk("data")]), (made, 1 << 30));
    let other = make(&host).await;
    let reused = host.engine.create_reference_point(&host.vm(), other, once).await.unwrap_err();
    assert_eq!(reused.reason, Reason::RequestIdReused);
    for _ in 1..16 {
        keep(&host, made).await;
    }
    let many = host.engine.create_reference_point(&host.vm(), made, None).await.unwrap_err();
    assert_eq!(many.reason, Reason::ReferencePointLimit, "{many}");
    for view in views(&host).await {
        forget(&host, view.point.id).await;
    }
    let gone = host.engine.delete_reference_point(&host.vm(), first.point.id).await.unwrap_err();
    assert_eq!(gone.reason, Reason::ReferencePointNotFound);
    assert_eq!(since(&host, first.point.id, other).await.unwrap_err().reason, Reason::ReferencePointNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_not_deleted_under_its_points_and_may_change_its_disks() {
    let host = SimHost::running().await;
    let kept = point(&host).await;
    host.turn_off().await;
    let refused = host.engine.delete_vm(&host.vm()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::VmHasReferencePoints, "{refused}");
    let known = host.engine.vm(&host.vm()).await.unwrap().vm.definition;
    let (system, data) = (known.disks[0].clone(), known.disks[1].clone());
    for disks in [vec![system.clone()], vec![system, data]] {
        let definition = Some(VmDefinition { disks, ..known.clone() });
        host.engine.update_vm(&host.vm(), VmChange { definition, ..VmChange::default() }).await.unwrap();
    }
    host.run(Request::Start).await.unwrap();
    host.write(5, 1);
    let now = make(&host).await;
    assert_eq!(since(&host, kept, now).await.unwrap(), [5].into());
    delete(&host, now).await;
    forget(&host, kept).await;
    host.turn_off().await;
    host.engine.delete_vm(&host.vm()).await.unwrap();
    assert_eq!(host.world.read("/vm/data.qcow2", 5), Some(1), "all is in the user's own image");
    let left: Vec<_> = host.world.records().into_keys().filter(|key| key.contains("/web/")).collect();
    assert!(left.iter().all(|key| !key.starts_with("tracked") && !key.starts_with("reference-point")), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_point_whose_layer_was_exchanged_or_taken_away_says_so() {
    let host = SimHost::running().await;
    let made = make(&host).await;
    let point = keep(&host, made).await;
    host.write(2, 1);
    let now = make(&host).await;
    host.turn_off().await;
    let layer = host.checkpoint(made).await.files[&disk("data")].clone();
    assert!(host.world.overwrite_file(&layer, 1, 9), "somebody else writes to it");
    assert_eq!(since(&host, point, now).await.unwrap_err().reason, Reason::DiskChanged);
    let what = host.engine.layers(&host.vm()).await.unwrap();
    let id = what.iter().find(|view| view.layer.file.path == layer).expect("it is known").layer.file.id;
    let asked = Reconnect { what: Reconnected::Layer(id), path: layer, accept_changed: true };
    host.engine.reconnect(&host.vm(), asked).await.unwrap();
    let lost = since(&host, point, now).await.unwrap_err();
    assert_eq!((lost.reason, lost.field.as_deref()), (Reason::ChangesUnknown, Some("from")), "{lost}");
    let view = views(&host).await.remove(0);
    assert_eq!(view.lost.keys().collect::<Vec<_>>(), [&disk("data")], "the other disk is as it was");
    assert_eq!(host.engine.vm(&host.vm()).await.unwrap().power, PowerState::Off);
}

/// What is told when the service has died at each of its writes while a checkpoint goes: as much as without.
async fn die_at_every_write(
    host: &SimHost,
    goes: CheckpointId,
    point: ReferencePointId,
    to: CheckpointId,
    least: &[u64],
) {
    let mut cases = 0;
    for write in 1.. {
        let mut host = SimHost { world: host.world.fork(), engine: host.engine.clone() };
        host.restart().await;
        host.quiet().await;
        host.world.set_faults(FaultPlan::none().at_write(write, Fault::CrashAfter));
        let died = tokio::select! {
            () = delete(&host, goes) => false,
            () = host.world.crashed() => true,
        };
        host.world.set_faults(FaultPlan::none());
        host.restart().await;
        host.quiet().await;
        if host.checkpoints().await.iter().any(|view| view.checkpoint.id == goes) {
            delete(&host, goes).await;
        }
        let told = since(&host, point, to).await.expect("it is told");
        let missed: Vec<_> = least.iter().filter(|block| !told.contains(block)).collect();
        assert!(missed.is_empty(), "{missed:?} are not told after the service died at write {write}: {told:?}");
        host.world.assert_sound();
        if !died {
            break;
        }
        cases += 1;
    }
    println!("{cases} cases");
    assert!(cases >= 5, "only {cases} cases");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_dies_while_layers_with_a_point_are_merged_or_removed_loses_nothing_of_it() {
    for blocks in [[2, 3].as_slice(), &[2, 3, 4, 5, 6, 7, 8, 9]] {
        let host = SimHost::running().await;
        (20..23).for_each(|block| host.write(block, 1));
        let root = make(&host).await;
        (30..33).for_each(|block| host.write(block, 1));
        let middle = make(&host).await;
        let kept = keep(&host, middle).await;
        blocks.iter().for_each(|block| host.write(*block, 1));
        let last = make(&host).await;
        die_at_every_write(&host, middle, kept, last, blocks).await;
        // The branch with the point goes.
        host.run(Request::Apply(root.into())).await.unwrap();
        host.run(Request::Start).await.unwrap();
        let now = make(&host).await;
        delete(&host, middle).await;
        die_at_every_write(&host, last, kept, now, &[30, 31, 32]).await;
    }
}
