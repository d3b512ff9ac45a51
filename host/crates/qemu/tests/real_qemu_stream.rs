//! Merges upwards, on real QEMU with a guest that writes and on files.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{sync::Arc, time::Duration};

use lab::{Human, LONG, Lab, config, content, kill, numbers, offline, quiet, text, tool, write_pattern};
use stillpoint_common::{DiskFormat, LayerFile};
use stillpoint_engine::ports::{Hypervisor, HypervisorError, Images, LiveStream, Moved, ProgressSink, Stop};
use stillpoint_qemu::QemuHypervisor;

/// The layer at this place takes in the one below it.
fn stream_into(lab: &Lab, at: usize) -> LiveStream {
    let layers = &lab.chains[0].layers;
    let disk = lab.chains[0].disk.clone();
    LiveStream { disk, child: layers[at].id, parent: layers[at - 1].id, base: layers[at - 2].clone() }
}

async fn names(lab: &Lab, layer: &LayerFile) -> Option<std::path::PathBuf> {
    lab.images.stat(&layer.path, DiskFormat::Qcow2).await.unwrap().backing
}

#[tokio::test]
async fn real_qemu_the_head_takes_in_the_layer_below_it_while_the_guest_writes() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.cut().await;
    lab.progress(5).await;
    lab.cut().await;
    lab.progress(5).await;
    let stream = stream_into(&lab, 2);
    lab.hypervisor.stream(lab.instance, &stream, &quiet()).await.unwrap();
    let parent = lab.chains[0].layers.remove(1);
    lab.assert_chains().await;
    assert!(lab.observe().await.attached.is_empty(), "the parent's file is closed");
    // A second time there is nothing to do.
    lab.hypervisor.stream(lab.instance, &stream, &quiet()).await.unwrap();
    lab.hypervisor.cancel_stream(lab.instance, &stream).await.unwrap();
    assert_eq!(names(&lab, &lab.chains[0].layers[1]).await, Some(lab.chains[0].layers[0].path.clone()));
    std::fs::remove_file(parent.path).unwrap();
    lab.progress(3).await;
    lab.retire().await;
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
}

#[tokio::test]
async fn real_qemu_a_layer_in_the_middle_takes_in_the_one_below_it_and_reads_the_same() {
    let mut lab = Lab::new().await;
    lab.run().await;
    for _ in 0..3 {
        lab.cut().await;
        lab.progress(4).await;
    }
    let whole = content(&lab.chains[0].layers[..3]);
    let stream = stream_into(&lab, 2);
    lab.hypervisor.stream(lab.instance, &stream, &quiet()).await.unwrap();
    lab.chains[0].layers.remove(1);
    lab.assert_chains().await;
    assert!(content(&lab.chains[0].layers[..2]) == whole);
    lab.progress(3).await;
    lab.retire().await;
    assert!(content(&lab.chains[0].layers[..2]) == whole, "nobody writes to it any more");
    assert!(numbers(&lab.chains[0].layers).missing.is_empty());
}

/// A disk `data` of three layers, the middle one full of a pattern, in a VM that does not run.
async fn with_a_big_layer() -> Lab {
    let mut lab = Lab::new().await;
    lab.launch().await;
    lab.cut().await;
    let debug = lab.debug().await;
    write_pattern(&debug, "data", 0x5a, "0", "16M").await;
    lab.cut().await;
    write_pattern(&debug, "data", 0x6b, "0", "64k").await;
    let command_line = "qemu-io -d /machine/peripheral/disk-data/virtio-backend \"flush\"".to_owned();
    debug.execute(&Human { command_line }, LONG).await.unwrap();
    lab.chains.swap(0, 1);
    lab
}

