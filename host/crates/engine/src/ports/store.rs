//! The port to the transactional store behind catalogue and journal.

use async_trait::async_trait;

/// A small ordered key-value store with guarded commits. An embedded engine serves it today, a distributed one can.
#[async_trait]
pub trait Store: Send + Sync {
    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<Stored>, StoreError>;

    /// Keys that begin with `prefix` and come after `after`, in order, at most `limit`.
    async fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(String, Stored)>, StoreError>;

    /// Checks all guards and, if they hold, does all writes: durable when it returns, all or nothing.
    ///
    /// At most 128 writes and 1.5 MiB. Answers the revision of the commit; revisions only grow.
    async fn commit(&self, txn: Txn) -> Result<u64, StoreError>;
}

/// A value and the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The bytes.
    pub value: Vec<u8>,
    /// Revision of the commit that wrote them.
    pub revision: u64,
}

/// Writes that happen together, if the guards hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must be so.
    pub guards: Vec<Guard>,
    /// What to write.
    pub writes: Vec<Put>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key has no value.
    Absent(String),
    /// The key's value was written by this revision.
    Revision(String, u64),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Set a key.
    Set(String, Vec<u8>),
    /// Set a new key that is larger than every one made so before: the prefix, the revision of this commit in 20 digits,
    /// `/`, and the place of this write in its transaction in 5 digits.
    Append(String, Vec<u8>),
    /// Remove a key. A key without value is fine.
    Delete(String),
}

impl Put {
    /// The key that [`Put::Append`] sets.
    #[must_use]
    pub fn appended(prefix: &str, revision: u64, place: usize) -> String {
        format!("{prefix}{revision:020}/{place:05}")
    }
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A guard did not hold; nothing was written.
    #[error("{key} is not as expected")]
    Conflict {
        /// Key of the guard.
        key: String,
    },
    /// The transaction is larger than a store must accept; nothing was written.
    #[error("transaction too large: {writes} writes, {bytes} bytes")]
    TooLarge {
        /// Writes in it.
        writes: usize,
        /// Bytes in it.
        bytes: usize,
    },
    /// The store cannot be read or written.
    #[error("the store failed: {message}")]
    Failed {
        /// In its own words.
        message: String,
    },
    /// The store was written by a newer version.
    #[error("the store has format {found}, this version knows up to {known}")]
    Newer {
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
}
