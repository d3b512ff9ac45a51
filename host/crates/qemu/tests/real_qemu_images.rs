//! Image files by the real qemu-img.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::{
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use lab::{DISK_SIZE, Lab, config, content, io, quiet, text, tool};
use stillpoint_common::{DiskFormat, FileIdentity, LayerFile, LayerId, Progress};
use stillpoint_engine::ports::{Flatten, ImageError, Images, Moved, OfflineMerge, ProgressSink, Stop};
use stillpoint_qemu::QemuImages;
use tempfile::TempDir;

struct Shelf {
    folder: TempDir,
    images: QemuImages,
}

impl Shelf {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), images: QemuImages::new(config()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self, name: &str, format: DiskFormat) -> LayerFile {
        let path = self.path(name);
        tool(&["create", "-q", "-f", format.driver(), text(&path), "16M"]);
        LayerFile { id: LayerId::generate(), path, format }
    }

    async fn overlay(&self, name: &str, backing: &LayerFile) -> LayerFile {
        let path = self.path(name);
        self.images.create_overlay(&path, backing, DISK_SIZE).await.unwrap();
        LayerFile { id: LayerId::generate(), path, format: DiskFormat::Qcow2 }
    }
}

fn write(layer: &LayerFile, pattern: u8, at: &str, length: &str) {
    let command = format!("write -P {pattern} {at} {length}");
    io(&["-f", layer.format.driver(), "-c", &command, text(&layer.path)]);
}

#[tokio::test]
async fn real_qemu_img_says_what_a_file_is() {
    let shelf = Shelf::new();
    for format in [DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vpc] {
        let image = shelf.image(format.driver(), format);
        let facts = shelf.images.stat(&image.path, format).await.unwrap();
        let metadata = std::fs::metadata(&image.path).unwrap();
        assert_eq!(facts.identity, FileIdentity { device: metadata.dev(), inode: metadata.ino() });
        assert!(facts.virtual_size >= DISK_SIZE && facts.backing.is_none() && !facts.corrupt, "{facts:?}");
        assert!(!facts.begins_as_qcow2, "{facts:?}");
        let as_raw = shelf.images.stat(&image.path, DiskFormat::Raw).await.unwrap();
        assert_eq!(as_raw.begins_as_qcow2, format == DiskFormat::Qcow2);
    }
    let missing = shelf.images.stat(&shelf.path("nothing"), DiskFormat::Raw).await;
    assert!(matches!(missing, Err(ImageError::Missing { .. })));
    let raw = shelf.path("raw");
    for format in [DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vpc] {
        let unusable = shelf.images.stat(&raw, format).await;
        assert!(matches!(unusable, Err(ImageError::Unusable { .. })), "{format:?}: {unusable:?}");
    }
}

#[tokio::test]
async fn real_qemu_img_an_image_with_its_data_elsewhere_is_not_opened() {
    let shelf = Shelf::new();
    let (path, data) = (shelf.path("head.qcow2"), shelf.path("data.raw"));
    tool(&["create", "-q", "-f", "qcow2", "-o", &format!("data_file={}", text(&data)), text(&path), "16M"]);
    let refused = shelf.images.stat(&path, DiskFormat::Qcow2).await;
    assert!(matches!(refused, Err(ImageError::Unusable { .. })), "{refused:?}");
}

#[tokio::test]
async fn real_qemu_img_an_overlay_is_made_once_and_never_in_place_of_another_file() {
    let shelf = Shelf::new();
    for format in [DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhdx] {
        let base = shelf.image(&format!("nbd:base.{}", format.driver()), format);
        write(&base, 7, "1M", "1M");
        let path = shelf.path(&format!("{}.overlay", format.driver()));
        let identity = shelf.images.create_overlay(&path, &base, DISK_SIZE).await.unwrap();
        assert_eq!(shelf.images.create_overlay(&path, &base, DISK_SIZE).await.unwrap(), identity);
        let facts = shelf.images.stat(&path, DiskFormat::Qcow2).await.unwrap();
        assert_eq!((facts.identity, facts.virtual_size), (identity, DISK_SIZE));
        assert_eq!(facts.backing.as_ref(), Some(&base.path));
        let overlay = LayerFile { id: LayerId::generate(), path: path.clone(), format: DiskFormat::Qcow2 };
        assert!(content(&[base.clone(), overlay.clone()])[1 << 20..2 << 20].iter().all(|byte| *byte == 7));

        write(&overlay, 1, "0", "64k");
        let used = shelf.images.create_overlay(&path, &base, DISK_SIZE).await;
        assert!(matches!(used, Err(ImageError::Exists { .. })), "an overlay with data in it: {used:?}");
    }
    let base = shelf.image("base", DiskFormat::Qcow2);
    let stranger = shelf.path("stranger");
    std::fs::write(&stranger, b"a letter").unwrap();
    assert!(matches!(shelf.images.create_overlay(&stranger, &base, DISK_SIZE).await, Err(ImageError::Exists { .. })));
    assert_eq!(std::fs::read(&stranger).unwrap(), b"a letter");
    let other_size = shelf.overlay("other", &base).await;
    let resized = shelf.images.create_overlay(&other_size.path, &base, 2 * DISK_SIZE).await;
    assert!(matches!(resized, Err(ImageError::Exists { .. })));
    let elsewhere = shelf.images.create_overlay(std::path::Path::new("/tmp/elsewhere"), &base, DISK_SIZE).await;
    assert!(elsewhere.unwrap_err().to_string().contains("another folder"));
    let orphan = LayerFile { path: shelf.path("gone"), ..base };
    assert!(matches!(
        shelf.images.create_overlay(&shelf.path("new"), &orphan, DISK_SIZE).await,
        Err(ImageError::Missing { .. })
    ));
    let left = std::fs::read_dir(shelf.folder.path()).unwrap();
    assert!(left.flatten().all(|entry| !entry.file_name().to_string_lossy().ends_with(".new")));
}

