//! The beginning of a stream: everything before the first page.

use super::{
    MAGIC, MAX_BLOCKS, MAX_PROLOGUE, MAX_RAM, PAGE_BYTES, StreamError, VERSION, error::Limit, flag, mark,
    version::check_machine,
};

/// Size of a page as a power of two.
const PAGE_BITS: u32 = PAGE_BYTES.trailing_zeros();
/// Version of the section `ram`.
const RAM_VERSION: u32 = 4;
const RAM: &str = "ram";

/// A block of RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What QEMU calls it: `pc.ram`.
    pub name: String,
    /// Its size, whole pages.
    pub bytes: u64,
}

impl Block {
    /// How many pages it has.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.bytes / PAGE_BYTES
    }
}

/// The beginning of a stream, understood, and byte by byte as QEMU wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prologue {
    pub(super) bytes: Vec<u8>,
    /// Where the section `ram` begins in them.
    start_of_ram: usize,
    /// The numbered machine type.
    pub machine: String,
    /// The id of the section `ram`.
    pub ram: u32,
    /// In the order of the stream.
    pub blocks: Vec<Block>,
}

impl Prologue {
    /// Reads a prologue that stands alone.
    ///
    /// # Errors
    /// What is wrong with it; [`StreamError::Cut`] if there is not enough of it.
    pub fn new(bytes: &[u8]) -> Result<Self, StreamError> {
        match Self::begin_of(bytes)? {
            Some(prologue) if prologue.bytes.len() == bytes.len() => Ok(prologue),
            Some(_) => Err(StreamError::Malformed("something follows the prologue")),
            None => Err(StreamError::Cut),
        }
    }

    /// Reads the prologue that `input` begins with; `None` if there is not enough of it yet.
    pub(super) fn begin_of(input: &[u8]) -> Result<Option<Self>, StreamError> {
        let limited = &input[..input.len().min(MAX_PROLOGUE)];
        let mut cursor = Cursor { rest: limited };
        match prologue(&mut cursor) {
            Ok((machine, start_of_ram, ram, blocks)) => {
                let length = limited.len() - cursor.rest.len();
                Ok(Some(Self { bytes: limited[..length].to_vec(), start_of_ram, machine, ram, blocks }))
            }
            Err(Stop::Wrong(error)) => Err(error),
            Err(Stop::Short) if limited.len() == MAX_PROLOGUE => Err(StreamError::TooMuch(Limit::Prologue)),
            Err(Stop::Short) => Ok(None),
        }
    }

    /// As QEMU wrote it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What comes before the section `ram`, and its start.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.start_of_ram).unwrap_or((&self.bytes, &[]))
    }

    /// RAM of all blocks.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.bytes).sum()
    }
}

/// Why reading stopped.
pub(super) enum Stop {
    /// At the end of the input.
    Short,
    Wrong(StreamError),
}

impl From<StreamError> for Stop {
    fn from(error: StreamError) -> Self {
        Self::Wrong(error)
    }
}

