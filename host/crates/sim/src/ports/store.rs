//! The store port.

use async_trait::async_trait;
use stillpoint_engine::ports::{Store, StoreError, Stored, Txn};

use crate::{Call, process::Process};

pub(super) struct SimStore {
    process: Process,
}

impl SimStore {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }
}

#[async_trait]
impl Store for SimStore {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.process.call(Call::Get, |state| Ok(state.store.get(key))).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Stored)>, StoreError> {
        self.process.call(Call::Scan, |state| Ok(state.store.scan(prefix, after, limit))).await
    }

    async fn commit(&self, txn: Txn) -> Result<u64, StoreError> {
        self.process.call(Call::Commit, |state| state.store.commit(txn)).await
    }
}
