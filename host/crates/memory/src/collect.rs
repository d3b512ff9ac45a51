//! Gives back the room of pages that nobody needs any more.
//!
//! A pack is needed as long as a manifest in its folder says that pages of it are; what proves that it is not is that
//! **all** manifests there have been read. If one cannot be, everything stays. The same goes for the chunks of a pack
//! that is needed: those without a page that is, become holes in the file.
//!
//! Each file is looked at anew every time, so that whatever is cut short is done the next time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};
use stillpoint_common::MemoryId;

use crate::state::{PackFile, SavedMemory, StateError, pack_path, unfinished};

/// What was given back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Collected {
    pub(crate) packs: Vec<MemoryId>,
    pub(crate) holes: u64,
    /// Nothing was, because this one could not be read.
    pub(crate) kept_because_of: Option<PathBuf>,
}

/// Collects in a folder. Packs that are `busy` are not touched; holes are made only in those that `changed`, all if
/// that is not known.
pub(crate) fn collect(
    folder: &Path,
    busy: &BTreeSet<MemoryId>,
    changed: Option<&BTreeSet<MemoryId>>,
) -> Result<Collected, StateError> {
    let mut collected = Collected::default();
    let mut states = match states(folder)? {
        Ok(states) => states,
        Err(unreadable) => {
            collected.kept_because_of = Some(unreadable);
            return Ok(collected);
        }
    };
    let packs = files(folder, "pages")?;
    let ids = packs.iter().filter_map(|path| path.file_stem()?.to_str()?.parse::<MemoryId>().ok());
    for pack in ids.filter(|pack| !busy.contains(pack)).collect::<Vec<_>>() {
        let names = |state: &SavedMemory| state.packs().any(|needed| needed == pack);
        if !states.iter().any(names) {
            if PackFile::is_one(&pack_path(folder, pack), pack)? {
                let path = pack_path(folder, pack);
                fs::remove_file(&path).map_err(StateError::io(&path, "removing"))?;
                collected.packs.push(pack);
            }
        } else if changed.is_none_or(|changed| changed.contains(&pack)) {
            collected.holes += make_holes(folder, pack, &mut states)?;
        }
    }
    Ok(collected)
}

/// Files of pages that no state in this folder needs; those of captures that are at work, `busy`, are not among them.
pub(crate) fn unneeded(folder: &Path, busy: &BTreeSet<MemoryId>) -> Result<Vec<PathBuf>, StateError> {
    let Ok(states) = states(folder)? else { return Ok(Vec::new()) };
    let needed: BTreeSet<MemoryId> = states.iter().flat_map(SavedMemory::packs).chain(busy.iter().copied()).collect();
    let known: BTreeSet<PathBuf> = needed.iter().map(|pack| pack_path(folder, *pack)).collect();
    let being_written: BTreeSet<PathBuf> = busy.iter().map(|pack| unfinished(&pack_path(folder, *pack))).collect();
    let mut found = files(folder, "pages")?;
    found.extend(
        files(folder, "part")?
            .into_iter()
            .filter(|path| path.with_extension("").extension().is_some_and(|it| it == "pages")),
    );
    found.retain(|path| !known.contains(path) && !being_written.contains(path));
    Ok(found)
}

/// All states in a folder, or one that cannot be read.
fn states(folder: &Path) -> Result<Result<Vec<SavedMemory>, PathBuf>, StateError> {
    let mut states = Vec::new();
    for path in files(folder, "memory")? {
        match SavedMemory::open(&path) {
            Ok(state) => states.extend(state),
            Err(_) => return Ok(Err(path)),
        }
    }
    Ok(Ok(states))
}

/// Makes holes of the chunks that no state needs, and answers how many bytes that were.
fn make_holes(folder: &Path, pack: MemoryId, states: &mut [SavedMemory]) -> Result<u64, StateError> {
    let path = pack_path(folder, pack);
    // One that cannot be read is left alone: its damage is for whoever needs it to find.
    let Ok(file) = PackFile::open(&path, pack) else { return Ok(0) };
    let mut needed = vec![false; file.chunks()];
    for state in states {
        let numbers: BTreeSet<usize> = state
            .manifest()
            .packs
            .iter()
            .enumerate()
            .filter(|(_, used)| used.checkpoint == pack)
            .map(|(number, _)| number)
            .collect();
        if !numbers.is_empty() && state.mark_chunks(&numbers, &mut needed).is_err() {
            return Ok(0);
        }
    }
    let mut holes: BTreeMap<u64, u64> = BTreeMap::new();
    for (number, (offset, bytes)) in file.places().enumerate() {
        if !needed.get(number).copied().unwrap_or(true) {
            holes.insert(offset, bytes);
        }
    }
    let file = File::options().write(true).open(&path).map_err(StateError::io(&path, "opening"))?;
    let (mut made, mut holes) = (0, holes.into_iter().peekable());
    while let Some((offset, mut bytes)) = holes.next() {
        while let Some((_, more)) = holes.next_if(|(next, _)| *next == offset + bytes) {
            bytes += more;
        }
        match fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) => made += bytes,
            // A file system without holes: the room comes back with the file.
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(0),
            Err(error) => return Err(StateError::io(&path, "making holes in")(error.into())),
        }
    }
    Ok(made)
}

/// The files with this extension.
fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, StateError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io(folder, "reading")(error)),
    };
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(StateError::io(folder, "reading"))?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}
