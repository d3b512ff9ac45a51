//! Overlays, the switch of heads, and merges, on real QEMU with a guest that writes.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{sync::Mutex, time::Duration};

use lab::{DISK_SIZE, LONG, Lab, config, content, disk, io, numbers, quiet, text, write_pattern};
use stillpoint_common::{DiskFormat, LayerFile, LayerId, Progress};
use stillpoint_engine::ports::{
    Extent, Hypervisor, HypervisorError, Images, LiveMerge, Overlay, ProgressSink, RunState,
};
use stillpoint_qemu::QemuHypervisor;

fn merge_of(lab: &Lab, position: usize) -> LiveMerge {
    let chain = &lab.chains[0];
    LiveMerge { disk: chain.disk.clone(), child: chain.layers[position].id, parent: chain.layers[position - 1].clone() }
}

#[tokio::test]
async fn real_qemu_heads_of_two_disks_switch_in_one_instant() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let overlays = lab.attach_overlays().await;
    lab.hypervisor.attach_overlays(lab.instance, &overlays).await.unwrap();
    let ids: Vec<_> = overlays.iter().map(|overlay| overlay.file.id).collect();
    let observed = lab.observe().await;
    assert_eq!(observed.attached, ids.iter().copied().collect());
    lab.assert_chains().await;

    lab.progress(2).await;
    lab.hypervisor.switch_heads(lab.instance, &overlays).await.unwrap();
    lab.hypervisor.switch_heads(lab.instance, &overlays).await.unwrap();
    let bases: Vec<_> = lab.chains.iter().map(|chain| chain.layers.clone()).collect();
    lab.lay(&overlays);
    lab.assert_chains().await;
    assert!(lab.observe().await.attached.is_empty());
    lab.progress(5).await;
    lab.hypervisor.detach_overlays(lab.instance, &ids).await.unwrap();
    lab.assert_chains().await;

    let (first, second) = (numbers(&bases[0]), numbers(&bases[1]));
    assert!(first.missing.is_empty() && second.missing.is_empty(), "{first:?} {second:?}");
    let apart = first.greatest - second.greatest;
    assert!(apart <= 1, "the guest writes disk by disk: the cut tore {apart} numbers apart");
    assert!(lab.written().await > first.greatest);
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_a_switch_is_made_on_all_disks_or_none() {
    let lab = Lab::new().await;
    lab.run().await;
    let mut overlays = lab.attach_overlays().await;
    overlays[1].backing = LayerId::generate();
    let error = lab.hypervisor.switch_heads(lab.instance, &overlays).await.unwrap_err();
    assert!(matches!(error, HypervisorError::Refused { .. }), "{error}");
    lab.assert_chains().await;
    let ids: Vec<_> = overlays.iter().map(|overlay| overlay.file.id).chain([LayerId::generate()]).collect();
    lab.hypervisor.detach_overlays(lab.instance, &ids).await.unwrap();
    lab.hypervisor.detach_overlays(lab.instance, &ids).await.unwrap();
    assert!(lab.observe().await.attached.is_empty());
    lab.assert_chains().await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_an_overlay_that_is_missing_or_no_image_is_refused() {
    let lab = Lab::new().await;
    lab.launch().await;
    let layer = &lab.chains[0].layers[0];
    let path = lab.folder.path().join("broken.qcow2");
    let file = LayerFile { id: LayerId::generate(), path, format: DiskFormat::Qcow2 };
    let overlay = Overlay { disk: disk("system"), backing: layer.id, file };
    let overlays = std::slice::from_ref(&overlay);
    assert!(lab.hypervisor.attach_overlays(lab.instance, overlays).await.is_err());
    std::fs::write(&overlay.file.path, b"nothing like an image").unwrap();
    let error = lab.hypervisor.attach_overlays(lab.instance, overlays).await.unwrap_err();
    assert!(error.to_string().contains("qcow2"), "{error}");
    lab.hypervisor.detach_overlays(lab.instance, &[overlay.file.id]).await.unwrap();
    lab.assert_chains().await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_a_middle_layer_merges_while_the_guest_writes() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.cut().await;
    lab.progress(5).await;
    lab.cut().await;
    lab.progress(5).await;
    let whole = content(&lab.chains[0].layers[..2]);
    let merge = merge_of(&lab, 1);
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    let child = lab.chains[0].layers.remove(1);
    lab.assert_chains().await;
    assert!(lab.observe().await.attached.is_empty(), "the child's file is closed");
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    lab.hypervisor.finish_merge(lab.instance, &merge).await.unwrap();
    lab.hypervisor.cancel_merge(lab.instance, &merge).await.unwrap();
    assert!(content(&lab.chains[0].layers[..1]) == whole, "the parent reads as the child did");
    let top = lab.images.stat(&lab.chains[0].layers[1].path, DiskFormat::Qcow2).await.unwrap();
    assert_eq!(top.backing.as_ref(), Some(&lab.chains[0].layers[0].path), "the file above names the parent");
    std::fs::remove_file(child.path).unwrap();
    lab.progress(3).await;
    lab.retire().await;
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
}

#[tokio::test]
async fn real_qemu_the_head_merges_into_a_raw_base_while_the_guest_writes() {
    let mut lab = Lab::with_format(DiskFormat::Raw).await;
    lab.run().await;
    lab.cut().await;
    lab.progress(5).await;
    let merge = merge_of(&lab, 1);
    let told = std::sync::Arc::new(Mutex::new(Progress::default()));
    let progress: ProgressSink = {
        let told = std::sync::Arc::clone(&told);
        std::sync::Arc::new(move |progress| *told.lock().unwrap() = progress)
    };
    lab.hypervisor.merge(lab.instance, &merge, &progress).await.unwrap();
    assert!(told.lock().unwrap().total > 0);
    lab.assert_chains().await;
    lab.progress(3).await;

    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.finish_merge(lab.instance, &merge).await.unwrap();
    lab.hypervisor.finish_merge(lab.instance, &merge).await.unwrap();
    let both = lab.chains[0].layers.clone();
    assert!(content(&both) == content(&both[..1]), "parent and child read the same");
    lab.chains[0].layers.pop();
    lab.assert_chains().await;
    assert!(lab.observe().await.attached.is_empty());
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(5).await;
    lab.retire().await;
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
}

#[tokio::test]
async fn real_qemu_a_merge_of_the_head_is_given_up_and_begun_again() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.cut().await;
    let merge = merge_of(&lab, 1);
    lab.hypervisor.cancel_merge(lab.instance, &merge).await.unwrap();
    let nothing = lab.hypervisor.finish_merge(lab.instance, &merge).await.unwrap_err();
    assert!(matches!(nothing, HypervisorError::WrongState(_)), "{nothing}");
    // Dropped at once, and found by the next call.
    let _ = tokio::time::timeout(Duration::from_millis(3), lab.hypervisor.merge(lab.instance, &merge, &quiet())).await;
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    lab.hypervisor.cancel_merge(lab.instance, &merge).await.unwrap();
    lab.hypervisor.cancel_merge(lab.instance, &merge).await.unwrap();
    lab.assert_chains().await;
    lab.progress(3).await;
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();

    // The service dies when the merge is ready; the next one goes on.
    lab.hypervisor = QemuHypervisor::new(config(), lab.layout.clone());
    lab.assert_chains().await;
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    lab.hypervisor.finish_merge(lab.instance, &merge).await.unwrap();
    lab.chains[0].layers.pop();
    lab.assert_chains().await;
    lab.retire().await;
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
}

