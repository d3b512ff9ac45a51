//! Memory states: what an instance saves, and what is kept of it.

use std::{
    collections::BTreeMap,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rustix::fs::{MemfdFlags, fstat, memfd_create};
use serde::{Deserialize, Serialize};
use stillpoint_common::{DiskName, MemoryFormat, MemoryId, MemoryState};
use stillpoint_engine::ports::MemoryError;

use crate::{files::Content, state::State};

/// A guest's memory: a value of its own, and what it had in mind of its disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemoryImage {
    pub(crate) value: u64,
    pub(crate) disks: BTreeMap<DiskName, Content>,
    pub(crate) captured: Timestamp,
    /// What its TPM kept.
    #[serde(default)]
    pub(crate) tpm: Option<Vec<u8>>,
    /// The guest was held, and would have let go by itself after this.
    #[serde(default)]
    pub(crate) held_for: Option<Duration>,
}

impl MemoryImage {
    /// Writes it as the hypervisor does, into whatever it was given.
    pub(crate) fn save(&self, sink: &OwnedFd) -> io::Result<()> {
        File::from(sink.try_clone()?).write_all(&serde_json::to_vec(self)?)
    }

    /// Reads it as the hypervisor does.
    pub(crate) fn load(source: OwnedFd) -> io::Result<Self> {
        let mut bytes = vec![];
        File::from(source).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// What lies at the place of one memory state.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    Open(Arc<OwnedFd>),
    Sealed(Vec<u8>),
}

impl Memory {
    /// What it takes on its file system.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Open(kept) => fstat(kept).map_or(0, |kept| u64::try_from(kept.st_size).unwrap_or_default()),
            Self::Sealed(bytes) => bytes.len() as u64,
        }
    }
}

/// An anonymous file that holds `bytes`, at its beginning.
fn anonymous(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("simulated-memory", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Where a memory state is kept.
pub(crate) fn path_of(location: &Path, id: MemoryId) -> PathBuf {
    location.join(format!("{id}.memory"))
}

fn digest(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn damaged(path: &Path, problem: &str) -> MemoryError {
    MemoryError::Damaged { path: path.display().to_string(), problem: problem.to_owned() }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> MemoryError {
    let what = what.to_owned();
    move |source| MemoryError::Io { what, source }
}

impl State {
    pub(crate) fn begin_memory(&mut self, path: &Path) -> Result<OwnedFd, MemoryError> {
        if self.lacks(path, 1) {
            return Err(MemoryError::NoSpace { path: path.display().to_string() });
        }
        let kept = anonymous(&[]).map_err(failed("make an anonymous file"))?;
        let given = kept.try_clone().map_err(failed("duplicate a descriptor"))?;
        self.memories.insert(path.to_owned(), Memory::Open(Arc::new(kept)));
        Ok(given)
    }

    pub(crate) fn seal_memory(&mut self, path: &Path, version: &str) -> Result<MemoryState, MemoryError> {
        let bytes = match self.memories.get(path) {
            None => return Err(damaged(path, "missing")),
            Some(Memory::Sealed(bytes)) => bytes.clone(),
            Some(Memory::Open(kept)) => contents(kept).map_err(failed("read the memory"))?,
        };
        if serde_json::from_slice::<MemoryImage>(&bytes).is_err() {
            return Err(damaged(path, "not whole"));
        }
        let state = MemoryState {
            path: path.to_owned(),
            bytes: bytes.len() as u64,
            blake3: digest(&bytes),
            qemu_version: version.to_owned(),
            format: MemoryFormat::Stream,
        };
        self.memories.insert(path.to_owned(), Memory::Sealed(bytes));
        Ok(state)
    }

    pub(crate) fn open_memory(&self, state: &MemoryState) -> Result<OwnedFd, MemoryError> {
        anonymous(self.stored_memory(state)?).map_err(failed("make an anonymous file"))
    }

    pub(crate) fn keep_memory(&mut self, state: &MemoryState, path: &Path) -> Result<MemoryState, MemoryError> {
        let bytes = self.stored_memory(state)?.to_vec();
        self.memories.insert(path.to_owned(), Memory::Sealed(bytes));
        Ok(MemoryState { path: path.to_owned(), ..state.clone() })
    }

    /// The bytes of a state, with their hash checked.
    pub(crate) fn sealed_memory(&self, state: &MemoryState) -> Result<Vec<u8>, MemoryError> {
        let bytes = self.stored_memory(state)?;
        if digest(bytes) == state.blake3 { Ok(bytes.to_vec()) } else { Err(damaged(&state.path, "damaged")) }
    }

    fn stored_memory(&self, state: &MemoryState) -> Result<&[u8], MemoryError> {
        match self.memories.get(&state.path) {
            None => Err(damaged(&state.path, "missing")),
            Some(Memory::Open(_)) => Err(damaged(&state.path, "not sealed")),
            Some(Memory::Sealed(bytes)) if bytes.len() as u64 != state.bytes => {
                Err(damaged(&state.path, "not as long as it was"))
            }
            Some(Memory::Sealed(bytes)) => Ok(bytes),
        }
    }

    /// Files of pages in a folder: no state here keeps any.
    pub(crate) fn stray_pages(&self, folder: &Path) -> Vec<PathBuf> {
        let is_one = |path: &&PathBuf| {
            path.parent() == Some(folder) && path.extension().is_some_and(|extension| extension == "pages")
        };
        self.descriptions.keys().filter(is_one).cloned().collect()
    }

    /// Spoils a sealed state without changing its size.
    pub(crate) fn spoil_memory(&mut self, path: &Path) -> bool {
        let Some(Memory::Sealed(bytes)) = self.memories.get_mut(path) else { return false };
        bytes.fill(b'?');
        true
    }
}

fn contents(kept: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(kept.try_clone()?);
    file.rewind()?;
    let mut bytes = vec![];
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
