//! Merging image files that belong to no VM, with the real qemu-img.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use stillpoint_common::{Failure, Reason};
use stillpoint_engine::{Engine, ImageProgress, NewVm, Ports, ports::Stop};
use stillpoint_qemu::{QemuConfig, QemuImages};
use stillpoint_sim::{World, definition};
use stillpoint_tests::{bare::qemu_img, sim_host::config, small_fs::SmallFs};

/// Bytes of one block.
const BLOCK: u64 = 1 << 20;
/// Size of the images, in MiB.
const SIZE: u64 = 64;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A folder of images, and an engine that knows none of them.
struct Lab {
    folder: PathBuf,
    engine: Engine,
    _kept: Option<tempfile::TempDir>,
}

impl Lab {
    async fn new() -> Self {
        let kept = tempfile::tempdir().expect("a folder");
        let folder = kept.path().canonicalize().expect("it is there");
        Self { _kept: Some(kept), ..Self::in_folder(&folder).await }
    }

    async fn in_folder(folder: &Path) -> Self {
        let images = Arc::new(QemuImages::new(QemuConfig::from_environment()));
        let ports = Ports { images, ..World::new().ports() };
        let engine = Engine::open(ports, config()).await.expect("the store opens");
        Self { folder: folder.to_owned(), engine, _kept: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes an image; one whose name ends with `raw` is plain bytes.
    fn base(&self, name: &str) -> PathBuf {
        let format = if name.ends_with("raw") { "raw" } else { "qcow2" };
        let path = self.path(name);
        run(Command::new(qemu_img()).args(["create", "-q", "-f", format]).arg(&path).arg(format!("{SIZE}M")));
        path
    }

    /// Makes an image that lies on another one.
    fn on(&self, name: &str, below: &str) -> PathBuf {
        let format = if below.ends_with("raw") { "raw" } else { "qcow2" };
        let path = self.path(name);
        run(Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2", "-F", format, "-b", below]).arg(&path));
        path
    }

    fn write(&self, name: &str, block: u64, value: u8) {
        let format = if name.ends_with("raw") { "raw" } else { "qcow2" };
        let write = format!("write -P {value} {} {BLOCK}", block * BLOCK);
        run(Command::new("qemu-io").args(["-f", format, "-c", &write]).arg(self.path(name)));
    }

    /// Returns when a tool that was killed has let go of the file.
    fn is_released(&self, name: &str) {
        let info = || Command::new(qemu_img()).arg("info").arg(self.path(name)).output().expect("it is installed");
        let released = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            info().status.success()
        });
        assert!(released, "{name} is in use for ever");
    }

    /// The first byte of each block, through the chain, and that each block is of one kind.
    fn read(&self, name: &str) -> Vec<u8> {
        let flat = self.path(&format!(".{name}.flat"));
        run(Command::new(qemu_img()).args(["convert", "-O", "raw"]).arg(self.path(name)).arg(&flat));
        let bytes = std::fs::read(&flat).expect("it was made");
        std::fs::remove_file(&flat).expect("it is ours");
        let block = |block: &[u8]| {
            assert!(block.iter().all(|byte| *byte == block[0]), "a torn block");
            block[0]
        };
        bytes.chunks(usize::try_from(BLOCK).expect("small")).map(block).collect()
    }

    /// base ← one ← two ← top, each with something of its own and something that hides what is below.
    fn chain(&self, base: &str) -> Vec<u8> {
        self.base(base);
        self.write(base, 0, 1);
        self.write(base, 1, 1);
        for (at, name, below) in [(2, "one", base), (3, "two", "one"), (4, "top", "two")] {
            self.on(name, below);
            self.write(name, 1, at);
            self.write(name, u64::from(at), at);
        }
        let expected = self.read("top");
        assert_eq!(expected[..6], [1, 4, 2, 3, 4, 0]);
        expected
    }

    async fn merge(&self, child: &str, into: &str, remove: bool) -> Result<Vec<PathBuf>, Failure> {
        let plan = self.engine.plan_image_merge(&self.path(child), &self.path(into)).await?;
        let removed = self.engine.merge_images(&plan, remove, &Stop::new(), &silent()).await?;
        Ok(removed.expect("nobody asked it to stop"))
    }

    async fn refused(&self, child: &str, into: &str) -> Failure {
        self.engine.plan_image_merge(&self.path(child), &self.path(into)).await.expect_err("it is to be refused")
    }
}

fn silent() -> ImageProgress {
    Arc::new(|_, _| ())
}

#[tokio::test]
async fn real_qemu_img_merges_a_chain_into_an_ancestor_and_all_of_it_reads_the_same() {
    for base in ["base", "base.raw"] {
        let lab = Lab::new().await;
        let expected = lab.chain(base);
        let plan = lab.engine.plan_image_merge(&lab.path("top"), &lab.path(base)).await.unwrap();
        assert_eq!(plan.merged(), ["top", "two", "one"].map(|name| lab.path(name)));
        assert_eq!(plan.target(), lab.path(base));
        assert!(plan.needed_bytes >= 3 * BLOCK && plan.move_bytes >= 6 * BLOCK, "{plan:?}");
        assert_eq!(lab.read("top"), expected, "a plan changes nothing");

        let seen = Arc::new(Mutex::new(vec![]));
        let (told, inside) = (seen.clone(), lab.path(""));
        let progress: ImageProgress = Arc::new(move |image: &Path, _| {
            let mut told = told.lock().unwrap();
            let name = image.strip_prefix(&inside).unwrap().display().to_string();
            if told.last() != Some(&name) {
                told.push(name);
            }
        });
        let removed = lab.engine.merge_images(&plan, false, &Stop::new(), &progress).await.unwrap();
        assert_eq!(
            (removed, seen.lock().unwrap().clone()),
            (Some(vec![]), vec!["top".into(), "two".into(), "one".into()])
        );
        for name in ["top", "two", "one", base] {
            assert_eq!(lab.read(name), expected, "{name}");
        }

        // The same again is fine, and what is not needed any more goes if that is wanted.
        assert_eq!(lab.merge("top", base, true).await.unwrap().len(), 3);
        assert_eq!(lab.read(base), expected);
        for name in ["top", "two", "one"] {
            assert!(!lab.path(name).exists(), "{name} was removed");
        }
    }
}

#[tokio::test]
async fn real_qemu_img_merges_into_the_middle_of_a_chain_and_leaves_the_rest() {
    let lab = Lab::new().await;
    let expected = lab.chain("base");
    let base = lab.read("base");
    lab.merge("top", "one", true).await.unwrap();
    assert_eq!((lab.read("one"), lab.read("base")), (expected, base));
}

#[tokio::test]
async fn real_qemu_img_a_merge_that_is_dropped_or_stopped_can_be_begun_again_and_the_chain_reads_the_same() {
    let lab = Lab::new().await;
    lab.chain("base");
    for block in 5..SIZE {
        lab.write("top", block, 9);
    }
    let expected = lab.read("top");
    let plan = async || lab.engine.plan_image_merge(&lab.path("top"), &lab.path("base")).await.unwrap();
    // The service is killed: its tool ends with it.
    for wait in [0, 5, 20, 60] {
        let plan = plan().await;
        let (stop, silent) = (Stop::new(), silent());
        let merge = lab.engine.merge_images(&plan, true, &stop, &silent);
        if tokio::time::timeout(Duration::from_millis(wait), merge).await.is_ok() {
            break;
        }
        lab.is_released("top");
        assert_eq!(lab.read("top"), expected, "after {wait} ms");
    }
    if lab.path("top").exists() {
        // The caller hangs up.
        let stop = Stop::new();
        let asked = stop.clone();
        let once: ImageProgress = Arc::new(move |_, _| asked.ask());
        assert_eq!(lab.engine.merge_images(&plan().await, true, &stop, &once).await.unwrap(), None);
        assert_eq!(lab.read("top"), expected, "stopped");
        lab.merge("top", "base", false).await.unwrap();
    }
    assert_eq!(lab.read("base"), expected);
    // One that an interrupted removal has left can be merged once more without harm.
    if lab.path("top").exists() {
        std::fs::remove_file(lab.path("top")).unwrap();
        lab.merge("two", "base", true).await.unwrap();
        assert_eq!(lab.read("base"), expected);
    }
}

#[tokio::test]
async fn real_qemu_img_what_would_damage_an_image_is_refused_and_nothing_is_touched() {
    let lab = Lab::new().await;
    let expected = lab.chain("base");
    lab.base("other");
    let stranger = lab.refused("top", "other").await;
    assert_eq!((stranger.reason, stranger.field.as_deref()), (Reason::FieldInvalid, Some("into")));
    assert!(stranger.message.contains("is not in the chain of"), "{stranger}");
    assert_eq!(lab.refused("top", "top").await.field.as_deref(), Some("into"));
    assert_eq!(lab.refused("top", "missing").await.reason, Reason::DiskFileMissing);
    assert_eq!(lab.refused("base", "top").await.field.as_deref(), Some("into"));

    // Another image on one in between, on the ancestor, and on the child.
    for below in ["two", "base", "top"] {
        let other = lab.on("beside", below);
        let refused = lab.refused("top", "base").await;
        assert_eq!(refused.reason, Reason::DiskIsBacking);
        assert!(refused.message.contains("beside lies on"), "{refused}");
        std::fs::remove_file(other).unwrap();
    }

    // A larger disk below.
    run(Command::new(qemu_img()).args(["resize", "-q", "-f", "qcow2"]).arg(lab.path("one")).arg("128M"));
    let larger = lab.refused("two", "one").await;
    assert!(larger.reason == Reason::DiskFileUnusable && larger.message.contains("same size"), "{larger}");
    run(Command::new(qemu_img()).args(["resize", "-q", "--shrink", "-f", "qcow2"]).arg(lab.path("one")).arg("64M"));

    // Some program has one of them open for writing.
    let script = "sh -c 'echo open; exec sleep 60 3>>\"$0\"' \"$0\" & echo $!; wait";
    let mut shell = Command::new("sh");
    let mut holder = shell.args(["-c", script]).arg(lab.path("two")).stdout(Stdio::piped()).spawn().unwrap();
    let pid = {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.stdout.take().unwrap()));
        let said = [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()];
        said.into_iter().find(|line| line != "open").unwrap()
    };
    let mut refused = None;
    for _ in 0..100 {
        let plan = lab.engine.plan_image_merge(&lab.path("top"), &lab.path("base")).await;
        refused = plan.err();
        if refused.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(Command::new("kill").arg(&pid));
    holder.wait().unwrap();
    let refused = refused.expect("it is open");
    assert_eq!(refused.reason, Reason::ImageInUse);
    assert!(refused.message.contains("two is in use by sleep"), "{refused}");
    assert_eq!(lab.read("top"), expected, "nothing was touched");
}