#[tokio::test]
async fn real_qemu_a_big_merge_that_is_dropped_is_taken_up_by_the_next_service() {
    let mut lab = Lab::new().await;
    lab.launch().await;
    lab.cut().await;
    let debug = lab.debug().await;
    write_pattern(&debug, "data", 0x5a, "0", "16M").await;
    lab.cut().await;
    lab.chains.swap(0, 1);
    let merge = merge_of(&lab, 1);
    {
        let sink = quiet();
        let mut merging = std::pin::pin!(lab.hypervisor.merge(lab.instance, &merge, &sink));
        let _ = tokio::time::timeout(Duration::from_millis(2), &mut merging).await;
    }
    lab.hypervisor = QemuHypervisor::new(config(), lab.layout.clone());
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    lab.chains[0].layers.remove(1);
    lab.assert_chains().await;
    assert!(content(&lab.chains[0].layers[..1]).iter().all(|byte| *byte == 0x5a));
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_a_merge_into_a_layer_that_is_not_below_is_refused() {
    let mut lab = Lab::new().await;
    lab.launch().await;
    lab.cut().await;
    lab.cut().await;
    let mut merge = merge_of(&lab, 2);
    merge.parent = lab.chains[0].layers[0].clone();
    let error = lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap_err();
    assert!(matches!(error, HypervisorError::WrongState(_)), "{error}");
    lab.assert_chains().await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_retires_in_the_middle_of_a_merge() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.cut().await;
    lab.progress(3).await;
    let merge = merge_of(&lab, 1);
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    lab.progress(2).await;
    tokio::time::timeout(LONG, lab.retire()).await.unwrap();
    assert!(numbers(&lab.chains[0].layers).missing.is_empty(), "the child is whole");
    assert_eq!(lab.images.stat(&merge.parent.path, DiskFormat::Qcow2).await.unwrap().virtual_size, DISK_SIZE);
}

#[tokio::test]
async fn real_qemu_a_second_instance_runs_from_the_layers_below_the_first() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let bases: Vec<_> = lab.chains.iter().map(|chain| chain.layers[0].clone()).collect();
    lab.cut().await;
    let mut spec = lab.spec();
    spec.instance = stillpoint_common::InstanceId::generate();
    for (chain, base) in spec.chains.iter_mut().zip(&bases) {
        let id = LayerId::generate();
        let path = lab.folder.path().join(format!("{id}.qcow2"));
        lab.images.create_overlay(&path, base, DISK_SIZE).await.unwrap();
        chain.layers = vec![base.clone(), LayerFile { id, path, format: DiskFormat::Qcow2 }];
    }
    lab.hypervisor.launch(&spec).await.unwrap();
    lab.hypervisor.resume(spec.instance).await.unwrap();
    lab.progress(3).await;
    assert_eq!(lab.hypervisor.observe(spec.instance).await.unwrap().run, RunState::Running);
    lab.retire().await;
    lab.hypervisor.retire(spec.instance).await.unwrap();
    assert!(numbers(&spec.chains[0].layers).missing.is_empty());
    let path = text(&spec.chains[0].layers[1].path);
    assert!(io(&["-r", "-f", "qcow2", "-c", "read 0 512", path]).contains("read 512"));
}

