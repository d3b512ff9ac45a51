//! What has changed between two points: no byte that differs is left out, whatever came in between, and nothing that has
//! not to be there is in the answer where the answer can be exact.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    slice::from_ref,
    time::Duration,
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use stillpoint_common::{CheckpointId, CheckpointPolicy, Failure, Reason, ReferencePointId};
use stillpoint_engine::{ChangedFrom, ChangedRequest, CheckpointView, Request, StopMode};
use stillpoint_sim::{Call, Content};
use stillpoint_tests::{
    bare::qemu_img,
    model::told_again,
    service::Service,
    sim_host::{SimHost, disk},
};

const BLOCK: u64 = 64 << 10;
/// How a story that has failed is made.
const SEEDS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/changed.seeds");
/// Blocks that are written to.
const BLOCKS: u64 = 6;

fn between(host: &SimHost, from: Option<CheckpointId>, to: CheckpointId) -> ChangedRequest {
    let from = from.map_or(ChangedFrom::Nothing, ChangedFrom::Checkpoint);
    ChangedRequest { vm: host.vm(), disk: disk("data"), from, to, bytes: 0..u64::MAX }
}

fn since(host: &SimHost, point: ReferencePointId, to: CheckpointId) -> ChangedRequest {
    ChangedRequest { from: ChangedFrom::Point(point), ..between(host, None, to) }
}

/// The whole answer, whose parts must be in order.
async fn ranges(host: &SimHost, asked: ChangedRequest) -> Result<Vec<Range<u64>>, Failure> {
    let end = asked.bytes.end;
    let mut reader = host.engine.changed(asked).await?;
    let (mut all, mut complete): (Vec<Range<u64>>, u64) = (Vec::new(), 0);
    while let Some(part) = reader.next().await? {
        for range in part.ranges {
            assert!(all.last().is_none_or(|last| last.end < range.start), "{range:?} after {:?}", all.last());
            assert!(range.start >= complete, "{range:?} is of a part that was whole");
            all.push(range);
        }
        assert!(all.last().is_none_or(|last| last.end <= part.complete_to));
        complete = part.complete_to;
    }
    assert_eq!(complete, end.min(reader.to_size()), "the last part ends with what was asked for");
    Ok(all)
}

/// The numbers of the blocks in an answer.
async fn blocks(host: &SimHost, asked: ChangedRequest) -> Result<BTreeSet<u64>, Failure> {
    let ranges = ranges(host, asked).await?;
    assert!(ranges.iter().all(|range| range.start % BLOCK == 0 && range.end % BLOCK == 0), "{ranges:?}");
    Ok(ranges.into_iter().flat_map(|range| range.start / BLOCK..range.end / BLOCK).collect())
}

fn differing(one: &Content, other: &Content) -> BTreeSet<u64> {
    let value = |content: &Content, block: u64| content.get(&block).copied().unwrap_or_default();
    one.keys().chain(other.keys()).copied().filter(|block| value(one, *block) != value(other, *block)).collect()
}

fn data(host: &SimHost, view: &CheckpointView) -> Content {
    host.content(view).remove(&disk("data")).expect("it has the disk")
}

