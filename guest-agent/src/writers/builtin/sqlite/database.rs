//! One database: what its file says of it, and how a write to it is kept off.
//!
//! SQLite's programs keep out of each other's way by locks on bytes, which its documentation of the file format and of
//! locking lays down; whoever takes the same locks is one of them:
//!
//! | | journal that rolls back | write-ahead log |
//! |---|---|---|
//! | in use | `SHARED`: nobody writes to the file, rolls back, or changes the kind of journal | the same |
//! | no writer | `RESERVED`: no transaction that writes is open | of the `-shm`: no writer, and nobody moves pages from the log |
//! | nobody has it open | | there is no `-shm`, and none may come: `EXCLUSIVE` |
//!
//! A journal that somebody has left behind (who died in the middle of a transaction) is left to whoever opens the
//! database next: then `SHARED` alone is held, and neither file changes. `RESERVED` would say that its owner lives.
//!
//! Nothing is made, written or made longer here, and a file's owner and mode stay.

use std::{
    ffi::OsString,
    fs::{File, Metadata},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::lock::{self, Bytes};

const PENDING: Bytes = Bytes::one(0x4000_0000);
const RESERVED: Bytes = Bytes::one(0x4000_0001);
const SHARED: Bytes = Bytes { from: 0x4000_0002, count: 510 };
/// In the index of a write-ahead log: whoever appends to the log has it.
const WRITER: Bytes = Bytes::one(120);
/// The same: whoever moves pages from the log into the file.
const MOVER: Bytes = Bytes::one(121);

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const HEADER: usize = 100;

/// Why a database cannot be held, now or ever.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    #[error("{} is not a database of SQLite, or is encrypted", .0.display())]
    Strange(PathBuf),
    #[error("{} is no ordinary file", .0.display())]
    NoFile(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl DatabaseError {
    /// It has gone meanwhile, or lies where nobody can write.
    pub(super) fn is_nothing_to_hold(&self) -> bool {
        use io::ErrorKind::{NotFound, ReadOnlyFilesystem};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), NotFound | ReadOnlyFilesystem))
    }
}

/// How changes get into the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Journal {
    Rollback,
    Wal,
}

/// What the file's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) journal: Journal,
    pub(super) page_size: u32,
    pub(super) pages: u32,
    pub(super) change_counter: u32,
}

impl Header {
    /// None: it is the header of something else. A database without a page yet has none.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self { journal: Journal::Rollback, page_size: 0, pages: 0, change_counter: 0 });
        }
        if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let journal = if bytes[18..20].contains(&2) { Journal::Wal } else { Journal::Rollback };
        let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        Some(Self { journal, page_size, pages: word(28), change_counter: word(24) })
    }
}

/// Changes whenever a file is written to.
type Stamp = Option<(u64, i64, i64)>;

fn stamp(facts: &Metadata) -> Stamp {
    // A log without a byte is one that is not there.
    (facts.len() > 0).then(|| (facts.len(), facts.mtime(), facts.mtime_nsec()))
}

/// A database that nobody writes to. Dropping it lets go of it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    /// Somebody left a transaction behind that the next one to open the database takes back.
    pub(super) left_behind: bool,
    file: File,
    /// The index of the write-ahead log, if anybody has made one.
    index: Option<File>,
    stamps: [Stamp; 2],
}

impl Drop for Held {
    fn drop(&mut self) {
        self.index.iter().for_each(lock::release_all);
        lock::release_all(&self.file);
    }
}

impl Held {
    /// Takes hold of the database, without waiting. None: somebody is at it.
    pub(super) fn take(path: &Path) -> Result<Option<Self>, DatabaseError> {
        let file = open(path, Access::Lock)?;
        Self::lock(path, file).map_err(|source| DatabaseError::Io { path: path.to_owned(), source })?.transpose()
    }

