//! Disks of the simulated world behave as QEMU's do.

use std::path::PathBuf;

use crate::lab::{Lab, SIZE, layer, quiet};
use stillpoint_common::FileIdentity;
use stillpoint_engine::ports::{
    Flatten, HypervisorError, ImageError, OfflineMerge, RunState, StartMode, Stop, Trouble,
};
use stillpoint_sim::{Call, NotWritten};

#[tokio::test]
async fn what_is_written_after_a_cut_is_not_in_the_layer_below() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.write(1, 10);
    lab.cut(vm, "/vm/a.qcow2", &lab.bases[0]).await;
    lab.write(1, 11);
    lab.write(2, 12);
    assert_eq!((lab.reads("/vm/system.qcow2", 1), lab.reads("/vm/system.qcow2", 2)), (10, 0));
    assert_eq!((lab.reads("/vm/a.qcow2", 1), lab.reads("/vm/a.qcow2", 2)), (11, 12));
    lab.world.assert_sound();
}

#[tokio::test]
async fn heads_are_switched_all_or_none_and_twice_is_once() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let good = lab.attached(vm, "/vm/a.qcow2", &lab.bases[0]).await;
    let mut bad = good.clone();
    (bad.disk, bad.file) = (lab.data.clone(), layer("/vm/never-attached.qcow2"));
    let before = lab.world.observed(vm);
    assert!(lab.ports.hypervisor.switch_heads(vm, &[good.clone(), bad]).await.is_err());
    assert_eq!(lab.world.observed(vm), before);
    for _ in 0..2 {
        lab.ports.hypervisor.switch_heads(vm, std::slice::from_ref(&good)).await.unwrap();
    }
    assert_eq!(lab.world.observed(vm).unwrap().chains[&lab.disk], [good.file.id, lab.bases[0].id]);
}

#[tokio::test]
async fn an_overlay_is_made_once_and_never_over_another_file() {
    let lab = Lab::new();
    let images = &lab.ports.images;
    let first = images.create_overlay("/vm/a.qcow2".as_ref(), &lab.bases[0], SIZE).await.unwrap();
    assert_eq!(images.create_overlay("/vm/a.qcow2".as_ref(), &lab.bases[0], SIZE).await.unwrap(), first);
    for (backing, size) in [(&lab.bases[1], SIZE), (&lab.bases[0], SIZE + 1)] {
        let other = images.create_overlay("/vm/a.qcow2".as_ref(), backing, size).await;
        assert!(matches!(other, Err(ImageError::Exists { .. })), "{other:?}");
    }
    assert_eq!(images.overlays_of("/vm/system.qcow2".as_ref()).await.unwrap(), [PathBuf::from("/vm/a.qcow2")]);
}

#[tokio::test]
async fn merging_a_middle_layer_keeps_what_the_guest_reads_and_points_the_layer_above_down() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let middle = lab.cut(vm, "/vm/middle.qcow2", &lab.bases[0]).await;
    (0..40).for_each(|block| lab.write(block, 100 + block));
    let head = lab.cut(vm, "/vm/head.qcow2", &middle).await;
    lab.write(3, 7);
    lab.world.keep_writing(&lab.vm, true);
    let merge = lab.merge_of(&middle, &lab.bases[0]);
    for _ in 0..2 {
        lab.ports.hypervisor.merge(vm, &merge, &quiet()).await.unwrap();
    }
    assert_eq!(lab.world.observed(vm).unwrap().chains[&lab.disk], [head.id, lab.bases[0].id]);
    assert_eq!((lab.reads("/vm/system.qcow2", 3), lab.reads("/vm/head.qcow2", 30)), (103, 130));
    assert_eq!(lab.world.content("/vm/head.qcow2"), lab.world.guest_content(&lab.vm, &lab.disk));
    let stat = lab.ports.images.stat(&middle.path, middle.format).await.unwrap();
    lab.ports.images.remove(&middle.path, stat.identity).await.unwrap();
    lab.world.assert_sound();
}

