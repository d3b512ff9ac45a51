//! The reserve: a file beside the store that takes room, so that the store can be written when its file system is full.
//!
//! ```text
//!  held ── the store finds no space ──▶ given up: its room goes to the store's own file, where it writes
//!   ▲                                      │
//!   └──── twice its room is free again ────┘
//! ```
//!
//! Who finds no space on a full disk may be anybody; the room that is given up must not be theirs. So it is taken for
//! the store's file in the same moment.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs, statvfs};

/// Room is given in pieces of this size: a file system that has less than is asked for may give nothing.
const PIECE: usize = 64 * 1024;

/// A reserve, held or given up.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    // Whether it is held. Locked while it is given up or taken, so that two do not do both at once.
    held: Mutex<bool>,
}

/// What is true of a store's reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReserveState {
    /// Its file.
    pub path: PathBuf,
    /// Its size when it is held; 0: none is wanted.
    pub bytes: u64,
    /// It takes its room. If not, the file system is, or was, full.
    pub held: bool,
    /// Bytes that are free on the file system, if that is known.
    pub free: Option<u64>,
}

impl Reserve {
    /// Takes room beside `store`, or finds that there is none.
    pub(crate) fn beside(store: &Path, bytes: u64) -> Self {
        let reserve = Self { path: store.with_extension("reserve"), bytes, held: Mutex::new(false) };
        let taken = reserve.take();
        if let Err(error) = &taken {
            tracing::warn!(path = %reserve.path.display(), %error, "no room for the reserve of the catalogue");
        }
        *reserve.lock() = taken.is_ok();
        reserve
    }

    pub(crate) fn state(&self) -> ReserveState {
        let free = statvfs(self.path.parent().unwrap_or(&self.path)).ok().map(|told| told.f_bfree * told.f_frsize);
        ReserveState { path: self.path.clone(), bytes: self.bytes, held: *self.lock(), free }
    }

    /// Gives its room to the store's file: for a write at this place, then for what is not allocated in the file, and what
    /// is left beyond its end. False if there is none to give.
    pub(crate) fn give_to(&self, store: &File, (offset, bytes): (u64, u64)) -> bool {
        let mut held = self.lock();
        if !*held || self.bytes == 0 {
            return false;
        }
        *held = false;
        if let Err(error) = OpenOptions::new().write(true).open(&self.path).and_then(|file| file.set_len(0)) {
            tracing::error!(path = %self.path.display(), %error, "the reserve of the catalogue cannot be given up");
            return false;
        }
        tracing::warn!(
            path = %self.path.display(), bytes = self.bytes,
            "the file system of the catalogue is full: its reserve is given up"
        );
        // A file system that cannot do this leaves the room to whoever is first.
        let _ = fallocate(store, FallocateFlags::KEEP_SIZE, offset, bytes);
        let length = store.metadata().map_or(0, |metadata| metadata.len());
        for from in (0..length.saturating_add(self.bytes)).step_by(PIECE) {
            if fallocate(store, FallocateFlags::KEEP_SIZE, from, PIECE as u64).is_err() {
                break;
            }
        }
        true
    }

    /// Takes its room again, if there is plenty.
    pub(crate) fn take_again(&self) {
        let mut held = self.lock();
        if *held || self.bytes == 0 {
            return;
        }
        let plenty = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        let plenty = plenty.and_then(|file| Ok(fstatvfs(&file)?));
        if plenty.is_ok_and(|told| told.f_bavail * told.f_frsize >= self.bytes.saturating_mul(2)) && self.take().is_ok()
        {
            *held = true;
            tracing::info!(path = %self.path.display(), "there is space again: the reserve of the catalogue is held");
        }
    }

    fn take(&self) -> io::Result<()> {
        if self.bytes == 0 {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        if file.metadata()?.len() > self.bytes {
            return file.set_len(self.bytes);
        }
        let taken = fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if taken.is_err() {
            // Part of it would be of no use, and would be missing elsewhere.
            file.set_len(0)?;
        }
        Ok(taken?)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
