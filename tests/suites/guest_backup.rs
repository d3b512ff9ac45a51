//! What has changed on real images: told of stories, and used to bring a copy of a guest's disk up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;
use stillpoint_common::{CheckpointId, Failure, ReferencePointId};
use stillpoint_engine::{ChangedFrom, ChangedRequest};
use stillpoint_tests::{
    guest_image::GuestSet,
    model::{BLOCKS, Blocks, Ground as _, engine_ground::EngineGround, told_again},
    service::Service,
    sim_host::disk,
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Bytes of one block.
const BLOCK: u64 = 64 << 10;
/// How a story that has failed is made.
const SEEDS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/guest_backup.seeds");

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u64, u64),
    Create,
    KeepPoint(usize),
    Apply(usize),
    Delete(usize),
}

fn stories() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..BLOCKS, 1..200_u64).prop_map(|(block, value)| Step::Write(block, value)),
        3 => Just(Step::Create),
        2 => any::<u8>().prop_map(|n| Step::KeepPoint(n.into())),
        1 => any::<u8>().prop_map(|n| Step::Apply(n.into())),
        3 => any::<u8>().prop_map(|n| Step::Delete(n.into())),
    ];
    vec(step, 8..18)
}

async fn changed(ground: &Real, from: ChangedFrom, to: CheckpointId) -> Result<BTreeSet<u64>, Failure> {
    let host = ground.host();
    let asked = ChangedRequest { vm: host.vm(), disk: disk("system"), from, to, bytes: 0..u64::MAX };
    let (mut reader, mut blocks) = (host.engine.changed(asked).await?, BTreeSet::new());
    while let Some(part) = reader.next().await? {
        blocks.extend(part.ranges.into_iter().flat_map(|range| range.start / BLOCK..range.end / BLOCK));
    }
    Ok(blocks)
}

type Real = EngineGround<stillpoint_tests::model::engine_ground::RealImages>;
type Points = BTreeMap<ReferencePointId, Blocks>;

async fn tell(ground: &mut Real, points: &mut Points, step: Step) -> Result<(), Failure> {
    let all = ground.checkpoints().await?;
    let choose = |n: usize| (!all.is_empty()).then(|| all[n % all.len()].0);
    match step {
        Step::Write(block, value) => ground.write(block, value).await?,
        Step::Create => drop(ground.create(false).await?),
        Step::KeepPoint(n) => {
            if let (Some(id), true) = (choose(n), points.len() < 8) {
                let host = ground.host();
                let made = host.engine.create_reference_point(&host.vm(), id, None).await?.point.id;
                points.insert(made, ground.read(id).await?.expect("it can be read"));
            }
        }
        Step::Apply(n) => {
            if let Some(id) = choose(n) {
                ground.apply(id).await?;
            }
        }
        Step::Delete(n) => {
            if let Some(id) = choose(n) {
                ground.delete(id).await?;
            }
        }
    }
    Ok(())
}

async fn told(story: &[Step]) -> Result<usize, Failure> {
    let mut ground = EngineGround::real_images().await.expect("they can be made");
    let mut points = Points::new();
    for step in story {
        tell(&mut ground, &mut points, *step).await?;
    }
    let now = ground.create(false).await?;
    let mut froms: Vec<(ChangedFrom, Blocks)> =
        points.into_iter().map(|(point, was)| (ChangedFrom::Point(point), was)).collect();
    for (id, _) in ground.checkpoints().await? {
        froms.push((ChangedFrom::Checkpoint(id), ground.read(id).await?.expect("it can be read")));
    }
    froms.push((ChangedFrom::Nothing, Blocks::new()));
    let is = ground.read(now).await?.expect("it can be read");
    let pairs = froms.len();
    for (from, was) in froms {
        let told = changed(&ground, from, now).await?;
        let missed: Vec<u64> = (0..BLOCKS).filter(|at| was.get(at) != is.get(at) && !told.contains(at)).collect();
        assert!(missed.is_empty(), "{missed:?} differ from {from:?}; told were {told:?}");
    }
    Ok(pairs)
}

