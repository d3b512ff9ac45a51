//! An instance whose control socket we hold.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_engine::ports::HypervisorError;

use crate::{
    capture::Memo,
    config::{Deadlines, MergePace},
    graph::Layers,
    process::ProcessIdentity,
    qmp::{
        Client, Command, QmpError,
        commands::{QueryBlockGraph, VersionNumber},
    },
};

/// How long a process may take to be gone after its socket closed, before we call it a lost connection.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) client: Client,
    pub(crate) process: ProcessIdentity,
    pub(crate) log: PathBuf,
    pub(crate) deadlines: Deadlines,
    pub(crate) pace: MergePace,
    pub(crate) version: VersionNumber,
    pub(crate) capture: Memo,
}

impl Attached {
    /// This QEMU's captures must not be cancelled nor fail, and let the VM run by themselves: see [`crate::capture`].
    /// Seen with 7.2; 10.0 is free of it. 9.0 is where QEMU began to give back the state a VM was in.
    pub(crate) fn needs_care(&self) -> bool {
        self.version < VersionNumber { major: 9, minor: 0, micro: 0 }
    }

    /// Runs a command that does not wait for disks.
    pub(crate) async fn run<C: Command>(&self, command: &C) -> Result<C::Ok, HypervisorError> {
        self.run_with(command, None, self.deadlines.command).await
    }

    /// Runs a command that waits until disk writes in flight are done.
    pub(crate) async fn drain<C: Command>(&self, command: &C) -> Result<C::Ok, HypervisorError> {
        self.run_with(command, None, self.deadlines.drain).await
    }

    /// Runs a command, and gives QEMU a descriptor with it.
    pub(crate) async fn run_with<C: Command>(
        &self,
        command: &C,
        fd: Option<OwnedFd>,
        within: Duration,
    ) -> Result<C::Ok, HypervisorError> {
        match self.client.execute_with(command, fd, within).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.explain(error).await),
        }
    }

    /// Which layers make up which disk, as QEMU has it.
    pub(crate) async fn layers(&self) -> Result<Layers, HypervisorError> {
        Ok(Layers::of(&self.run(&QueryBlockGraph {}).await?))
    }

    async fn explain(&self, error: QmpError) -> HypervisorError {
        if matches!(error, QmpError::Closed) && self.process.ended(GRACE).await {
            return HypervisorError::Gone;
        }
        explained(error)
    }
}

/// What a QMP error is to the engine.
pub(crate) fn explained(error: QmpError) -> HypervisorError {
    match error {
        QmpError::Unanswered { command, waited } => HypervisorError::Unanswered { command: command.to_owned(), waited },
        QmpError::NoGreeting { waited } => {
            HypervisorError::Unanswered { command: "the connection to its control socket".to_owned(), waited }
        }
        QmpError::Refused { command, message } => refused(command, message),
        QmpError::Malformed { command, source } => {
            refused(command, format!("the answer cannot be understood: {source}"))
        }
        QmpError::Connect { path, source } => {
            HypervisorError::Io { what: format!("connecting to {}", path.display()), source }
        }
        QmpError::Closed => HypervisorError::Io {
            what: "the connection to QEMU's control socket was lost".to_owned(),
            source: io::ErrorKind::ConnectionReset.into(),
        },
    }
}

/// A refusal, or a full disk if that is what it says.
pub(crate) fn refused(command: &str, message: String) -> HypervisorError {
    if tells_of_no_space(&message) {
        return HypervisorError::NoSpace { message };
    }
    HypervisorError::Refused { command: command.to_owned(), message }
}

/// QEMU passes on the system's words for a full file system or a used-up quota.
pub(crate) fn tells_of_no_space(message: &str) -> bool {
    message.contains("No space left on device") || message.contains("Disk quota exceeded")
}

/// The end of what a process printed, as one line. `None` if it printed nothing.
pub(crate) fn last_words(log: &Path) -> Option<String> {
    words(&std::fs::read(log).ok()?)
}

/// The end of what was printed, as one line. `None` if that is nothing.
pub(crate) fn words(bytes: &[u8]) -> Option<String> {
    const LINES: usize = 8;
    const LENGTH: usize = 4096;
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LENGTH)..]).into_owned();
    let mut lines: Vec<_> = text.lines().map(spoken).filter(|line| !line.is_empty()).collect();
    if lines.iter().any(|line| !line.starts_with("warning:")) {
        lines.retain(|line| !line.starts_with("warning:"));
    }
    let words = lines[lines.len().saturating_sub(LINES)..].join("; ");
    (!words.is_empty()).then_some(words)
}

/// A line without the name of the program that speaks.
fn spoken(line: &str) -> &str {
    let line = line.trim();
    match line.split_once(": ") {
        Some((program, words)) if program.contains("qemu-") && !program.contains(' ') => words,
        Some(_) | None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_short_and_say_what_went_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        assert_eq!(last_words(&log), None);
        std::fs::write(&log, " \n").unwrap();
        assert_eq!(last_words(&log), None);
        std::fs::write(&log, "x\n".repeat(100_000) + "/usr/bin/qemu-system-x86_64: -device x: no\n\n").unwrap();
        let words = last_words(&log).unwrap();
        assert!(words.ends_with("x; -device x: no") && words.len() < 100, "{words}");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = refused("blockdev-add", "Could not write: No space left on device".to_owned());
        assert!(matches!(full, HypervisorError::NoSpace { .. }));
        assert!(matches!(refused("stop", "no".to_owned()), HypervisorError::Refused { .. }));
    }
}