    fn lock(path: &Path, file: File) -> io::Result<Option<Result<Self, DatabaseError>>> {
        // From here on whatever was locked is let go if we cannot go on.
        let header = Header { journal: Journal::Rollback, page_size: 0, pages: 0, change_counter: 0 };
        let mut held = Self { path: path.to_owned(), header, left_behind: false, file, index: None, stamps: [None; 2] };
        // Whoever writes is not to meet us as one more reader, again and again, when it wants to commit.
        if lock::is_taken(&held.file, RESERVED)? || !held.share()? || !held.is_in_place() {
            return Ok(None);
        }
        match held.read_header()? {
            Some(header) => held.header = header,
            None => return Ok(Some(Err(DatabaseError::Strange(path.to_owned())))),
        }
        let is_held = match held.header.journal {
            Journal::Rollback => held.keep_off_writers()?,
            Journal::Wal => held.keep_off_the_log()?,
        };
        if !is_held {
            return Ok(None);
        }
        held.stamps = held.stamps_now()?;
        Ok(Some(Ok(held)))
    }

    /// As every reader does: the first of these is what keeps readers from coming in while one writes.
    fn share(&self) -> io::Result<bool> {
        if !lock::share(&self.file, PENDING)? {
            return Ok(false);
        }
        let shared = lock::share(&self.file, SHARED);
        lock::release(&self.file, PENDING)?;
        shared
    }

    /// It was not exchanged for another file meanwhile.
    fn is_in_place(&self) -> bool {
        let identity = |facts: Metadata| (facts.dev(), facts.ino());
        let ours = self.file.metadata().map(identity);
        ours.is_ok_and(|ours| std::fs::metadata(&self.path).map(identity).is_ok_and(|there| there == ours))
    }

    fn read_header(&self) -> io::Result<Option<Header>> {
        let mut bytes = [0; HEADER];
        let mut count = 0;
        while count < HEADER {
            match self.file.read_at(&mut bytes[count..], u64::try_from(count).unwrap_or_default())? {
                0 => break,
                more => count += more,
            }
        }
        Ok(Header::read(&bytes[..count]))
    }

    fn keep_off_writers(&mut self) -> io::Result<bool> {
        if self.journal_is_hot()? {
            // Of a transaction that goes on, or of one whose owner is gone.
            self.left_behind = !lock::is_taken(&self.file, RESERVED)?;
            return Ok(self.left_behind);
        }
        if !lock::take(&self.file, RESERVED)? {
            return Ok(false);
        }
        if self.journal_is_hot()? {
            lock::release(&self.file, RESERVED)?;
            self.left_behind = true;
        }
        Ok(true)
    }

