//! The smallest QMP client that a test can drive QEMU with. It shares no code with the product's, so that it can be
//! what the product is measured against.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

const LONGEST_ANSWER: Duration = Duration::from_secs(30);

/// A connection to one of QEMU's monitors. A monitor serves one client at a time.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
    /// The events that came between answers, oldest first.
    pub events: Vec<Value>,
}

impl Qmp {
    /// Connects as soon as QEMU listens, and negotiates.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn connect(socket: &Path, within: Duration) -> io::Result<Self> {
        let end = Instant::now() + within;
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        let (input, out) = stream.into_split();
        let mut qmp = Self { lines: BufReader::new(input).lines(), out, events: Vec::new() };
        qmp.message().await?; // the greeting
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and gives what it returns.
    ///
    /// # Errors
    /// What QEMU answered, if it refused; or that it did not answer.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> io::Result<Value> {
        self.execute_with(command, arguments, None).await
    }

    /// The same, and hands QEMU a file with the command.
    ///
    /// # Errors
    /// As for [`Qmp::execute`].
    pub async fn execute_with(&mut self, command: &str, arguments: Value, file: Option<OwnedFd>) -> io::Result<Value> {
        let request = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let sent = match file {
            Some(file) => self.send_with(request.as_bytes(), file).await?,
            None => 0,
        };
        self.out.write_all(&request.as_bytes()[sent..]).await?;
        loop {
            let mut message = self.message().await?;
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            } else {
                return Ok(message["return"].take());
            }
        }
    }

    /// Waits for the next event of this name, which may have come already.
    ///
    /// # Errors
    /// If it does not come in time.
    pub async fn event(&mut self, name: &str) -> io::Result<Value> {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return Ok(self.events.remove(at));
            }
            let message = self.message().await?;
            self.events.push(message);
        }
    }

    /// Sends some of the bytes, and the file with them.
    async fn send_with(&mut self, bytes: &[u8], file: OwnedFd) -> io::Result<usize> {
        let stream = self.out.as_ref();
        let files = [file.as_fd()];
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&files));
            Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }

    async fn message(&mut self) -> io::Result<Value> {
        let line = timeout(LONGEST_ANSWER, self.lines.next_line()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
        serde_json::from_str(&line).map_err(io::Error::from)
    }
}
