//! The host's end: begins sessions over the unix socket of QEMU's character device.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::debug;

use crate::{
    SessionStream, pipes,
    record::{self, AckSearch, Control, MAX_PAYLOAD, Nonce, Parser, Record},
};

/// How long the first handshake may take. It is short because QEMU sometimes leaves the guest's side of the port
/// throttled when a client dies in the middle of a write; only closing again clears that.
const FIRST_HANDSHAKE: Duration = Duration::from_millis(400);
/// How long any handshake may take: each one that fails lets the next one have half as long again.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(3);
/// The pause between two attempts when the socket itself refuses.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes taken from the socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Why no session was begun.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket cannot be connected to: QEMU is gone, or another program has it.
    #[error("the agent's socket cannot be connected to")]
    Socket(#[source] io::Error),
    /// QEMU is there, and nothing in the guest answers.
    #[error("nothing in the guest answered {attempts} handshakes")]
    NoAnswer {
        /// How often we asked.
        attempts: u32,
    },
}

/// Begins a session, trying again until the deadline.
///
/// The character device serves one connection at a time: the stream of an earlier session must have been dropped. A
/// dropped future leaves at most a half-begun session, which the next one replaces.
///
/// # Errors
/// At the deadline, with what the last attempt saw.
pub async fn dial(path: &Path, deadline: Instant) -> Result<SessionStream, DialError> {
    let (mut attempts, mut limit) = (0, FIRST_HANDSHAKE);
    loop {
        let until = deadline.min(Instant::now() + limit);
        let failure = match timeout_at(until, handshake(path)).await {
            Ok(Ok((socket, parser))) => return Ok(carry(socket, parser)),
            Ok(Err(source)) => DialError::Socket(source),
            Err(_) => DialError::NoAnswer { attempts: attempts + 1 },
        };
        attempts += 1;
        debug!(attempts, %failure, "handshake failed");
        limit = LONGEST_HANDSHAKE.min(limit * 3 / 2);
        let next = Instant::now() + PAUSE;
        if next >= deadline {
            return Err(failure);
        }
        if matches!(failure, DialError::Socket(_)) {
            sleep_until(next).await;
        }
    }
}

/// One attempt: HELLO, and wait for its ACK. Ends by itself only if the socket does.
async fn handshake(path: &Path) -> io::Result<(UnixStream, Parser)> {
    let mut socket = UnixStream::connect(path).await?;
    let nonce = Nonce::random()?;
    socket.write_all(&record::sled(Control::Hello, nonce)).await?;
    let mut search = AckSearch::new(nonce);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        let count = socket.read(&mut bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(parser) = search.feed(&bytes[..count]) {
            debug!(?nonce, "session begun");
            return Ok((socket, parser));
        }
    }
}

/// Carries the session's bytes until either side ends; then the socket is closed.
fn carry(socket: UnixStream, parser: Parser) -> SessionStream {
    let (stream, (to_user, from_user)) = pipes();
    let (reader, writer) = socket.into_split();
    tokio::spawn(async move {
        tokio::select! {
            end = inward(reader, parser, to_user) => debug!(?end, "session ended by the guest"),
            end = outward(from_user, writer) => debug!(?end, "session ended by the host"),
        }
    });
    stream
}

async fn inward(mut socket: OwnedReadHalf, mut parser: Parser, mut to_user: DuplexStream) -> io::Result<()> {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        while let Some(record) = parser.next_record() {
            match record {
                Record::Data(payload) => to_user.write_all(&payload).await?,
                Record::Control(Control::Reset, _) => return Ok(()),
                Record::Control(Control::Hello | Control::Ack, _) | Record::Lost => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the guest sent no record"));
                }
            }
        }
        let count = socket.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        parser.feed(&bytes[..count]);
    }
}

async fn outward(mut from_user: DuplexStream, mut socket: OwnedWriteHalf) -> io::Result<()> {
    /// A peer that takes nothing for so long is gone; a paused VM is the longest good reason.
    const STUCK: Duration = Duration::from_secs(600);
    let mut payload = vec![0; MAX_PAYLOAD];
    let mut encoded = Vec::with_capacity(record::SLED_LEN);
    loop {
        let count = from_user.read(&mut payload).await?;
        if count == 0 {
            return Ok(());
        }
        encoded.clear();
        record::encode_data(&payload[..count], &mut encoded);
        timeout(STUCK, socket.write_all(&encoded)).await??;
    }
}
