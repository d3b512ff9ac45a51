//! The store on a real file: the contract of stores, and what only a file can get wrong.

use std::{
    fs, io::Write as _, os::unix::fs::PermissionsExt, path::PathBuf, process::Command, sync::Arc, time::Duration,
};

use proptest::prelude::*;
use stillpoint_engine::ports::{Guard, Put, Store, StoreError, Txn};
use stillpoint_sim::conformance::{self, Action, Model};
use stillpoint_store::RedbStore;
use tempfile::TempDir;
use tokio::task::JoinSet;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    (folder, path)
}

fn set(key: &str, value: impl AsRef<[u8]>) -> Txn {
    Txn { guards: vec![], writes: vec![Put::Set(key.to_owned(), value.as_ref().to_vec())] }
}

fn message(result: Result<RedbStore, StoreError>) -> String {
    result.expect_err("a file that cannot be used").to_string()
}

#[tokio::test]
async fn redb_keeps_to_the_limits() {
    let (_folder, path) = place();
    conformance::limits(&RedbStore::open(path).await.unwrap()).await;
}

#[tokio::test]
async fn redb_appends_in_order() {
    let (_folder, path) = place();
    conformance::appends(&RedbStore::open(path).await.unwrap()).await;
}

#[tokio::test]
async fn redb_lets_one_of_two_handles_win() {
    let (_folder, path) = place();
    let store = Arc::new(RedbStore::open(path).await.unwrap());
    let (one, other): (Arc<dyn Store>, Arc<dyn Store>) = (store.clone(), store);
    conformance::two_handles(&*one, &*other).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn redb_does_what_a_map_does_also_when_opened_again(
        before in conformance::actions(),
        after in conformance::actions(),
    ) {
        run(&before, &after);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(before: &[Action], after: &[Action]) {
    let (_folder, path) = place();
    let mut model = Model::default();
    let store = RedbStore::open(&path).await.expect("a good file");
    model.follow(&store, before).await;
    drop(store);
    let store = RedbStore::open(&path).await.expect("a good file");
    model.agrees_with(&store).await;
    model.follow(&store, after).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_each_is_done_whole_and_has_a_revision_of_its_own() {
    let (_folder, path) = place();
    let store = Arc::new(RedbStore::open(path).await.unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..40 {
        let store = store.clone();
        tasks.spawn(async move { store.commit(set(&format!("key/{task:02}"), [task])).await.unwrap() });
    }
    let mut revisions = tasks.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=40).collect::<Vec<u64>>());
    assert_eq!(store.scan("key/", None, 100).await.unwrap().len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_guard_the_same_revision_exactly_one_is_done() {
    let (_folder, path) = place();
    let store = Arc::new(RedbStore::open(path).await.unwrap());
    let mut tasks = JoinSet::new();
    for task in 0..40_u8 {
        let store = store.clone();
        let txn = Txn { guards: vec![Guard::Absent("one".to_owned())], ..set("one", [task]) };
        tasks.spawn(async move { store.commit(txn).await.is_ok() });
    }
    let done = tasks.join_all().await;
    assert_eq!(done.iter().filter(|done| **done).count(), 1);
}

#[tokio::test]
async fn a_commit_whose_caller_has_gone_harms_nobody() {
    let (_folder, path) = place();
    let store = RedbStore::open(&path).await.unwrap();
    let dropped = tokio::time::timeout(Duration::ZERO, store.commit(set("dropped", "x"))).await;
    store.commit(set("kept", "x")).await.unwrap();
    drop(dropped);
    drop(store);
    let store = RedbStore::open(&path).await.unwrap();
    assert!(store.get("kept").await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_in_use_is_refused_and_says_so() {
    let (_folder, path) = place();
    let store = RedbStore::open(&path).await.unwrap();
    let words = message(RedbStore::open(&path).await);
    assert!(words.contains("in use by another process") && words.contains("store.redb"), "{words}");
    drop(store);
    RedbStore::open(&path).await.expect("it is free again");
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let (_folder, path) = place();
    let _store = RedbStore::open(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_as_it_is() {
    let (_folder, path) = place();
    let text = "not a store\n".repeat(1000);
    fs::write(&path, &text).unwrap();
    let words = message(RedbStore::open(&path).await);
    assert!(words.contains("damaged"), "{words}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_never_read_as_if_it_were_whole() {
    let (_folder, path) = place();
    let store = RedbStore::open(&path).await.unwrap();
    for i in 0..50 {
        store.commit(set(&format!("key/{i}"), [i; 3000])).await.unwrap();
    }
    drop(store);
    let whole = fs::read(&path).unwrap();
    let cut = whole[..whole.len() / 2].to_vec();
    let mut altered = whole.clone();
    let record = altered.windows(300).position(|window| window == [7; 300]).unwrap();
    altered[record] = 8;
    for (what, bytes) in [("cut", cut), ("altered", altered)] {
        fs::write(&path, bytes).unwrap();
        let words = message(RedbStore::open(&path).await);
        assert!(words.contains("store.redb"), "{what}: {words}");
    }
    fs::write(&path, whole).unwrap();
    RedbStore::open(&path).await.expect("the whole file");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let words = message(RedbStore::open("/nonexistent/store.redb").await);
    assert!(words.contains("/nonexistent/store.redb cannot be opened"), "{words}");
}

/// A file system of a few MiB, unmounted when dropped.
struct Small(TempDir);

impl Small {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let run =
            |command: &mut Command| assert!(command.status().expect("it runs").success(), "run this test as root");
        let image = folder.path().join("image");
        fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).expect("a file");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        fs::create_dir(folder.path().join("fs")).expect("a folder");
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(folder.path().join("fs")));
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("fs")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut ballast =
            fs::File::options().create(true).append(true).open(self.path().join("ballast")).expect("a file");
        for size in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
        let _ = ballast.sync_all();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn redb_is_written_on_a_full_file_system_by_giving_up_the_reserve_and_takes_it_again() {
    let small = Small::new();
    let path = small.path().join("store.redb");
    let store = RedbStore::open_with_reserve(&path, 4 << 20).await.expect("a good file");
    let reserve = small.path().join("store.reserve");
    assert_eq!((store.reserve().await.held, fs::metadata(&reserve).expect("the reserve").len()), (true, 4 << 20));
    store.commit(set("before", b"x")).await.expect("there is room");
    small.fill();
    let (mut written, mut since) = (0, 0);
    while since < 8 {
        store.commit(set(&format!("full/{written}"), vec![7; 64 << 10])).await.expect("there is the reserve");
        // Whoever else writes on a full disk takes nothing of what was given to the store.
        small.fill();
        written += 1;
        since += usize::from(!store.reserve().await.held);
        assert!(written < 400, "a store without end");
    }
    let state = store.reserve().await;
    assert!(!state.held && state.free.expect("it is known") < 1 << 20, "{state:?}");
    drop(store);
    let store = RedbStore::open_with_reserve(&path, 4 << 20).await.expect("a good file on a full disk");
    assert_eq!(store.scan("full/", None, 999).await.expect("a scan").len(), written);
    store
        .commit(Txn { guards: vec![], writes: vec![Put::Delete("full/0".to_owned())] })
        .await
        .expect("deleting is possible");
    assert!(!store.reserve().await.held);
    fs::remove_file(small.path().join("ballast")).expect("the ballast");
    store.commit(set("after", b"x")).await.expect("there is room");
    assert_eq!((store.reserve().await.held, fs::metadata(&reserve).expect("the reserve").len()), (true, 4 << 20));
}

#[tokio::test]
async fn redb_without_room_for_a_reserve_opens_and_says_so() {
    let small = Small::new();
    let path = small.path().join("store.redb");
    let store = RedbStore::open_with_reserve(&path, 1 << 30).await.expect("a good file");
    store.commit(set("key", b"x")).await.expect("there is room");
    let state = store.reserve().await;
    assert!(!state.held, "{state:?}");
    assert_eq!(fs::metadata(small.path().join("store.reserve")).expect("the reserve").len(), 0);
}