#[test]
fn whatever_the_story_of_real_images_every_block_that_differs_is_told() {
    let pairs = std::cell::Cell::new(0);
    let config =
        Config { cases: 10, max_shrink_iters: 40, failure_persistence: told_again(SEEDS), ..Config::default() };
    let outcome = TestRunner::new(config).run(&stories(), |story| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let told = runtime.expect("a runtime").block_on(told(&story));
        pairs.set(pairs.get() + told.map_err(|failure| TestCaseError::fail(failure.to_string()))?);
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    println!("{} pairs", pairs.get());
    assert!(pairs.get() > 25, "only {} pairs", pairs.get());
}

async fn said(service: &Service, line: &[&str]) -> Tested<Value> {
    let (said, error, code) = service.stillpoint(&[line, &["--json"]].concat()).await?;
    assert_eq!(code, 0, "{line:?}: {said}{error}");
    Ok(serde_json::from_str(&said)?)
}

/// The disk as it is in a checkpoint, in a file of its own.
async fn copied(service: &Service, folder: &Path, checkpoint: &str) -> Tested<PathBuf> {
    let target = folder.join(format!("copy-{checkpoint}"));
    let line = ["checkpoint", "export", "web", checkpoint, &target.display().to_string(), "--format", "raw"];
    said(service, &line).await?;
    Ok(target.join("data.raw"))
}

/// Brings a copy up to date with what has changed; answers how many bytes that was.
fn brought_up_to_date(copy: &Path, with: &Path, changed: &Value) -> Tested<u64> {
    let (copy, with) = (std::fs::OpenOptions::new().write(true).open(copy)?, std::fs::File::open(with)?);
    let mut bytes = 0;
    for range in changed["ranges"].as_array().ok_or("no ranges")? {
        let number = |key: &str| range[key].as_u64().ok_or("no number");
        let (offset, mut buffer) = (number("offset")?, vec![0; usize::try_from(number("length")?)?]);
        with.read_exact_at(&mut buffer, offset)?;
        copy.write_all_at(&buffer, offset)?;
        bytes += buffer.len() as u64;
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_guests_disk_is_brought_up_to_date_since_points_whose_checkpoints_are_gone() -> Tested {
    let set = GuestSet::new()?;
    let mut service = Service::start(set.path()).await?;
    let (_, lab) = service.boot("web", &set).await?;
    lab.sh("dd if=/dev/urandom of=/data/old bs=64k count=40 2>/dev/null; sync").await?;
    said(&service, &["checkpoint", "create", "web", "--name", "first"]).await?;
    let copy = copied(&service, set.path(), "first").await?;
    let mut point = said(&service, &["backup", "keep-point", "web", "first"]).await?;
    said(&service, &["checkpoint", "delete", "web", "first", "--yes"]).await?;
    for round in ["second", "third"] {
        lab.sh(&format!("dd if=/dev/urandom of=/data/{round} bs=64k count=8 2>/dev/null; rm -f /data/old; sync"))
            .await?;
        if round == "third" {
            // The service dies; the guest writes on.
            service.kill().await?;
            lab.sh("echo meanwhile > /data/meanwhile; sync").await?;
            service.start_again().await?;
        }
        said(&service, &["checkpoint", "create", "web", "--name", round]).await?;
        let id = point["id"].as_str().ok_or("no id")?;
        let line = ["backup", "changed", "web", "--disk", "data", "--from-point", id, "--to", round];
        let changed = said(&service, &line).await?;
        let now = copied(&service, set.path(), round).await?;
        assert_ne!(std::fs::read(&copy)?, std::fs::read(&now)?, "something was written");
        let bytes = brought_up_to_date(&copy, &now, &changed)?;
        assert!(std::fs::read(&copy)? == std::fs::read(&now)?, "{round}: the copy is not what the checkpoint is");
        assert!(bytes < 8 << 20, "{round}: {bytes} bytes for half a MiB of data");
        let next = said(&service, &["backup", "keep-point", "web", round]).await?;
        said(&service, &["backup", "forget-point", "web", id]).await?;
        said(&service, &["checkpoint", "delete", "web", round, "--yes"]).await?;
        point = next;
    }
    Ok(())
}

/// `stillpoint backup run`, held up right before its session ends: what other programs read then over NBD is the copy that
/// the backup is compared with later.
async fn backed_up(service: &Service, fail_point: &Path, folder: &Path, round: u32, copy: &Path) -> Tested<Value> {
    // Calls are counted for each line anew: it is another one each time. The third run ends the session of one that died first.
    let (nth, spaces) = (if round == 3 { 2 } else { 1 }, " ".repeat(usize::try_from(round)?));
    std::fs::write(fail_point, format!("endpoints.close {nth} before wait{spaces}"))?;
    let line = ["backup", "run", "web", "--to", &folder.display().to_string()];
    let read = async {
        let reached = fail_point.with_extension("reached");
        while !reached.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let sessions = said(service, &["backup", "sessions", "web"]).await?;
        let open =
            sessions.as_array().into_iter().flatten().find(|session| session["state"] == "OPEN").ok_or("none")?;
        assert_eq!(said(service, &["checkpoint", "list", "web"]).await?, serde_json::json!([]), "nobody is shown it");
        assert!(open["checkpoint"].as_str().is_some_and(|name| name.contains("/checkpoints/")), "{open}");
        let sockets: Vec<PathBuf> = sockets(service)?;
        let [socket] = &sockets[..] else { return Err(format!("{sockets:?}").into()) };
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let out = copy.display().to_string();
        let status = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw", &uri, &out]).status()?;
        assert!(status.success(), "another program reads it");
        Tested::Ok(())
    };
    let read = async {
        let read = read.await;
        std::fs::remove_file(fail_point)?;
        read
    };
    let (run, read) = tokio::join!(said(service, &line), read);
    read?;
    run
}

/// Sockets through which disks are served.
fn sockets(service: &Service) -> Tested<Vec<PathBuf>> {
    let folder = service.socket().with_file_name("nbd");
    let Ok(served) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    Ok(served.flatten().map(|entry| entry.path().join("nbd")).collect())
}

/// Processes that serve disks below this folder.
fn serving(folder: &Path) -> usize {
    let folder = folder.display().to_string();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.map(|entry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default());
    lines.filter(|line| line.starts_with(b"qemu-nbd") && String::from_utf8_lossy(line).contains(&folder)).count()
}

/// A backup, restored, is what was read while it was made.
async fn is_restored(service: &Service, folder: &Path, at: &str, copy: &Path) -> Tested {
    let to = folder.with_extension(format!("restored-{at}"));
    let (from, made) = (folder.display().to_string(), to.display().to_string());
    said(service, &["backup", "restore", &from, "--at", at, "--to", &made]).await?;
    let (made, copy) = (to.join("data.raw").display().to_string(), copy.display().to_string());
    let compared = Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw", &made, &copy]).output()?;
    assert!(compared.status.success(), "backup {at} is not what was read: {compared:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_backed_up_with_public_calls_alone_and_restored_byte_for_byte_although_the_service_dies() -> Tested {
    let set = GuestSet::new()?;
    let fail_point = set.path().join("fail-point");
    let environment = vec![("STILLPOINT_FAIL_POINT".to_owned(), fail_point.display().to_string())];
    let mut service = Service::start_with(set.path(), environment).await?;
    let (_, lab) = service.boot("web", &set).await?;
    let folder = set.path().join("backups");
    let copy = |round: u32| set.path().join(format!("copy-{round}"));
    lab.sh("dd if=/dev/urandom of=/data/old bs=64k count=40 2>/dev/null; sync").await?;
    let first = backed_up(&service, &fail_point, &folder, 1, &copy(1)).await?;
    assert_eq!((&first["kind"], &first["checkpoint_consistency"]), (&"FULL".into(), &"FILE_SYSTEM".into()), "{first}");
    lab.sh("dd if=/dev/urandom of=/data/second bs=64k count=8 2>/dev/null; rm -f /data/old; sync").await?;
    let second = backed_up(&service, &fail_point, &folder, 2, &copy(2)).await?;
    assert_eq!(second["kind"], "INCREMENTAL", "{second}");
    assert!(second["bytes"].as_u64().is_some_and(|bytes| bytes > 8 << 16 && bytes < 8 << 20), "{second}");
    // The service dies in the middle of the third.
    lab.sh("dd if=/dev/urandom of=/data/third bs=64k count=8 2>/dev/null; sync").await?;
    std::fs::write(&fail_point, "endpoints.open 1 after")?;
    let line = ["backup", "run", "web", "--to", &folder.display().to_string()];
    let (_, error, code) = service.stillpoint(&line).await?;
    assert_ne!(code, 0, "{error}");
    service.ended(Duration::from_secs(10)).await?;
    std::fs::remove_file(&fail_point)?;
    assert_eq!(serving(set.path()), 1, "what served the disk is still there");
    service.start_again().await?;
    assert_eq!((serving(set.path()), sockets(&service)?.len()), (0, 0), "and has been ended");
    let third = backed_up(&service, &fail_point, &folder, 3, &copy(3)).await?;
    assert_eq!((&third["kind"], &third["number"]), (&"INCREMENTAL".into(), &3.into()), "{third}");
    // Nothing is left, here and there.
    assert_eq!((serving(set.path()), sockets(&service)?.len()), (0, 0));
    let names: BTreeSet<_> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, [".lock", "0001", "0002", "0003"].map(Into::into).into());
    let sessions = said(&service, &["backup", "sessions", "web"]).await?;
    let states: Vec<_> = sessions.as_array().into_iter().flatten().map(|session| session["state"].clone()).collect();
    assert_eq!(states, ["COMPLETED", "COMPLETED", "ABORTED", "COMPLETED"]);
    assert_eq!(said(&service, &["backup", "points", "web"]).await?.as_array().map(Vec::len), Some(1));
    said(&service, &["backup", "verify", &folder.display().to_string()]).await?;
    for round in 1..=3 {
        is_restored(&service, &folder, &round.to_string(), &copy(round)).await?;
    }
    // Without its point the next one is a full one, and says why.
    let point = third["reference_point"].as_str().and_then(|name| name.rsplit('/').next()).ok_or("no point")?;
    said(&service, &["backup", "forget-point", "web", point]).await?;
    let fourth = said(&service, &line).await?;
    assert_eq!(fourth["kind"], "FULL");
    assert!(fourth["why_full"].as_str().is_some_and(|why| why.contains("is gone")), "{fourth}");
    // One byte is wrong somewhere in the chain.
    let spoilt = folder.join("0002/data.blocks");
    let mut bytes = std::fs::read(&spoilt)?;
    bytes[100] ^= 1;
    std::fs::write(&spoilt, bytes)?;
    let to = set.path().join("never");
    let (from, made) = (folder.display().to_string(), to.display().to_string());
    for line in [&["backup", "verify", &from][..], &["backup", "restore", &from, "--at", "3", "--to", &made]] {
        let (_, error, code) = service.stillpoint(line).await?;
        assert!(code == 1 && error.contains("0002/data.blocks"), "{error}");
    }
    assert!(!to.exists(), "nothing is made of it");
    Ok(())
}
