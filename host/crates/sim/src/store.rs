//! A store in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use stillpoint_engine::ports::{Guard, Put, Store, StoreError, Stored, Txn};

const MOST_WRITES: usize = 128;
const MOST_BYTES: usize = 3 * 512 * 1024;

/// Keys, values, revisions.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyValues {
    values: BTreeMap<String, Stored>,
    revision: u64,
}

impl KeyValues {
    pub(crate) fn get(&self, key: &str) -> Option<Stored> {
        self.values.get(key).cloned()
    }

    pub(crate) fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Stored)> {
        let first = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let keys = self.values.range::<str, _>((first, Bound::Unbounded));
        let keys = keys.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        keys.map(|(key, stored)| (key.clone(), stored.clone())).collect()
    }

    pub(crate) fn commit(&mut self, txn: Txn) -> Result<u64, StoreError> {
        let (writes, bytes) = (txn.writes.len(), txn.writes.iter().map(size).sum());
        if writes > MOST_WRITES || bytes > MOST_BYTES {
            return Err(StoreError::TooLarge { writes, bytes });
        }
        if let Some(guard) = txn.guards.iter().find(|guard| !self.holds(guard)) {
            let (Guard::Absent(key) | Guard::Revision(key, _)) = guard;
            return Err(StoreError::Conflict { key: key.clone() });
        }
        self.revision += 1;
        for (place, put) in txn.writes.into_iter().enumerate() {
            match put {
                Put::Append(prefix, value) => {
                    let key = Put::appended(&prefix, self.revision, place);
                    self.values.insert(key, Stored { value, revision: self.revision });
                }
                Put::Set(key, value) => drop(self.values.insert(key, Stored { value, revision: self.revision })),
                Put::Delete(key) => drop(self.values.remove(&key)),
            }
        }
        Ok(self.revision)
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Absent(key) => !self.values.contains_key(key),
            Guard::Revision(key, revision) => self.values.get(key).is_some_and(|s| s.revision == *revision),
        }
    }
}

fn size(put: &Put) -> usize {
    match put {
        Put::Set(key, value) | Put::Append(key, value) => key.len() + value.len(),
        Put::Delete(key) => key.len(),
    }
}

/// A store that lasts as long as the process. It never fails.
#[derive(Debug, Default)]
pub struct MemoryStore {
    // Protects keys and revisions; held for one call, never over an await.
    values: Mutex<KeyValues>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn values(&self) -> MutexGuard<'_, KeyValues> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self.values().get(key))
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Stored)>, StoreError> {
        Ok(self.values().scan(prefix, after, limit))
    }

    async fn commit(&self, txn: Txn) -> Result<u64, StoreError> {
        self.values().commit(txn)
    }
}
