//! Writes that fail in the middle of a merge, each one in its turn, on real QEMU and real images: QEMU's `blkdebug` lies
//! between a layer and its file, and lets the n-th write fail. Whatever write it is, every layer stays whole, all that
//! can be read reads as before, the error says what it is about, and the merge can be done once the file is well again.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{fmt::Write as _, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use lab::{DISK_SIZE, Lab, config, content, disk, io, offline, quiet, text};
use stillpoint_common::{DiskFormat, LayerFile, LayerId};
use stillpoint_engine::ports::{Hypervisor, HypervisorError, ImageError, Images, LiveMerge, LiveStream, Moved, Stop};
use stillpoint_qemu::{QemuConfig, QemuHypervisor, QemuImages};

/// More writes to a file than any of these merges does.
const MOST: usize = 60;
const ERRORS: [(u32, &str); 2] = [(5, "Input/output error"), (28, "No space left on device")];

/// `blkdebug` over a file, which is described in the words of either of QEMU's programs, with the n-th write to fail.
fn failing(file: &str, nth: usize, errno: u32) -> String {
    let mut states = String::new();
    for state in 1..nth {
        let comma = if state > 1 { "," } else { "" };
        write!(states, r#"{comma}{{"event":"pwritev","state":{state},"new_state":{}}}"#, state + 1).unwrap();
    }
    let states = if states.is_empty() { states } else { format!(r#""set-state":[{states}],"#) };
    format!(
        r#"{{"driver":"blkdebug",{states}"inject-error":[{{"event":"pwritev","state":{nth},"errno":{errno},"once":true,"immediately":true}}],{file}}}"#
    )
}

/// A program that is called as another one, with what `pattern` matches in its arguments replaced.
fn wrapped(lab: &Lab, program: &str, name: &str, pattern: &str, by: &str) -> PathBuf {
    let path = lab.folder.path().join(name);
    let script = format!(
        "#!/bin/sh\nfor word; do shift; set -- \"$@\" \"$(printf '%s' \"$word\" | sed 's#{pattern}#{by}#')\"; done\n\
         exec {program} \"$@\"\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A disk `data` of four layers with patterns of their own: an older checkpoint's, one that goes, its child, Now.
async fn layered() -> Lab {
    let mut lab = Lab::new().await;
    for (at, pattern) in [(1_u8, 0x11), (2, 0x22), (3, 0x33)] {
        let backing = lab.chains[1].layers.last().unwrap().clone();
        let path = lab.folder.path().join(format!("data-{at}.qcow2"));
        lab.images.create_overlay(&path, &backing, DISK_SIZE).await.unwrap();
        let mib = u64::from(at);
        let places = [0, mib, mib + 3, mib + 6, mib + 9, 14, 15];
        let places = places.map(|mib| format!("write -P {pattern} {}k 200k", mib * 1024));
        for write in &places {
            io(&["-f", "qcow2", "-c", write, text(&path)]);
        }
        lab.chains[1].layers.push(LayerFile { id: LayerId::generate(), path, format: DiskFormat::Qcow2 });
    }
    lab
}

/// No layer is damaged; clusters that nothing uses may be left.
fn assert_undamaged(layers: &[LayerFile], what: &str) {
    for layer in layers {
        let check = Command::new(config().qemu_img).args(["check", "-q", "-f", "qcow2", text(&layer.path)]).output();
        let check = check.unwrap();
        let code = check.status.code();
        assert!(
            matches!(code, Some(0 | 3)),
            "{what}: {} {}",
            layer.path.display(),
            String::from_utf8_lossy(&check.stderr)
        );
    }
}

/// What the chain reads as up to each of its layers.
fn contents(layers: &[LayerFile]) -> Vec<Vec<u8>> {
    (1..=layers.len()).map(|upto| content(&layers[..upto])).collect()
}

/// What must hold after a write has failed: those that a checkpoint or Now reads through read as before.
fn assert_reads_the_same(layers: &[LayerFile], before: &[Vec<u8>], what: &str) {
    assert_undamaged(layers, what);
    let after = contents(layers);
    for at in [0, 2, 3] {
        assert!(after[at] == before[at], "{what}: layer {at} reads otherwise");
    }
}

/// A backing file cannot be described to `qemu-img` with more below it than a file, so this is the way up.
#[tokio::test]
async fn real_qemu_img_a_merge_upwards_whose_nth_write_fails_says_so_harms_nothing_and_can_be_done_again() {
    for (errno, words) in ERRORS {
        let mut failed = 0;
        // Every other write.
        for nth in (1..=MOST).step_by(2) {
            let lab = layered().await;
            let layers = lab.chains[1].layers.clone();
            let (before, target) = (contents(&layers), &layers[2]);
            let plain = format!(r#"{{"driver":"file","filename":"{}"}}"#, text(&target.path));
            let bad = failing(&format!(r#""image":{plain}"#), nth, errno);
            let program = wrapped(&lab, text(&config().qemu_img), "bad-qemu-img", &plain, &bad);
            let images = QemuImages::new(QemuConfig { qemu_img: program, ..config() });
            let (merge, stop, sink) = (offline(&layers), Stop::new(), quiet());
            let what = format!("{words}, write {nth}");
            let Err(error) = images.stream_offline(&merge, &stop, &sink).await else { break };
            failed += 1;
            let said = error.to_string();
            assert!(said.contains(text(&target.path)), "{what}: {said}");
            let no_space = matches!(error, ImageError::NoSpace { .. });
            // Of the write of the header `qemu-img` says that there is no space in the header.
            let said_so = if errno == 28 { no_space || said.contains("No space left") } else { said.contains(words) };
            assert!(said_so && (errno == 28 || !no_space), "{what}: {said}");
            // A header that is ahead is put back, as the engine does.
            lab.images.repoint(&layers[2], &layers[1]).await.unwrap();
            assert_reads_the_same(&layers, &before, &what);
            assert_eq!(lab.images.stream_offline(&merge, &stop, &sink).await.unwrap(), Moved::Whole, "{what}");
            let left = [layers[0].clone(), layers[2].clone()];
            assert_undamaged(&left, &what);
            assert!(content(&left) == before[2], "{what}: merged after all");
        }
        println!("{words}: {failed} cases");
        assert!(failed >= 3, "{words}: only {failed} cases");
    }
}

/// The VM, off the guest's own writes, with a QEMU in which the n-th write to this layer fails.
async fn launch_failing(lab: &mut Lab, layer: &LayerFile, nth: usize, errno: u32) {
    let node = format!("F{}", layer.id);
    let file = format!(r#""node-name":"{node}","image":{{"driver":"file","filename":"{}"}}"#, text(&layer.path));
    let bad = failing(&file, nth, errno);
    let program = wrapped(lab, text(&config().qemu), "bad-qemu", &format!(r#"^{{.*"node-name":"{node}".*}}$"#), &bad);
    lab.hypervisor = QemuHypervisor::new(QemuConfig { qemu: program, ..config() }, lab.layout.clone());
    lab.launch().await;
}

#[tokio::test]
async fn real_qemu_a_live_merge_whose_nth_write_fails_says_so_harms_nothing_and_can_be_done_again() {
    for (errno, words) in ERRORS {
        for up in [false, true] {
            let mut failed = 0;
            // Each costs the start of two processes: every other write.
            for nth in (1..=MOST).step_by(2) {
                let mut lab = layered().await;
                let layers = lab.chains[1].layers.clone();
                let before = contents(&layers);
                let target = if up { layers[2].clone() } else { layers[1].clone() };
                launch_failing(&mut lab, &target, nth, errno).await;
                let what = format!("{words}, up {up}, write {nth}");
                let down_merge = LiveMerge { disk: disk("data"), child: layers[2].id, parent: layers[1].clone() };
                let (child, parent, base) = (layers[2].id, layers[1].id, layers[0].clone());
                let up_merge = LiveStream { disk: disk("data"), child, parent, base };
                let merged = match up {
                    true => lab.hypervisor.stream(lab.instance, &up_merge, &quiet()).await,
                    false => lab.hypervisor.merge(lab.instance, &down_merge, &quiet()).await,
                };
                let Err(error) = merged else {
                    lab.retire().await;
                    break;
                };
                failed += 1;
                let said = error.to_string();
                assert!(said.contains(words) && said.contains("data"), "{what}: {said}");
                assert_eq!(matches!(error, HypervisorError::NoSpace { .. }), errno == 28, "{what}: {said}");
                lab.assert_chains().await;
                // The same process goes on: the file is well again.
                match up {
                    true => lab.hypervisor.stream(lab.instance, &up_merge, &quiet()).await.unwrap(),
                    false => lab.hypervisor.merge(lab.instance, &down_merge, &quiet()).await.unwrap(),
                }
                lab.retire().await;
                let left = if up { vec![0, 2, 3] } else { vec![0, 1, 3] };
                let left: Vec<LayerFile> = left.into_iter().map(|at: usize| layers[at].clone()).collect();
                assert_undamaged(&left, &what);
                let after = contents(&left);
                assert!(after == [before[0].clone(), before[2].clone(), before[3].clone()], "{what}");
            }
            assert!(failed >= 2, "{words}, up {up}: only {failed} cases");
            println!("{words}, up {up}: {failed} cases");
        }
    }
}
