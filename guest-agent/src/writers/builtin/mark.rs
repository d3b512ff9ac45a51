//! Marks of what programs have begun, so that an agent which was killed knows what is to be undone.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file in memory that is there for as long as something is held.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
}

impl Mark {
    /// The mark of this writer. Nothing is marked yet that was not before.
    pub(super) fn new(runtime: &Path, writer: &str) -> Self {
        let safe = |char: char| if char.is_ascii_alphanumeric() { char } else { '-' };
        Self { path: runtime.join(format!("held-{}", writer.chars().map(safe).collect::<String>())) }
    }

    /// It was held when its agent ended.
    pub(super) fn is_set(&self) -> bool {
        self.path.exists()
    }

    /// From now on it may be held. A mark that cannot be set is worth less than the checkpoint: the programs are told to
    /// undo by an agent that lives, as ever.
    pub(super) fn set(&self) {
        let _ = fs::write(&self.path, "");
    }

    /// It is held no more.
    pub(super) fn clear(&self) {
        let _ = fs::remove_file(&self.path);
    }
}
