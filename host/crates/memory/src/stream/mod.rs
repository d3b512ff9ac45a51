//! QEMU's migration stream, version 3: a reader and a writer that do no I/O.
//!
//! ```text
//! "QEVM" 3                                              ┐
//! 7 configuration: name of the machine, subsections     ├ the prologue, kept as it is
//! 1 start of `ram`: total size, list of blocks          ┘
//! 2 part of `ram`: pages …            (again and again; 3 ends them, or nothing does)
//! 4 a device …                                          ┐
//! 0 end of the sections                                 ├ the devices, kept as they are
//! 6 description: JSON                                   ┘
//! ```
//! All numbers are big endian. Sections 1 to 4 begin with an id and end with `0x7e` and the id. A page is one number,
//! its offset in the block and its flags, the name of the block unless the flags say «the same», and its content.
//!
//! Of the devices only the two ends can be told from outside; what lies between is QEMU's.
//!
//! Everything that is read has a limit: a stream comes from a process that a guest may have taken over.

mod devices;
mod error;
pub mod postcopy;
mod prologue;
mod reader;
mod version;
mod writer;

pub use devices::Devices;
pub use error::StreamError;
pub use prologue::{Block, Prologue};
pub use reader::{Event, Parsed, StreamReader};
pub use version::QemuVersion;
pub use writer::StreamWriter;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// [`PAGE`], to calculate offsets with.
pub const PAGE_BYTES: u64 = PAGE as u64;

/// The most bytes of a prologue: its names and its list of blocks.
pub const MAX_PROLOGUE: usize = 1 << 20;
/// The most blocks of RAM. A machine has a handful.
pub const MAX_BLOCKS: usize = 4096;
/// The most RAM: 16 TiB.
pub const MAX_RAM: u64 = 16 << 40;
/// The most bytes of all devices with their description. A machine has some hundred kilobytes.
pub const MAX_DEVICES: usize = 64 << 20;

const MAGIC: [u8; 4] = *b"QEVM";
const VERSION: u32 = 3;

/// What marks the beginning of something in a stream.
mod mark {
    pub(super) const END: u8 = 0;
    pub(super) const SECTION_START: u8 = 1;
    pub(super) const SECTION_PART: u8 = 2;
    pub(super) const SECTION_END: u8 = 3;
    pub(super) const SECTION_FULL: u8 = 4;
    pub(super) const SUBSECTION: u8 = 5;
    pub(super) const DESCRIPTION: u8 = 6;
    pub(super) const CONFIGURATION: u8 = 7;
    pub(super) const COMMAND: u8 = 8;
    pub(super) const FOOTER: u8 = 0x7e;
}

/// What the lowest bits of a page's offset say.
mod flag {
    pub(super) const ZERO: u64 = 0x02;
    pub(super) const SIZES: u64 = 0x04;
    pub(super) const DATA: u64 = 0x08;
    pub(super) const END: u64 = 0x10;
    pub(super) const SAME_BLOCK: u64 = 0x20;
    pub(super) const ALL: u64 = 0xfff;
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// Nothing but zeros.
    Zero,
    /// These [`PAGE`] bytes.
    Data(&'a [u8]),
}
