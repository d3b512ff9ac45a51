//! The agent's end: accepts the sessions that a host begins.
//!
//! ```text
//!             HELLO                         HELLO
//!   none ───────────────▶ session ─────────────────────▶ another session (the old one sees its end)
//!     ▲                      │
//!     └──────────────────────┘  host away for longer than the grace, garbage, a reader that takes nothing, or the
//!              RESET            session's user dropped it
//! ```
//!
//! Reading and writing are separate tasks, so that a full channel in one direction never stops the other, and a HELLO
//! is always seen. The port stays open for the life of the link: closing it would throw away what has come in.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    SessionStream, pipes,
    port::Port,
    record::{self, Control, MAX_PAYLOAD, Nonce, Parser, Record},
};

/// How long a session outlives the sight of the host. "The host is away" may be told late, when it is back already.
const GRACE: Duration = Duration::from_millis(300);
/// How long a session may leave its bytes unread.
const STALL: Duration = Duration::from_secs(10);
/// The pause after a port has failed, before it is tried again.
const AFTER_FAILURE: Duration = Duration::from_millis(200);
/// How long the end of the link may take to be told to the host.
const FAREWELL: Duration = Duration::from_millis(500);
/// Sessions that wait to be accepted, at most.
const BACKLOG: usize = 4;

/// One session with a host.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub nonce: Nonce,
    /// Its bytes. It ends when the host does, or begins another session.
    pub stream: SessionStream,
}

/// Accepts sessions on a port. Dropping it ends them all.
#[derive(Debug)]
pub struct AgentLink {
    sessions: mpsc::Receiver<Session>,
    reader: AbortHandle,
    tasks: JoinSet<()>,
}

impl AgentLink {
    /// Begins to listen, and tells a host that may be in the middle of something that it is speaking to a new agent.
    ///
    /// Must be called inside a runtime.
    #[must_use]
    pub fn listen(port: impl Port) -> Self {
        let port = Arc::new(port);
        let (offer, sessions) = mpsc::channel(BACKLOG);
        let (tell, told) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let reader = Reader { port: Arc::clone(&port), offer, writer: tell, session: None, away: None };
        let reader = tasks.spawn(reader.run());
        tasks.spawn(Writer { port, told, session: None }.run());
        Self { sessions, reader, tasks }
    }

    /// The next session. The one before it has seen its end when this returns. None if the port is lost.
    pub async fn accept(&mut self) -> Option<Session> {
        self.sessions.recv().await
    }

    /// Ends the session that is open, and tells the host so: it need not wait to see that nobody answers any more.
    pub async fn close(mut self) {
        self.reader.abort();
        let told = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(FAREWELL, told).await.is_err() {
            debug!("the host does not take the end of its session");
        }
    }
}

/// What the writer is told by the reader.
#[derive(Debug)]
enum Turn {
    /// A session begins: drop what is left of the old one, acknowledge, carry what this stream gives.
    Begin(Nonce, DuplexStream),
    /// The session is over.
    End(Nonce),
}

struct Reader<P> {
    port: Arc<P>,
    offer: mpsc::Sender<Session>,
    writer: mpsc::Sender<Turn>,
    session: Option<(Nonce, DuplexStream)>,
    away: Option<Instant>,
}

