//! What a server of pages says of itself while a VM takes its memory in.
//!
//! The server writes it into a file, whoever started it reads it there; so either may be another process by then.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

const FILE: &str = "served.json";

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Served {
    /// Pages that have gone out.
    pub sent: u64,
    /// All pages; 0: it has not opened the memory state yet.
    pub pages: u64,
    /// How it has ended; `None`: it has not, or was killed.
    pub end: Option<ServedEnd>,
}

/// How a server of pages has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServedEnd {
    /// The other side has all pages.
    Whole,
    /// The other side has hung up before.
    HungUp,
    /// For this reason.
    Failed(String),
}

impl Served {
    /// Tells it in this folder: whoever reads it there reads all of it, or what was told before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn tell(&self, folder: &Path) -> io::Result<()> {
        let new = folder.join("served.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, folder.join(FILE))
    }

    /// What was told last in this folder, if anything was.
    #[must_use]
    pub fn heard(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }
}
