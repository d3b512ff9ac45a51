//! What is done to files, beside the runtime.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
};

use stillpoint_common::{MemoryFormat, MemoryId, MemoryState};
use stillpoint_engine::ports::{MemoryError, OpenedMemory};

use crate::{
    capture::CaptureError,
    collect::collect,
    plain,
    state::{SavedMemory, StateError, manifest_path, pack_path, unfinished},
};

pub(super) fn make_folder(location: &Path) -> Result<(), MemoryError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(location);
    made.map_err(|error| explained(location, "making the folder of", error))
}

/// True if there was anything.
pub(super) fn remove_unfinished(location: &Path, checkpoint: MemoryId) -> Result<bool, MemoryError> {
    let manifest = remove_file(&unfinished(&manifest_path(location, checkpoint)))?;
    Ok(remove_file(&unfinished(&pack_path(location, checkpoint)))? || manifest)
}

/// The state whose pages need not be stored again: one of ours, in this folder, that can be read. Without it everything
/// is stored.
pub(super) fn open_base(location: &Path, checkpoint: MemoryId, base: &MemoryState) -> Option<SavedMemory> {
    let usable = match base.format {
        MemoryFormat::Stream => false,
        MemoryFormat::Pages => base.path.parent() == Some(location),
    };
    if !usable || base.path == manifest_path(location, checkpoint) {
        return None;
    }
    SavedMemory::open(&base.path).unwrap_or_else(|error| {
        tracing::warn!(%error, "an earlier memory state cannot be built on; everything is stored");
        None
    })
}

/// Opens a state that an older version kept.
pub(super) fn open_plain(state: &MemoryState) -> Result<OpenedMemory, MemoryError> {
    let MemoryState { path, bytes, .. } = state;
    let mut file = File::open(path).map_err(|error| explained(path, "opening", error))?;
    let length = file.metadata().map_err(|error| explained(path, "looking at", error))?.len();
    if length != *bytes {
        return Err(damaged(path, format!("damaged: it has {length} bytes instead of {bytes}")));
    }
    if !plain::has_head(&mut file).map_err(|error| explained(path, "reading", error))? {
        return Err(damaged(path, "damaged: it does not begin as it should"));
    }
    Ok(OpenedMemory::file(file.into(), *bytes))
}

/// Removes a state, and then the packs that nothing needs any more. The manifest is gone for good before a pack goes.
pub(super) fn remove(location: &Path, checkpoint: MemoryId, busy: &BTreeSet<MemoryId>) -> Result<(), MemoryError> {
    let path = manifest_path(location, checkpoint);
    let used = SavedMemory::open(&path).ok().flatten().map(|saved| saved.packs().collect());
    let stays = has_another_name(location, &path);
    let had = remove_file(&path)?;
    let had_parts = remove_unfinished(location, checkpoint)?;
    if had || had_parts {
        sync_folder(location)?;
    }
    if stays {
        return Ok(()); // all that it needed is needed
    }
    // A plain stream, or nothing: what is there to be collected is only a pack of its own.
    let changed = used.unwrap_or_else(|| BTreeSet::from([checkpoint]));
    let collected = collect(location, busy, Some(&changed)).map_err(|error| described(&path, error.into()))?;
    if let Some(because) = &collected.kept_because_of {
        tracing::warn!(because = %because.display(), "nothing is collected: a memory state cannot be read");
    }
    if collected.packs.is_empty() { Ok(()) } else { sync_folder(location) }
}

/// Whether the same state is kept in its folder under another name, too.
fn has_another_name(location: &Path, path: &Path) -> bool {
    let identity = |facts: &Metadata| (facts.dev(), facts.ino());
    let Some(one) = fs::symlink_metadata(path).ok().filter(|facts| facts.nlink() > 1) else { return false };
    let others = fs::read_dir(location).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut others = others.filter(|other| other != path && other.extension() == path.extension());
    others.any(|other| fs::symlink_metadata(other).is_ok_and(|facts| identity(&facts) == identity(&one)))
}

/// True if there was one.
pub(super) fn remove_file(path: &Path) -> Result<bool, MemoryError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(explained(path, "removing", error)),
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), MemoryError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| explained(folder, "syncing the folder of", error))
}

pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> MemoryError {
    MemoryError::Damaged { path: path.display().to_string(), problem: problem.into() }
}

/// What an error of ours is in the words of the port.
pub(super) fn described(path: &Path, error: CaptureError) -> MemoryError {
    match error {
        CaptureError::State(StateError::Io { path, doing, source }) => explained(&path, doing, source),
        CaptureError::State(StateError::Missing { path }) => damaged(&path, "missing"),
        CaptureError::State(StateError::Damaged { path, problem }) => damaged(&path, format!("damaged: {problem}")),
        CaptureError::State(error @ StateError::Newer { .. }) => damaged(path, format!("not to be read: {error}")),
        CaptureError::Stream(error) => MemoryError::Unusable { message: error.to_string() },
        CaptureError::Stopped => MemoryError::Unusable { message: error.to_string() },
        CaptureError::Source(source) => explained(path, "reading what QEMU writes of", source),
    }
}

pub(super) fn explained(path: &Path, doing: &str, source: io::Error) -> MemoryError {
    let path = path.display().to_string();
    let kind = source.kind();
    if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return MemoryError::NoSpace { path };
    }
    if kind == io::ErrorKind::NotFound {
        return MemoryError::Damaged { path, problem: "missing".to_owned() };
    }
    MemoryError::Io { what: format!("{doing} the memory state {path}"), source }
}

/// Files of hundreds of megabytes are not read on the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MemoryError> + Send + 'static,
) -> Result<T, MemoryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let what = "a task of the service ended early".to_owned();
        Err(MemoryError::Io { what, source: io::Error::other(error) })
    })
}