#[tokio::test]
async fn real_qemu_img_merges_a_layer_down_and_leaves_it_as_it_was() {
    for format in [DiskFormat::Raw, DiskFormat::Qcow2] {
        let shelf = Shelf::new();
        let base = shelf.image("base", format);
        write(&base, 1, "0", "16M");
        let middle = shelf.overlay("middle", &base).await;
        write(&middle, 2, "0", "8M");
        let child = shelf.overlay("child", &middle).await;
        write(&child, 3, "0", "4M");
        let top = shelf.overlay("top", &child).await;
        write(&top, 4, "0", "2M");
        let chain = [base.clone(), middle.clone(), child.clone(), top.clone()];
        let whole = content(&chain);
        let child_bytes = std::fs::read(&child.path).unwrap();

        let merge = OfflineMerge { child: child.clone(), parent: middle.clone(), below: vec![base.clone()] };
        let told = Arc::new(Mutex::new(Progress::default()));
        let progress: ProgressSink = {
            let told = Arc::clone(&told);
            Arc::new(move |progress| *told.lock().unwrap() = progress)
        };
        shelf.images.merge_offline(&merge, &Stop::new(), &progress).await.unwrap();
        let told = *told.lock().unwrap();
        assert!(told.total >= 4 << 20 && told.done == told.total, "{told:?}");
        assert!(std::fs::read(&child.path).unwrap() == child_bytes, "the child is untouched");
        assert!(content(&chain) == whole, "what reads through the child reads the same");

        shelf.images.repoint(&top, &middle).await.unwrap();
        shelf.images.repoint(&top, &middle).await.unwrap();
        let facts = shelf.images.stat(&top.path, DiskFormat::Qcow2).await.unwrap();
        assert_eq!(facts.backing.as_ref(), Some(&middle.path));
        shelf
            .images
            .remove(&child.path, shelf.images.stat(&child.path, child.format).await.unwrap().identity)
            .await
            .unwrap();
        let chain = [base.clone(), middle.clone(), top.clone()];
        assert!(content(&chain) == whole);

        let merge = OfflineMerge { child: middle, parent: base, below: vec![] };
        shelf.images.merge_offline(&merge, &Stop::new(), &quiet()).await.unwrap();
        assert!(content(&chain) == whole);
    }
}