#[tokio::test]
async fn real_qemu_what_a_layer_holds_is_known_as_soon_as_it_is_no_head_any_more() {
    let mut lab = Lab::new().await;
    lab.run().await;
    let debug = lab.debug().await;
    lab.cut().await;
    // The head of `data` is an overlay now, and holds nothing: what is written next is what it will hold.
    write_pattern(&debug, "data", 7, "3M", "100k").await;
    write_pattern(&debug, "data", 8, "9M", "64k").await;
    let frozen = lab.chains[1].layers.last().unwrap().clone();
    lab.cut().await;
    write_pattern(&debug, "data", 9, "12M", "64k").await;
    let held = lab.images.extents(&frozen, &(0..DISK_SIZE)).await.unwrap();
    let mib = 1 << 20;
    for wanted in [3 * mib..3 * mib + (100 << 10), 9 * mib..9 * mib + (64 << 10)] {
        let inside = |extent: &&Extent| extent.bytes.start <= wanted.start && wanted.end <= extent.bytes.end;
        assert!(held.iter().any(|extent| inside(&extent) && !extent.zero), "{wanted:?} is not in {held:?}");
    }
    assert!(held.iter().all(|extent| extent.bytes.end <= 12 * mib), "it holds nothing of later: {held:?}");
    lab.retire().await;
}
