//! The store's file as redb sees it: one that finds room on a full disk, for as long as there is a reserve.
//!
//! Where there is plenty, room is taken when the file grows, so that writing into it needs none. Where a write finds none
//! all the same, the reserve is given up and the write done again; redb sees nothing of it.

use std::{
    fs::File,
    io::{self, ErrorKind},
    ops::Bound,
    sync::Arc,
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use crate::reserve::Reserve;

/// A file with a reserve.
#[derive(Debug)]
pub(crate) struct ReservedFile {
    backend: FileBackend,
    /// The same file, for what redb does not do.
    file: File,
    reserve: Arc<Reserve>,
}

impl ReservedFile {
    /// This file, with this reserve.
    pub(crate) fn new(file: File, reserve: Arc<Reserve>) -> Result<Self, DatabaseError> {
        let same = file.try_clone()?;
        Ok(Self { backend: FileBackend::new(file)?, file: same, reserve })
    }

    /// Takes room for the file to grow into, if that leaves plenty to others.
    fn make_room(&self, from: u64, to: u64) {
        let Some(more) = to.checked_sub(from).filter(|more| *more > 0) else { return };
        let free = fstatvfs(&self.file).map_or(0, |told| told.f_bavail * told.f_frsize);
        if free / 2 >= more {
            // Else its room is taken write by write.
            let _ = fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, more);
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl StorageBackend for ReservedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.make_room(self.backend.len()?, length);
        self.backend.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match self.backend.write(offset, data) {
            Err(error) if is_full(&error) && self.reserve.give_to(&self.file, (offset, data.len() as u64)) => {
                self.backend.write(offset, data)
            }
            done => done,
        }
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