    /// It has a beginning: one that is kept for the next transaction has zeros there, or nothing.
    fn journal_is_hot(&self) -> io::Result<bool> {
        let journal = match open(&beside(&self.path, "-journal"), Access::Look) {
            Ok(journal) => journal,
            Err(DatabaseError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut first = [0];
        Ok(journal.read_at(&mut first, 0)? == 1 && first != [0])
    }

    fn keep_off_the_log(&mut self) -> io::Result<bool> {
        let index = match open(&beside(&self.path, "-shm"), Access::Lock) {
            Ok(index) => index,
            // Nobody has it open, and nobody can come.
            Err(DatabaseError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(lock::take(&self.file, PENDING)? && lock::take(&self.file, SHARED)?);
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let index = self.index.insert(index);
        // In the order in which SQLite takes them, and none of them in vain.
        Ok(!lock::is_taken(index, WRITER)? && lock::take(index, MOVER)? && lock::take(index, WRITER)?)
    }

    fn stamps_now(&self) -> io::Result<[Stamp; 2]> {
        let log = match std::fs::metadata(beside(&self.path, "-wal")) {
            Ok(facts) => stamp(&facts),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok([stamp(&self.file.metadata()?), log])
    }

    /// Nobody has written to it: a program that does not lock, say.
    pub(super) fn is_as_it_was(&self) -> bool {
        self.is_in_place() && self.stamps_now().is_ok_and(|now| now == self.stamps)
    }

    /// How long its write-ahead log is.
    pub(super) fn log_bytes(&self) -> u64 {
        self.stamps[1].map_or(0, |(bytes, _, _)| bytes)
    }
}

/// The file of a database, without a lock: for telling one from other files.
pub(super) fn is_database(path: &Path) -> bool {
    let mut bytes = [0; HEADER];
    let count = open(path, Access::Look).and_then(|file| {
        file.read_at(&mut bytes, 0).map_err(|source| DatabaseError::Io { path: path.to_owned(), source })
    });
    count.is_ok_and(|count| Header::read(&bytes[..count]).is_some())
}

/// The files that belong to it, whether they are there or not.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    ["", "-wal", "-journal"].iter().map(|end| beside(path, end)).collect()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// To read a little of it.
    Look,
    /// To lock it, which the kernel allows only to those who could write.
    Lock,
}

/// Opens a file. What is no file, or has become none, is not even opened: opening some devices does something. Its time of
/// access stays, where that may be asked for.
fn open(path: &Path, access: Access) -> Result<File, DatabaseError> {
    let failed = |source: io::Error| DatabaseError::Io { path: path.to_owned(), source };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let place = File::from(place);
    if !place.metadata().map_err(failed)?.is_file() {
        return Err(DatabaseError::NoFile(path.to_owned()));
    }
    let again = |flags: OFlags| {
        let flags = (flags | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let mut options = File::options();
        options.read(true).write(access == Access::Lock).custom_flags(flags);
        options.open(format!("/proc/self/fd/{}", place.as_raw_fd()))
    };
    match again(OFlags::NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => again(OFlags::empty()),
        opened => opened,
    }
    .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(journal: u8, page_size: u16) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.resize(HEADER, 0);
        bytes[16..18].copy_from_slice(&page_size.to_be_bytes());
        (bytes[18], bytes[19]) = (journal, journal);
        bytes[24..28].copy_from_slice(&7_u32.to_be_bytes());
        bytes[28..32].copy_from_slice(&12_u32.to_be_bytes());
        bytes
    }

    #[test]
    fn a_header_says_how_the_database_is_written() {
        let read = Header::read(&header(1, 4096)).unwrap();
        let wanted = Header { journal: Journal::Rollback, page_size: 4096, pages: 12, change_counter: 7 };
        assert_eq!(read, wanted);
        let read = Header::read(&header(2, 1)).unwrap();
        assert_eq!((read.journal, read.page_size), (Journal::Wal, 65_536));
        assert_eq!(Header::read(&[]).unwrap().pages, 0);
        assert_eq!(Header::read(&header(1, 4096)[..99]), None);
        assert_eq!(Header::read(&[7; HEADER]), None);
    }

    #[test]
    fn what_is_no_file_is_not_opened_and_what_is_no_database_is_said_to_be_none() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::os::unix::fs::symlink("/dev/null", path("link")).unwrap();
        assert!(matches!(Held::take(&path("link")), Err(DatabaseError::NoFile(_))));
        assert!(matches!(Held::take(place.path()), Err(DatabaseError::NoFile(_))));
        std::fs::write(path("text"), "x".repeat(200)).unwrap();
        assert!(matches!(Held::take(&path("text")), Err(DatabaseError::Strange(_))));
        assert!(!is_database(&path("text")) && !is_database(&path("none")));
        assert!(matches!(Held::take(&path("none")), Err(DatabaseError::Io { .. })));
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2, "nothing is made");
    }

    #[test]
    fn one_that_nobody_locks_is_seen_to_be_written_to() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("x.db");
        std::fs::write(&path, header(1, 4096)).unwrap();
        let held = Held::take(&path).unwrap().unwrap();
        assert!(held.is_as_it_was() && !held.left_behind);
        assert!(Held::take(&path).unwrap().is_none(), "one holds it");
        std::fs::write(&path, header(1, 8192)).unwrap();
        assert!(!held.is_as_it_was());
        drop(held);
        std::fs::write(beside(&path, "-journal"), "x").unwrap();
        assert!(Held::take(&path).unwrap().unwrap().left_behind);
        std::fs::write(beside(&path, "-journal"), [0; 512]).unwrap();
        assert!(!Held::take(&path).unwrap().unwrap().left_behind);
    }
}
