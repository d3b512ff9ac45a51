//! The hidden mode of the program in which it serves the pages of a memory to one QEMU, and then ends.
//!
//! It is a process of its own, started by the service for each VM that runs before it has all of its memory: the service may
//! be started again meanwhile.

use std::{io, os::fd::AsFd as _, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use stillpoint_memory::{Serve, serve};

/// The first argument of this mode.
pub const SERVE_PAGES: &str = "serve-pages";

/// Serves the pages of a memory state to a QEMU on standard input.
#[derive(Debug, Clone, Parser)]
#[command(name = SERVE_PAGES)]
pub struct ServePages {
    /// The manifest of the memory state.
    #[arg(long)]
    memory: PathBuf,
    /// BLAKE3 of that file, hexadecimal.
    #[arg(long)]
    blake3: String,
    /// Folder in which it is told how far it is.
    #[arg(long)]
    folder: PathBuf,
}

/// Serves to the end; how that went is told in the folder.
///
/// # Errors
/// If it cannot be told.
pub fn serve_pages(options: ServePages) -> anyhow::Result<()> {
    let ServePages { memory, blake3, folder } = options;
    let socket = io::stdin().as_fd().try_clone_to_owned().context("there is no connection to QEMU")?;
    let what = Serve { memory, blake3, folder, hold: hold() };
    let end = serve(&what, &socket).context("it cannot be told how the pages were served")?;
    tracing::info!(?end, memory = %what.memory.display(), "the pages were served");
    Ok(())
}

/// For tests alone: while this file is there, only pages go that somebody waits for.
#[cfg(feature = "fail-points")]
fn hold() -> Option<PathBuf> {
    std::env::var_os("STILLPOINT_HOLD_PAGES").map(Into::into)
}

#[cfg(not(feature = "fail-points"))]
const fn hold() -> Option<PathBuf> {
    None
}
