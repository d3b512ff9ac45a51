//! What tells that a file is the one it was, on real files that a real QEMU has open.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use lab::{DISK_SIZE, Lab, config, io, text, tool};
use stillpoint_common::{DiskFormat, LayerFile, LayerId};
use stillpoint_engine::ports::{Images, Seen};
use stillpoint_qemu::QemuImages;

async fn seen(images: &QemuImages, layers: &[LayerFile]) -> Vec<Seen> {
    images.look_at(layers).await.unwrap().into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn real_qemu_does_not_touch_a_layer_from_the_switch_on() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.progress(5).await;
    let bases: Vec<LayerFile> = lab.chains.iter().flat_map(|chain| chain.layers.clone()).collect();
    lab.cut().await;
    let frozen = seen(&lab.images, &bases).await;
    lab.progress(5).await;
    lab.cut().await;
    lab.progress(5).await;
    assert_eq!(seen(&lab.images, &bases).await, frozen, "while the guest writes on");
    lab.retire().await;
    assert_eq!(seen(&lab.images, &bases).await, frozen, "when the process has ended");
    lab.instance = stillpoint_common::InstanceId::generate();
    lab.run().await;
    lab.progress(5).await;
    lab.retire().await;
    assert_eq!(seen(&lab.images, &bases).await, frozen, "after another run");
}

#[tokio::test]
async fn real_qemu_images_that_changed_are_seen_to_have() {
    let folder = tempfile::tempdir().unwrap();
    let images: &dyn Images = &QemuImages::new(config());
    let layer =
        |name: &str| LayerFile { id: LayerId::generate(), path: folder.path().join(name), format: DiskFormat::Qcow2 };
    let (base, top, other) = (layer("base.qcow2"), layer("top.qcow2"), layer("other.qcow2"));
    tool(&["create", "-q", "-f", "qcow2", text(&base.path), "16M"]);
    images.create_overlay(&top.path, &base, DISK_SIZE).await.unwrap();
    let before = images.look(&top).await.unwrap();
    assert_eq!(before.backing.as_ref(), Some(&base.path));
    assert_eq!(images.look(&top).await.unwrap(), before, "looking changes nothing");

    io(&["-f", "qcow2", "-c", "write -P 1 0 64k", text(&top.path)]);
    let written = images.look(&top).await.unwrap();
    assert_eq!(written.identity, before.identity);
    assert_ne!(written.stamp, before.stamp, "the same file, written to");
    std::fs::rename(&top.path, &other.path).unwrap();
    assert_eq!(images.look(&other).await.unwrap(), written, "moved");
    std::fs::copy(&other.path, &top.path).unwrap();
    let copy = images.look(&top).await.unwrap();
    assert!(copy.identity != written.identity && copy.stamp != written.stamp, "copied");

    let beside = images.beside(folder.path()).await.unwrap();
    let mut names: Vec<_> = beside.into_iter().map(|(path, _)| path).collect();
    names.sort();
    assert_eq!(names, [other.path.clone(), top.path.clone()], "those that lie on something");
    let gone = images.missing(&[top.path.clone(), folder.path().join("gone")]).await.unwrap();
    assert_eq!(gone, [folder.path().join("gone")].into());
}
