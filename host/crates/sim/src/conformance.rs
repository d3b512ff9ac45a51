//! What every store must do, as tests to run against each.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use stillpoint_engine::ports::{Guard, Put, Store, StoreError, Txn};

/// Keys that are prefixes and neighbours of each other, in every way that a scan could get wrong.
const KEYS: &[&str] = &["op/1", "vm", "vm/", "vm/a", "vm/a/1", "vm/a/10", "vm/a/2", "vm/é", "vm0", "vn"];
const PREFIXES: &[&str] = &["", "op/", "vm", "vm/", "vm/a/", "vm/a/1", "w"];

/// Something to do with a store.
#[derive(Debug, Clone)]
pub enum Action {
    /// Commit these writes if the guards hold.
    Commit {
        /// Guards.
        guards: Vec<GuardOn>,
        /// Writes: a key, and a value or none.
        writes: Vec<(&'static str, Option<Vec<u8>>)>,
    },
    /// Read one key.
    Get(&'static str),
    /// Read keys in order.
    Scan {
        /// With this prefix,
        prefix: &'static str,
        /// after this key,
        after: Option<&'static str>,
        /// so many.
        limit: usize,
    },
}

/// A guard, with its revision chosen when it is used.
#[derive(Debug, Clone)]
pub enum GuardOn {
    /// Key without value.
    Absent(&'static str),
    /// Key at the revision it has, or, if it has none, at one that never was.
    Current(&'static str),
    /// Key at a revision it does not have.
    Wrong(&'static str),
}

/// Sequences of actions.
pub fn actions() -> impl Strategy<Value = Vec<Action>> {
    let key = || select(KEYS);
    let guard = prop_oneof![
        2 => key().prop_map(GuardOn::Absent),
        6 => key().prop_map(GuardOn::Current),
        1 => key().prop_map(GuardOn::Wrong),
    ];
    let write = (key(), proptest::option::weighted(0.7, vec(any::<u8>(), 0..20)));
    let commit = (vec(guard, 0..3), vec(write, 0..6)).prop_map(|(guards, writes)| Action::Commit { guards, writes });
    let scan = (select(PREFIXES), proptest::option::of(key()), 0..6_usize)
        .prop_map(|(prefix, after, limit)| Action::Scan { prefix, after, limit });
    vec(prop_oneof![4 => commit, 1 => key().prop_map(Action::Get), 2 => scan], 1..30)
}

/// What a store should hold.
#[derive(Debug, Clone, Default)]
pub struct Model {
    values: BTreeMap<String, (Vec<u8>, u64)>,
    revision: u64,
}

impl Model {
    /// Does the actions on the store and compares each answer.
    ///
    /// # Panics
    /// If the store answers otherwise than it should.
    pub async fn follow(&mut self, store: &dyn Store, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Commit { guards, writes } => self.commit(store, guards, writes).await,
                Action::Get(key) => self.get(store, key).await,
                Action::Scan { prefix, after, limit } => self.scan(store, prefix, *after, *limit).await,
            }
        }
        self.agrees_with(store).await;
    }

    /// Compares all that the store holds.
    ///
    /// # Panics
    /// If it is not what it should hold.
    pub async fn agrees_with(&self, store: &dyn Store) {
        self.scan(store, "", None, usize::MAX).await;
    }

    async fn commit(&mut self, store: &dyn Store, guards: &[GuardOn], writes: &[(&str, Option<Vec<u8>>)]) {
        let guards: Vec<_> = guards.iter().map(|guard| self.guard(guard)).collect();
        let puts = writes.iter().map(|(key, value)| match value {
            Some(value) => Put::Set((*key).to_owned(), value.clone()),
            None => Put::Delete((*key).to_owned()),
        });
        let broken = guards.iter().find(|guard| !self.holds(guard)).cloned();
        let answer = store.commit(Txn { guards, writes: puts.collect() }).await;
        if let Some(Guard::Absent(broken) | Guard::Revision(broken, _)) = broken {
            assert!(
                matches!(&answer, Err(StoreError::Conflict { key }) if *key == broken),
                "{answer:?} for {broken:?}"
            );
            return;
        }
        let revision = answer.expect("a commit whose guards hold");
        assert!(revision > self.revision, "revision {revision} after {}", self.revision);
        self.revision = revision;
        for (key, value) in writes {
            match value {
                Some(value) => self.values.insert((*key).to_owned(), (value.clone(), revision)),
                None => self.values.remove(*key),
            };
        }
    }

    fn guard(&self, guard: &GuardOn) -> Guard {
        let revision = |key: &str| self.values.get(key).map_or(self.revision + 7, |(_, revision)| *revision);
        match guard {
            GuardOn::Absent(key) => Guard::Absent((*key).to_owned()),
            GuardOn::Current(key) => Guard::Revision((*key).to_owned(), revision(key)),
            GuardOn::Wrong(key) => Guard::Revision((*key).to_owned(), revision(key) + 1),
        }
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Absent(key) => !self.values.contains_key(key),
            Guard::Revision(key, revision) => self.values.get(key).is_some_and(|(_, is)| is == revision),
        }
    }

    async fn get(&self, store: &dyn Store, key: &str) {
        let found = store.get(key).await.expect("a read");
        assert_eq!(found.map(|stored| (stored.value, stored.revision)), self.values.get(key).cloned(), "get {key:?}");
    }

    async fn scan(&self, store: &dyn Store, prefix: &str, after: Option<&str>, limit: usize) {
        let found = store.scan(prefix, after, limit).await.expect("a scan");
        let found: Vec<_> = found.into_iter().map(|(key, stored)| (key, (stored.value, stored.revision))).collect();
        let wanted = self.values.iter().filter(|(key, _)| key.starts_with(prefix));
        let wanted = wanted.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after)).take(limit);
        let wanted: Vec<_> = wanted.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(found, wanted, "scan {prefix:?} after {after:?}, {limit}");
    }
}

