//! QEMU as a process: started in a session of its own, found again by pid *and* start time, ended for good.

use std::{ffi::OsString, fs::File, io, path::Path, process::Stdio, time::Duration};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Written into the instance's folder by the process itself, before it becomes QEMU: so it is there however early the
/// service dies. `exec` keeps pid and start time; setsid(1) does not fork, since the shell leads no process group.
const START: &str = r#"cat "/proc/$$/stat" /proc/sys/kernel/random/boot_id >"$0" && exec setsid -- "$@""#;
const FILE: &str = "process";
/// How long what stands beside a QEMU may take to end when that has.
const GRACE: Duration = Duration::from_secs(2);

/// A process, never to be confused with a later one of the same pid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    pid: Pid,
    /// Clock ticks since boot.
    started: u64,
    boot: String,
}

impl ProcessIdentity {
    /// Who was started in this folder. `None` if nobody was, or if that cannot be told now.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        Self::find(folder).ok().flatten()
    }

    /// Who was started in this folder, for those who would take it for free if nobody was.
    pub(crate) fn find(folder: &Path) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(folder.join(FILE)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None` if whoever was to write it has died before it was written.
    fn parse(text: &str) -> Option<Self> {
        let (stat, boot) = text.trim_end().rsplit_once('\n')?;
        let stat = Stat::parse(stat)?;
        Some(Self { pid: stat.pid, started: stat.started, boot: boot.to_owned() })
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// The process is there and has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero()));
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        self.lives(stat, boot)
    }

    /// By what `/proc` says. What cannot be read, by a service without a free descriptor, say, tells of no end: a VM whose
    /// process is taken for gone would be started beside itself.
    fn lives(&self, stat: io::Result<String>, boot: io::Result<String>) -> bool {
        if boot.is_ok_and(|boot| boot.trim() != self.boot) {
            return false;
        }
        match stat {
            Ok(stat) => Stat::parse(&stat).is_some_and(|stat| stat.started == self.started && !stat.ended),
            Err(error) => error.kind() != io::ErrorKind::NotFound && Errno::from_io_error(&error) != Some(Errno::SRCH),
        }
    }

    /// Kills the process, and no other that got its pid. One that has ended is fine.
    pub(crate) fn kill(&self) -> io::Result<()> {
        let pidfd = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // The descriptor holds on to one process; if the identity fits now, that one is ours.
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the end of the process. False if it is still there at the deadline.
    pub(crate) async fn ended(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }
}

/// What `/proc/PID/stat` says, as far as we care.
struct Stat {
    pid: Pid,
    ended: bool,
    started: u64,
}

impl Stat {
    /// The command in the middle may contain anything, parentheses and line ends too.
    fn parse(text: &str) -> Option<Self> {
        let pid = Pid::from_raw(text.split(' ').next()?.parse().ok()?)?;
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let ended = matches!(fields.next()?, "Z" | "X" | "x");
        Some(Self { pid, ended, started: fields.nth(18)?.parse().ok()? })
    }
}

/// Waits until what was started in this folder has ended, as it does by itself after its QEMU; what does not end is killed.
/// None there is fine.
pub(crate) async fn end(folder: &Path, what: &str) -> io::Result<()> {
    let Some(process) = ProcessIdentity::find(folder)? else { return Ok(()) };
    if process.ended(GRACE).await {
        return Ok(());
    }
    process.kill()?;
    match process.ended(GRACE).await {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} does not end"))),
    }
}

/// Starts a program in a session of its own: it does not end with the service, nor by a signal from its terminal.
///
/// What it prints goes to `log`. Its identity is in `folder` before it runs.
pub(crate) fn start(folder: &Path, program: &Path, arguments: &[OsString], log: &File) -> io::Result<Child> {
    start_with(folder, program, arguments, log, Stdio::null())
}

/// The same, with something to read.
pub(crate) fn start_with(
    folder: &Path,
    program: &Path,
    arguments: &[OsString],
    log: &File,
    input: Stdio,
) -> io::Result<Child> {
    Command::new("sh")
        .arg("-c")
        .arg(START)
        .arg(folder.join(FILE))
        .arg(program)
        .args(arguments)
        .current_dir("/")
        .stdin(input)
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .kill_on_drop(false)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_full_of_tricks_does_not_confuse() {
        let stat = "42 (a) Z (b\n) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 777 10 11";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.pid.as_raw_nonzero().get(), stat.ended, stat.started), (42, false, 777));
        assert!(Stat::parse("").is_none() && Stat::parse("0 () R").is_none() && Stat::parse("7 (x").is_none());
    }

    #[test]
    fn what_cannot_be_read_tells_of_no_end() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(ProcessIdentity::find(folder.path()).unwrap(), None);
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        ProcessIdentity::find(folder.path()).unwrap_err();

        let pid = Pid::from_raw(42).unwrap();
        let identity = ProcessIdentity { pid, started: 777, boot: "b".to_owned() };
        let stat = || Ok("42 (a) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 777 10 11".to_owned());
        let boot = |boot: &str| Ok(format!("{boot}\n"));
        let failed = |errno: Errno| Err(io::Error::from(errno));
        assert!(identity.lives(stat(), boot("b")) && !identity.lives(stat(), boot("c")));
        assert!(identity.lives(failed(Errno::MFILE), boot("b")) && identity.lives(stat(), failed(Errno::MFILE)));
        assert!(!identity.lives(failed(Errno::MFILE), boot("c")), "of another boot it has ended");
        assert!(!identity.lives(failed(Errno::NOENT), boot("b")) && !identity.lives(failed(Errno::SRCH), boot("b")));
    }

    /// Asked of /proc: where the session's leader lies outside of our pid namespace, its id is 0.
    fn session_of(identity: &ProcessIdentity) -> Option<Pid> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", identity.pid().as_raw_nonzero())).unwrap();
        let session = text.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap();
        Pid::from_raw(session.parse().unwrap())
    }

    #[tokio::test]
    async fn a_process_leads_its_own_session_and_is_known_by_more_than_its_pid() {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut child = start(folder.path(), Path::new("sleep"), &["60".into()], &log).unwrap();
        let identity = loop {
            match ProcessIdentity::read(folder.path()) {
                Some(identity) => break identity,
                None => sleep(Duration::from_millis(2)).await,
            }
        };
        assert_eq!(child.id(), u32::try_from(identity.pid().as_raw_nonzero().get()).ok());
        while session_of(&identity) != Some(identity.pid()) {
            sleep(Duration::from_millis(2)).await;
        }
        assert!(identity.is_alive());
        let stranger = ProcessIdentity { started: identity.started + 1, ..identity.clone() };
        assert!(!stranger.is_alive());
        stranger.kill().unwrap();
        assert!(identity.is_alive(), "a process of another start time is left alone");
        identity.kill().unwrap();
        assert!(identity.ended(Duration::from_secs(5)).await, "a zombie counts as ended");
        child.wait().await.unwrap();
        identity.kill().unwrap();
    }
}
