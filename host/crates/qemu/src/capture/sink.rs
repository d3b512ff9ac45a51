//! Where a capture is written to.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use stillpoint_engine::ports::HypervisorError;
use tokio::process::{Child, Command};

use crate::attached::{last_words, refused};

/// Copies the pipe into the file; if the file takes no more, reads on to the end all the same.
const PUMP: &str = "cat || { cat >/dev/null; exit 1; }";
const PIPE_SIZE: usize = 1 << 20;

#[derive(Debug)]
pub(super) enum Sink {
    /// QEMU writes to the file; this is another descriptor of it.
    Direct(File),
    /// A process of its own, which outlives the service, takes what QEMU writes and never refuses it.
    Piped(Box<Child>),
}

impl Sink {
    /// The sink, and what QEMU gets.
    pub(super) fn direct(file: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        Ok((Self::Direct(file.try_clone()?.into()), file))
    }

    /// The sink, and what QEMU gets. What goes wrong with the file is written to `log`.
    pub(super) fn piped(file: OwnedFd, log: &Path) -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // A smaller pipe does it too.
        let _ = fcntl_setpipe_size(&writer, PIPE_SIZE);
        let log = OpenOptions::new().append(true).create(true).open(log)?;
        let mut command = Command::new("setsid");
        command.args(["--", "sh", "-c", PUMP]).current_dir("/").kill_on_drop(false);
        command.stdin(Stdio::from(reader)).stdout(Stdio::from(file)).stderr(log);
        Ok((Self::Piped(Box::new(command.spawn()?)), writer))
    }

    /// The file takes no more: tried by writing to it, which does no harm to what is of no use any more.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::Direct(file) => {
                let mut file: &File = file;
                let written = file.write_all(&vec![0; 1 << 20]);
                written.is_err_and(|e| matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            }
            Self::Piped(_) => false,
        }
    }

    /// QEMU has written all; returns when all of it is in the file.
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
