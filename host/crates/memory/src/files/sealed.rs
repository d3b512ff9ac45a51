//! A state that is whole.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use stillpoint_common::{MemoryFormat, MemoryId, MemoryState};
use stillpoint_engine::ports::{MemoryError, OpenedMemory, Reach};

use super::work::{damaged, described, explained, sync_folder};
use crate::{
    state::{Draft, SavedMemory, WriteError, manifest_path, pack_path, unfinished},
    stream::QemuVersion,
};

const PIPE_SIZE: usize = 1 << 20;
/// Bytes of a page in a stream beside its content: its number, and a little of its block's name.
const PAGE_OVERHEAD: u64 = 9;

/// Writes the manifest and gives both files their names, the pack first: a manifest never names a pack that is not
/// there.
pub(super) fn seal(
    location: &Path,
    checkpoint: MemoryId,
    mut draft: Draft,
    qemu_version: &str,
) -> Result<(), MemoryError> {
    let (pack, manifest) = (pack_path(location, checkpoint), manifest_path(location, checkpoint));
    QemuVersion::supported(qemu_version).map_err(|error| described(&manifest, error.into()))?;
    qemu_version.clone_into(&mut draft.qemu_version);
    draft.write(&unfinished(&manifest)).map_err(|error| described(&manifest, error.into()))?;
    for path in [&pack, &manifest] {
        fs::rename(unfinished(path), path).map_err(|error| explained(path, "renaming", error))?;
        sync_folder(location)?;
    }
    Ok(())
}

/// What the catalogue is to keep of a sealed state.
pub(super) fn describe(location: &Path, checkpoint: MemoryId) -> Result<MemoryState, MemoryError> {
    let path = manifest_path(location, checkpoint);
    if !path.exists() {
        return Err(damaged(&path, "missing"));
    }
    let saved = SavedMemory::open(&path).map_err(|error| described(&path, error.into()))?;
    let saved = saved.ok_or_else(|| damaged(&path, "of an older format"))?;
    let (blake3, manifest) = hash(&path)?;
    let pack = pack_path(location, checkpoint);
    let pack = fs::metadata(&pack).map_err(|error| explained(&pack, "looking at", error))?.len();
    let qemu_version = saved.manifest().qemu_version.clone();
    Ok(MemoryState { path, bytes: manifest + pack, blake3, qemu_version, format: MemoryFormat::Pages })
}

/// A state whose manifest is what was written and whose packs are there.
pub(super) fn whole(state: &MemoryState) -> Result<SavedMemory, MemoryError> {
    let path = &state.path;
    if !path.exists() {
        return Err(damaged(path, "missing"));
    }
    if hash(path)?.0 != state.blake3 {
        return Err(damaged(path, "damaged: its manifest is not what was written"));
    }
    let saved = SavedMemory::open(path).map_err(|error| described(path, error.into()))?;
    let mut saved = saved.ok_or_else(|| damaged(path, "not what was written"))?;
    saved.open_packs().map_err(|error| described(path, error.into()))?;
    Ok(saved)
}

/// QEMU reads the variables of a firmware from their image when it starts, and they must not come from the state; but what
/// is loaded by page replaces all memory.
pub(super) fn reach(saved: &SavedMemory) -> Reach {
    if saved.has_variables() {
        return Reach::StreamAlone("its machine has a firmware with variables".to_owned());
    }
    Reach::AnyPage
}

/// Opens a state as a stream, which a thread writes as it is read.
pub(super) fn open(state: &MemoryState) -> Result<OpenedMemory, MemoryError> {
    let path = state.path.clone();
    let mut saved = whole(state)?;
    let counts = saved.manifest().pages;
    let bytes = counts.kept * saved.manifest().page_size + counts.all * PAGE_OVERHEAD;
    let failed = |error: rustix::io::Errno| explained(&path, "opening a way for", error.into());
    let (stream, sink) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let _ = fcntl_setpipe_size(&sink, PIPE_SIZE);
    let (opened, told) = OpenedMemory::written(stream, bytes);
    let spawned = std::thread::Builder::new().name("restore".to_owned()).spawn({
        let path = path.clone();
        move || {
            let written = saved.write_stream(&mut File::from(sink), |_| {});
            let outcome = match written {
                Ok(()) => Ok(()),
                // Who reads has enough, or has failed and says so itself.
                Err(WriteError::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                Err(WriteError::Sink(error)) => Err(explained(&path, "giving out", error)),
                Err(WriteError::State(error)) => Err(described(&path, error.into())),
            };
            told(outcome);
        }
    });
    spawned.map_err(|error| explained(&path, "starting a thread for", error))?;
    Ok(opened)
}

/// BLAKE3 of a file, hexadecimal, and its size.
fn hash(path: &Path) -> Result<(String, u64), MemoryError> {
    let file = File::open(path).map_err(|error| explained(path, "opening", error))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&file).map_err(|error| explained(path, "reading", error))?;
    Ok((hasher.finalize().to_hex().to_string(), hasher.count()))
}
