//! Reads a stream piece by piece, as it comes.

use super::{
    Content, MAX_DEVICES, PAGE, PAGE_BYTES, Prologue, StreamError,
    error::Limit,
    flag, mark,
    prologue::{Cursor, Stop},
};

/// Something that a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The prologue is read: [`StreamReader::prologue`] has it. Comes once, first.
    Prologue,
    /// A page. It may come more than once in a live migration; the last one counts.
    Page {
        /// Number of its block in the prologue.
        block: usize,
        /// Number of the page in the block.
        page: u64,
        /// What it holds. Data lies in the input: nothing is copied.
        content: Content<'a>,
    },
    /// A piece of what comes after the pages; all pieces together are the [`Devices`](super::Devices).
    Devices(&'a [u8]),
}

/// What was found at the front of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// How many bytes were read and must not be shown again.
    pub consumed: usize,
    /// `None` with nothing consumed: more input is needed, at most [`StreamReader::ENOUGH`] bytes, or up to
    /// [`MAX_PROLOGUE`](super::MAX_PROLOGUE) as long as there is no prologue.
    pub event: Option<Event<'a>>,
}

#[derive(Debug)]
enum At {
    Prologue,
    BetweenSections,
    Pages,
    Devices { seen: usize },
}

/// The state between two pieces. After an error it answers nothing but errors.
#[derive(Debug)]
pub struct StreamReader {
    at: At,
    prologue: Option<Prologue>,
    block: Option<usize>,
    failed: Option<StreamError>,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamReader {
    /// So many bytes are enough for an event once the prologue is read: number, name and content of a page.
    pub const ENOUGH: usize = 8 + 1 + 255 + PAGE;

    /// At the beginning of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { at: At::Prologue, prologue: None, block: None, failed: None }
    }

    /// What the stream began with, once that was read.
    #[must_use]
    pub const fn prologue(&self) -> Option<&Prologue> {
        self.prologue.as_ref()
    }

    /// All pages have been read: only devices may follow.
    #[must_use]
    pub const fn is_past_pages(&self) -> bool {
        matches!(self.at, At::Devices { .. })
    }

    /// Reads one event, or marks that are none, from the front of `input`.
    ///
    /// # Errors
    /// What is wrong with the stream; the same is answered for ever after.
    pub fn read<'a>(&mut self, input: &'a [u8]) -> Result<Parsed<'a>, StreamError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut cursor = Cursor { rest: input };
        match self.step(&mut cursor) {
            Ok(event) => Ok(Parsed { consumed: input.len() - cursor.rest.len(), event }),
            Err(Stop::Short) => Ok(Parsed { consumed: 0, event: None }),
            Err(Stop::Wrong(error)) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Changes nothing of `self` when it stops short.
    fn step<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Event<'a>>, Stop> {
        match self.at {
            At::Prologue => {
                let prologue = Prologue::begin_of(cursor.rest)?.ok_or(Stop::Short)?;
                cursor.take(prologue.bytes().len())?;
                self.prologue = Some(prologue);
                self.at = At::BetweenSections;
                Ok(Some(Event::Prologue))
            }
            At::BetweenSections => self.section(cursor),
            At::Pages => self.page(cursor),
            At::Devices { seen } => self.devices(cursor, seen),
        }
    }

    fn section<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Event<'a>>, Stop> {
        match *cursor.rest.first().ok_or(Stop::Short)? {
            mark::SECTION_PART | mark::SECTION_END => {
                cursor.u8()?;
                if Some(cursor.u32()?) != self.ram() {
                    return Err(StreamError::Unsupported("parts of something other than RAM".to_owned()).into());
                }
                self.at = At::Pages;
                Ok(None)
            }
            mark::SECTION_FULL => self.devices(cursor, 0),
            mark::END => Err(StreamError::Malformed("it has no devices").into()),
            other => Err(StreamError::Unsupported(format!("something of kind {other} among its pages")).into()),
        }
    }

    fn page<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Event<'a>>, Stop> {
        let number = cursor.u64()?;
        let (offset, flags) = (number & !flag::ALL, number & flag::ALL);
        if number == flag::END {
            let ram = self.ram().unwrap_or_default();
            cursor.footer(ram)?;
            self.at = At::BetweenSections;
            return Ok(None);
        }
        let is_zero = match flags & !flag::SAME_BLOCK {
            flag::ZERO => true,
            flag::DATA => false,
            _ => return Err(StreamError::Unsupported(format!("a page with the flags {flags:#x}")).into()),
        };
        let block = if flags & flag::SAME_BLOCK == 0 {
            self.block_called(cursor.name()?)?
        } else {
            self.block.ok_or(StreamError::Malformed("the first page has no block"))?
        };
        self.check_inside(block, offset)?;
        let content = if is_zero {
            match cursor.u8()? {
                0 => Content::Zero,
                _ => return Err(StreamError::Unsupported("pages of one byte that is not zero".to_owned()).into()),
            }
        } else {
            Content::Data(cursor.take(PAGE)?)
        };
        self.block = Some(block);
        Ok(Some(Event::Page { block, page: offset / PAGE_BYTES, content }))
    }

    fn devices<'a>(&mut self, cursor: &mut Cursor<'a>, seen: usize) -> Result<Option<Event<'a>>, Stop> {
        if cursor.rest.is_empty() {
            return Err(Stop::Short);
        }
        let piece = cursor.take(cursor.rest.len())?;
        if seen.saturating_add(piece.len()) > MAX_DEVICES {
            return Err(StreamError::TooMuch(Limit::Devices).into());
        }
        self.at = At::Devices { seen: seen + piece.len() };
        Ok(Some(Event::Devices(piece)))
    }

    fn ram(&self) -> Option<u32> {
        self.prologue.as_ref().map(|prologue| prologue.ram)
    }

    fn block_called(&self, name: &str) -> Result<usize, StreamError> {
        let blocks = self.prologue.as_ref().map(|prologue| &prologue.blocks[..]).unwrap_or_default();
        let found = blocks.iter().position(|block| block.name == name);
        found.ok_or_else(|| StreamError::UnknownBlock(name.to_owned()))
    }

    fn check_inside(&self, block: usize, offset: u64) -> Result<(), StreamError> {
        let block = self.prologue.as_ref().and_then(|prologue| prologue.blocks.get(block));
        let block = block.ok_or(StreamError::Malformed("there is no such block"))?;
        if offset < block.bytes {
            return Ok(());
        }
        Err(StreamError::Outside { block: block.name.clone(), offset })
    }
}
