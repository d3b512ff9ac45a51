//! The calls of the store.

use std::time::Duration;

use async_trait::async_trait;

use super::{Bounded, named, within};
use crate::ports::{Store, StoreError, Stored, Txn};

fn late(what: &'static str) -> impl FnOnce(Duration) -> StoreError {
    move |waited| StoreError::Failed { message: format!("no answer to a {what} within {waited:?}") }
}

#[async_trait]
impl Store for Bounded<dyn Store> {
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        within(self.limits.look, late("read"), named("get", self.port.get(key))).await
    }

    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Stored)>, StoreError> {
        within(self.limits.look, late("read"), named("scan", self.port.scan(prefix, after, limit))).await
    }

    async fn commit(&self, txn: Txn) -> Result<u64, StoreError> {
        within(self.limits.look, late("write"), named("commit", self.port.commit(txn))).await
    }
}
