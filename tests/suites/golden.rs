//! What an earlier version stored is still read: records of the catalogue, of every kind, and descriptions.
//!
//! `tests/golden/*.json` hold stored bytes as they were. Such a file is never changed; a kind of record, or a form of
//! one, that none of them has fails `every_kind_of_record_of_today_has_an_example`, which says how to add one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};
use stillpoint_common::{AskedConsistency, BackupType, Checkpoint, CheckpointPolicy, Consistency, DiskFormat};
use stillpoint_engine::{
    Engine, ImportMode, ImportRequest, NewBackup, Ports, Request, StopMode, VmChange, ports::Put, ports::Store as _,
    ports::Txn, readable,
};
use stillpoint_sim::{Call, Fault, FaultPlan, MemoryStore, World};
use stillpoint_tests::sim_host::{SimHost, config, disk};

/// One file of examples: records with their keys, some of which are there several times; descriptions by name.
struct Golden {
    records: Vec<(String, Value)>,
    descriptions: BTreeMap<String, Value>,
}

fn golden() -> Vec<(PathBuf, Golden)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("it is there").flatten().map(|e| e.path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn read(path: &Path) -> Golden {
    let value: Value = serde_json::from_slice(&std::fs::read(path).expect("it can be read")).expect("it is JSON");
    let records = value["records"].as_array().expect("it has records").iter();
    let key = |record: &Value| record["key"].as_str().expect("a record has a key").to_owned();
    let descriptions: Map<String, Value> = value["descriptions"].as_object().expect("it has descriptions").clone();
    Golden {
        records: records.map(|record| (key(record), record["stored"].clone())).collect(),
        descriptions: descriptions.into_iter().collect(),
    }
}

/// What tells records of one key apart as far as reading them goes: which alternatives they hold.
fn kind(key: &str, record: &Value) -> String {
    let alternative = |value: &Value| match value {
        Value::String(word) => word.clone(),
        Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => String::new(),
    };
    let prefix = key.split('/').next().unwrap_or_default();
    let data = &record["data"];
    match prefix {
        "job" => format!("job {} {}", alternative(&data["request"]), alternative(&data["facts"])),
        "checkpoint" => format!("checkpoint {} {}", alternative(&data["kind"]), alternative(&data["state"])),
        "describe" => format!("describe {}", owed(data)),
        other => other.to_owned(),
    }
}

/// Which description files a debt is about.
fn owed(data: &Value) -> &str {
    match data.as_str() {
        None => "all",
        Some("own") => "own",
        Some(word) if word.starts_with("layer/") => "those above a layer",
        Some(_) => "a checkpoint's",
    }
}

fn import() -> ImportRequest {
    ImportRequest {
        folder: "/exports/one".into(),
        mode: ImportMode::Copy,
        target: Some("/vms/copy".into()),
        definition: None,
        without_memory: false,
        accept_host_paths: false,
    }
}

/// One of each kind, and a reference point of the second.
async fn two_checkpoints(host: &SimHost) -> (Checkpoint, Checkpoint) {
    let standard = host.create(CheckpointPolicy::Standard).await.expect("it works");
    let production = host.create(CheckpointPolicy::ProductionOnly).await.expect("it works");
    host.engine.create_reference_point(&host.vm(), production.id, None).await.expect("it works");
    (standard, production)
}

/// A backup session that is open, and then none any more.
async fn backup_session(host: &SimHost, keep: &mut impl FnMut(&World)) {
    let asked = AskedConsistency { wanted: Consistency::Application, least: Consistency::Crash };
    let (backup_type, lease) = (BackupType::Full, Duration::from_secs(600));
    let new = NewBackup { backup_type, asked, lease, from_point: None, creator: Some(0) };
    let begun = host.engine.start_backup(&host.vm(), new, Some("again".to_owned())).await.expect("it works");
    host.end_of(&host.engine.operation(begun.operation).await.expect("it is known")).await.expect("it works");
    keep(&host.world);
    host.engine.abort_backup(&host.vm(), begun.id).await.expect("it works");
    host.quiet().await;
}

/// Every record that is ever there while all that can be done is done, with the service dying at odd moments.
async fn records_of_today() -> Golden {
    let mut host = SimHost::running().await;
    let mut seen = BTreeMap::new();
    let mut keep = |world: &World| {
        for (key, value) in world.records() {
            let value: Value = serde_json::from_slice(&value).expect("records are JSON");
            seen.insert((kind(&key, &value), key), value);
        }
    };
    let pause = host.engine.submit(&host.vm(), Request::Pause, Some("once".to_owned())).await.expect("it works");
    host.end_of(&pause).await.expect("it works");
    host.run(Request::Resume).await.expect("it works");
    let (standard, production) = two_checkpoints(&host).await;
    keep(&host.world);
    backup_session(&host, &mut keep).await;
    let export = |name: &str| Request::Export {
        checkpoint: standard.id,
        folder: Path::new("/exports").join(name),
        format: DiskFormat::Raw,
    };
    host.run(export("one")).await.expect("it works");
    host.run(Request::Apply(standard.id.into())).await.expect("it works");
    host.run(Request::Revert).await.expect("it works");
    let root = host.create(CheckpointPolicy::Standard).await.expect("it works");
    let child = host.create(CheckpointPolicy::Standard).await.expect("it works");
    host.run(Request::DeleteCheckpoints([child.id].into())).await.expect("it works");
    host.run(Request::DeleteSubtree(root.id)).await.expect("it works");
    host.run(Request::Stop(StopMode::Graceful)).await.expect("it works");
    host.run(Request::Start).await.expect("it works");
    host.world.set_full(true);
    host.world.guest_write(&host.vm(), &disk("data"), 77, 7).expect_err("there is no space");
    tokio::time::sleep(Duration::from_secs(1)).await;
    keep(&host.world);
    host.world.set_full(false);
    host.run(Request::Resume).await.expect("it works");
    host.world.kill_instance(host.world.running(&host.vm()).expect("it runs"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    keep(&host.world);
    host.run(Request::Start).await.expect("it works");
    let descriptions = host.world.descriptions();
    for (request, call) in [
        (Request::DeleteMemory(standard.id), Call::RemoveMemory),
        (Request::DeleteCheckpoint(production.id), Call::RemoveFile),
        (Request::DeleteCheckpoint(standard.id), Call::FinishMerge),
        (Request::Stop(StopMode::TurnOff), Call::Retire),
        (Request::Start, Call::WriteDescription),
        (Request::Save, Call::Retire),
        (Request::Start, Call::Resume),
        (Request::Save, Call::Retire),
        (Request::DiscardSaved, Call::RemoveMemory),
    ] {
        keep(&host.world);
        host.world.set_faults(FaultPlan::none().at(call, 1, Fault::CrashBefore));
        tokio::select! {
            _ = host.run(request) => {}
            () = host.world.crashed() => {}
        }
        keep(&host.world);
        host.restart().await;
        while host.engine.update_vm(&host.vm(), VmChange::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    host.world.add_folder("/vms");
    for call in [Call::SealMemory, Call::KeepFolder] {
        host.world.set_faults(FaultPlan::none().at(call, 1, Fault::CrashBefore));
        host.engine.import_vm(&"copy".parse().expect("a name"), import(), None).await.expect("it can begin");
        host.world.crashed().await;
        keep(&host.world);
        host.restart().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        keep(&host.world);
    }
    let name = |path: PathBuf| path.file_name().expect("a file").to_string_lossy().into_owned();
    let text = |content: Vec<u8>| serde_json::from_slice(&content).expect("descriptions are JSON");
    Golden {
        records: seen.into_iter().map(|((_, key), value)| (key, value)).collect(),
        descriptions: descriptions.into_iter().map(|(path, content)| (name(path), text(content))).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_record_of_today_has_an_example() {
    let kinds = |golden: &Golden| golden.records.iter().map(|(key, value)| kind(key, value)).collect::<BTreeSet<_>>();
    let known: BTreeSet<String> = golden().iter().flat_map(|(_, golden)| kinds(golden)).collect();
    let today = records_of_today().await;
    let new: Vec<String> = kinds(&today).difference(&known).cloned().collect();
    if new.is_empty() {
        return;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("golden.json");
    let Golden { records, descriptions } = today;
    let record = |(key, stored): (String, Value)| serde_json::json!({ "key": key, "stored": stored });
    let records: Vec<Value> = records.into_iter().map(record).collect();
    let text = serde_json::json!({ "records": records, "descriptions": descriptions });
    std::fs::write(&path, format!("{text:#}\n")).expect("it can be written");
    panic!("{new:?} have no example: copy {} to tests/golden under a new name, and commit it", path.display());
}

#[test]
fn records_that_were_stored_once_are_read_for_ever() {
    for (path, golden) in golden() {
        for (key, value) in golden.records {
            let read = readable(&key, value.to_string().as_bytes());
            assert_eq!(read, Ok(()), "{}", path.display());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalogue_that_was_stored_once_is_served() {
    for (path, golden) in golden() {
        let store = MemoryStore::new();
        let ended = |key: &String| !key.starts_with("open/") && !key.starts_with("hold/");
        for (key, value) in golden.records.iter().filter(|(key, _)| ended(key)) {
            let writes = vec![Put::Set(key.clone(), value.to_string().into_bytes())];
            store.commit(Txn { guards: vec![], writes }).await.expect("it is small");
        }
        let ports = Ports { store: Arc::new(store), ..World::new().ports() };
        let engine = Engine::open(ports, config()).await.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        let keys: BTreeSet<&String> = golden.records.iter().map(|(key, _)| key).collect();
        let count = |prefix: &str| keys.iter().filter(|key| key.starts_with(prefix)).count();
        assert_eq!(engine.vm_count().await, count("vm/"), "{}", path.display());
        assert_eq!(engine.operations().await.expect("they are read").len(), count("job/"), "{}", path.display());
    }
}

#[tokio::test(start_paused = true)]
async fn descriptions_that_were_written_once_are_taken_up() {
    for (path, golden) in golden() {
        let world = World::new();
        for (name, value) in &golden.descriptions {
            world.put_description(Path::new("/state/web").join(name), value.to_string());
        }
        let engine = Engine::open(world.ports(), config()).await.expect("it is empty");
        let rebuilt = engine.rebuild(&[]).await.expect("it can be read");
        assert_eq!((rebuilt.left.len(), rebuilt.taken.len()), (0, 1), "{}: {rebuilt:?}", path.display());
        assert_eq!(rebuilt.taken[0].checkpoints, golden.descriptions.len() - 1, "{}", path.display());
    }
}
