//! What is wrong with a stream.

use super::{MAX_BLOCKS, MAX_DEVICES, MAX_PROLOGUE, MAX_RAM};

/// Why a stream is not read. Each says it in words that follow «the memory state is not read:».
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It does not begin as a stream does.
    #[error("it is no migration stream of QEMU")]
    NotAStream,
    /// A version other than 3.
    #[error("it is a migration stream of version {0}, and not 3")]
    Version(u32),
    /// A QEMU that this version of Stillpoint does not know, or no version at all.
    #[error("QEMU {0:?} is not supported: 7.2 is the oldest")]
    Qemu(String),
    /// A machine other than a numbered PC.
    #[error("the machine {0:?} is not supported: pc-q35-* and pc-i440fx-* with a number are")]
    Machine(String),
    /// Something that QEMU writes only when told to, and that it was not told to.
    #[error("it has {0}, which is not supported")]
    Unsupported(String),
    /// Something that QEMU would not write.
    #[error("it is damaged: {0}")]
    Malformed(&'static str),
    /// A page that lies outside of its block.
    #[error("it is damaged: offset {offset:#x} is outside of block {block:?}")]
    Outside {
        /// Name of the block.
        block: String,
        /// The offset in it.
        offset: u64,
    },
    /// A block that was not announced.
    #[error("it is damaged: there is no block {0:?}")]
    UnknownBlock(String),
    /// More than there can be.
    #[error("it is damaged: {}", .0.words())]
    TooMuch(Limit),
    /// It ends before its end.
    #[error("it is not whole: its end is missing")]
    Cut,
}

/// A limit that is kept whatever a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`MAX_PROLOGUE`]
    Prologue,
    /// [`MAX_BLOCKS`]
    Blocks,
    /// [`MAX_RAM`]
    Ram,
    /// [`MAX_DEVICES`]
    Devices,
}

impl Limit {
    fn words(self) -> String {
        match self {
            Self::Prologue => format!("its prologue has more than {MAX_PROLOGUE} bytes"),
            Self::Blocks => format!("it has more than {MAX_BLOCKS} blocks"),
            Self::Ram => format!("it has more than {MAX_RAM} bytes of RAM"),
            Self::Devices => format!("its devices have more than {MAX_DEVICES} bytes"),
        }
    }
}