#[tokio::test]
async fn a_head_and_its_parent_read_the_same_from_the_merge_to_its_end() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let head = lab.cut(vm, "/vm/head.qcow2", &lab.bases[0]).await;
    (0..20).for_each(|block| lab.write(block, 1));
    let merge = lab.merge_of(&head, &lab.bases[0]);
    assert!(lab.ports.hypervisor.finish_merge(vm, &merge).await.is_err(), "not before the data is moved");
    lab.ports.hypervisor.merge(vm, &merge, &quiet()).await.unwrap();
    assert_eq!(lab.world.observed(vm).unwrap().chains[&lab.disk].len(), 2);
    lab.write(5, 6);
    assert_eq!((lab.reads("/vm/head.qcow2", 5), lab.reads("/vm/system.qcow2", 5)), (6, 6));

    lab.ports.hypervisor.pause(vm).await.unwrap();
    for _ in 0..2 {
        lab.ports.hypervisor.finish_merge(vm, &merge).await.unwrap();
    }
    lab.ports.hypervisor.resume(vm).await.unwrap();
    assert_eq!(lab.world.observed(vm).unwrap().chains[&lab.disk], [lab.bases[0].id]);
    lab.write(5, 7);
    assert_eq!((lab.reads("/vm/head.qcow2", 5), lab.reads("/vm/system.qcow2", 5)), (6, 7));
    lab.world.assert_sound();
}

#[tokio::test]
async fn a_head_merged_away_in_a_running_vm_breaks_a_rule() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let head = lab.cut(vm, "/vm/head.qcow2", &lab.bases[0]).await;
    let merge = lab.merge_of(&head, &lab.bases[0]);
    lab.ports.hypervisor.merge(vm, &merge, &quiet()).await.unwrap();
    lab.ports.hypervisor.finish_merge(vm, &merge).await.unwrap();
    assert_eq!(lab.world.violations().len(), 1);
}

#[tokio::test]
async fn a_merge_takes_the_parent_right_below_and_a_busy_head_is_not_switched() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let middle = lab.cut(vm, "/vm/middle.qcow2", &lab.bases[0]).await;
    let head = lab.cut(vm, "/vm/head.qcow2", &middle).await;
    let skipping = lab.ports.hypervisor.merge(vm, &lab.merge_of(&head, &lab.bases[0]), &quiet()).await;
    assert!(matches!(skipping, Err(HypervisorError::Refused { .. })), "{skipping:?}");

    let merge = lab.merge_of(&head, &middle);
    lab.ports.hypervisor.merge(vm, &merge, &quiet()).await.unwrap();
    let next = lab.attached(vm, "/vm/next.qcow2", &head).await;
    assert!(lab.ports.hypervisor.switch_heads(vm, std::slice::from_ref(&next)).await.is_err());
    lab.ports.hypervisor.cancel_merge(vm, &merge).await.unwrap();
    lab.ports.hypervisor.switch_heads(vm, &[next]).await.unwrap();
}

#[tokio::test]
async fn a_merge_that_changes_what_another_layer_reads_as_breaks_a_rule() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let head = lab.cut(vm, "/vm/head.qcow2", &lab.bases[0]).await;
    lab.ports.images.create_overlay("/vm/sister.qcow2".as_ref(), &lab.bases[0], SIZE).await.unwrap();
    lab.write(1, 1);
    lab.ports.hypervisor.merge(vm, &lab.merge_of(&head, &lab.bases[0]), &quiet()).await.unwrap();
    assert!(lab.world.violations()[0].contains("changed what /vm/sister.qcow2 reads as"));
}

#[tokio::test(start_paused = true)]
async fn a_merge_that_was_dropped_leaves_both_layers_and_goes_on_when_asked_again() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let middle = lab.cut(vm, "/vm/middle.qcow2", &lab.bases[0]).await;
    (0..40).for_each(|block| lab.write(block, 1));
    let head = lab.cut(vm, "/vm/head.qcow2", &middle).await;
    lab.world.set_latency(Call::Merge, std::time::Duration::from_secs(1));
    let merge = lab.merge_of(&middle, &lab.bases[0]);
    let sink = quiet();
    let dropped =
        tokio::time::timeout(std::time::Duration::from_secs(3), lab.ports.hypervisor.merge(vm, &merge, &sink));
    assert!(dropped.await.is_err());
    assert_eq!(lab.world.observed(vm).unwrap().chains[&lab.disk].len(), 3);
    assert!(lab.reads("/vm/system.qcow2", 0) == 1 && lab.reads("/vm/system.qcow2", 39) == 0, "part of it is moved");
    lab.ports.hypervisor.merge(vm, &merge, &sink).await.unwrap();
    assert_eq!(lab.world.observed(vm).unwrap().chains[&lab.disk], [head.id, lab.bases[0].id]);
    lab.world.assert_sound();
}