#[tokio::test]
async fn real_qemu_img_a_merge_that_is_stopped_harms_nothing_frees_the_files_and_is_begun_again() {
    const MIB: u64 = 128;
    let shelf = Shelf::new();
    let path = shelf.path("base");
    tool(&["create", "-q", "-f", "qcow2", text(&path), &format!("{MIB}M")]);
    let base = LayerFile { id: LayerId::generate(), path, format: DiskFormat::Qcow2 };
    let path = shelf.path("child");
    shelf.images.create_overlay(&path, &base, MIB << 20).await.unwrap();
    let child = LayerFile { id: LayerId::generate(), path, format: DiskFormat::Qcow2 };
    for (at, pattern) in [1, 2, 3, 4].into_iter().enumerate() {
        write(&child, pattern, &format!("{}M", at * 32), "32M");
    }
    let chain = [base.clone(), child.clone()];
    let whole = content(&chain);
    let merge = OfflineMerge { child: child.clone(), parent: base.clone(), below: vec![] };
    let mut stopped = 0;
    for share in [0, 10, 40, 70] {
        let stop = Stop::new();
        let progress: ProgressSink = {
            let stop = stop.clone();
            Arc::new(move |progress| {
                if progress.total > 0 && progress.done * 100 >= progress.total * share {
                    stop.ask();
                }
            })
        };
        if shelf.images.merge_offline(&merge, &stop, &progress).await.unwrap() == Moved::Stopped {
            stopped += 1;
        }
        // Nobody has the files open: a VM could start with them.
        io(&["-f", "qcow2", "-c", "read 0 64k", text(&base.path)]);
        for layer in [&base, &child] {
            let check = ["check", "-q", "-f", "qcow2", text(&layer.path)];
            let checked = std::process::Command::new(&config().qemu_img).args(check).status().unwrap().code();
            // 3: no error, and clusters that nothing uses.
            assert!(matches!(checked, Some(0 | 3)), "{}: {checked:?}", layer.path.display());
        }
        assert!(content(&chain) == whole, "stopped at {share} %");
    }
    assert!(stopped >= 2, "stopped {stopped} times");
    assert_eq!(shelf.images.merge_offline(&merge, &Stop::new(), &quiet()).await.unwrap(), Moved::Whole);
    assert!(content(&[base]) == whole);
}

