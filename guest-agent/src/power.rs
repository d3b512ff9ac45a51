//! Ends the guest's system, in as orderly a way as the guest knows.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal},
    system::RebootCommand,
};
use tracing::{info, warn};

/// How the system ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Switched off.
    PowerOff,
    /// Started again.
    Reboot,
}

/// Who sees to an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Init {
    /// A program that takes orders by this command.
    Ordered(&'static [&'static str]),
    /// Nobody: process 1 is a shell script or something else that takes no orders.
    None,
}

/// How long an orderly end may take before it is made without order.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long processes have to end, when nobody else asks them to.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Begins the end, on a thread of its own. Asked again while one is under way, a second one does no harm.
///
/// # Errors
/// If there is no thread to be had.
pub fn begin(ending: Ending) -> std::io::Result<()> {
    thread::Builder::new().name("power".to_owned()).spawn(move || run(ending)).map(drop)
}

fn run(ending: Ending) {
    // The answer to the host goes first.
    thread::sleep(Duration::from_millis(100));
    let facts = Facts::read(ending);
    let init = who(&facts, ending, |path| Path::new(path).exists());
    if let Init::Ordered([program, arguments @ ..]) = init {
        info!(program, "the system is asked to end");
        let spawned = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(_) => thread::sleep(PATIENCE),
            Err(error) => warn!(%error, "nobody to ask for an orderly end"),
        }
    }
    without_order(ending);
}

/// What there is to know of process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    systemd: bool,
    /// It is a shell, running a script.
    script: bool,
    /// It has something to do on the signal that a busybox `poweroff` or `reboot` sends.
    listens: bool,
}

impl Facts {
    fn read(ending: Ending) -> Self {
        let signal = match ending {
            Ending::PowerOff => Signal::USR2,
            Ending::Reboot => Signal::TERM,
        };
        Self {
            systemd: Path::new("/run/systemd/system").exists(),
            script: is_script(&fs::read("/proc/1/cmdline").unwrap_or_default()),
            listens: catches(&fs::read_to_string("/proc/1/status").unwrap_or_default(), signal),
        }
    }
}

fn is_script(command_line: &[u8]) -> bool {
    let words = command_line.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let mut names = words.map(|word| word.rsplit(|byte| *byte == b'/').next().unwrap_or(word));
    names.any(|name| [&b"sh"[..], b"ash", b"dash", b"bash"].contains(&name))
}

/// Reads the line `SigCgt:` of a process's status.
fn catches(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}

fn who(facts: &Facts, ending: Ending, exists: impl Fn(&str) -> bool) -> Init {
    let off = ending == Ending::PowerOff;
    if facts.systemd {
        return Init::Ordered(if off { &["systemctl", "poweroff"] } else { &["systemctl", "reboot"] });
    }
    if facts.script && !facts.listens {
        return Init::None;
    }
    if exists("/sbin/shutdown") {
        return Init::Ordered(if off { &["/sbin/shutdown", "-P", "now"] } else { &["/sbin/shutdown", "-r", "now"] });
    }
    match (off, exists("/sbin/poweroff"), exists("/sbin/reboot")) {
        (true, true, _) => Init::Ordered(&["/sbin/poweroff"]),
        (false, _, true) => Init::Ordered(&["/sbin/reboot"]),
        (true, false, _) | (false, _, false) => Init::None,
    }
}

/// Asks every process to end, writes everything out, and tells the kernel.
fn without_order(ending: Ending) {
    warn!("the system ends without the help of its init");
    ask_everyone();
    thread::sleep(LAST_WORDS);
    rustix::fs::sync();
    // Mounts everything read-only, as far as the kernel can: the next start then finds nothing to recover.
    if fs::write("/proc/sysrq-trigger", "u").is_ok() {
        thread::sleep(LAST_WORDS);
    }
    let command = match ending {
        Ending::PowerOff => RebootCommand::PowerOff,
        Ending::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = rustix::system::reboot(command) {
        warn!(%error, "the kernel does not end the system");
    }
}

fn ask_everyone() {
    let own = rustix::process::getpid();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    for pid in pids.filter(|pid| *pid != own && *pid != Pid::INIT) {
        // Kernel threads and processes that are gone take no signal.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_is_asked_who_takes_orders() {
        let all = |_: &str| true;
        let busybox = |path: &str| path != "/sbin/shutdown";
        let none = |_: &str| false;
        let init = Facts { systemd: false, script: false, listens: false };
        let systemd = Facts { systemd: true, ..init };
        let deaf = Facts { script: true, ..init };
        let script = Facts { listens: true, ..deaf };
        assert_eq!(who(&systemd, Ending::PowerOff, all), Init::Ordered(&["systemctl", "poweroff"]));
        assert_eq!(who(&deaf, Ending::PowerOff, all), Init::None);
        assert_eq!(who(&script, Ending::PowerOff, busybox), Init::Ordered(&["/sbin/poweroff"]));
        assert_eq!(who(&init, Ending::Reboot, all), Init::Ordered(&["/sbin/shutdown", "-r", "now"]));
        assert_eq!(who(&init, Ending::PowerOff, none), Init::None);
    }

    #[test]
    fn process_1_is_known_by_its_words_and_its_signals() {
        assert!(is_script(b"/bin/busybox\0sh\0/init\0") && is_script(b"/bin/sh\0/init\0"));
        assert!(!is_script(b"/sbin/init\0splash\0") && !is_script(b""));
        let status = "Name:\tinit\nSigIgn:\tffffffffffffffff\nSigCgt:\t0000000000000800\n";
        assert!(catches(status, Signal::USR2) && !catches(status, Signal::TERM));
        assert!(!catches("", Signal::USR2));
    }
}
