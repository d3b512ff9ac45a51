//! Where a capture is written to.
//!
//! Whoever takes it in is a part of the service, and reads on whatever happens, but for one thing: it can be killed.

use std::{fs::OpenOptions, io, os::fd::OwnedFd, path::Path, process::Stdio, time::Duration};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use stillpoint_engine::ports::HypervisorError;
use tokio::process::{Child, Command};

use crate::attached::{last_words, refused};

/// Copies one pipe into the other; if nobody reads that any more, reads on to the end all the same.
const PUMP: &str = "cat || { cat >/dev/null; exit 1; }";
const PIPE_SIZE: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Sink {
    /// QEMU writes to the descriptor itself.
    Direct,
    /// A process of its own, which outlives the service, takes what QEMU writes and never refuses it.
    Piped(Box<Child>),
}

impl Sink {
    /// The sink, and what QEMU gets. What goes wrong on the way is written to `log`.
    pub(super) fn piped(sink: OwnedFd, log: &Path) -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // A smaller pipe does it too.
        let _ = fcntl_setpipe_size(&writer, PIPE_SIZE);
        let log = OpenOptions::new().append(true).create(true).open(log)?;
        let mut command = Command::new("setsid");
        command.args(["--", "sh", "-c", PUMP]).current_dir("/").kill_on_drop(false);
        command.stdin(Stdio::from(reader)).stdout(Stdio::from(sink)).stderr(log);
        Ok((Self::Piped(Box::new(command.spawn()?)), writer))
    }

    /// QEMU has written all; returns when all of it is handed on.
    pub(super) async fn finished(self, within: Duration, log: &Path) -> Result<(), HypervisorError> {
        let Self::Piped(mut pump) = self else { return Ok(()) };
        let unanswered = HypervisorError::Unanswered { command: "the end of the memory".to_owned(), waited: within };
        let ended = tokio::time::timeout(within, pump.wait()).await.map_err(|_| unanswered)?;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(refused("migrate", last_words(log).unwrap_or_else(|| status.to_string()))),
            Err(source) => Err(HypervisorError::Io { what: "writing the memory".to_owned(), source }),
        }
    }
}
