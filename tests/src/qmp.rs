//! The smallest QMP client that a test can drive QEMU with. It shares no code with the product's, so that it can be
//! what the product is measured against.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
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
        let request = json!({ "execute": command, "arguments": arguments });
        self.out.write_all(format!("{request}\n").as_bytes()).await?;
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

    async fn message(&mut self) -> io::Result<Value> {
        let line = timeout(LONGEST_ANSWER, self.lines.next_line()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let line = line.ok_or(io::ErrorKind::UnexpectedEof)?;
        serde_json::from_str(&line).map_err(io::Error::from)
    }
}
