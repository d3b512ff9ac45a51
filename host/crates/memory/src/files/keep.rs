//! A second name for a state.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use stillpoint_common::{MemoryFormat, MemoryId, MemoryState};
use stillpoint_engine::ports::MemoryError;

use super::{
    sealed,
    work::{explained, open_plain, remove_file, sync_folder},
};
use crate::state::{manifest_path, unfinished};

/// Keeps a state under another id too. Its packs need no second name: they live as long as one manifest in their folder
/// names them.
pub(super) fn keep(state: MemoryState, id: MemoryId) -> Result<MemoryState, MemoryError> {
    match state.format {
        MemoryFormat::Stream => drop(open_plain(&state)?),
        MemoryFormat::Pages => drop(sealed::whole(&state)?),
    }
    let folder = state.path.parent().unwrap_or(&state.path).to_owned();
    let path = manifest_path(&folder, id);
    if path == state.path {
        return Ok(state);
    }
    let part = unfinished(&path);
    remove_file(&part)?;
    share(&state.path, &part)?;
    fs::rename(&part, &path).map_err(|error| explained(&part, "renaming", error))?;
    // Renaming one name of a file over another one does nothing.
    remove_file(&part)?;
    sync_folder(&folder)?;
    Ok(MemoryState { path, ..state })
}

/// A second name for the same bytes, which nobody will change; a copy where the file system has no such thing.
fn share(from: &Path, to: &Path) -> Result<(), MemoryError> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let mut source = File::open(from).map_err(|error| explained(from, "opening", error))?;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    let mut target = made.map_err(|error| explained(to, "making", error))?;
    io::copy(&mut source, &mut target).map_err(|error| explained(to, "copying", error))?;
    target.sync_all().map_err(|error| explained(to, "syncing", error))
}
