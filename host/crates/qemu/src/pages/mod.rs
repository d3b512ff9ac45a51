//! The process that serves the pages of a memory to an instance that runs before it has all of them: one beside its QEMU.
//!
//! ```text
//! <runtime folder>/pages/  process      who it is
//!                          served.json  how far it is, and how it has ended: written by itself
//!                          lost         why QEMU was ended, if the rest of the memory could not be had
//!                          log          what it printed
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

use stillpoint_common::{MemoryState, Progress};
use stillpoint_engine::{
    ports::Intake,
    served::{Served, ServedEnd},
};
use tokio::{
    process::Child,
    time::{Instant, sleep},
};

pub(crate) use self::watch::watch;
use crate::{
    attached::last_words,
    config::PageServer,
    process::{self, ProcessIdentity},
};

/// How long it may take until it tells of itself. One that lives and does not is taken for one that is slow.
const BEGIN: Duration = Duration::from_secs(10);
/// Between two looks at one that begins.
const LOOK: Duration = Duration::from_millis(2);
const LOST: &str = "lost";
const LOG: &str = "log";

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

/// Starts it in this folder, which is made; `socket` leads to its QEMU. Returns when it has opened the memory, or has told
/// why it cannot: then it [stands](stand) as ended.
///
/// # Errors
/// Why it could not be started, in words. Nothing of it is left then.
pub(crate) async fn start(
    server: &PageServer,
    folder: &Path,
    memory: &MemoryState,
    socket: OwnedFd,
) -> Result<(), String> {
    let failed = |why: String| format!("what serves its pages could not be started: {why}");
    DirBuilder::new().mode(0o700).create(folder).map_err(|error| failed(error.to_string()))?;
    let begun = match spawn(server, folder, memory, socket) {
        Ok(child) => begun(child, folder).await,
        Err(error) => Err(error.to_string()),
    };
    let Err(why) = begun else { return Ok(()) };
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "what is left of a server of pages cannot be removed");
    }
    Err(failed(why))
}

fn spawn(server: &PageServer, folder: &Path, memory: &MemoryState, socket: OwnedFd) -> io::Result<Child> {
    let log = File::options().append(true).create(true).open(folder.join(LOG))?;
    let mut line: Vec<OsString> = server.arguments.iter().map(Into::into).collect();
    for (name, value) in [("--memory", memory.path.as_os_str()), ("--folder", folder.as_os_str())] {
        line.extend([name.into(), value.to_owned()]);
    }
    line.extend(["--blake3".into(), memory.blake3.clone().into()]);
    process::start_with(folder, &server.program, &line, &log, Stdio::from(socket))
}

/// Waits until it tells of itself. One that ends before that is none: its program is gone, say.
async fn begun(mut child: Child, folder: &Path) -> Result<(), String> {
    let deadline = Instant::now() + BEGIN;
    while Served::heard(folder).is_none() && Instant::now() < deadline {
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        // Heard again: it may have told all that it had to tell in between.
        if let (Some(status), None) = (ended, Served::heard(folder)) {
            return Err(last_words(&folder.join(LOG)).unwrap_or_else(|| status.to_string()));
        }
        sleep(LOOK).await;
    }
    // It is reaped whenever it ends.
    tokio::spawn(async move { child.wait().await });
    Ok(())
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
    process::end(folder, "what serves its pages").await
}

#[cfg(test)]
mod tests {
    use stillpoint_common::MemoryFormat;

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

    /// A server that is a script of the shell; `$3` is its folder.
    async fn started(script: &str, folder: &Path) -> Result<(), String> {
        let server = PageServer { program: "/bin/sh".into(), arguments: vec!["-c".to_owned(), script.to_owned()] };
        start_at(&server, folder).await
    }

    async fn start_at(server: &PageServer, folder: &Path) -> Result<(), String> {
        let memory = MemoryState {
            path: "/none".into(),
            bytes: 0,
            blake3: String::new(),
            qemu_version: String::new(),
            format: MemoryFormat::default(),
        };
        start(server, folder, &memory, File::open("/dev/null").unwrap().into()).await
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_started_leaves_nothing_but_the_reason() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("pages");
        let gone = PageServer { program: "/none/of/that".into(), arguments: Vec::new() };
        let why = start_at(&gone, &folder).await.unwrap_err();
        assert!(why.contains("/none/of/that") && !folder.exists(), "{why}");
        let why = started("exit 3", &folder).await.unwrap_err();
        assert!(why.contains("exit status: 3") && !folder.exists(), "{why}");
        let why = started("", &parent.path().join("not/there")).await.unwrap_err();
        assert!(why.contains("No such file"), "{why}");
    }

    #[tokio::test]
    async fn a_server_that_tells_of_itself_is_started_whatever_it_tells() {
        let parent = tempfile::tempdir().unwrap();
        let tells = |told: &Served| format!("echo its log; echo '{}' >\"$3/served.json\"", serde_json::json!(told));
        let folder = parent.path().join("serves");
        let serves = Served { sent: 0, pages: 9, end: None };
        started(&format!("{}; exec sleep 60", tells(&serves)), &folder).await.unwrap();
        assert_eq!(stand(&folder), Stand::Serving(Progress { done: 0, total: 9 }));
        assert_eq!(fs::read_to_string(folder.join(LOG)).unwrap(), "its log\n");
        ProcessIdentity::read(&folder).unwrap().kill().unwrap();
        let folder = parent.path().join("fails");
        let fails = Served { end: Some(ServedEnd::Failed("bad".to_owned())), ..serves };
        started(&tells(&fails), &folder).await.unwrap();
        assert_eq!(stand(&folder), Stand::Ended("bad".to_owned()));
    }
}
