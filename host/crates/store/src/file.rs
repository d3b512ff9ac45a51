//! The file: tables, format, opening.
//!
//! Format 1: `records` holds key → (revision, value); `counters` holds `format` and `revision`, the last one given out.
//! A change of either table, or of what a record means to every reader, is a new format and a line in [`MIGRATIONS`].

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition, TableError, WriteTransaction,
};
use stillpoint_engine::ports::StoreError;

use crate::{backend::ReservedFile, broken, failed, reserve::Reserve};

pub(crate) const RECORDS: TableDefinition<'static, &str, (u64, &[u8])> = TableDefinition::new("records");
pub(crate) const COUNTERS: TableDefinition<'static, &str, u64> = TableDefinition::new("counters");
pub(crate) const REVISION: &str = "revision";
const FORMAT: &str = "format";
/// Memory for pages of the file.
const CACHE: usize = 64 * 1024 * 1024;

/// Brings a file of one format to the next, in a transaction that is committed once all have run.
type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// `MIGRATIONS[n]` leads from format n + 1 to format n + 2. The newest format is the one behind the last.
const MIGRATIONS: &[Migration] = &[];

/// Opens the file, or makes it.
pub(crate) fn open(path: &Path, reserve: u64) -> Result<(Database, Arc<Reserve>), StoreError> {
    let (database, reserve) = open_file(path, reserve).map_err(|error| explained(path, error))?;
    match format(&database).map_err(broken)? {
        Some(found) => migrate(&database, found, MIGRATIONS)?,
        None => initialise(&database).map_err(broken)?,
    }
    Ok((database, reserve))
}

fn open_file(path: &Path, reserve: u64) -> Result<(Database, Arc<Reserve>), DatabaseError> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let fresh = file.metadata()?.len() == 0;
    let mut builder = Builder::new();
    // A file that was altered is refused here, not found out about in the middle of an operation. Reads it all: well
    // under a second for a hundred thousand records.
    builder.set_cache_size(CACHE).set_check_integrity_on_open(!fresh);
    let reserve = Arc::new(Reserve::beside(path, reserve));
    let database = builder.create_with_backend(ReservedFile::new(file, Arc::clone(&reserve))?)?;
    if fresh {
        sync_folder(path)?;
    }
    Ok((database, reserve))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn explained(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.display();
    if matches!(error, DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) {
        return failed(format!("{path} is in use by another process: does the service run already?"));
    }
    let DatabaseError::Storage(error) = error else { return failed(format!("{path} cannot be opened: {error}")) };
    let invalid = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
    let damaged =
        matches!(&error, StorageError::Corrupted(_)) || matches!(&error, StorageError::Io(error) if invalid(error));
    let what = if damaged { "is damaged, or not a store of Stillpoint" } else { "cannot be opened" };
    failed(format!("{path} {what}: {error}"))
}

/// The format of what is in the file; `None` if nothing is.
fn format(database: &Database) -> Result<Option<u32>, redb::Error> {
    let reading = database.begin_read()?;
    let counters = match reading.open_table(COUNTERS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        counters => counters?,
    };
    let format = counters.get(FORMAT)?.map(|format| format.value());
    Ok(Some(format.map_or(0, |format| u32::try_from(format).unwrap_or(u32::MAX))))
}

fn initialise(database: &Database) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    writing.open_table(RECORDS)?;
    {
        let mut counters = writing.open_table(COUNTERS)?;
        counters.insert(FORMAT, newest(MIGRATIONS))?;
        counters.insert(REVISION, 0)?;
    }
    writing.commit()?;
    Ok(())
}

fn newest(migrations: &[Migration]) -> u64 {
    1 + migrations.len() as u64
}

/// All steps that are due and the new format number are one transaction: the file is of the old format or the new.
fn migrate(database: &Database, found: u32, migrations: &[Migration]) -> Result<(), StoreError> {
    let known = newest(migrations);
    if u64::from(found) > known {
        return Err(StoreError::Newer { found, known: u32::try_from(known).unwrap_or(u32::MAX) });
    }
    let Some(done) = (found as usize).checked_sub(1) else {
        return Err(failed("the file is damaged: it has no format number"));
    };
    if done == migrations.len() {
        return Ok(());
    }
    tracing::info!(from = found, to = known, "bringing the store to a newer format");
    run(database, &migrations[done..], known).map_err(broken)
}

fn run(database: &Database, due: &[Migration], known: u64) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    for migration in due {
        migration(&writing)?;
    }
    writing.open_table(COUNTERS)?.insert(FORMAT, known)?;
    writing.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use redb::ReadableTable;

    use super::*;

    fn mark(writing: &WriteTransaction, name: &str) -> Result<(), redb::Error> {
        let mut records = writing.open_table(RECORDS)?;
        let order = records.iter()?.count() as u64;
        records.insert(name, (order, [].as_slice()))?;
        Ok(())
    }

    const TO_2: Migration = |writing| mark(writing, "two");
    const TO_3: Migration = |writing| mark(writing, "three");
    const FAILS: Migration = |_| Err(redb::Error::Corrupted("planned".to_owned()));

    fn marks(database: &Database) -> Vec<(String, u64)> {
        let records = database.begin_read().unwrap().open_table(RECORDS).unwrap();
        let marks = records.iter().unwrap().map(|entry| entry.unwrap());
        marks.map(|(key, value)| (key.value().to_owned(), value.value().0)).collect()
    }

    #[test]
    fn an_older_file_goes_through_every_migration_it_lacks_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let database = open(&folder.path().join("store"), 0).unwrap().0;
        assert_eq!(format(&database).unwrap(), Some(1));
        migrate(&database, 1, &[TO_2, TO_3]).unwrap();
        assert_eq!(format(&database).unwrap(), Some(3));
        assert_eq!(marks(&database), [("three".to_owned(), 1), ("two".to_owned(), 0)]);
        migrate(&database, 3, &[TO_2, TO_3]).unwrap();
        assert_eq!(marks(&database).len(), 2, "nothing is due any more");
    }

    #[test]
    fn a_migration_that_fails_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let database = open(&folder.path().join("store"), 0).unwrap().0;
        assert!(migrate(&database, 1, &[TO_2, FAILS]).is_err());
        assert_eq!(format(&database).unwrap(), Some(1));
        assert_eq!(marks(&database), []);
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let (database, _) = open(&path, 0).unwrap();
        migrate(&database, 1, &[TO_2]).unwrap();
        drop(database);
        assert!(matches!(open(&path, 0), Err(StoreError::Newer { found: 2, known: 1 })));
        let (database, _) = open_file(&path, 0).unwrap();
        assert_eq!(format(&database).unwrap(), Some(2));
        assert_eq!(marks(&database), [("two".to_owned(), 0)]);
    }
}
