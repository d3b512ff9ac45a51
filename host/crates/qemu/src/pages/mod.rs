//! The process that serves the pages of a memory to an instance that runs before it has all of them: one beside its QEMU.
//!
//! ```text
//! <runtime folder>/pages/  process      who it is
//!                          served.json  how far it is, and how it has ended: written by itself
//!                          lost         why QEMU was ended, if the rest of the memory could not be had
//! ```
//! It leads a session of its own and outlives the service, as QEMU does; it ends when QEMU has all pages, or has ended. QEMU
//! without it waits for ever for a page that its guest wants: so one of the two is looked after by whoever is attached.

mod watch;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use stillpoint_common::{InstanceId, MemoryState, Progress};
use stillpoint_engine::{
    layout::RuntimeLayout,
    ports::{HypervisorError, Intake},
    served::{Served, ServedEnd},
};

pub(crate) use self::watch::watch;
use crate::{
    config::PageServer,
    process::{self, ProcessIdentity},
};

/// How long it may take to end when its QEMU has.
const GRACE: Duration = Duration::from_secs(2);
const LOST: &str = "lost";

/// How a server of pages stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stand {
    /// There is none: the instance was started otherwise.
    None,
    /// It is at work.
    Serving(Progress),
    /// QEMU has all pages.
    Whole,
    /// It has ended before that; why, in words.
    Ended(String),
}

/// Starts it for an instance whose runtime folder is there; `socket` leads to its QEMU.
pub(crate) fn start(
    server: &PageServer,
    layout: &RuntimeLayout,
    instance: InstanceId,
    memory: &MemoryState,
    socket: OwnedFd,
) -> Result<(), HypervisorError> {
    let folder = layout.pages(instance);
    let begun = begin(server, &folder, &layout.log(instance), memory, socket);
    let failed = |source| HypervisorError::Io { what: "starting what serves the memory of the VM".to_owned(), source };
    let mut child = begun.map_err(failed)?;
    // It is reaped whenever it ends.
    tokio::spawn(async move { child.wait().await });
    Ok(())
}

fn begin(
    server: &PageServer,
    folder: &Path,
    log: &Path,
    memory: &MemoryState,
    socket: OwnedFd,
) -> io::Result<tokio::process::Child> {
    DirBuilder::new().mode(0o700).create(folder)?;
    let log = File::options().append(true).create(true).open(log)?;
    let mut line: Vec<OsString> = server.arguments.iter().map(Into::into).collect();
    for (name, value) in [("--memory", memory.path.as_os_str()), ("--folder", folder.as_os_str())] {
        line.extend([name.into(), value.to_owned()]);
    }
    line.extend(["--blake3".into(), memory.blake3.clone().into()]);
    process::start_with(folder, &server.program, &line, &log, Stdio::from(socket))
}

/// How the server in this folder stands, by what it has told and whether it lives.
pub(crate) fn stand(folder: &Path) -> Stand {
    if !folder.exists() {
        return Stand::None;
    }
    // Asked first: what it tells before it ends is then read.
    let alive = ProcessIdentity::read(folder).is_none_or(|process| process.is_alive());
    of(Served::heard(folder), alive)
}

fn of(told: Option<Served>, alive: bool) -> Stand {
    let told = told.unwrap_or_default();
    match (told.end, alive) {
        (Some(ServedEnd::Whole), _) => Stand::Whole,
        (Some(ServedEnd::Failed(why)), _) => Stand::Ended(why),
        (Some(ServedEnd::HungUp), _) => Stand::Ended("QEMU has closed the connection".to_owned()),
        (None, true) => Stand::Serving(Progress { done: told.sent, total: told.pages }),
        (None, false) => Stand::Ended("what served its pages has ended without a word".to_owned()),
    }
}

/// How it stands with the memory of an instance that has a process.
pub(crate) fn intake(folder: &Path) -> Intake {
    match stand(folder) {
        Stand::None | Stand::Whole => Intake::Over,
        Stand::Serving(progress) => Intake::Active(progress),
        // Whoever looks after it finds out in a moment whether anything is missing.
        Stand::Ended(_) => Intake::Active(Progress::default()),
    }
}

/// The same of one that has none any more.
pub(crate) fn intake_of_gone(folder: &Path) -> Intake {
    fs::read_to_string(folder.join(LOST)).map_or(Intake::Over, Intake::Lost)
}

/// Waits until the server in this folder has ended, after its QEMU has; one that does not end is killed. None there is fine.
pub(crate) async fn end(folder: &Path) -> io::Result<()> {
    let Some(process) = ProcessIdentity::read(folder) else { return Ok(()) };
    if process.ended(GRACE).await {
        return Ok(());
    }
    process.kill()?;
    match process.ended(GRACE).await {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "what serves its pages does not end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_dead_without_a_word_has_not_served_all() {
        let told = |end| Some(Served { sent: 3, pages: 9, end });
        assert_eq!(of(None, true), Stand::Serving(Progress::default()));
        assert_eq!(of(told(None), true), Stand::Serving(Progress { done: 3, total: 9 }));
        assert!(matches!(of(told(None), false), Stand::Ended(why) if why.contains("without a word")));
        assert!(matches!(of(None, false), Stand::Ended(_)));
        for alive in [true, false] {
            assert_eq!(of(told(Some(ServedEnd::Whole)), alive), Stand::Whole);
            assert_eq!(of(told(Some(ServedEnd::Failed("bad".to_owned()))), alive), Stand::Ended("bad".to_owned()));
        }
    }

    #[test]
    fn why_a_memory_was_lost_is_read_from_what_is_left_of_its_instance() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!((intake(&folder.path().join("none")), intake_of_gone(folder.path())), (Intake::Over, Intake::Over));
        fs::write(folder.path().join(LOST), "a page is damaged").unwrap();
        assert_eq!(intake_of_gone(folder.path()), Intake::Lost("a page is damaged".to_owned()));
    }
}