async fn apply(host: &SimHost, id: CheckpointId) {
    host.run(Request::Apply(id.into())).await.expect("it can be applied");
    let power = host.engine.vm(&host.vm()).await.expect("it is there").power;
    if power == stillpoint_common::PowerState::Off {
        host.run(Request::Start).await.expect("it starts");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_between_two_checkpoints_is_told_and_nothing_else() {
    let host = SimHost::running().await;
    host.write(2, 7);
    let first = host.create(CheckpointPolicy::Production).await.unwrap().id;
    host.write(2, 8);
    host.write(4, 1);
    let second = host.create(CheckpointPolicy::Standard).await.unwrap().id;
    host.write(5, 1);
    assert_eq!(blocks(&host, between(&host, Some(first), second)).await.unwrap(), [2, 4].into());
    assert_eq!(blocks(&host, between(&host, Some(second), first)).await.unwrap(), [2, 4].into(), "backwards");
    assert_eq!(blocks(&host, between(&host, Some(second), second)).await.unwrap(), [].into());
    assert_eq!(blocks(&host, between(&host, None, second)).await.unwrap(), [1, 2, 4].into(), "all that holds data");
    let part = |bytes| ChangedRequest { bytes, ..between(&host, Some(first), second) };
    assert_eq!(ranges(&host, part(0..4 * BLOCK)).await.unwrap(), from_ref(&(2 * BLOCK..3 * BLOCK)));
    assert_eq!(ranges(&host, part(3 * BLOCK..u64::MAX)).await.unwrap(), from_ref(&(4 * BLOCK..5 * BLOCK)));
    assert_eq!(ranges(&host, part(1 << 40..u64::MAX)).await.unwrap(), [], "past the end");
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn after_an_apply_the_way_leads_over_the_common_ancestor() {
    let host = SimHost::running().await;
    let root = host.create(CheckpointPolicy::Production).await.unwrap().id;
    host.write(2, 1);
    let one = host.create(CheckpointPolicy::Production).await.unwrap().id;
    apply(&host, root).await;
    host.write(3, 1);
    let other = host.create(CheckpointPolicy::Production).await.unwrap().id;
    assert_eq!(blocks(&host, between(&host, Some(one), other)).await.unwrap(), [2, 3].into());
    assert_eq!(blocks(&host, between(&host, Some(root), other)).await.unwrap(), [3].into());
    // The layer of the ancestor becomes one with nothing: two lie on it.
    host.run(Request::DeleteCheckpoint(root)).await.unwrap();
    assert_eq!(blocks(&host, between(&host, Some(one), other)).await.unwrap(), [2, 3].into());
    host.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn zeros_over_data_are_a_change_and_hold_no_data() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Production).await.unwrap().id;
    host.write(1, 0);
    host.write(3, 5);
    let second = host.create(CheckpointPolicy::Production).await.unwrap().id;
    assert_eq!(blocks(&host, between(&host, Some(first), second)).await.unwrap(), [1, 3].into());
    assert_eq!(blocks(&host, between(&host, None, second)).await.unwrap(), [3].into());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_grew_has_changed_from_its_old_end_on() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Production).await.unwrap();
    let second = host.create(CheckpointPolicy::Production).await.unwrap();
    let (path, size) = (host.checkpoint(second.id).await.files[&disk("data")].clone(), 1 << 30);
    assert!(host.world.resize_file(&path, size + 3 * BLOCK + 5));
    let asked = between(&host, Some(first.id), second.id);
    assert_eq!(ranges(&host, asked).await.unwrap(), from_ref(&(size..size + 3 * BLOCK + 5)), "clipped at its end");
    let reader = host.engine.changed(between(&host, Some(second.id), first.id)).await.unwrap();
    assert_eq!((reader.from_size(), reader.to_size()), (size + 3 * BLOCK + 5, size));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_told_is_refused_with_its_reason() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Production).await.unwrap();
    let second = host.create(CheckpointPolicy::Production).await.unwrap();
    let refused = async |asked: ChangedRequest| {
        let failure = ranges(&host, asked).await.expect_err("it cannot be told");
        (failure.reason, failure.field.unwrap_or_default())
    };
    let good = between(&host, Some(first.id), second.id);
    let odd = |bytes| ChangedRequest { bytes, ..good.clone() };
    assert_eq!(refused(odd(7..u64::MAX)).await, (Reason::FieldInvalid, "offset_bytes".to_owned()));
    assert_eq!(refused(odd(0..7)).await, (Reason::FieldInvalid, "length_bytes".to_owned()));
    let absent = CheckpointId::generate();
    assert_eq!(refused(between(&host, Some(absent), second.id)).await, (Reason::CheckpointNotFound, "from".to_owned()));
    assert_eq!(refused(between(&host, None, absent)).await, (Reason::CheckpointNotFound, "to".to_owned()));
    let no_disk = ChangedRequest { disk: disk("swap"), ..good.clone() };
    assert_eq!(refused(no_disk).await.0, Reason::DiskNotFound);
    let layer = host.checkpoint(second.id).await.files[&disk("data")].clone();
    assert!(host.world.overwrite_file(&layer, 3, 3));
    assert_eq!(refused(good.clone()).await.0, Reason::DiskChanged, "it was written to by somebody else");
    host.world.move_file(&layer, "/elsewhere/x.qcow2");
    assert_eq!(refused(good).await.0, Reason::DiskFileMissing);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_goes_while_it_is_asked_about_is_said_to_be_gone() {
    let host = SimHost::running().await;
    let first = host.create(CheckpointPolicy::Production).await.unwrap().id;
    host.write(2, 1);
    let second = host.create(CheckpointPolicy::Production).await.unwrap().id;
    let mut reader = host.engine.changed(between(&host, Some(first), second)).await.unwrap();
    host.run(Request::DeleteCheckpoint(first)).await.unwrap();
    let gone = reader.next().await.unwrap_err();
    assert_eq!((gone.reason, gone.field.as_deref()), (Reason::CheckpointNotFound, Some("from")), "{gone}");
}

#[tokio::test(start_paused = true)]
async fn layers_are_merged_away_under_a_reader_and_it_still_tells_all() {
    let host = SimHost::running().await;
    host.world.set_latency(Call::Merge, Duration::from_secs(1));
    host.world.set_latency(Call::Extents, Duration::from_secs(1));
    let first = host.create(CheckpointPolicy::Production).await.unwrap().id;
    let mut middle = Vec::new();
    for block in 2..BLOCKS {
        host.write(block, 1);
        middle.push(host.create(CheckpointPolicy::Production).await.unwrap().id);
    }
    let last = middle.pop().unwrap();
    for id in middle {
        let begun = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(id), None).await.unwrap();
        let asked = blocks(&host, between(&host, Some(first), last));
        let (found, ended) = tokio::join!(asked, host.end_of(&begun));
        ended.unwrap();
        assert_eq!(found.unwrap(), (2..BLOCKS).collect());
    }
    host.quiet().await;
    host.world.assert_sound();
}

