//! A file of chunks: written once, read at any page.
//!
//! ```text
//! "STILLPGS" version pages-a-chunk checkpoint │ chunk … │ table: 32 bytes a chunk │ trailer
//! ```
//! All chunks but the last are full, so that the number of a page tells its chunk.

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use stillpoint_common::MemoryId;

use super::{
    Digest, FORMAT, OpenChunk, StateError, Trailer,
    chunk::{CHUNK_PAGES, ChunkEntry},
};
use crate::stream::PAGE;

const MAGIC: [u8; 8] = *b"STILLPGS";
const HEAD: usize = 32;
/// A table of 256 TiB of pages that differ.
const MAX_TABLE: u64 = 1 << 36;
/// Chunks whose pages are kept for the next question: 4 MiB.
const KEPT: usize = 32;
/// Chunks whose hashes are kept.
const KEPT_HEADS: usize = 256;

fn head(checkpoint: MemoryId) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&MAGIC);
    head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    head[12..16].copy_from_slice(&(CHUNK_PAGES as u32).to_le_bytes());
    head[16..].copy_from_slice(checkpoint.as_uuid().as_bytes());
    head
}

/// A pack that is being written, by several threads at once.
#[derive(Debug)]
pub(crate) struct PackWriter {
    path: PathBuf,
    file: File,
    /// Held to take a place for a chunk, never while it is written.
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    end: u64,
    table: Vec<Option<ChunkEntry>>,
}

/// What a manifest says of a pack that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) chunks: u64,
    pub(crate) table: [u8; 32],
}

impl PackWriter {
    pub(crate) fn create(path: &Path, checkpoint: MemoryId) -> Result<Self, StateError> {
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(StateError::io(path, "creating"))?;
        file.write_all_at(&head(checkpoint), 0).map_err(StateError::io(path, "writing"))?;
        let places = Mutex::new(Places { end: HEAD as u64, table: Vec::new() });
        Ok(Self { path: path.to_owned(), file, places })
    }

    /// Writes chunk `number`. Each number is written once.
    pub(crate) fn write(&self, number: usize, chunk: &OpenChunk) -> Result<(), StateError> {
        let (stored, mut entry) = chunk.seal();
        {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            entry.offset = places.end;
            places.end += stored.len() as u64;
            if places.table.len() <= number {
                places.table.resize(number + 1, None);
            }
            places.table[number] = Some(entry);
        }
        self.file.write_all_at(&stored, entry.offset).map_err(StateError::io(&self.path, "writing"))
    }

    /// Writes the table and the trailer; all is on disk when this returns.
    pub(crate) fn finish(self) -> Result<Packed, StateError> {
        let Places { end, table } = self.places.into_inner().unwrap_or_else(PoisonError::into_inner);
        let gap = || StateError::damaged(&self.path, "a chunk was not written");
        let mut rows = Vec::with_capacity(table.len() * ChunkEntry::BYTES);
        for entry in &table {
            rows.extend(entry.ok_or_else(gap)?.to_bytes());
        }
        let trailer = Trailer::of(end, &rows);
        rows.extend(trailer.bytes());
        self.file.write_all_at(&rows, end).map_err(StateError::io(&self.path, "writing"))?;
        self.file.sync_all().map_err(StateError::io(&self.path, "syncing"))?;
        Ok(Packed { chunks: table.len() as u64, table: trailer.hash })
    }
}

/// A pack that is whole, open to be read.
#[derive(Debug)]
pub(crate) struct PackFile {
    path: PathBuf,
    file: File,
    table: Vec<ChunkEntry>,
    hash: [u8; 32],
    kept: VecDeque<(usize, Vec<u8>)>,
    heads: VecDeque<(usize, Vec<Digest>)>,
}

impl PackFile {
    /// Reads and checks all but the chunks.
    pub(crate) fn open(path: &Path, checkpoint: MemoryId) -> Result<Self, StateError> {
        let file = File::open(path).map_err(StateError::io(path, "opening"))?;
        let bytes = file.metadata().map_err(StateError::io(path, "looking at"))?.len();
        let mut found = [0; HEAD];
        file.read_exact_at(&mut found, 0).map_err(StateError::io(path, "reading"))?;
        if found != head(checkpoint) {
            return Err(StateError::damaged(path, "it does not begin as it should"));
        }
        let (trailer, rows) = Trailer::description(path, &file, bytes, MAX_TABLE)?;
        let (rows, rest) = rows.as_chunks();
        let table: Option<Vec<ChunkEntry>> = rows.iter().map(ChunkEntry::read).collect();
        let full = |table: &[ChunkEntry]| {
            let before = table.split_last().map(|(_, before)| before).unwrap_or_default();
            before.iter().all(|entry| usize::from(entry.pages) == CHUNK_PAGES)
        };
        match table {
            Some(table) if rest.is_empty() && full(&table) => {
                let (kept, heads) = (VecDeque::new(), VecDeque::new());
                Ok(Self { path: path.to_owned(), file, table, hash: trailer.hash, kept, heads })
            }
            Some(_) | None => Err(StateError::damaged(path, "its table does not fit")),
        }
    }

