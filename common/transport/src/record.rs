//! The records on the wire, and a parser that any stream of bytes can be fed to.
//!
//! ```text
//!   NOP   0x00                                             ignored
//!   DATA  0x03  length: u16, little endian  payload        length ≤ 32765, so that a record is at most 32 KiB
//!   CTL   0xA1 HELLO | 0xA2 ACK | 0xA4 RESET  magic[15]  nonce[16]
//! ```
//!
//! A stream may begin, or go on after a dead peer, in the middle of a record. Whoever begins anew sends a [`sled`] of
//! NOPs first: longer than the longest record, it fills up whatever half record lies before it.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest payload of a DATA record.
pub const MAX_PAYLOAD: usize = 32 * 1024 - DATA_HEADER;
/// Length of a control record.
pub const CONTROL_LEN: usize = 32;
/// Length of the sled: a whole DATA record fits into it.
pub const SLED_LEN: usize = 32 * 1024;

const DATA_HEADER: usize = 3;
const NOP: u8 = 0x00;
const DATA: u8 = 0x03;
const MAGIC: &[u8; 15] = b"\x13Still\x07point\r\n\x00";

/// Names one session. Chosen by the host at random.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// The nonce of no session.
    pub const NONE: Self = Self([0; 16]);

    /// The nonce made of these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// A new nonce.
    ///
    /// # Errors
    /// If the kernel has no random numbers to give.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
        }
        Ok(Self(bytes))
    }
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a control record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The host begins a session.
    Hello,
    /// The agent has opened it.
    Ack,
    /// The agent has given it up, or has just started.
    Reset,
}

impl Control {
    const fn code(self) -> u8 {
        match self {
            Self::Hello => 0xA1,
            Self::Ack => 0xA2,
            Self::Reset => 0xA4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0xA1 => Some(Self::Hello),
            0xA2 => Some(Self::Ack),
            0xA4 => Some(Self::Reset),
            _ => None,
        }
    }
}

/// What the parser found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Bytes of the session; never empty.
    Data(Bytes),
    /// A control record.
    Control(Control, Nonce),
    /// Bytes that are no record: the session they belonged to is broken. Said once; then everything up to the next
    /// control record is skipped.
    Lost,
}

/// The bytes of a control record.
#[must_use]
pub fn control(kind: Control, nonce: Nonce) -> [u8; CONTROL_LEN] {
    let mut bytes = [0; CONTROL_LEN];
    bytes[0] = kind.code();
    bytes[1..16].copy_from_slice(MAGIC);
    bytes[16..].copy_from_slice(&nonce.0);
    bytes
}

/// A sled, followed by a control record.
#[must_use]
pub fn sled(kind: Control, nonce: Nonce) -> Vec<u8> {
    let mut bytes = vec![NOP; SLED_LEN];
    bytes.extend_from_slice(&control(kind, nonce));
    bytes
}

/// Writes the record that carries `payload` to the end of `into`. At most [`MAX_PAYLOAD`] bytes are taken; answers how
/// many.
pub fn encode_data(payload: &[u8], into: &mut Vec<u8>) -> usize {
    let taken = payload.len().min(MAX_PAYLOAD);
    let length = u16::try_from(taken).unwrap_or(u16::MAX);
    into.push(DATA);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(&payload[..taken]);
    taken
}

/// Makes records out of bytes. Holds at most one record that is not complete yet, plus what was fed last.
#[derive(Debug, Default)]
pub struct Parser {
    buffer: BytesMut,
    skipping: bool,
}

impl Parser {
    /// Takes more of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next record, if it is complete.
    pub fn next_record(&mut self) -> Option<Record> {
        loop {
            if self.skipping && !self.skip_to_control() {
                return None;
            }
            let nops = self.buffer.iter().take_while(|byte| **byte == NOP).count();
            self.buffer.advance(nops);
            match *self.buffer.first()? {
                DATA => match self.data()? {
                    Record::Data(payload) if payload.is_empty() => {}
                    record @ (Record::Data(_) | Record::Control(..) | Record::Lost) => return Some(record),
                },
                code => {
                    return match Control::from_code(code) {
                        Some(kind) => self.control(kind),
                        None => Some(self.lose()),
                    };
                }
            }
        }
    }

    fn data(&mut self) -> Option<Record> {
        let [_, low, high, ..] = *self.buffer else { return None };
        let length = usize::from(u16::from_le_bytes([low, high]));
        if length > MAX_PAYLOAD {
            return Some(self.lose());
        }
        if self.buffer.len() < DATA_HEADER + length {
            return None;
        }
        self.buffer.advance(DATA_HEADER);
        Some(Record::Data(self.buffer.split_to(length).freeze()))
    }

    fn control(&mut self, kind: Control) -> Option<Record> {
        let magic = &self.buffer[1..self.buffer.len().min(16)];
        if !MAGIC.starts_with(magic) {
            return Some(self.lose());
        }
        let nonce: [u8; 16] = self.buffer.get(16..CONTROL_LEN)?.try_into().ok()?;
        self.buffer.advance(CONTROL_LEN);
        Some(Record::Control(kind, Nonce(nonce)))
    }

    fn lose(&mut self) -> Record {
        self.buffer.advance(1);
        self.skipping = true;
        Record::Lost
    }

    /// Throws away everything before the next control record; false if there is none yet.
    fn skip_to_control(&mut self) -> bool {
        let found = self.buffer.windows(16).position(|at| Control::from_code(at[0]).is_some() && at[1..] == MAGIC[..]);
        let keep_from = found.unwrap_or_else(|| self.buffer.len().saturating_sub(15));
        self.buffer.advance(keep_from);
        self.skipping = found.is_none();
        !self.skipping
    }
}

/// Looks for the answer to one HELLO, whatever comes before it.
#[derive(Debug)]
pub struct AckSearch {
    wanted: [u8; CONTROL_LEN],
    seen: BytesMut,
}

impl AckSearch {
    /// Looks for the ACK of this session.
    #[must_use]
    pub fn new(nonce: Nonce) -> Self {
        Self { wanted: control(Control::Ack, nonce), seen: BytesMut::new() }
    }

    /// Takes more of the stream. Once the answer is there: a parser that stands right behind it.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<Parser> {
        self.seen.extend_from_slice(bytes);
        if let Some(at) = self.seen.windows(CONTROL_LEN).position(|window| window == self.wanted) {
            self.seen.advance(at + CONTROL_LEN);
            return Some(Parser { buffer: self.seen.split(), skipping: false });
        }
        let useless = self.seen.len().saturating_sub(CONTROL_LEN - 1);
        self.seen.advance(useless);
        None
    }
}

#[cfg(test)]
mod tests;