/// One sentence of a story. A number chooses among the checkpoints that are there then.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u64, u64),
    Create,
    Apply(usize),
    Delete(usize),
    KeepPoint(usize),
    ForgetPoint(usize),
    Restart,
    Power,
}

fn stories() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..BLOCKS, 0..5_u64).prop_map(|(block, value)| Step::Write(block, value)),
        4 => Just(Step::Create),
        2 => any::<u8>().prop_map(|n| Step::Apply(n.into())),
        3 => any::<u8>().prop_map(|n| Step::Delete(n.into())),
        2 => any::<u8>().prop_map(|n| Step::KeepPoint(n.into())),
        1 => any::<u8>().prop_map(|n| Step::ForgetPoint(n.into())),
        1 => Just(Step::Restart),
        1 => Just(Step::Power),
    ];
    vec(step, 1..40)
}

/// What the disk was at each reference point that there is.
type Points = BTreeMap<ReferencePointId, Content>;

async fn tell(host: &mut SimHost, points: &mut Points, step: Step) {
    let views = host.checkpoints().await;
    let choose = |n: usize| (!views.is_empty()).then(|| views[n % views.len()].checkpoint.id);
    match step {
        Step::Write(block, value) => {
            if host.world.running(&host.vm()).is_some() {
                host.write(block, value);
            }
        }
        Step::Create => drop(host.create(CheckpointPolicy::Production).await.expect("it can be made")),
        Step::Apply(n) => {
            if let Some(id) = choose(n) {
                apply(host, id).await;
            }
        }
        Step::Delete(n) => {
            if let Some(id) = choose(n) {
                // Its merges may be at work when the next question is asked.
                let begun = host.engine.submit(&host.vm(), Request::DeleteCheckpoint(id), None).await;
                drop(host.end_of(&begun.expect("it can be deleted")).await.expect("it is deleted"));
            }
        }
        Step::KeepPoint(n) => {
            let Some(id) = choose(n) else { return };
            let content = data(host, &host.checkpoint(id).await);
            match host.engine.create_reference_point(&host.vm(), id, None).await {
                Ok(made) => drop(points.insert(made.point.id, content)),
                Err(failure) => assert_eq!(failure.reason, Reason::ReferencePointLimit, "{failure}"),
            }
        }
        Step::ForgetPoint(n) => {
            let Some(id) = points.keys().nth(n % points.len().max(1)).copied() else { return };
            host.engine.delete_reference_point(&host.vm(), id).await.expect("it can be given up");
            points.remove(&id);
        }
        Step::Restart => host.restart().await,
        Step::Power => match host.world.running(&host.vm()) {
            Some(_) => drop(host.run(Request::Stop(StopMode::TurnOff)).await.expect("it can be turned off")),
            None => drop(host.run(Request::Start).await.expect("it starts")),
        },
    }
}

/// What each checkpoint differs in from each other one, and from each reference point, lies in the answer; how many pairs
/// there were. Of `newest` only the pairs of the newest checkpoint are looked at.
async fn every_difference_is_told(host: &SimHost, points: &Points, newest: bool) -> usize {
    let views = host.checkpoints().await;
    let contents: BTreeMap<CheckpointId, Content> =
        views.iter().map(|view| (view.checkpoint.id, data(host, view))).collect();
    let mut pairs = 0;
    let looked_at = if newest { 1 } else { contents.len() };
    for (to, content) in contents.iter().rev().take(looked_at) {
        let told = blocks(host, between(host, None, *to)).await.expect("it is told");
        let missed: Vec<_> = content.keys().filter(|block| !told.contains(block)).collect();
        assert!(missed.is_empty(), "{missed:?} hold data in {to}");
        for (from, before) in &contents {
            let told = blocks(host, between(host, Some(*from), *to)).await.expect("it is told");
            let missed: Vec<_> = differing(before, content).difference(&told).copied().collect();
            assert!(missed.is_empty(), "{missed:?} differ between {from} and {to}; told were {told:?}");
            pairs += 1;
        }
        for (point, before) in points {
            let told = blocks(host, since(host, *point, *to)).await.expect("it is told");
            let missed: Vec<_> = differing(before, content).difference(&told).copied().collect();
            assert!(missed.is_empty(), "{missed:?} differ between point {point} and {to}; told were {told:?}");
            pairs += 1;
        }
    }
    pairs
}

