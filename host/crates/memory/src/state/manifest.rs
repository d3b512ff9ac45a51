//! The file that says what a checkpoint's memory is.
//!
//! ```text
//! "STILLMEM" version 0 │ prologue │ devices │ segments of the index … │ manifest: JSON │ trailer
//! ```

use std::{
    fs::File,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use stillpoint_common::MemoryId;

use super::{FORMAT, PageIndex, StateError, Trailer};
use crate::stream::{Devices, MAX_DEVICES, MAX_PROLOGUE, PAGE_BYTES, Prologue};

const MAGIC: [u8; 8] = *b"STILLMEM";
const HEAD: usize = 16;
const MAX_MANIFEST: u64 = 64 << 20;
/// A segment has 32,768 numbers of at most ten bytes, and zstd adds little to what it cannot compress.
const MAX_SEGMENT: u64 = 1 << 20;
const LEVEL: i32 = 3;

/// What a memory state is, as its file says it in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Whose memory it is.
    pub checkpoint: MemoryId,
    /// Version of the QEMU that saved it.
    pub qemu_version: String,
    /// Its numbered machine type.
    pub machine: String,
    /// Bytes of a page.
    pub page_size: u64,
    pub(crate) prologue: Part,
    pub(crate) devices: Part,
    /// Blocks of RAM, in the order of the prologue.
    pub blocks: Vec<BlockFacts>,
    pub(crate) packs: Vec<PackUse>,
    /// How many pages there are of each sort.
    pub pages: PageCounts,
}

/// A block of RAM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// What QEMU calls it.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    pub(crate) segments: Vec<Option<Part>>,
}

/// Pages by sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PageCounts {
    /// All pages of RAM.
    pub all: u64,
    /// Pages that are not all zeros.
    pub kept: u64,
    /// Pages that were stored for this checkpoint: the others of the kept ones were there already.
    pub stored: u64,
}

/// Some bytes of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

/// A pack that pages lie in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackUse {
    pub(crate) checkpoint: MemoryId,
    pub(crate) chunks: u64,
    /// Pages of this state in it. Without any, the pack is not needed for it.
    pub(crate) pages: u64,
    /// Of its table.
    pub(crate) blake3: String,
}

/// Everything that a manifest is written of.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) checkpoint: MemoryId,
    pub(crate) qemu_version: String,
    pub(crate) prologue: Prologue,
    pub(crate) devices: Devices,
    pub(crate) indexes: Vec<PageIndex>,
    pub(crate) packs: Vec<PackUse>,
    pub(crate) pages: PageCounts,
}

impl Draft {
    /// Writes the file, which is new, and answers its size; all is on disk when this returns.
    pub(crate) fn write(self, path: &Path) -> Result<u64, StateError> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let mut out = Out { path, file: file.map_err(StateError::io(path, "creating"))?, end: 0 };
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out.put(&head)?;
        let prologue = out.packed(self.prologue.bytes())?;
        let devices = out.packed(self.devices.bytes())?;
        let mut blocks = Vec::new();
        for (block, index) in self.prologue.blocks.iter().zip(self.indexes) {
            let mut segments = Vec::new();
            for segment in index.into_segments() {
                segments.push(segment.map(|bytes| out.part(&bytes)).transpose()?);
            }
            blocks.push(BlockFacts { name: block.name.clone(), bytes: block.bytes, segments });
        }
        let manifest = Manifest {
            checkpoint: self.checkpoint,
            qemu_version: self.qemu_version,
            machine: self.prologue.machine.clone(),
            page_size: PAGE_BYTES,
            prologue,
            devices,
            blocks,
            packs: self.packs,
            pages: self.pages,
        };
        let json = serde_json::to_vec(&manifest).map_err(|error| StateError::io(path, "writing")(error.into()))?;
        let trailer = Trailer::of(out.end, &json);
        out.put(&json)?;
        out.put(&trailer.bytes())?;
        out.file.sync_all().map_err(StateError::io(path, "syncing"))?;
        Ok(out.end)
    }
}