fn set(key: &str, value: &[u8]) -> Put {
    Put::Set(key.to_owned(), value.to_vec())
}

/// A transaction at the limit is accepted, one beyond it is refused and writes nothing. The store must be empty.
///
/// # Panics
/// If that is not so.
pub async fn limits(store: &dyn Store) {
    let many = |count: usize| (0..count).map(|i| set(&format!("limit/{i:03}"), b"x")).collect::<Vec<_>>();
    let refused = store.commit(Txn { guards: vec![], writes: many(129) }).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { writes: 129, .. })), "{refused:?}");
    // One byte of the key counts as well.
    let large = |bytes: usize| Txn { guards: vec![], writes: vec![set("k", &vec![7; bytes - 1])] };
    let most = 3 * 512 * 1024;
    let refused = store.commit(large(most + 1)).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { writes: 1, bytes }) if bytes == most + 1), "{refused:?}");
    assert_eq!(store.scan("", None, 10).await.expect("a scan"), vec![], "nothing was written");

    store.commit(Txn { guards: vec![], writes: many(128) }).await.expect("128 writes");
    store.commit(large(most)).await.expect("1.5 MiB");
    assert_eq!(store.scan("limit/", None, usize::MAX).await.expect("a scan").len(), 128);
}

/// Appended keys are made of the revision and the place of the write, so that they grow. The store must be empty.
///
/// # Panics
/// If that is not so.
pub async fn appends(store: &dyn Store) {
    let append = |value: &str| Put::Append("log/".to_owned(), value.as_bytes().to_vec());
    let mut wanted = vec![];
    for (writes, places) in
        [(vec![append("a"), set("other", b""), append("b")], vec![0, 2]), (vec![append("c")], vec![0])]
    {
        let revision = store.commit(Txn { guards: vec![], writes }).await.expect("a commit");
        wanted.extend(places.into_iter().map(|place| format!("log/{revision:020}/{place:05}")));
    }
    let found = store.scan("log/", None, 9).await.expect("a scan");
    let keys: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys, wanted);
    let values: Vec<_> = found.into_iter().map(|(_, stored)| stored.value).collect();
    assert_eq!(values, [b"a", b"b", b"c"]);
    let guarded = Txn { guards: vec![Guard::Absent(wanted[0].clone())], writes: vec![append("d")] };
    assert!(store.commit(guarded).await.is_err(), "a guard that does not hold");
    assert_eq!(store.scan("log/", Some(&wanted[1]), 9).await.expect("a scan").len(), 1);
}

/// Two handles on one store: of two transactions that guard the same revision one wins, and both see the winner's.
///
/// # Panics
/// If that is not so.
pub async fn two_handles(one: &dyn Store, other: &dyn Store) {
    let first = one.commit(Txn { guards: vec![], writes: vec![set("shared", b"first")] }).await.expect("a commit");
    let seen = other.get("shared").await.expect("a read").expect("what the other handle wrote");
    assert_eq!((seen.value.as_slice(), seen.revision), (b"first".as_slice(), first));

    let guarded = |value: &[u8]| Txn {
        guards: vec![Guard::Revision("shared".to_owned(), first)],
        writes: vec![set("shared", value), set(&String::from_utf8_lossy(value), b"")],
    };
    let second = one.commit(guarded(b"one")).await.expect("the first to come");
    assert!(second > first);
    let late = other.commit(guarded(b"other")).await;
    assert!(matches!(late, Err(StoreError::Conflict { ref key }) if key == "shared"), "{late:?}");
    assert_eq!(other.get("other").await.expect("a read"), None, "nothing of the loser was written");
    assert_eq!(other.get("shared").await.expect("a read").map(|stored| stored.value), Some(b"one".to_vec()));
}