/// Reads numbers and names from the front of a slice.
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Stop::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Stop::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Stop> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Stop> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.array().map(u64::from_be_bytes)
    }

    /// A name with its length, in one byte, before it.
    pub(super) fn name(&mut self) -> Result<&'a str, Stop> {
        let length = self.u8()?;
        text(self.take(usize::from(length))?)
    }

    pub(super) fn footer(&mut self, section: u32) -> Result<(), Stop> {
        if self.u8()? != mark::FOOTER || self.u32()? != section {
            return Err(StreamError::Malformed("a section does not end as it should").into());
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Result<&str, Stop> {
    std::str::from_utf8(bytes).map_err(|_| StreamError::Malformed("a name is not text").into())
}

/// Its machine, where the section `ram` begins, the id of that, and the blocks.
fn prologue(cursor: &mut Cursor<'_>) -> Result<(String, usize, u32, Vec<Block>), Stop> {
    let all = cursor.rest.len();
    let known = cursor.rest.len().min(MAGIC.len());
    if cursor.rest[..known] != MAGIC[..known] {
        return Err(StreamError::NotAStream.into());
    }
    cursor.take(MAGIC.len())?;
    match cursor.u32()? {
        VERSION => {}
        other => return Err(StreamError::Version(other).into()),
    }
    let machine = configuration(cursor)?;
    let before = all - cursor.rest.len();
    let (ram, blocks) = start_of_ram(cursor)?;
    Ok((machine, before, ram, blocks))
}

fn configuration(cursor: &mut Cursor<'_>) -> Result<String, Stop> {
    if cursor.u8()? != mark::CONFIGURATION {
        return Err(StreamError::Unsupported("no configuration section".to_owned()).into());
    }
    let length = cursor.u32()?;
    if length > 256 {
        return Err(StreamError::Malformed("the name of the machine is too long").into());
    }
    let machine = text(cursor.take(length as usize)?)?.to_owned();
    check_machine(&machine)?;
    while *cursor.rest.first().ok_or(Stop::Short)? == mark::SUBSECTION {
        cursor.u8()?;
        let (name, _version) = (cursor.name()?, cursor.u32()?);
        subsection(cursor, name)?;
    }
    Ok(machine)
}

fn subsection(cursor: &mut Cursor<'_>, name: &str) -> Result<(), Stop> {
    match name {
        "configuration/target-page-bits" if cursor.u32()? != PAGE_BITS => {
            Err(StreamError::Unsupported("pages of a size other than 4096".to_owned()).into())
        }
        "configuration/target-page-bits" => Ok(()),
        // The abilities that both sides must have. What changes the stream is refused where it shows.
        "configuration/capabilities" => {
            for _ in 0..cursor.u32()? {
                cursor.name()?;
            }
            Ok(())
        }
        "configuration/uuid" => cursor.take(16).map(drop),
        other => Err(StreamError::Unsupported(format!("the subsection {other:?}")).into()),
    }
}

fn start_of_ram(cursor: &mut Cursor<'_>) -> Result<(u32, Vec<Block>), Stop> {
    let kind = cursor.u8()?;
    if kind != mark::SECTION_START {
        return Err(StreamError::Unsupported(format!("something of kind {kind} before its RAM")).into());
    }
    let section = cursor.u32()?;
    let name = cursor.name()?;
    let (_instance, version) = (cursor.u32()?, cursor.u32()?);
    if (name, version) != (RAM, RAM_VERSION) {
        return Err(
            StreamError::Unsupported(format!("the section {name:?} of version {version} before its RAM")).into()
        );
    }
    let total = cursor.u64()?;
    if total & flag::ALL != flag::SIZES {
        return Err(StreamError::Unsupported(format!("RAM with the flags {:#x}", total & flag::ALL)).into());
    }
    let blocks = blocks(cursor, total & !flag::ALL)?;
    // Blocks of huge pages, shared memory and mapped RAM would write more than sizes, and no end here.
    if cursor.u64()? != flag::END {
        return Err(StreamError::Unsupported("a list of blocks with more than their sizes".to_owned()).into());
    }
    cursor.footer(section)?;
    Ok((section, blocks))
}

fn blocks(cursor: &mut Cursor<'_>, total: u64) -> Result<Vec<Block>, Stop> {
    if total > MAX_RAM {
        return Err(StreamError::TooMuch(Limit::Ram).into());
    }
    let (mut blocks, mut left): (Vec<Block>, u64) = (Vec::new(), total);
    while left > 0 {
        let (name, bytes) = (cursor.name()?.to_owned(), cursor.u64()?);
        if !bytes.is_multiple_of(PAGE_BYTES) || bytes == 0 {
            return Err(StreamError::Malformed("a block is not made of pages").into());
        }
        if blocks.iter().any(|known| known.name == name) {
            return Err(StreamError::Malformed("two blocks have one name").into());
        }
        if blocks.len() == MAX_BLOCKS {
            return Err(StreamError::TooMuch(Limit::Blocks).into());
        }
        left = left.checked_sub(bytes).ok_or(StreamError::Malformed("the blocks are larger than the RAM"))?;
        blocks.push(Block { name, bytes });
    }
    Ok(blocks)
}
