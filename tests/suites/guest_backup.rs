//! What has changed on real images: told of stories, and used to bring a copy of a guest's disk up to date.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
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
    model::{BLOCKS, Blocks, Ground as _, engine_ground::EngineGround},
    service::Service,
    sim_host::disk,
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Bytes of one block.
const BLOCK: u64 = 64 << 10;

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
    let config = Config { cases: 10, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
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
