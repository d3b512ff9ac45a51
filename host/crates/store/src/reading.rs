//! Reads, each on a snapshot of the last commit.

use std::ops::Bound;

use redb::{Database, ReadableDatabase};
use stillpoint_engine::ports::Stored;

use crate::file::RECORDS;

pub(crate) fn get(database: &Database, key: &str) -> Result<Option<Stored>, redb::Error> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    Ok(records.get(key)?.map(|found| stored(found.value())))
}

pub(crate) fn scan(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Stored)>, redb::Error> {
    let records = database.begin_read()?.open_table(RECORDS)?;
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        Some(_) | None => Bound::Included(prefix),
    };
    let mut found = vec![];
    for entry in records.range::<&str>((from, Bound::Unbounded))?.take(limit) {
        let (key, value) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), stored(value.value())));
    }
    Ok(found)
}

fn stored((revision, value): (u64, &[u8])) -> Stored {
    Stored { value: value.to_vec(), revision }
}