impl<P: Port> Reader<P> {
    async fn run(mut self) {
        let mut parser = Parser::default();
        let mut bytes = vec![0; record::SLED_LEN];
        while !self.writer.is_closed() {
            match self.port.read(&mut bytes).await {
                Ok(0) => self.host_is_away().await,
                Ok(count) => {
                    self.away = None;
                    parser.feed(&bytes[..count]);
                    while let Some(record) = parser.next_record() {
                        self.take(record).await;
                    }
                }
                Err(error) => {
                    warn!(%error, "the port cannot be read");
                    self.end().await;
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn host_is_away(&mut self) {
        if self.session.is_none() {
            return self.port.host_changed().await;
        }
        let since = *self.away.get_or_insert_with(Instant::now);
        if timeout_at(since + GRACE, self.port.host_changed()).await.is_err() {
            info!("the host has gone");
            self.end().await;
        }
    }

    async fn take(&mut self, record: Record) {
        match record {
            Record::Control(Control::Hello, nonce) => self.begin(nonce).await,
            Record::Data(payload) => {
                let Some((_, session)) = &mut self.session else { return };
                match timeout(STALL, session.write_all(&payload)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => self.end().await,
                    Err(_) => {
                        warn!("the session takes no more bytes");
                        self.end().await;
                    }
                }
            }
            Record::Lost if self.session.is_some() => {
                warn!("bytes that are no record");
                self.end().await;
            }
            Record::Lost | Record::Control(Control::Ack | Control::Reset, _) => {}
        }
    }

    async fn begin(&mut self, nonce: Nonce) {
        debug!(?nonce, replaces = self.session.is_some(), "session begins");
        let (stream, (to_user, from_user)) = pipes();
        self.session = None;
        let turn = match self.offer.try_send(Session { nonce, stream }) {
            Ok(()) => {
                self.session = Some((nonce, to_user));
                Turn::Begin(nonce, from_user)
            }
            Err(_) => Turn::End(nonce),
        };
        // A writer that is gone ends the reader at its next turn.
        let _ = self.writer.send(turn).await;
    }

    async fn end(&mut self) {
        if let Some((nonce, _)) = self.session.take() {
            let _ = self.writer.send(Turn::End(nonce)).await;
        }
    }
}

struct Writer<P> {
    port: Arc<P>,
    told: mpsc::Receiver<Turn>,
    session: Option<(Nonce, DuplexStream)>,
}

impl<P: Port> Writer<P> {
    async fn run(mut self) {
        let mut pending = Pending::of(record::sled(Control::Reset, Nonce::NONE));
        let mut payload = vec![0; MAX_PAYLOAD];
        loop {
            tokio::select! {
                biased;
                turn = self.told.recv() => match turn {
                    Some(turn) => pending = self.turn(turn),
                    None => return self.farewell().await,
                },
                written = self.port.write(pending.rest()), if !pending.is_empty() => match written {
                    Ok(count) => pending.advance(count),
                    Err(error) => {
                        warn!(%error, "the port cannot be written");
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                },
                read = next_payload(&mut self.session, &mut payload), if pending.is_empty() => match read {
                    Ok(count) if count > 0 => pending.encode(&payload[..count]),
                    Ok(_) | Err(_) => pending = self.user_left(),
                },
            }
        }
    }

    /// What was left to write belonged to the old session: it is dropped, and the new one is acknowledged. The host
    /// finds the answer behind half a record; a RESET is meant for a host in step, and needs the sled.
    fn turn(&mut self, turn: Turn) -> Pending {
        match turn {
            Turn::Begin(nonce, from_user) => {
                self.session = Some((nonce, from_user));
                Pending::of(record::control(Control::Ack, nonce).to_vec())
            }
            Turn::End(nonce) => {
                self.session = None;
                Pending::of(record::sled(Control::Reset, nonce))
            }
        }
    }

    async fn farewell(&mut self) {
        let mut pending = self.user_left();
        while !pending.is_empty() {
            match self.port.write(pending.rest()).await {
                Ok(count) => pending.advance(count),
                Err(_) => return,
            }
        }
    }

    fn user_left(&mut self) -> Pending {
        match self.session.take() {
            Some((nonce, _)) => Pending::of(record::sled(Control::Reset, nonce)),
            None => Pending::default(),
        }
    }
}

async fn next_payload(session: &mut Option<(Nonce, DuplexStream)>, into: &mut [u8]) -> io::Result<usize> {
    match session {
        Some((_, from_user)) => from_user.read(into).await,
        None => std::future::pending().await,
    }
}

/// Bytes on their way to the port.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    done: usize,
}

impl Pending {
    const fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, done: 0 }
    }

    fn encode(&mut self, payload: &[u8]) {
        self.bytes.clear();
        self.done = 0;
        record::encode_data(payload, &mut self.bytes);
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn advance(&mut self, count: usize) {
        self.done = self.bytes.len().min(self.done + count);
    }
}

#[cfg(test)]
mod tests;