#[tokio::test]
async fn real_qemu_img_an_image_of_a_vm_is_named_and_left_to_its_checkpoints() {
    let lab = Lab::new().await;
    let path = lab.base("system.qcow2").display().to_string();
    let new = NewVm {
        id: "web".parse().unwrap(),
        definition: definition(&[("system", &path)]),
        checkpoint_policy: Default::default(),
        checkpoint_location: None,
        critical: Default::default(),
        settings: Default::default(),
    };
    lab.engine.create_vm(new, None).await.unwrap();
    lab.on("top", "system.qcow2");
    let refused = lab.refused("top", "system.qcow2").await;
    assert_eq!(refused.reason, Reason::ImageOfVm);
    assert!(refused.message.ends_with("is an image of VM web"), "{refused}");
}

#[tokio::test]
async fn real_qemu_img_a_merge_that_there_is_no_room_for_is_refused_before_it_begins() {
    let kept = tempfile::tempdir().unwrap();
    let small = SmallFs::new(&kept.path().join("small"), 96).unwrap();
    let lab = Lab::in_folder(small.path()).await;
    lab.base("base");
    lab.on("top", "base");
    for block in 0..30 {
        lab.write("top", block, 7);
    }
    small.fill_but(20 << 20).unwrap();
    let refused = lab.refused("top", "base").await;
    assert_eq!(refused.reason, Reason::NoSpace);
    assert!(refused.message.contains("30.0 MiB are needed"), "{refused}");
    small.give_back().unwrap();
    lab.merge("top", "base", true).await.unwrap();
}