async fn told(story: &[Step]) -> usize {
    let mut host = SimHost::running().await;
    for call in [Call::Merge, Call::MergeOffline, Call::Stream, Call::StreamOffline] {
        host.world.set_latency(call, Duration::from_millis(100));
    }
    let (mut pairs, mut points) = (0, Points::new());
    for step in story {
        tell(&mut host, &mut points, *step).await;
        pairs += every_difference_is_told(&host, &points, true).await;
    }
    host.quiet().await;
    // Whatever has become of the layers, Now can be compared with every point.
    host.create(CheckpointPolicy::Production).await.expect("it can be made");
    pairs += every_difference_is_told(&host, &points, false).await;
    host.assert_files().await;
    pairs
}

#[test]
fn whatever_the_story_every_byte_that_differs_between_two_checkpoints_lies_in_a_range() {
    let pairs = std::cell::Cell::new(0);
    let config = Config { cases: 30, failure_persistence: told_again(SEEDS), ..Config::default() };
    let outcome = TestRunner::new(config).run(&stories(), |story| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        pairs.set(pairs.get() + runtime.expect("a runtime").block_on(told(&story)));
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    println!("{} pairs", pairs.get());
    assert!(pairs.get() > 500, "only {} pairs", pairs.get());
}

type Tested = Result<(), Box<dyn std::error::Error>>;

fn qemu_io(path: &str, commands: impl IntoIterator<Item = String>) -> Tested {
    let mut tool = std::process::Command::new("qemu-io");
    tool.args(["-f", "qcow2", "-d", "unmap"]);
    for command in commands {
        tool.args(["-c", &command]);
    }
    let ended = tool.arg(path).output()?;
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn real_qemu_img_the_service_tells_what_has_changed_however_many_ranges_there_are() -> Tested {
    const MANY: u64 = 5_000;
    let folder = tempfile::Builder::new().prefix("sp-").tempdir_in("/tmp")?;
    let service = Service::start(folder.path()).await?;
    let image = folder.path().join("data.qcow2").display().to_string();
    let made = std::process::Command::new(qemu_img()).args(["create", "-q", "-f", "qcow2", &image, "40G"]).status()?;
    assert!(made.success());
    let json = async |line: &[&str]| -> Result<serde_json::Value, Box<dyn std::error::Error>> {
        let (said, error, code) = service.stillpoint(&[line, &["--json"]].concat()).await?;
        assert_eq!(code, 0, "{line:?}: {said}{error}");
        Ok(serde_json::from_str(&said)?)
    };
    let disk = format!("name=data,path={image},format=qcow2");
    json(&["vm", "create", "web", "--memory", "64M", "--disk", &disk]).await?;
    qemu_io(&image, ["write -P 1 0 100k".to_owned()])?;
    json(&["checkpoint", "create", "web", "--name", "first"]).await?;
    let layers = json(&["vm", "layers", "web"]).await?;
    let is_head = |layer: &&serde_json::Value| layer["now"] == true && layer["checkpoints"] == serde_json::json!([]);
    let head = layers.as_array().and_then(|layers| layers.iter().find(is_head));
    let head = head.and_then(|head| head["path"].as_str()).ok_or("no head")?;
    let edge = 16_u64 << 30;
    qemu_io(head, (0..MANY).map(|at| format!("write -z {} {BLOCK}", (100 + 2 * at) * BLOCK)))?;
    qemu_io(
        head,
        [format!("write -z {} {}", edge - BLOCK, 2 * BLOCK), format!("write -P 7 {} 512", (40_u64 << 30) - 512)],
    )?;
    json(&["checkpoint", "create", "web", "--name", "second"]).await?;

    let all = json(&["backup", "changed", "web", "--disk", "data", "--to", "second"]).await?;
    let range = |offset: u64, length: u64| serde_json::json!({"offset": offset, "length": length});
    let last = range((40 << 30) - BLOCK, BLOCK);
    assert_eq!(all["ranges"], serde_json::json!([range(0, 2 * BLOCK), last]), "zeros are no data");
    let since = json(&["backup", "changed", "web", "--disk", "data", "--from", "first", "--to", "second"]).await?;
    let many = (0..MANY).map(|at| range((100 + 2 * at) * BLOCK, BLOCK));
    let expected: Vec<_> = many.chain([range(edge - BLOCK, 2 * BLOCK), last]).collect();
    assert_eq!(since["ranges"], serde_json::Value::from(expected));
    assert_eq!((&since["from_bytes"], &since["to_bytes"]), (&(40_u64 << 30).into(), &(40_u64 << 30).into()));
    Ok(())
}
