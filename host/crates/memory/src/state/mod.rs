//! Memory states of our own: format 1.
//!
//! ```text
//! <checkpoint>.memory   what the checkpoint's memory is: prologue, devices, where each page lies, and the packs
//! <checkpoint>.pages    a pack: the pages that were new with this checkpoint
//! ```
//! A page that is all zeros lies nowhere. Equal pages lie in one place, which may be in the pack of an earlier
//! checkpoint of the same VM; so a pack lives as long as one manifest in its folder names it.
//!
//! Every byte is bound by a chain of hashes: the catalogue's record has that of the manifest, the manifest those of its
//! parts and of each pack's table, a table that of each chunk's head, a head those of the chunk's pages. What is read
//! is checked, always. Pages and heads have 16 bytes of BLAKE3, which no accident defeats; who makes two pages
//! with one hash, at 2⁶⁴ tries, has spoilt nothing but the memory of the guest he made them in.
//!
//! All numbers are little endian. `host/docs/formats.md` has the layout, byte by byte.

mod chunk;
mod index;
mod known;
mod location;
mod manifest;
mod pack;
mod saved;

pub(crate) use chunk::{CHUNK_PAGES, OpenChunk};
pub(crate) use index::PageIndex;
pub(crate) use known::Known;
pub(crate) use location::{Location, MAX_PACKS, PackNumber};
pub use manifest::{BlockFacts, Manifest, PageCounts};
pub(crate) use manifest::{Draft, ManifestFile, PackUse};
pub(crate) use pack::{PackFile, PackWriter};
pub use saved::{Checked, SavedMemory, WriteError};

use std::path::{Path, PathBuf};

use stillpoint_common::MemoryId;

/// What this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// 16 bytes of BLAKE3.
pub(crate) type Digest = [u8; 16];

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    digest
}

/// Why a memory state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is missing.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Its content is not what was written.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A newer Stillpoint wrote it.
    #[error("{} has format {found}, and this version reads {FORMAT}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A system call failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl StateError {
    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }

    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                return Self::Missing { path };
            }
            if source.kind() == std::io::ErrorKind::UnexpectedEof {
                return Self::Damaged { path, problem: "it ends early".to_owned() };
            }
            Self::Io { path, doing, source }
        }
    }
}

/// Where the pack of a checkpoint lies.
pub(crate) fn pack_path(folder: &Path, checkpoint: MemoryId) -> PathBuf {
    folder.join(format!("{checkpoint}.pages"))
}

/// Where the manifest of a checkpoint lies.
pub(crate) fn manifest_path(folder: &Path, checkpoint: MemoryId) -> PathBuf {
    folder.join(format!("{checkpoint}.memory"))
}

/// The name under which a file is written, until it is whole.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// The fixed end of a file: where its description lies, its length, its hash.
pub(crate) struct Trailer {
    pub(crate) at: u64,
    pub(crate) length: u64,
    pub(crate) hash: [u8; 32],
}

impl Trailer {
    pub(crate) const BYTES: usize = 8 + 8 + 32 + 8;
    const MAGIC: [u8; 8] = *b"STILLEND";

    pub(crate) fn of(at: u64, description: &[u8]) -> Self {
        Self { at, length: description.len() as u64, hash: *blake3::hash(description).as_bytes() }
    }

    pub(crate) fn bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.at.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.hash);
        bytes[48..].copy_from_slice(&Self::MAGIC);
        bytes
    }

    pub(crate) fn read(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (hash, magic) = rest.split_first_chunk()?;
        (magic == Self::MAGIC).then(|| Self {
            at: u64::from_le_bytes(*at),
            length: u64::from_le_bytes(*length),
            hash: *hash,
        })
    }

    /// Reads the description that a trailer at the end of a file of `file_bytes` tells of, and checks it.
    pub(crate) fn description(
        path: &Path,
        file: &std::fs::File,
        file_bytes: u64,
        at_most: u64,
    ) -> Result<(Self, Vec<u8>), StateError> {
        use std::os::unix::fs::FileExt as _;

        let mut bytes = [0; Self::BYTES];
        let at = file_bytes.checked_sub(bytes.len() as u64);
        let at = at.ok_or_else(|| StateError::damaged(path, "it is too short"))?;
        file.read_exact_at(&mut bytes, at).map_err(StateError::io(path, "reading"))?;
        let trailer = Self::read(&bytes).ok_or_else(|| StateError::damaged(path, "its end is missing"))?;
        let end = trailer.at.checked_add(trailer.length);
        if end != Some(at) || trailer.length > at_most {
            return Err(StateError::damaged(path, "its end does not fit"));
        }
        let length = usize::try_from(trailer.length).map_err(|_| StateError::damaged(path, "its end does not fit"))?;
        let mut description = vec![0; length];
        file.read_exact_at(&mut description, trailer.at).map_err(StateError::io(path, "reading"))?;
        if *blake3::hash(&description).as_bytes() != trailer.hash {
            return Err(StateError::damaged(path, "its description is not what was written"));
        }
        Ok((trailer, description))
    }
}
