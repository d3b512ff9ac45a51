//! A full disk is an ordinary event, on real QEMU. These tests mount small file systems, as root.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use lab::{DISK_SIZE, Lab, disk, event, numbers, quiet, text, write_pattern};
use stillpoint_common::{DiskFormat, LayerFile, LayerId, MemoryId};
use stillpoint_engine::ports::{
    Flatten, Hypervisor, HypervisorError, HypervisorEventKind, ImageError, Images, LiveMerge, MemoryError,
    MemoryStates, OfflineMerge, RunState, Stop, Trouble,
};
use stillpoint_memory::FileMemoryStates;

/// A file system of a few MiB, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(lab: &Lab, size: &str) -> Self {
        let path = lab.folder.path().join("small");
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none", text(&path)]).status();
        assert!(mounted.unwrap().success(), "this test must be able to mount a tmpfs: run it as root");
        Self(path)
    }

    fn fill(&self) {
        let error = std::fs::write(self.0.join("ballast"), vec![1; 64 << 20]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", text(&self.0)]).status();
    }
}

/// Moves the disk `system` with its guest to the small file system.
fn move_system(lab: &mut Lab, to: &Path) {
    let layer = &mut lab.chains[0].layers[0];
    let path = to.join(layer.path.file_name().unwrap());
    std::fs::copy(&layer.path, &path).unwrap();
    layer.path = path;
}

#[tokio::test]
async fn real_qemu_a_full_disk_stops_the_vm_and_it_goes_on_when_there_is_space() {
    let mut lab = Lab::new().await;
    let small = Small::new(&lab, "4M");
    move_system(&mut lab, &small.0);
    let mut events = lab.hypervisor.events();
    lab.run().await;
    let overlays = lab.cut().await;
    lab.progress(2).await;
    small.fill();
    let wanted = HypervisorEventKind::Critical(Some(disk("system")));
    event(&mut events, &wanted).await;
    assert_eq!(lab.observe().await.run, RunState::Critical(Trouble { disk: Some(disk("system")), no_space: true }));
    lab.assert_chains().await;

    // A checkpoint in this state is refused, not dared.
    let sink = std::fs::File::create(lab.folder.path().join("part")).unwrap();
    lab.hypervisor.prepare_capture(lab.instance, sink.into()).await.unwrap();
    lab.hypervisor.pause(lab.instance).await.unwrap();
    let error = lab.hypervisor.start_capture(lab.instance).await.unwrap_err();
    assert!(matches!(error, HypervisorError::WrongState(_)), "{error}");
    lab.hypervisor.cancel_capture(lab.instance).await.unwrap();

    small.free();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(5).await;
    assert_eq!(lab.observe().await.run, RunState::Running);
    lab.retire().await;
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
    assert_eq!(overlays.len(), 2);
}

#[tokio::test]
async fn real_qemu_a_merge_that_finds_no_space_says_so_and_harms_nothing() {
    let mut lab = Lab::new().await;
    let small = Small::new(&lab, "6M");
    move_system(&mut lab, &small.0);
    lab.launch().await;
    lab.cut().await;
    let debug = lab.debug().await;
    write_pattern(&debug, "system", 0x77, "8M", "2M").await;
    lab.cut().await;
    small.fill();
    let chain = lab.chains[0].clone();
    let merge = LiveMerge { disk: disk("system"), child: chain.layers[1].id, parent: chain.layers[0].clone() };
    let grows = lab.images.merge_growth(&chain.layers[1], &chain.layers[0]).await.unwrap();
    assert!((2 << 20..3 << 20).contains(&grows), "{grows}");
    let error = lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap_err();
    assert!(matches!(error, HypervisorError::NoSpace { .. }), "{error}");
    lab.assert_chains().await;
    small.free();
    lab.hypervisor.merge(lab.instance, &merge, &quiet()).await.unwrap();
    lab.chains[0].layers.remove(1);
    lab.assert_chains().await;
    assert!(lab::content(&lab.chains[0].layers)[8 << 20..10 << 20].iter().all(|byte| *byte == 0x77));
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_a_capture_that_finds_no_space_says_so_and_the_vm_goes_on() {
    let lab = Lab::new().await;
    let small = Small::new(&lab, "64k");
    let states = FileMemoryStates::default();
    lab.run().await;
    for _ in 0..2 {
        let checkpoint = MemoryId::generate();
        let sink = states.begin(&small.0, checkpoint, None).await.unwrap();
        lab.hypervisor.prepare_capture(lab.instance, sink).await.unwrap();
        lab.hypervisor.pause(lab.instance).await.unwrap();
        lab.hypervisor.start_capture(lab.instance).await.unwrap();
        lab.hypervisor.resume(lab.instance).await.unwrap();
        // To QEMU it makes no difference: what it writes is taken, and not kept.
        lab.hypervisor.finish_capture(lab.instance, &quiet()).await.unwrap();
        let error = states.seal(&small.0, checkpoint, "10.0.2").await.unwrap_err();
        assert!(matches!(error, MemoryError::NoSpace { .. }), "{error}");
        states.remove(&small.0, checkpoint).await.unwrap();
        lab.progress(3).await;
    }
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_img_that_finds_no_space_says_so() {
    let lab = Lab::new().await;
    let small = Small::new(&lab, "1M");
    let base = LayerFile { path: small.0.join("base.raw"), ..lab.chains[1].layers[0].clone() };
    let base = LayerFile { format: DiskFormat::Raw, ..base };
    std::fs::File::create(&base.path).unwrap().set_len(DISK_SIZE).unwrap();
    let child = LayerFile { id: LayerId::generate(), path: small.0.join("child"), format: DiskFormat::Qcow2 };
    lab.images.create_overlay(&child.path, &base, DISK_SIZE).await.unwrap();
    lab::io(&["-f", "qcow2", "-c", "write -P 5 0 256k", text(&child.path)]);
    small.fill();
    let overlay = lab.images.create_overlay(&small.0.join("other"), &base, DISK_SIZE).await;
    assert!(matches!(overlay, Err(ImageError::NoSpace { .. })), "{overlay:?}");
    let merge = OfflineMerge { child: child.clone(), parent: base.clone(), below: vec![] };
    let merged = lab.images.merge_offline(&merge, &Stop::new(), &quiet()).await;
    assert!(matches!(merged, Err(ImageError::NoSpace { .. })), "{merged:?}");
    let target = small.0.join("export.raw");
    let flatten = Flatten { layers: vec![base, child], target, format: DiskFormat::Raw };
    let copied = lab.images.flatten(&flatten, &quiet()).await;
    assert!(matches!(copied, Err(ImageError::NoSpace { .. })), "{copied:?}");
}
