//! One connection. A task owns the socket; callers speak to it through a bounded channel.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, mpsc, oneshot},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use super::{
    Command, QmpError,
    commands::QmpCapabilities,
    fds,
    wire::{Event, Lines, Message, parse},
};

type Answer = Result<Value, String>;
/// Who waits for which id. The lock covers one insertion or removal.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Answer>>>>;

struct Request {
    line: Vec<u8>,
    fd: Option<OwnedFd>,
}

/// A connection to a QEMU. When the last handle is dropped, the connection closes.
#[derive(Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    waiting: Waiting,
    events: broadcast::WeakSender<Event>,
    session: String,
    count: AtomicU64,
}

impl Client {
    /// Connects and shakes hands, the whole of it within `within`.
    ///
    /// Answers the events too: none since the handshake is missed. Their end is the end of the connection.
    ///
    /// # Errors
    /// [`QmpError::NoGreeting`] also when another client holds the socket: QEMU serves one at a time.
    pub async fn connect(path: &Path, within: Duration) -> Result<(Self, broadcast::Receiver<Event>), QmpError> {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|source| QmpError::Connect { path: path.to_owned(), source })?;
        Self::over(stream, within).await
    }

    /// As [`connect`](Self::connect), over a socket that is connected already.
    ///
    /// # Errors
    /// As for `connect`.
    pub async fn over(stream: UnixStream, within: Duration) -> Result<(Self, broadcast::Receiver<Event>), QmpError> {
        let deadline = Instant::now() + within;
        let (reader, writer) = stream.into_split();
        let mut lines = Lines::new(reader);
        let greeted = timeout_at(deadline, greeting(&mut lines)).await;
        if !greeted.map_err(|_| QmpError::NoGreeting { waited: within })? {
            return Err(QmpError::Closed);
        }
        let (requests, queue) = mpsc::channel(16);
        let (event_sender, events) = broadcast::channel(1024);
        let waiting = Waiting::default();
        let client = Self {
            requests,
            waiting: Arc::clone(&waiting),
            events: event_sender.downgrade(),
            session: Uuid::new_v4().simple().to_string(),
            count: AtomicU64::new(0),
        };
        tokio::spawn(serve(lines, writer, queue, waiting, event_sender));
        client.execute(&QmpCapabilities {}, within).await?;
        Ok((client, events))
    }

    /// Sends a command and waits for its answer.
    ///
    /// A dropped future, and a deadline that passes, leave the command with QEMU: it may still be done.
    ///
    /// # Errors
    /// Every way in which there is no answer: see [`QmpError`].
    pub async fn execute<C: Command>(&self, command: &C, within: Duration) -> Result<C::Ok, QmpError> {
        self.execute_with(command, None, within).await
    }

    /// As [`execute`](Self::execute), and hands QEMU a file descriptor with it.
    ///
    /// # Errors
    /// As for `execute`.
    pub async fn execute_with<C: Command>(
        &self,
        command: &C,
        fd: Option<OwnedFd>,
        within: Duration,
    ) -> Result<C::Ok, QmpError> {
        let malformed = |source| QmpError::Malformed { command: C::NAME, source };
        let id = format!("{}-{}", self.session, self.count.fetch_add(1, Ordering::Relaxed));
        let arguments = serde_json::to_value(command).map_err(malformed)?;
        let mut line = json!({"execute": C::NAME, "arguments": arguments, "id": id}).to_string().into_bytes();
        line.push(b'\n');
        let asked = self.ask(id, Request { line, fd });
        let answer = tokio::time::timeout(within, asked).await;
        match answer.map_err(|_| QmpError::Unanswered { command: C::NAME, waited: within })?? {
            Ok(value) => serde_json::from_value(value).map_err(malformed),
            Err(message) => Err(QmpError::Refused { command: C::NAME, message }),
        }
    }

    async fn ask(&self, id: String, request: Request) -> Result<Answer, QmpError> {
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|_, caller| !caller.is_closed());
            waiting.insert(id, sender);
        }
        self.requests.send(request).await.map_err(|_| QmpError::Closed)?;
        tokio::select! {
            biased;
            answer = answer => answer.map_err(|_| QmpError::Closed),
            () = self.requests.closed() => Err(QmpError::Closed),
        }
    }

    /// Events from now on. `None` when the connection has ended.
    #[must_use]
    pub fn events(&self) -> Option<broadcast::Receiver<Event>> {
        self.events.upgrade().map(|sender| sender.subscribe())
    }

    /// The connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

async fn greeting(lines: &mut Lines<OwnedReadHalf>) -> bool {
    while let Some(line) = lines.next().await {
        if parse(&line) == Message::Greeting {
            return true;
        }
    }
    false
}

/// Runs until the peer hangs up, a write fails, or every handle is gone. Then whoever waits learns it.
async fn serve(
    mut lines: Lines<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Request>,
    waiting: Waiting,
    events: broadcast::Sender<Event>,
) {
    let read = async {
        while let Some(line) = lines.next().await {
            deliver(parse(&line), &waiting, &events);
        }
    };
    let write = async {
        while let Some(Request { line, fd }) = queue.recv().await {
            if fds::send(&mut writer, &line, fd).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    drop(queue);
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn deliver(message: Message, waiting: &Waiting, events: &broadcast::Sender<Event>) {
    match message {
        Message::Reply { id, outcome } => {
            let caller = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            // A reply that nobody waits for is late, or for an earlier connection: dropped.
            if let Some(caller) = caller {
                let _ = caller.send(outcome);
            }
        }
        Message::Event(event) => {
            let _ = events.send(event);
        }
        Message::Greeting | Message::Stray => tracing::debug!("QMP peer sent a line that answers nothing"),
    }
}

#[cfg(test)]
mod tests;
