//! Files of others beside ours: what they lie on stays as it is, and nothing that is not ours goes. On the simulator.

use std::path::{Path, PathBuf};

use stillpoint_common::{CheckpointPolicy, DiskFormat, LayerFile, LayerId};
use stillpoint_engine::{Ports, Request};
use stillpoint_sim::{Call, Fault, FaultPlan};
use stillpoint_tests::sim_host::{SimHost, disk};

/// Somebody makes an overlay of this file, with ports that work.
async fn overlay(ports: Ports, path: &str, of: &Path) {
    let backing = LayerFile { id: LayerId::generate(), path: of.to_owned(), format: DiskFormat::Qcow2 };
    ports.images.create_overlay(path.as_ref(), &backing, 1 << 30).await.expect("it can be made");
}

async fn files(host: &SimHost) -> Vec<PathBuf> {
    let layers = host.engine.layers(&host.vm()).await.expect("they can be read");
    layers.into_iter().map(|view| view.layer.file.path).filter(|path| path.to_string_lossy().contains("data")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_somebody_reads_through_is_neither_merged_nor_removed() {
    let host = SimHost::running().await;
    host.write(1, 1);
    let first = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.write(1, 2);
    let second = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.write(1, 3);
    let layer = host.checkpoint(second.id).await.files[&disk("data")].clone();
    overlay(host.world.ports(), "/vm/somebodys.qcow2", &layer).await;
    for id in [second.id, first.id] {
        host.run(Request::DeleteCheckpoint(id)).await.unwrap();
    }
    // Its content may not change, so nothing goes into it; and what it is to go into may not change for it.
    assert_eq!(host.world.read("/vm/somebodys.qcow2", 1), Some(2));
    assert_eq!(files(&host).await.len(), 3, "{:?}", files(&host).await);
    assert_eq!(host.read(1), 3);
    // When that is gone, the next collection does what was left.
    assert!(host.world.lose_file("/vm/somebodys.qcow2"));
    let third = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.run(Request::DeleteCheckpoint(third.id)).await.unwrap();
    assert_eq!(files(&host).await.len(), 1, "{:?}", files(&host).await);
    assert_eq!(host.read(1), 3);
    host.assert_clean().await;
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_somebody_lies_on_stays_when_it_is_deleted() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.write(1, 7);
    let branch = host.create(CheckpointPolicy::Standard).await.unwrap();
    host.run(Request::Apply(first.id.into())).await.unwrap();
    let layer = host.checkpoint(branch.id).await.files[&disk("data")].clone();
    overlay(host.world.ports(), "/vm/somebodys.qcow2", &layer).await;
    host.run(Request::DeleteCheckpoint(branch.id)).await.unwrap();
    assert_eq!(host.world.read("/vm/somebodys.qcow2", 1), Some(7));
    assert!(files(&host).await.contains(&layer));
}

/// A VM whose deleted branch has lost its layer in the catalogue while the file is still there: the service died.
async fn left_over(harm: impl AsyncFnOnce(&SimHost, &Path)) -> (SimHost, PathBuf) {
    let mut host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Standard).await.expect("it works");
    host.write(1, 7);
    let branch = host.create(CheckpointPolicy::Standard).await.expect("it works");
    host.run(Request::Apply(first.id.into())).await.expect("it works");
    let file = host.checkpoint(branch.id).await.files[&disk("data")].clone();
    host.world.set_faults(FaultPlan::none().every(Call::RemoveFile, Fault::CrashBefore));
    host.engine.submit(&host.vm(), Request::DeleteCheckpoint(branch.id), None).await.expect("it works");
    host.world.crashed().await;
    host.world.set_faults(FaultPlan::none());
    assert!(host.world.files().contains(&file));
    harm(&host, &file).await;
    host.restart().await;
    host.quiet().await;
    (host, file)
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_let_go_and_is_another_one_now_stays_and_keeps_nothing_from_being_merged() {
    let (host, file) = left_over(async |host, file| assert!(host.world.replace_file(file))).await;
    assert!(host.world.files().contains(&file), "it is somebody's");
    let next = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    let before = files(&host).await.len();
    host.run(Request::DeleteCheckpoint(next.id)).await.unwrap();
    assert_eq!(files(&host).await.len(), before - 1, "merges go on");
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_let_go_stays_if_somebody_has_come_to_lie_on_it() {
    let (host, file) = left_over(async |_, _| ()).await;
    assert!(!host.world.files().contains(&file), "as it goes when nobody does");
    let (host, file) =
        left_over(async |host, file| overlay(host.world.restart(), "/vm/somebodys.qcow2", file).await).await;
    assert!(host.world.files().contains(&file));
    assert_eq!(host.world.read("/vm/somebodys.qcow2", 1), Some(7));
    let next = host.create(CheckpointPolicy::ProductionOnly).await.unwrap();
    host.run(Request::DeleteCheckpoint(next.id)).await.unwrap();
    assert_eq!(host.read(1), 1, "merges go on");
}