#[tokio::test]
async fn files_in_use_are_neither_merged_nor_repointed_offline() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let head = lab.cut(vm, "/vm/head.qcow2", &lab.bases[0]).await;
    lab.write(1, 1);
    let merge = OfflineMerge { child: head.clone(), parent: lab.bases[0].clone(), below: vec![] };
    let refused = lab.ports.images.merge_offline(&merge, &Stop::new(), &quiet()).await;
    assert!(matches!(refused, Err(ImageError::InUse { .. })), "{refused:?}");
    let refused = lab.ports.images.repoint(&head, &lab.bases[0]).await;
    assert!(matches!(refused, Err(ImageError::InUse { .. })), "{refused:?}");

    lab.ports.hypervisor.retire(vm).await.unwrap();
    for _ in 0..2 {
        lab.ports.images.merge_offline(&merge, &Stop::new(), &quiet()).await.unwrap();
    }
    assert_eq!((lab.reads("/vm/system.qcow2", 1), lab.reads("/vm/head.qcow2", 1)), (1, 1));
    lab.world.assert_sound();
}

#[tokio::test]
async fn a_file_is_written_by_one_instance_only() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let spec = lab.spec(&[&lab.bases[0]], &[&lab.bases[1]], StartMode::Fresh);
    let refused = lab.launch(&spec).await;
    assert!(matches!(refused, Err(HypervisorError::LaunchFailed { .. })), "{refused:?}");
    assert_eq!(lab.world.run_state(spec.instance), RunState::Gone);
    lab.ports.hypervisor.retire(vm).await.unwrap();
    lab.launch(&spec).await.unwrap();
}

#[tokio::test]
async fn a_file_is_removed_only_if_it_is_the_one_that_is_meant() {
    let lab = Lab::new();
    let overlay = layer("/vm/a.qcow2");
    let identity = lab.ports.images.create_overlay(&overlay.path, &lab.bases[0], SIZE).await.unwrap();
    lab.world.replace_file(&overlay.path);
    let other = lab.ports.images.remove(&overlay.path, identity).await;
    assert!(matches!(other, Err(ImageError::Changed { .. })), "{other:?}");
    let identity = FileIdentity { inode: identity.inode + 1, ..identity };
    for _ in 0..2 {
        lab.ports.images.remove(&overlay.path, identity).await.unwrap();
    }
    lab.world.assert_sound();
    assert_eq!(lab.world.orphans(["/vm/system.qcow2", "/vm/data.qcow2"]).len(), 0);
}

#[tokio::test]
async fn a_file_removed_under_its_child_or_its_instance_breaks_a_rule() {
    let lab = Lab::new();
    let vm = lab.running().await;
    let middle = lab.cut(vm, "/vm/middle.qcow2", &lab.bases[0]).await;
    lab.cut(vm, "/vm/head.qcow2", &middle).await;
    let stat = lab.ports.images.stat(&middle.path, middle.format).await.unwrap();
    lab.ports.images.remove(&middle.path, stat.identity).await.unwrap();
    assert_eq!(lab.world.violations().len(), 2, "{:?}", lab.world.violations());
    assert_eq!(lab.world.content("/vm/head.qcow2"), None);
}

#[tokio::test]
async fn a_copy_reads_as_the_chain_did() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.write(1, 1);
    let head = lab.cut(vm, "/vm/head.qcow2", &lab.bases[0]).await;
    lab.write(2, 2);
    let layers = vec![lab.bases[0].clone(), head.clone()];
    let flatten = Flatten { layers, target: "/out/disk.qcow2".into(), format: head.format };
    lab.world.add_folder("/out");
    let refused = lab.ports.images.flatten(&flatten, &quiet()).await;
    assert!(matches!(refused, Err(ImageError::InUse { .. })), "{refused:?}");
    lab.cut(vm, "/vm/next.qcow2", &head).await;
    lab.write(2, 3);
    lab.ports.images.flatten(&flatten, &quiet()).await.unwrap();
    assert_eq!(lab.world.content("/out/disk.qcow2"), Some([(1, 1), (2, 2)].into()));
}

#[tokio::test]
async fn a_full_disk_stops_the_vm_and_it_goes_on_when_there_is_space() {
    let lab = Lab::new();
    let vm = lab.running().await;
    lab.write(1, 1);
    lab.world.set_full(true);
    lab.write(1, 2);
    assert_eq!(lab.world.guest_write(&lab.vm, &lab.disk, 2, 2), Err(NotWritten::NoSpace));
    assert_eq!(lab.world.run_state(vm), RunState::Critical(Trouble { disk: Some(lab.disk.clone()), no_space: true }));
    let refused = lab.ports.images.create_overlay("/vm/a.qcow2".as_ref(), &lab.bases[0], SIZE).await;
    assert!(matches!(refused, Err(ImageError::NoSpace { .. })), "{refused:?}");
    lab.world.set_full(false);
    lab.ports.hypervisor.resume(vm).await.unwrap();
    lab.write(2, 2);
    lab.world.assert_sound();
}
