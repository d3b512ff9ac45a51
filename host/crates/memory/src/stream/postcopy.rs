//! The stream of a source whose VM runs on the other side before its pages are there, and what that side answers.
//!
//! ```text
//! head          prologue up to the section `ram` │ open return path │ advise │ start of `ram`
//!               discard, for each block │ package: listen, devices, run
//! ◀─ requests   3: start, length, name of the block    4: the same block as before    1: the end, and how it went
//! pages         parts of `ram`, as in any stream: what was asked for first, then all others
//! tail          end of `ram` │ end mark
//! ```
//! A block that is not discarded makes QEMU 10 wait for itself for ever.

use super::{Block, Devices, PAGE_BYTES, Prologue, StreamError, flag, mark, prologue::Cursor, prologue::Stop};

/// Commands to the other side.
mod command {
    pub(super) const OPEN_RETURN_PATH: u16 = 1;
    pub(super) const ADVISE: u16 = 3;
    pub(super) const LISTEN: u16 = 4;
    pub(super) const RUN: u16 = 5;
    pub(super) const DISCARD: u16 = 6;
    pub(super) const PACKAGE: u16 = 7;
}

/// Messages of the other side.
mod message {
    pub(super) const END: u16 = 1;
    pub(super) const PONG: u16 = 2;
    pub(super) const PAGES_OF: u16 = 3;
    pub(super) const PAGES: u16 = 4;
}

/// The most bytes of a message that is understood: a request with the longest name.
const MAX_MESSAGE: usize = 8 + 4 + 1 + 255;

/// Everything that comes before the first page. The VM can run on the other side when that has read it.
#[must_use]
pub fn head(prologue: &Prologue, devices: &Devices) -> Vec<u8> {
    let (before, start_of_ram) = prologue.split();
    let mut out = before.to_vec();
    put(&mut out, command::OPEN_RETURN_PATH, &[]);
    // The sizes of pages on both sides: all that there are, and the guest's.
    put(&mut out, command::ADVISE, &[PAGE_BYTES.to_be_bytes(), PAGE_BYTES.to_be_bytes()].concat());
    out.extend(start_of_ram);
    prologue.blocks.iter().for_each(|block| put(&mut out, command::DISCARD, &all_of(block)));
    let mut package = Vec::new();
    put(&mut package, command::LISTEN, &[]);
    package.extend(devices.sections());
    put(&mut package, command::RUN, &[]);
    // Devices have 64 MiB at most.
    let length = u32::try_from(package.len()).unwrap_or(u32::MAX);
    put(&mut out, command::PACKAGE, &length.to_be_bytes());
    out.extend(package);
    out
}

/// What comes after the last page.
#[must_use]
pub fn tail(prologue: &Prologue) -> Vec<u8> {
    let section = prologue.ram.to_be_bytes();
    [&[mark::SECTION_END], &section[..], &flag::END.to_be_bytes(), &[mark::FOOTER], &section, &[mark::END]].concat()
}

/// A command, whose argument is short.
fn put(out: &mut Vec<u8>, command: u16, argument: &[u8]) {
    out.push(mark::COMMAND);
    out.extend(command.to_be_bytes());
    out.extend(u16::try_from(argument.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(argument);
}

/// The argument of a discard: a version, the block, and one range.
fn all_of(block: &Block) -> Vec<u8> {
    let mut argument = vec![0, u8::try_from(block.name.len()).unwrap_or(u8::MAX)];
    argument.extend(block.name.as_bytes());
    argument.push(0);
    argument.extend(0_u64.to_be_bytes());
    argument.extend(block.bytes.to_be_bytes());
    argument
}

/// Something that the other side says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Somebody waits for these pages.
    Wanted {
        /// Number of the block in the prologue.
        block: usize,
        /// The first page.
        first: u64,
        /// How many; at least one, and all lie in the block.
        pages: u64,
    },
    /// It has all, if the status is 0, and says no more.
    End(u32),
    /// Nothing of interest.
    Nothing,
}

/// Reads what the other side says, piece by piece.
#[derive(Debug)]
pub struct AnswerReader<'a> {
    blocks: &'a [Block],
    /// The block that was last asked for.
    block: Option<usize>,
}

impl<'a> AnswerReader<'a> {
    /// Of the side that the pages of this machine go to.
    #[must_use]
    pub fn new(prologue: &'a Prologue) -> Self {
        Self { blocks: &prologue.blocks, block: None }
    }

    /// Reads one message from the front of `input`, and answers how long it was; `None`: there is not enough of it yet.
    ///
    /// # Errors
    /// If it is none that is known, or asks for what there is not.
    pub fn read(&mut self, input: &[u8]) -> Result<Option<(usize, Answer)>, StreamError> {
        let mut cursor = Cursor { rest: input };
        match self.message(&mut cursor) {
            Ok(answer) => Ok(Some((input.len() - cursor.rest.len(), answer))),
            Err(Stop::Short) => Ok(None),
            Err(Stop::Wrong(error)) => Err(error),
        }
    }

    fn message(&mut self, cursor: &mut Cursor<'_>) -> Result<Answer, Stop> {
        let (kind, length) = (cursor.u16()?, usize::from(cursor.u16()?));
        if length > MAX_MESSAGE {
            return Err(StreamError::Malformed("a message of the other side is too long").into());
        }
        let mut body = Cursor { rest: cursor.take(length)? };
        let answer = self.answer(kind, &mut body).map_err(|stop| match stop {
            Stop::Short => StreamError::Malformed("a message of the other side is too short"),
            Stop::Wrong(error) => error,
        })?;
        match body.rest {
            [] => Ok(answer),
            [..] => Err(StreamError::Malformed("a message of the other side is longer than it should be").into()),
        }
    }

    fn answer(&mut self, kind: u16, body: &mut Cursor<'_>) -> Result<Answer, Stop> {
        match kind {
            message::END => Ok(Answer::End(body.u32()?)),
            message::PONG => body.u32().map(|_| Answer::Nothing),
            message::PAGES_OF | message::PAGES => {
                let (start, bytes) = (body.u64()?, u64::from(body.u32()?));
                if kind == message::PAGES_OF {
                    let name = body.name()?;
                    let found = self.blocks.iter().position(|block| block.name == name);
                    self.block = Some(found.ok_or_else(|| StreamError::UnknownBlock(name.to_owned()))?);
                }
                self.wanted(start, bytes)
            }
            other => Err(StreamError::Unsupported(format!("the message {other} of the other side")).into()),
        }
    }

    fn wanted(&self, start: u64, bytes: u64) -> Result<Answer, Stop> {
        let unknown = StreamError::Malformed("the other side asks for pages of no block");
        let number = self.block.ok_or_else(|| unknown.clone())?;
        let block = self.blocks.get(number).ok_or(unknown)?;
        if bytes == 0 || !start.is_multiple_of(PAGE_BYTES) || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(StreamError::Malformed("the other side asks for a part of a page").into());
        }
        if start.checked_add(bytes).is_none_or(|end| end > block.bytes) {
            return Err(StreamError::Outside { block: block.name.clone(), offset: start }.into());
        }
        Ok(Answer::Wanted { block: number, first: start / PAGE_BYTES, pages: bytes / PAGE_BYTES })
    }
}
