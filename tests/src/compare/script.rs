//! The smallest thing that can freeze a file system when it is told to: a shell in the guest, on a port of its own.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::Outcome;
use crate::lab::LabChannel;

/// The name of the virtio-serial port it is on.
pub(super) const PORT: &str = "org.stillpoint.script.0";
/// How long a line may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A shell in the guest that waits for its next line.
#[derive(Debug)]
pub(super) struct Script {
    lines: Lines<BufReader<OwnedReadHalf>>,
    out: OwnedWriteHalf,
}

impl Script {
    /// Starts the shell. The host is connected first: a port without one reads as ended.
    pub(super) async fn start(socket: &Path, lab: &LabChannel) -> Outcome<Self> {
        let (input, out) = UnixStream::connect(socket).await?.into_split();
        let mut script = Self { lines: BufReader::new(input).lines(), out };
        lab.sh(&format!("setsid sh 0<>/dev/virtio-ports/{PORT} 1>&0 2>&0 &")).await?;
        script.run("true").await?;
        Ok(script)
    }

    /// Runs a command that prints nothing, and returns when it has ended well.
    pub(super) async fn run(&mut self, command: &str) -> Outcome {
        self.out.write_all(format!("{command} && echo DONE || echo FAILED\n").as_bytes()).await?;
        let line =
            timeout(LIMIT, self.lines.next_line()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        match line.as_deref() {
            Some("DONE") => Ok(()),
            other => Err(format!("`{command}` in the guest: {}", other.unwrap_or("its shell has ended")).into()),
        }
    }
}