#[tokio::test]
async fn real_qemu_img_follows_no_backing_file_that_an_image_names_by_itself() {
    let shelf = Shelf::new();
    let secret = shelf.path("secret");
    std::fs::write(&secret, vec![b'!'; 1 << 20]).unwrap();
    let base = shelf.path("base.qcow2");
    tool(&["create", "-q", "-f", "qcow2", "-u", "-b", text(&secret), "-F", "raw", text(&base), "1M"]);
    let base = LayerFile { id: LayerId::generate(), path: base, format: DiskFormat::Qcow2 };
    let target = shelf.path("out");
    let flatten = Flatten { layers: vec![base], target: target.clone(), format: DiskFormat::Raw };
    shelf.images.flatten(&flatten, &quiet()).await.unwrap();
    assert!(std::fs::read(&target).unwrap().iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn real_qemu_img_flattens_a_chain_that_a_vm_is_running_on() {
    let mut lab = Lab::new().await;
    lab.run().await;
    lab.cut().await;
    lab.cut().await;
    let chain = lab.chains[0].layers[..2].to_vec();
    let whole = content(&chain);
    for format in [DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhdx, DiskFormat::Vpc] {
        let target = lab.folder.path().join(format!("export.{}", format.driver()));
        let flatten = Flatten { layers: chain.clone(), target: target.clone(), format };
        lab.images.flatten(&flatten, &quiet()).await.unwrap();
        let copy = LayerFile { id: LayerId::generate(), path: target, format };
        assert!(content(std::slice::from_ref(&copy)) == whole, "{format:?}");
        let facts = lab.images.stat(&copy.path, format).await.unwrap();
        assert!(facts.backing.is_none() && facts.allocated < DISK_SIZE / 2, "{facts:?}");
    }
    let head = lab.chains[0].layers.last().unwrap().clone();
    assert!(lab.images.stat(&head.path, head.format).await.unwrap().virtual_size == DISK_SIZE);
    let merge = OfflineMerge { child: head, parent: chain[1].clone(), below: vec![chain[0].clone()] };
    let in_use = lab.images.merge_offline(&merge, &Stop::new(), &quiet()).await;
    assert!(matches!(in_use, Err(ImageError::InUse { .. })), "{in_use:?}");
    let in_use = lab.images.repoint(&merge.child, &chain[0]).await;
    assert!(matches!(in_use, Err(ImageError::InUse { .. })), "{in_use:?}");
    lab.retire().await;
}

#[tokio::test]
async fn real_qemu_img_knows_who_lies_on_a_file() {
    let shelf = Shelf::new();
    let base = shelf.image("base", DiskFormat::Raw);
    assert!(shelf.images.overlays_of(&base.path).await.unwrap().is_empty());
    let one = shelf.overlay("one", &base).await;
    let two = shelf.path("two");
    tool(&["create", "-q", "-f", "qcow2", "-b", text(&base.path), "-F", "raw", text(&two)]);
    shelf.overlay("above", &one).await;
    std::fs::write(shelf.path("noise"), b"QFI\xfbnoise").unwrap();
    std::fs::create_dir(shelf.path("folder")).unwrap();
    let mut overlays = shelf.images.overlays_of(&base.path).await.unwrap();
    overlays.sort();
    assert_eq!(overlays, [one.path, two]);
    let missing = shelf.images.overlays_of(&shelf.path("nothing")).await;
    assert!(matches!(missing, Err(ImageError::Missing { .. })));
}

#[tokio::test]
async fn a_file_is_removed_only_if_it_is_the_one_that_is_meant() {
    let shelf = Shelf::new();
    let image = shelf.image("image", DiskFormat::Raw);
    let identity = shelf.images.stat(&image.path, DiskFormat::Raw).await.unwrap().identity;
    let other = FileIdentity { inode: identity.inode + 1, ..identity };
    assert!(matches!(shelf.images.remove(&image.path, other).await, Err(ImageError::Changed { .. })));
    assert!(image.path.exists());
    shelf.images.remove(&image.path, identity).await.unwrap();
    shelf.images.remove(&image.path, identity).await.unwrap();
    assert!(!image.path.exists());
}

/// Numbers that follow from a seed, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Writes, zeroes and discards at random, aligned and not, in one go.
fn scribble(layer: &LayerFile, numbers: &mut Numbers) {
    let mut words = vec!["-f".to_owned(), layer.format.driver().to_owned(), "-d".to_owned(), "unmap".to_owned()];
    for _ in 0..4 + numbers.below(4) {
        let unit = [512, 4096, 64 << 10][usize::try_from(numbers.below(3)).unwrap()];
        let length = unit * (1 + numbers.below(6));
        let at = numbers.below(DISK_SIZE / unit - 6) * unit;
        let pattern = 1 + numbers.below(250);
        words.push("-c".to_owned());
        words.push(match numbers.below(5) {
            0 => format!("write -z {at} {length}"),
            1 => format!("discard {at} {length}"),
            _ => format!("write -P {pattern} {at} {length}"),
        });
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    io(&[&words[..], &[text(&layer.path)]].concat());
}

/// Blocks of 512 bytes that one of these layers holds, of data only or of zeros too.
async fn held(shelf: &Shelf, layers: &[LayerFile], zeros: bool) -> Vec<bool> {
    let mut held = vec![false; usize::try_from(DISK_SIZE / 512).unwrap()];
    for layer in layers {
        // Of parts: what is told of each is put together.
        let third = DISK_SIZE / 3 / 65_536 * 65_536;
        for part in [0..third, third..2 * third, 2 * third..u64::MAX] {
            for extent in shelf.images.extents(layer, &part).await.unwrap() {
                assert!(part.start <= extent.bytes.start && extent.bytes.end <= DISK_SIZE.min(part.end), "{extent:?}");
                if zeros || !extent.zero {
                    let at = |byte: u64| usize::try_from(byte / 512).unwrap();
                    held[at(extent.bytes.start)..at(extent.bytes.end)].fill(true);
                }
            }
        }
    }
    held
}

/// Blocks of 512 bytes that are not the same, or not zero.
fn differing(one: &[u8], other: Option<&[u8]>) -> Vec<bool> {
    let zero = [0; 512];
    let block = |at: usize| other.map_or(&zero[..], |other| &other[at * 512..(at + 1) * 512]);
    one.chunks(512).enumerate().map(|(at, chunk)| chunk != block(at)).collect()
}

#[tokio::test]
async fn real_qemu_img_whatever_was_written_zeroed_or_discarded_in_a_layer_is_among_what_it_holds() {
    const CASES: u64 = 24;
    let mut differed = 0;
    for case in 1..=CASES {
        let (shelf, mut numbers) = (Shelf::new(), Numbers(case.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let format = if case % 3 == 0 { DiskFormat::Raw } else { DiskFormat::Qcow2 };
        let mut layers = vec![shelf.image("base", format)];
        scribble(&layers[0], &mut numbers);
        for name in ["one", "two", "three"] {
            layers.push(shelf.overlay(name, layers.last().unwrap()).await);
            scribble(layers.last().unwrap(), &mut numbers);
        }
        let reads: Vec<Vec<u8>> = (1..=layers.len()).map(|top| content(&layers[..top])).collect();
        let missed = |differing: Vec<bool>, held: Vec<bool>| {
            differing.into_iter().zip(held).filter(|(differs, held)| *differs && !held).count()
        };
        for (from, to) in [(0, 1), (0, 3), (1, 3), (2, 3)] {
            let differing = differing(&reads[to], Some(&reads[from]));
            differed += differing.iter().filter(|differs| **differs).count();
            let held = held(&shelf, &layers[from + 1..=to], true).await;
            assert_eq!(missed(differing, held), 0, "case {case}: from {from} to {to}");
        }
        let data = held(&shelf, &layers, false).await;
        assert_eq!(missed(differing(&reads[3], None), data), 0, "case {case}: what holds data");
    }
    assert!(differed > 10_000, "only {differed} blocks differed");
}
