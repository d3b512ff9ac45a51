//! A host that speaks as libvirt does to qemu-ga, through a port of its own.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// How long an answer may take: the emulated CPU is slow.
const PATIENCE: Duration = Duration::from_secs(30);
/// Answered by nobody so far: tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What QEMU is told so that a guest has the port, on this socket.
#[must_use]
pub fn port(socket: &Path) -> Vec<OsString> {
    let chardev = format!("socket,id=qga,path={},server=on,wait=off", socket.display());
    let device = "virtserialport,chardev=qga,name=org.qemu.guest_agent.0,id=port-qga";
    ["-chardev", &chardev, "-device", device].map(OsString::from).to_vec()
}

/// One connection.
#[derive(Debug)]
pub struct Qga {
    stream: UnixStream,
}

impl Qga {
    /// Connects and synchronises, until somebody answers.
    ///
    /// # Errors
    /// If nobody does for long.
    pub async fn connect(socket: &Path) -> io::Result<Self> {
        let until = Instant::now() + 3 * PATIENCE;
        for id in 1_u64.. {
            if let Ok(stream) = UnixStream::connect(socket).await {
                let mut host = Self { stream };
                if let Ok(Ok(())) = timeout(AGAIN, host.synchronise(id)).await {
                    return Ok(host);
                }
            }
            if Instant::now() >= until {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers as qemu-ga does"))
    }

    async fn synchronise(&mut self, id: u64) -> io::Result<()> {
        let request = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
        self.stream.write_all(&[b"\xFF", request.to_string().as_bytes(), b"\n"].concat()).await?;
        while self.stream.read_u8().await? != 0xFF {}
        match self.line().await? {
            answer if answer["return"] == id => Ok(()),
            answer => Err(io::Error::other(format!("{answer}"))),
        }
    }

    async fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        loop {
            match self.stream.read_u8().await? {
                b'\n' => return Ok(serde_json::from_slice(&line)?),
                byte => line.push(byte),
            }
        }
    }

    /// What the guest returns.
    ///
    /// # Errors
    /// What it says instead, or that it does not answer.
    pub async fn ask(&mut self, command: &str) -> io::Result<Value> {
        self.stream.write_all(format!("{}\n", json!({ "execute": command })).as_bytes()).await?;
        let mut answer = timeout(PATIENCE, self.line()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(format!("{command}: {error}"))),
            None => Ok(answer["return"].take()),
        }
    }
}