struct Out<'a> {
    path: &'a Path,
    file: File,
    end: u64,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        self.file.write_all_at(bytes, self.end).map_err(StateError::io(self.path, "writing"))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn part(&mut self, bytes: &[u8]) -> Result<Part, StateError> {
        let offset = self.end;
        self.put(bytes)?;
        Ok(Part { offset, bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() })
    }

    fn packed(&mut self, bytes: &[u8]) -> Result<Part, StateError> {
        let packed = zstd::bulk::compress(bytes, LEVEL).map_err(StateError::io(self.path, "compressing"))?;
        self.part(&packed)
    }
}

/// A manifest's file, open to be read.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    path: PathBuf,
    file: File,
    pub(crate) manifest: Manifest,
}

impl ManifestFile {
    /// Reads and checks the manifest. `Ok(None)` if the file is a plain stream.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, StateError> {
        let file = File::open(path).map_err(StateError::io(path, "opening"))?;
        let bytes = file.metadata().map_err(StateError::io(path, "looking at"))?.len();
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0).map_err(StateError::io(path, "reading"))?;
        if head.starts_with(b"QEVM") {
            return Ok(None);
        }
        let version = head[8..12].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        match (head.starts_with(&MAGIC), version) {
            (true, FORMAT) => {}
            (true, 1..) => return Err(StateError::Newer { path: path.to_owned(), found: version }),
            (true, 0) | (false, _) => return Err(StateError::damaged(path, "it does not begin as it should")),
        }
        let (_, json) = Trailer::description(path, &file, bytes, MAX_MANIFEST)?;
        let manifest = serde_json::from_slice(&json).map_err(|error| StateError::damaged(path, error.to_string()))?;
        Ok(Some(Self { path: path.to_owned(), file, manifest }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn prologue(&self) -> Result<Prologue, StateError> {
        let bytes = self.unpacked(&self.manifest.prologue, MAX_PROLOGUE)?;
        Prologue::new(&bytes).map_err(|error| self.damaged(&error.to_string()))
    }

    pub(crate) fn devices(&self) -> Result<Devices, StateError> {
        let bytes = self.unpacked(&self.manifest.devices, MAX_DEVICES)?;
        Devices::new(bytes).map_err(|error| self.damaged(&error.to_string()))
    }

    /// The index of each block. Takes memory for the encoded segments alone.
    pub(crate) fn indexes(&self) -> Result<Vec<PageIndex>, StateError> {
        let index = |block: &BlockFacts| {
            let segment = |part: &Option<Part>| part.as_ref().map(|part| self.part(part, MAX_SEGMENT)).transpose();
            let segments: Result<Vec<_>, StateError> = block.segments.iter().map(segment).collect();
            PageIndex::of_segments(block.bytes / PAGE_BYTES, segments?).map_err(|_| self.damaged("an index is short"))
        };
        self.manifest.blocks.iter().map(index).collect()
    }

    fn part(&self, part: &Part, at_most: u64) -> Result<Vec<u8>, StateError> {
        let length = usize::try_from(part.bytes).ok().filter(|_| part.bytes <= at_most);
        let mut bytes = vec![0; length.ok_or_else(|| self.damaged("a part is too long"))?];
        self.file.read_exact_at(&mut bytes, part.offset).map_err(StateError::io(&self.path, "reading"))?;
        if blake3::hash(&bytes).to_hex().as_str() != part.blake3 {
            return Err(self.damaged("a part is not what was written"));
        }
        Ok(bytes)
    }

    fn unpacked(&self, part: &Part, at_most: usize) -> Result<Vec<u8>, StateError> {
        let packed = self.part(part, at_most as u64)?;
        zstd::bulk::decompress(&packed, at_most).map_err(|_| self.damaged("a part cannot be unpacked"))
    }

    pub(crate) fn damaged(&self, problem: &str) -> StateError {
        StateError::damaged(&self.path, problem)
    }
}