/// What these layers read as, one on the other, whatever their headers say: a QEMU at work may not have written all yet.
fn through(layers: &[LayerFile]) -> Vec<u8> {
    let file = |layer: &LayerFile| format!(r#""file":{{"driver":"file","filename":"{}"}}"#, text(&layer.path));
    let node = |below: String, layer: &LayerFile| format!(r#"{{"driver":"qcow2",{},"backing":{below}}}"#, file(layer));
    let chain = format!("json:{}", layers.iter().fold("null".to_owned(), node));
    let target = tempfile::NamedTempFile::new().unwrap();
    tool(&["convert", "-U", "-O", "raw", &chain, text(target.path())]);
    std::fs::read(target.path()).unwrap()
}

fn is_whole(layers: &[LayerFile]) -> bool {
    let (first, rest) = (0..64 << 10, (64 << 10)..);
    let content = through(layers);
    content[first].iter().all(|byte| *byte == 0x6b) && content[rest].iter().all(|byte| *byte == 0x5a)
}

#[tokio::test]
async fn real_qemu_a_stream_that_is_dropped_or_cancelled_is_taken_up_by_the_next_service() {
    let mut lab = with_a_big_layer().await;
    let stream = stream_into(&lab, 2);
    for cancels in [true, false] {
        {
            let sink = quiet();
            let mut streaming = std::pin::pin!(lab.hypervisor.stream(lab.instance, &stream, &sink));
            let _ = tokio::time::timeout(Duration::from_millis(2), &mut streaming).await;
        }
        if cancels {
            lab.hypervisor.cancel_stream(lab.instance, &stream).await.unwrap();
        }
        assert!(is_whole(&lab.chains[0].layers));
    }
    lab.hypervisor = QemuHypervisor::new(config(), lab.layout.clone());
    lab.hypervisor.stream(lab.instance, &stream, &quiet()).await.unwrap();
    lab.chains[0].layers.remove(1);
    lab.assert_chains().await;
    assert!(is_whole(&lab.chains[0].layers));
    lab.retire().await;
    assert!(is_whole(&lab.chains[0].layers));
}

#[tokio::test]
async fn real_qemu_killed_in_the_middle_of_a_stream_leaves_layers_that_read_the_same_and_is_finished_on_files() {
    for wait in [1, 4, 9, 20] {
        let lab = with_a_big_layer().await;
        let (stream, layers) = (stream_into(&lab, 2), lab.chains[0].layers.clone());
        {
            let sink = quiet();
            let mut streaming = std::pin::pin!(lab.hypervisor.stream(lab.instance, &stream, &sink));
            let _ = tokio::time::timeout(Duration::from_millis(wait), &mut streaming).await;
        }
        kill(lab.pid());
        lab.retire().await;
        // The parent is there until the engine gives it up: read through it, all is as it was.
        lab.images.repoint(&layers[2], &layers[1]).await.unwrap();
        assert!(is_whole(&layers), "killed after {wait} ms");
        assert_eq!(lab.images.stream_offline(&offline(&layers), &Stop::new(), &quiet()).await.unwrap(), Moved::Whole);
        assert_eq!(names(&lab, &layers[2]).await, Some(layers[0].path.clone()));
        std::fs::remove_file(&layers[1].path).unwrap();
        assert!(is_whole(&[layers[0].clone(), layers[2].clone()]), "merged on files after {wait} ms");
    }
}

#[tokio::test]
async fn real_qemu_a_stream_over_layers_that_do_not_lie_on_each_other_is_refused() {
    let mut lab = Lab::new().await;
    lab.launch().await;
    lab.cut().await;
    lab.cut().await;
    let stream = LiveStream { base: lab.chains[0].layers[2].clone(), ..stream_into(&lab, 2) };
    let error = lab.hypervisor.stream(lab.instance, &stream, &quiet()).await.unwrap_err();
    assert!(matches!(error, HypervisorError::WrongState(_)), "{error}");
    lab.assert_chains().await;
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_img_a_merge_upwards_that_is_stopped_harms_nothing_and_is_begun_again() {
    let lab = with_a_big_layer().await;
    lab.retire().await;
    let layers = lab.chains[0].layers.clone();
    let merge = offline(&layers);
    for share in [0, 40, 80] {
        let stop = Stop::new();
        let asks = stop.clone();
        let progress: ProgressSink = Arc::new(move |progress| {
            if progress.total > 0 && progress.done * 100 >= progress.total * share {
                asks.ask();
            }
        });
        let moved = lab.images.stream_offline(&merge, &stop, &progress).await.unwrap();
        assert!(is_whole(&layers), "{moved:?} at {share} %");
    }
    assert_eq!(lab.images.stream_offline(&merge, &Stop::new(), &quiet()).await.unwrap(), Moved::Whole);
    assert_eq!(names(&lab, &layers[2]).await, Some(layers[0].path.clone()));
    std::fs::remove_file(&layers[1].path).unwrap();
    assert!(is_whole(&[layers[0].clone(), layers[2].clone()]));
}
