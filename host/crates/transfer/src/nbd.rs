//! Reading a disk over NBD: as much of the protocol as that needs, over a unix socket.
//!
//! The crates that speak it are bindings of a C library, or servers. What is needed is small: the handshake with structured
//! replies and `base:allocation`, then READ and BLOCK_STATUS, one request at a time. Every answer is bounded by what was
//! asked for, and every wait has a deadline.
//!
//! ```text
//!  greeting ── STRUCTURED_REPLY ── SET_META_CONTEXT ── GO ── (BLOCK_STATUS | READ)* ── DISC
//! ```

use std::{io, ops::Range, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

const GREETING: u64 = 0x4e42_444d_4147_4943;
const HAVE_OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const CHUNK: u32 = 0x668e_33ef;

/// Fixed newstyle, and no zeroes after the export: both sides.
const FLAGS: u16 = 3;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const ACK: u32 = 1;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const ALLOCATION: &[u8] = b"base:allocation";

const READ: u16 = 0;
const DISCONNECT: u16 = 2;
const BLOCK_STATUS: u16 = 7;
const LAST_CHUNK: u16 = 1;
const READS_AS_ZEROS: u32 = 2;

/// The longest answer to an option, or to a question for blocks.
const LONGEST: u32 = 1 << 20;
/// Bytes that one request for blocks asks about, at most.
const LONGEST_STATUS: u64 = 1 << 30;

/// Why a disk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The connection could not be made, or has ended.
    #[error("the NBD server cannot be reached")]
    Io(#[from] io::Error),
    /// It said something that it may not say.
    #[error("the NBD server answered out of turn: {0}")]
    Protocol(&'static str),
    /// It could not do what it was asked.
    #[error("the NBD server could not read (error {code}): {message}")]
    Refused {
        /// Its number of the error.
        code: u32,
        /// Its words.
        message: String,
    },
    /// It did not answer in time.
    #[error("the NBD server did not answer within {0:?}")]
    Late(Duration),
}

/// A disk that is read over NBD. Dropping it ends the connection.
#[derive(Debug)]
pub struct NbdDisk {
    stream: UnixStream,
    size: u64,
    /// The number that the server gave to `base:allocation`.
    allocation: u32,
    cookie: u64,
    limit: Duration,
}

impl NbdDisk {
    /// Connects to the unnamed export behind this socket. `limit` bounds the handshake, and each answer later.
    ///
    /// # Errors
    /// If there is no server, or not one that tells what holds data.
    pub async fn connect(socket: &Path, limit: Duration) -> Result<Self, NbdError> {
        within(limit, async {
            let mut stream = UnixStream::connect(socket).await?;
            greet(&mut stream).await?;
            option(&mut stream, STRUCTURED_REPLY, &[]).await?;
            answers(&mut stream, STRUCTURED_REPLY, |_, _| {}).await?;
            let allocation = set_meta_context(&mut stream).await?;
            let size = go(&mut stream).await?;
            Ok(Self { stream, size, allocation, cookie: 0, limit })
        })
        .await
    }

    /// Size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// From the beginning of this range on: how many bytes are alike, and whether they read as zeros. At least one byte,
    /// and not more than the range has, which must not be empty.
    ///
    /// # Errors
    /// If the server cannot tell. The disk cannot be used afterwards.
    pub async fn alike(&mut self, range: Range<u64>) -> Result<(u64, bool), NbdError> {
        let (limit, asked) = (self.limit, (range.end - range.start).min(LONGEST_STATUS));
        within(limit, async {
            self.request(BLOCK_STATUS, range.start, asked).await?;
            let mut found: Option<(u64, bool)> = None;
            let mut over = false;
            while !over {
                let chunk = self.chunk(LONGEST).await?;
                over = chunk.last;
                if chunk.kind == ChunkKind::BlockStatus {
                    self.alike_in(&chunk.payload, &mut found)?;
                }
            }
            let (length, zeros) = found.ok_or(NbdError::Protocol("no blocks"))?;
            Ok((length.min(range.end - range.start), zeros))
        })
        .await
    }

    /// Adds the blocks of an answer to those found, as long as they are alike.
    fn alike_in(&self, payload: &[u8], found: &mut Option<(u64, bool)>) -> Result<(), NbdError> {
        let (context, blocks) = payload.split_first_chunk().ok_or(NbdError::Protocol("short blocks"))?;
        if u32::from_be_bytes(*context) != self.allocation {
            return Ok(());
        }
        for block in blocks.chunks_exact(8) {
            let (length, flags) = (u64::from(number(&block[..4])), number(&block[4..]));
            let zeros = flags & READS_AS_ZEROS != 0;
            match found {
                None => *found = Some((length, zeros)),
                Some((sum, alike)) if *alike == zeros => *sum += length,
                Some(_) => return Ok(()),
            }
        }
        match found {
            Some((0, _)) => Err(NbdError::Protocol("an empty block")),
            Some(_) | None => Ok(()),
        }
    }

    /// Reads these bytes, all of them.
    ///
    /// # Errors
    /// If the server cannot read. The disk cannot be used afterwards.
    pub async fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, NbdError> {
        let limit = self.limit;
        within(limit, async {
            self.request(READ, offset, length.into()).await?;
            // What is not sent is a hole.
            let mut data = vec![0; length as usize];
            let (mut over, mut filled) = (false, 0);
            while !over {
                let chunk = self.chunk(length.saturating_add(LONGEST)).await?;
                over = chunk.last;
                filled += place(&mut data, offset, &chunk)?;
            }
            match filled == u64::from(length) {
                true => Ok(data),
                false => Err(NbdError::Protocol("fewer bytes than were asked for")),
            }
        })
        .await
    }

    /// Says goodbye. A server that is gone already does not mind.
    pub async fn close(mut self) {
        let _ = self.request(DISCONNECT, 0, 0).await;
    }

    async fn request(&mut self, kind: u16, offset: u64, length: u64) -> Result<(), NbdError> {
        self.cookie += 1;
        let length = u32::try_from(length).map_err(|_| NbdError::Protocol("too much was asked for"))?;
        let mut bytes = Vec::with_capacity(28);
        bytes.extend(REQUEST.to_be_bytes());
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// The next part of the answer.
    async fn chunk(&mut self, longest: u32) -> Result<Chunk, NbdError> {
        if self.stream.read_u32().await? != CHUNK {
            return Err(NbdError::Protocol("no structured reply"));
        }
        let (flags, kind) = (self.stream.read_u16().await?, self.stream.read_u16().await?);
        if self.stream.read_u64().await? != self.cookie {
            return Err(NbdError::Protocol("the reply to another request"));
        }
        let length = self.stream.read_u32().await?;
        if length > longest {
            return Err(NbdError::Protocol("a reply that is too long"));
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await?;
        let kind = match kind {
            0 => ChunkKind::Nothing,
            1 => ChunkKind::Data,
            2 => ChunkKind::Hole,
            5 => ChunkKind::BlockStatus,
            error if error & 0x8000 != 0 => return Err(refused(&payload)),
            _ => return Err(NbdError::Protocol("a reply of another kind")),
        };
        Ok(Chunk { last: flags & LAST_CHUNK != 0, kind, payload })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkKind {
    Nothing,
    Data,
    Hole,
    BlockStatus,
}

struct Chunk {
    last: bool,
    kind: ChunkKind,
    payload: Vec<u8>,
}

/// Puts what a chunk brings where it belongs; answers how many bytes that are.
fn place(data: &mut [u8], start: u64, chunk: &Chunk) -> Result<u64, NbdError> {
    let outside = || NbdError::Protocol("bytes that were not asked for");
    let short = || NbdError::Protocol("a short reply");
    let (length, bytes) = match chunk.kind {
        ChunkKind::Nothing | ChunkKind::BlockStatus => return Ok(0),
        ChunkKind::Data => {
            let bytes = chunk.payload.get(8..).ok_or_else(short)?;
            (bytes.len(), Some(bytes))
        }
        ChunkKind::Hole => (number(chunk.payload.get(8..12).ok_or_else(short)?) as usize, None),
    };
    let offset = chunk.payload.first_chunk().map(|offset| u64::from_be_bytes(*offset)).ok_or_else(short)?;
    let from = offset.checked_sub(start).and_then(|from| usize::try_from(from).ok()).ok_or_else(outside)?;
    let room = from.checked_add(length).and_then(|to| data.get_mut(from..to)).ok_or_else(outside)?;
    bytes.into_iter().for_each(|bytes| room.copy_from_slice(bytes));
    Ok(length as u64)
}

/// Four bytes, or fewer: the first ones are the higher ones.
fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn refused(payload: &[u8]) -> NbdError {
    let code = number(payload.get(..4).unwrap_or_default());
    let message = payload.get(6..).map(String::from_utf8_lossy).unwrap_or_default();
    NbdError::Refused { code, message: message.chars().take(200).collect() }
}

async fn within<T>(limit: Duration, act: impl Future<Output = Result<T, NbdError>>) -> Result<T, NbdError> {
    timeout(limit, act).await.unwrap_or(Err(NbdError::Late(limit)))
}

async fn greet(stream: &mut UnixStream) -> Result<(), NbdError> {
    let known = stream.read_u64().await? == GREETING && stream.read_u64().await? == HAVE_OPTION;
    if !known || stream.read_u16().await? & FLAGS != FLAGS {
        return Err(NbdError::Protocol("it is no NBD server of today"));
    }
    Ok(stream.write_all(&u32::from(FLAGS).to_be_bytes()).await?)
}

async fn option(stream: &mut UnixStream, option: u32, data: &[u8]) -> Result<(), NbdError> {
    let mut bytes = Vec::with_capacity(16 + data.len());
    bytes.extend(HAVE_OPTION.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(data);
    Ok(stream.write_all(&bytes).await?)
}

/// All answers to an option, up to the one that says that it was done.
async fn answers(stream: &mut UnixStream, option: u32, mut see: impl FnMut(u32, &[u8])) -> Result<(), NbdError> {
    loop {
        if stream.read_u64().await? != OPTION_REPLY || stream.read_u32().await? != option {
            return Err(NbdError::Protocol("the answer to another option"));
        }
        let (kind, length) = (stream.read_u32().await?, stream.read_u32().await?);
        if length > LONGEST {
            return Err(NbdError::Protocol("an answer that is too long"));
        }
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        match kind {
            ACK => return Ok(()),
            refused if refused & 0x8000_0000 != 0 => {
                let message = String::from_utf8_lossy(&payload).chars().take(200).collect();
                return Err(NbdError::Refused { code: refused, message });
            }
            other => see(other, &payload),
        }
    }
}

/// Asks for `base:allocation` of the unnamed export; answers the number that it is called by.
async fn set_meta_context(stream: &mut UnixStream) -> Result<u32, NbdError> {
    let mut data = Vec::new();
    data.extend(0_u32.to_be_bytes());
    data.extend(1_u32.to_be_bytes());
    data.extend(u32::try_from(ALLOCATION.len()).unwrap_or_default().to_be_bytes());
    data.extend(ALLOCATION);
    option(stream, SET_META_CONTEXT, &data).await?;
    let mut id = None;
    answers(stream, SET_META_CONTEXT, |kind, payload| {
        if kind == META_CONTEXT && payload.get(4..) == Some(ALLOCATION) {
            id = payload.first_chunk().map(|id| u32::from_be_bytes(*id));
        }
    })
    .await?;
    id.ok_or(NbdError::Protocol("it does not tell what holds data"))
}

/// Begins with the unnamed export; answers its size.
async fn go(stream: &mut UnixStream) -> Result<u64, NbdError> {
    option(stream, GO, &[0; 6]).await?;
    let mut size = None;
    answers(stream, GO, |kind, payload| {
        // Of kind 0: size and flags.
        if kind == INFO && payload.starts_with(&[0, 0]) {
            size = payload.get(2..).and_then(<[u8]>::first_chunk).map(|size| u64::from_be_bytes(*size));
        }
    })
    .await?;
    size.ok_or(NbdError::Protocol("it does not tell how large the disk is"))
}
