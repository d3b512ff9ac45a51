//! The proof that a file system was frozen when its disk was cut, read from the disk itself: an ext4 that was
//! frozen has nothing to replay.
//!
//! "state: clean" and the exit status of a file system check are no proof: both say the same of a disk that was cut in
//! the middle of writing. What tells is that the superblock does not ask for recovery and that the journal is empty.

use std::io;
use std::path::Path;

use tokio::process::Command;

use crate::bare::qemu_img;

const SECTOR: u64 = 1024;
const MAGIC: u16 = 0xEF53;
const JOURNAL_MAGIC: u32 = 0xC03B_3998;
const EXTENT_MAGIC: u16 = 0xF30A;
const RECOVER: u32 = 0x4;
const ORPHAN_PRESENT: u32 = 0x1_0000;

/// What an ext4 says about how it was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext4State {
    /// The next mount has to replay the journal.
    pub needs_recovery: bool,
    /// Where the journal's unfinished part begins; 0 if there is none.
    pub journal_start: u32,
    /// Files were deleted and still open. The next mount frees them; that is no loss.
    pub orphans: bool,
}

impl Ext4State {
    /// Whether it was at rest: nothing is to be replayed.
    #[must_use]
    pub fn at_rest(&self) -> bool {
        !self.needs_recovery && self.journal_start == 0
    }

    /// Reads the state of the ext4 that fills the disk of which `layer` is the top layer. The layer may be in use.
    ///
    /// # Errors
    /// If the layer cannot be read, or holds no ext4 with a journal whose place the superblock tells.
    pub async fn of_layer(layer: &Path, format: &str) -> io::Result<Self> {
        let superblock = read(layer, format, 1).await?;
        if half(&superblock, 0x38)? != MAGIC {
            return Err(io::Error::other(format!("{} holds no ext4", layer.display())));
        }
        let block = SECTOR << word(&superblock, 0x18)?;
        let journal = read(layer, format, journal_block(&superblock)? * block / SECTOR).await?;
        if word(&journal, 0)?.swap_bytes() != JOURNAL_MAGIC {
            return Err(io::Error::other(format!("{} has no journal where its superblock says", layer.display())));
        }
        Ok(Self {
            needs_recovery: word(&superblock, 0x60)? & RECOVER != 0,
            journal_start: word(&journal, 0x1C)?.swap_bytes(),
            orphans: word(&superblock, 0xE8)? != 0 || word(&superblock, 0x64)? & ORPHAN_PRESENT != 0,
        })
    }
}

/// The journal's first block, from the copy of its inode's extents in the superblock.
fn journal_block(superblock: &[u8]) -> io::Result<u64> {
    let extents = 0x10C;
    if half(superblock, extents)? != EXTENT_MAGIC || half(superblock, extents + 6)? != 0 {
        return Err(io::Error::other("the superblock does not tell where the journal is"));
    }
    let (high, low) = (half(superblock, extents + 18)?, word(superblock, extents + 20)?);
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// One KiB of the disk, wherever in the chain of layers it is kept.
async fn read(layer: &Path, format: &str, number: u64) -> io::Result<Vec<u8>> {
    let out = tempfile::NamedTempFile::new()?;
    let mut dd = Command::new(qemu_img());
    dd.args(["dd", "-U", "-f", format, "-O", "raw", "bs=1024"]);
    dd.arg(format!("skip={number}")).arg(format!("count={}", number + 1)); // it counts what it skips
    dd.arg(format!("if={}", layer.display())).arg(format!("of={}", out.path().display()));
    let done = dd.output().await?;
    if !done.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    tokio::fs::read(out.path()).await
}

fn half(bytes: &[u8], at: usize) -> io::Result<u16> {
    let bytes = bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u16::from_le_bytes(bytes))
}

fn word(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(u32::from_le_bytes(bytes))
}
