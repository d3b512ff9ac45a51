//! Serves the pages of a state to a QEMU whose VM runs before they are all there.
//!
//! ```text
//! head ─▶ (QEMU loads the devices; its VM can run) ─▶ pages: those asked for first, then all others ─▶ tail ─▶ «all in»
//! ```
//! Every page is checked before it goes. One that is not what was written never does: the connection is closed, and QEMU
//! waits for it for ever; whoever looks after QEMU ends it. One that cannot be read is tried again for some minutes.
//!
//! There is no end by patience: a QEMU that neither reads nor asks may stand still for as long as it likes (SIGSTOP, a
//! frozen control group), and one that is gone has hung up.
//!
//! State and packs stay open from before the first page to after the last; whatever must keep its pages from becoming
//! holes is not here.

mod late;
mod order;
mod serving;
mod told;

use std::{fs::File, io, os::fd::OwnedFd, path::PathBuf};

use rustix::io::{Errno, ioctl_fionbio};
use stillpoint_engine::served::ServedEnd;

use self::{serving::Serving, told::Telling};
use crate::{
    state::{SavedMemory, StateError},
    stream::StreamError,
};

/// What is served, and where it is told how far it is.
#[derive(Debug, Clone)]
pub struct Serve {
    /// The state's manifest.
    pub memory: PathBuf,
    /// The hash of that file, hexadecimal.
    pub blake3: String,
    /// The folder in which it is told.
    pub folder: PathBuf,
    /// While this file is there, only pages that are asked for go. For tests.
    pub hold: Option<PathBuf>,
}

/// Why pages are not served to the end.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{0} is not the memory state that was meant")]
    Another(PathBuf),
    #[error("what QEMU asks for is not understood: {0}")]
    Asked(#[from] StreamError),
    #[error("QEMU has not taken it in: it says {0}")]
    Refused(u32),
    #[error("QEMU has hung up")]
    HungUp,
    #[error("the connection to QEMU has failed: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ServeError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::PIPE | Errno::CONNRESET => Self::HungUp,
            other => Self::Io(other.into()),
        }
    }
}

/// Serves to the end, and tells in the folder how that went. Blocks for as long as it takes.
///
/// # Errors
/// If it cannot be told.
pub fn serve(what: &Serve, socket: &OwnedFd) -> io::Result<ServedEnd> {
    let mut telling = Telling::new(&what.folder);
    let end = match served(what, socket, &mut telling) {
        Ok(()) => ServedEnd::Whole,
        Err(ServeError::HungUp) => ServedEnd::HungUp,
        Err(error) => ServedEnd::Failed(in_words(&error)),
    };
    telling.end(end.clone())?;
    Ok(end)
}

/// With the cause, where the error does not name it itself.
fn in_words(error: &ServeError) -> String {
    if let ServeError::State(StateError::Io { source, .. }) = error {
        return format!("{error}: {source}");
    }
    error.to_string()
}

fn served(what: &Serve, socket: &OwnedFd, telling: &mut Telling<'_>) -> Result<(), ServeError> {
    let mut state = opened(what)?;
    let (prologue, devices) = (state.prologue().clone(), state.devices()?);
    ioctl_fionbio(socket, true)?;
    Serving::new(what, &mut state, &prologue, &devices).run(socket, telling)
}

/// The state that is meant, with all of its packs open.
fn opened(what: &Serve) -> Result<SavedMemory, ServeError> {
    let path = &what.memory;
    let another = || ServeError::Another(path.clone());
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(StateError::io(path, "opening"))?;
    hasher.update_reader(file).map_err(StateError::io(path, "reading"))?;
    if hasher.finalize().to_hex().as_str() != what.blake3 {
        return Err(another());
    }
    let mut state = SavedMemory::open(path)?.ok_or_else(another)?;
    state.open_packs()?;
    Ok(state)
}