    /// The file begins as this checkpoint's pack does, and so may be removed as one.
    pub(crate) fn is_one(path: &Path, checkpoint: MemoryId) -> Result<bool, StateError> {
        let file = File::open(path).map_err(StateError::io(path, "opening"))?;
        let mut found = [0; HEAD];
        Ok(file.read_exact_at(&mut found, 0).is_ok() && found == head(checkpoint))
    }

    /// Where each chunk lies, and how many bytes it has.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, u64)> {
        self.table.iter().map(|entry| (entry.offset, u64::from(entry.bytes)))
    }

    /// The hash of the table: what a manifest knows the pack by.
    pub(crate) const fn hash(&self) -> [u8; 32] {
        self.hash
    }

    pub(crate) const fn chunks(&self) -> usize {
        self.table.len()
    }

    /// Reads the page with this number, and checks it.
    pub(crate) fn page(&mut self, page: u64) -> Result<&[u8], StateError> {
        let (chunk, slot) = self.place(page)?;
        if self.kept.back().is_none_or(|(kept, _)| *kept != chunk) {
            let pages = match self.kept.iter().position(|(kept, _)| *kept == chunk) {
                Some(at) => self.kept.remove(at).map(|(_, pages)| pages).unwrap_or_default(),
                None => self.chunk(chunk)?,
            };
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((chunk, pages));
        }
        let pages = self.kept.back().map(|(_, pages)| &pages[..]).unwrap_or_default();
        pages.chunks(PAGE).nth(slot).ok_or(StateError::Missing { path: self.path.clone() })
    }

    /// The hash of the page with this number.
    pub(crate) fn digest(&mut self, page: u64) -> Result<Digest, StateError> {
        let (chunk, slot) = self.place(page)?;
        if self.heads.back().is_none_or(|(kept, _)| *kept != chunk) {
            let digests = match self.heads.iter().position(|(kept, _)| *kept == chunk) {
                Some(at) => self.heads.remove(at).map(|(_, digests)| digests).unwrap_or_default(),
                None => self.head(chunk)?,
            };
            if self.heads.len() == KEPT_HEADS {
                self.heads.pop_front();
            }
            self.heads.push_back((chunk, digests));
        }
        let digest = self.heads.back().and_then(|(_, digests)| digests.get(slot));
        digest.copied().ok_or_else(|| self.outside(page))
    }

    fn place(&self, page: u64) -> Result<(usize, usize), StateError> {
        let number = usize::try_from(page).map_err(|_| self.outside(page))?;
        let (chunk, slot) = (number / CHUNK_PAGES, number % CHUNK_PAGES);
        match self.table.get(chunk) {
            Some(entry) if slot < usize::from(entry.pages) => Ok((chunk, slot)),
            Some(_) | None => Err(self.outside(page)),
        }
    }

    fn outside(&self, page: u64) -> StateError {
        StateError::damaged(&self.path, format!("it has no page {page}"))
    }

    fn chunk(&self, number: usize) -> Result<Vec<u8>, StateError> {
        let entry = &self.table[number];
        let mut stored = vec![0; entry.bytes as usize];
        self.file.read_exact_at(&mut stored, entry.offset).map_err(StateError::io(&self.path, "reading"))?;
        entry.pages(&stored).ok_or_else(|| self.bad(number))
    }

    fn head(&self, number: usize) -> Result<Vec<Digest>, StateError> {
        let entry = &self.table[number];
        let mut head = vec![0; entry.head_bytes()];
        self.file.read_exact_at(&mut head, entry.offset).map_err(StateError::io(&self.path, "reading"))?;
        entry.digests(&head).ok_or_else(|| self.bad(number))
    }

    fn bad(&self, chunk: usize) -> StateError {
        StateError::damaged(&self.path, format!("chunk {chunk} of {} is not what was written", self.table.len()))
    }
}
