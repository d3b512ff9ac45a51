//! The writer of units: a real agent, the kernel's own cgroups, and a `systemctl` that plays a part.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Agent, Disks, Host, NO_SERVERS, Session};
use stillpoint_proto::guest::v1::{self as pb, quiesce_response::Step};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(8);

/// Where cgroups of version 2 are on this machine.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    mount.expect("these tests need cgroups of version 2").split(' ').nth(1).unwrap().into()
}

/// A cgroup with a process in it that counts into a file without a pause.
struct Busy {
    folder: PathBuf,
    count: PathBuf,
    process: Child,
}

impl Busy {
    fn start(place: &Path, name: &str) -> Self {
        let name = format!("still-{}-{name}", place.file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        let folder = cgroups().join(name);
        fs::create_dir(&folder).unwrap();
        let count = place.join(folder.file_name().unwrap());
        let script = "echo $$ > $0/cgroup.procs; n=0; while :; do n=$((n+1)); echo $n > $1; done";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(&folder).arg(&count).stdin(Stdio::null());
        let process = shell.spawn().unwrap();
        Self { folder, count, process }
    }

    fn name(&self) -> String {
        format!("/{}", self.folder.file_name().unwrap().to_str().unwrap())
    }

    fn count(&self) -> String {
        fs::read_to_string(&self.count).unwrap_or_default()
    }

    fn freeze(&self, on: bool) {
        fs::write(self.folder.join("cgroup.freeze"), if on { "1" } else { "0" }).unwrap();
    }

    fn is_told_to_stand(&self) -> bool {
        fs::read_to_string(self.folder.join("cgroup.freeze")).unwrap().trim() == "1"
    }

    /// It may be caught with its file cut and not yet written.
    async fn stands(&self) {
        let before = self.count();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(self.count(), before, "it goes on");
    }

    async fn goes_on(&self) {
        let (before, until) = (self.count(), Instant::now() + Duration::from_secs(20));
        while self.count() == before {
            assert!(Instant::now() < until, "it does not go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.freeze"), "0");
        let _ = self.process.kill();
        let _ = self.process.wait();
        // The kernel takes the process out of it a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

struct Lab {
    agent: Agent,
    host: Host,
    disks: Disks,
}

impl Lab {
    async fn new(place: &Path, settings: &str) -> Self {
        let config = place.join("config");
        let none = format!("scripts.folder = off\nhooks.folder = off\n{NO_SERVERS}");
        let cgroups = cgroups().display().to_string();
        fs::write(&config, format!("{none}units.cgroups = {cgroups}\n{settings}\n")).unwrap();
        let disks = Disks::one();
        let agent = Agent::start_configured(&disks, &config);
        let host = agent.host().await;
        let mut lab = Self { agent, host, disks };
        lab.is_registered().await;
        lab
    }

    async fn is_registered(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.host.hello().await.writers.is_empty() {
            assert!(Instant::now() < until, "it is never found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn restart(&mut self) {
        self.agent.start_again(&self.disks);
        self.host = self.agent.host().await;
        self.is_registered().await;
    }

    async fn frozen(&mut self) -> (Session, pb::Writer) {
        let (session, frozen) = self.host.frozen(LEASE).await;
        (session, frozen.writers[0].clone())
    }

    async fn refused(&mut self) -> String {
        let mut session = self.host.open().await;
        session.start(LEASE).await;
        match session.answer().await.unwrap() {
            Some(Step::Refused(refused)) => refused.writers[0].detail.clone(),
            other => panic!("not refused: {other:?}"),
        }
    }
}

fn kept(writer: &pb::Writer, key: &str) -> Option<String> {
    writer.facts.clone().unwrap().metadata.remove(key)
}

#[tokio::test]
async fn what_is_in_a_cgroup_stands_still_while_it_is_held_and_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let (busy, by_others) = (Busy::start(place.path(), "a"), Busy::start(place.path(), "b"));
    busy.goes_on().await;
    by_others.goes_on().await;
    by_others.freeze(true);
    let names = format!("{} {} /still-none", busy.name(), by_others.name());
    let mut lab = Lab::new(place.path(), &format!("units.freeze = {names}")).await;
    for _ in 0..3 {
        let (mut session, writer) = lab.frozen().await;
        assert_eq!(writer.result(), pb::WriterResult::Held, "{}", writer.detail);
        assert_eq!(kept(&writer, "frozen"), Some(names.clone()));
        busy.stands().await;
        let thawed = session.thaw().await;
        assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
        busy.goes_on().await;
        assert!(by_others.is_told_to_stand() && !busy.is_told_to_stand(), "what others have frozen is theirs");
    }
    // Somebody lets it go in the middle.
    let (mut session, _) = lab.frozen().await;
    busy.freeze(false);
    busy.goes_on().await;
    let thawed = session.thaw().await;
    assert_ne!(thawed.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(thawed.writers[0].detail.contains("let go by somebody else"), "{}", thawed.writers[0].detail);
    drop(session);
    // The host says nothing more, or is gone.
    let (mut session, _) = lab.host.frozen(Duration::from_millis(700)).await;
    busy.stands().await;
    assert!(matches!(session.answer().await, Ok(Some(Step::Lapsed(_)))));
    busy.goes_on().await;
    drop(session);
    let (session, _) = lab.frozen().await;
    busy.stands().await;
    drop(session);
    busy.goes_on().await;
    assert!(by_others.is_told_to_stand());
}

fn end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn what_stands_still_goes_on_when_its_agent_is_killed_and_without_a_guardian_when_the_next_one_starts() {
    let place = tempfile::tempdir().unwrap();
    let (busy, by_others) = (Busy::start(place.path(), "a"), Busy::start(place.path(), "b"));
    busy.goes_on().await;
    by_others.freeze(true);
    let names = format!("{} {}", busy.name(), by_others.name());
    let mut lab = Lab::new(place.path(), &format!("units.freeze = {names}")).await;
    let (_session, _) = lab.frozen().await;
    busy.stands().await;
    lab.agent.kill();
    let killed = Instant::now();
    busy.goes_on().await;
    assert!(killed.elapsed() < LEASE / 2, "{:?}", killed.elapsed());
    lab.restart().await;

    let (_session, _) = lab.frozen().await;
    let guardians = lab.agent.children();
    assert_eq!(guardians.len(), 2);
    guardians.into_iter().for_each(end);
    lab.agent.kill();
    lab.disks.thaw();
    busy.stands().await;
    assert!(busy.is_told_to_stand());
    lab.restart().await;
    busy.goes_on().await;
    assert!(by_others.is_told_to_stand(), "that was never ours");
}

#[tokio::test]
async fn what_the_session_needs_is_not_held() {
    let place = tempfile::tempdir().unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
    let mut lab = Lab::new(place.path(), &format!("units.freeze = {own}")).await;
    assert!(lab.refused().await.contains("the agent itself is in it"));
    drop(lab);

    let busy = Busy::start(place.path(), "a");
    busy.goes_on().await;
    let mut lab = Lab::new(place.path(), &format!("units.freeze = {}", busy.name())).await;
    // A writer of ours in the same process as this test, which moves into the cgroup by a thread of its own.
    let socket = lab.agent.writers.clone();
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["--exact", "a_writer_that_answers_from_a_cgroup", "--nocapture"]);
    writer.env("STILL_WRITER", socket).env("STILL_CGROUP", &busy.folder).stdout(Stdio::null());
    let mut writer = writer.spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while lab.host.hello().await.writers.len() < 2 {
        assert!(Instant::now() < until, "it does not register");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut session = lab.host.open().await;
    session.start(LEASE).await;
    let Some(Step::Refused(refused)) = session.answer().await.unwrap() else { panic!("not refused") };
    let details: Vec<_> = refused.writers.iter().map(|writer| writer.detail.as_str()).collect();
    assert!(details.iter().any(|detail| detail.contains("a writer that is to be asked is in it")), "{details:?}");
    drop(session);
    writer.kill().unwrap();
    writer.wait().unwrap();
    let (mut session, _) = lab.frozen().await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
}

/// Not a test of its own: what another one starts.
#[tokio::test]
async fn a_writer_that_answers_from_a_cgroup() {
    use stillpoint_agent::writers::{
        registration::{Done, Event, Failure, Registration},
        sdk::{self, Writer},
    };
    struct Quiet;
    impl Writer for Quiet {
        async fn on(&mut self, _: &Event) -> Result<Done, Failure> {
            Ok(Done::default())
        }
    }
    let Some(socket) = std::env::var_os("STILL_WRITER") else { return };
    let cgroup = PathBuf::from(std::env::var_os("STILL_CGROUP").unwrap());
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let kind = "3e0b8a44-6a54-4f7e-9d0c-0f3b9a6f1c12";
    let who = Registration::new("inside", kind, stillpoint_common::WriterLevel::FrontEnd);
    let _ = sdk::run(socket.as_ref(), who, Quiet).await;
}

/// Knows three units: `on.service` and `odd.service` run, unless a file says that they were stopped, and `off.service` does
/// not. `odd.service` cannot be stopped.
const SYSTEMCTL: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$1 $(eval echo \$$#)" >> $here/asked
unit=$(eval echo \$$#)
case "$1 $unit" in
"show none.service") echo LoadState=not-found; echo ActiveState=inactive; echo ControlGroup= ;;
"show off.service") echo LoadState=loaded; echo ActiveState=inactive; echo ControlGroup= ;;
show*)
    [ -e $here/$unit.stopped ] && state=inactive || state=active
    echo LoadState=loaded; echo ActiveState=$state; echo ControlGroup=/still.slice/$unit ;;
"stop odd.service") echo "it refuses" >&2; exit 1 ;;
stop*) touch $here/$unit.stopped ;;
start*) [ -e $here/fails ] && exit 1; rm -f $here/$unit.stopped ;;
esac
"#;

struct Systemd {
    place: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let (text, program) = (place.path().join("text"), place.path().join("systemctl"));
        fs::write(&text, SYSTEMCTL).unwrap();
        // Copied, not written: another thread's fork could keep it open for writing.
        assert!(Command::new("install").arg("-m755").args([&text, &program]).status().unwrap().success());
        assert!(program.metadata().unwrap().permissions().mode() & 1 == 1);
        Self { place }
    }

    async fn lab(&self, settings: &str) -> Lab {
        let program = self.place.path().join("systemctl");
        Lab::new(self.place.path(), &format!("units.systemctl = {}\n{settings}", program.display())).await
    }

    /// What was done since it was asked last.
    fn did(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.place.path().join("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.place.path().join("asked"));
        asked.lines().filter(|line| !line.starts_with("show")).map(str::to_owned).collect()
    }

    fn is_stopped(&self) -> bool {
        self.place.path().join("on.service.stopped").exists()
    }

    async fn is_started(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.is_stopped() {
            assert!(Instant::now() < until, "it is not started again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn units_that_run_are_stopped_before_and_started_after_whatever_becomes_of_the_session() {
    let systemd = Systemd::new();
    let mut lab = systemd.lab("units.stop = on.service off.service").await;
    let (mut session, writer) = lab.frozen().await;
    assert_eq!(kept(&writer, "stopped").as_deref(), Some("on.service"));
    assert!(systemd.is_stopped());
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(systemd.is_stopped(), "it is started when the cut is made");
    session.settle().await;
    assert_eq!(systemd.did(), ["stop on.service", "start on.service"]);
    session.complete().await;
    drop(session);

    let session = lab.host.prepared(LEASE).await;
    assert!(systemd.is_stopped());
    drop(session);
    systemd.is_started().await;

    let _session = lab.host.prepared(LEASE).await;
    lab.agent.kill();
    assert!(systemd.is_stopped());
    lab.restart().await;
    systemd.is_started().await;
    assert_eq!(systemd.did(), ["stop on.service", "start on.service", "stop on.service", "start on.service"]);
}

#[tokio::test]
async fn a_unit_that_cannot_be_stopped_or_is_none_fails_the_session_and_the_others_are_started() {
    let systemd = Systemd::new();
    let mut lab = systemd.lab("units.stop = on.service odd.service").await;
    let why = lab.refused().await;
    assert!(why.contains("systemctl stop odd.service: it refuses"), "{why}");
    systemd.is_started().await;
    drop(lab);
    let mut lab = systemd.lab("units.stop = on.service none.service").await;
    assert!(lab.refused().await.contains("there is no unit none.service"));
    systemd.is_started().await;
    drop(lab);
    // One that cannot be started is said, and tried again.
    let mut lab = systemd.lab("units.stop = on.service").await;
    let fails = systemd.place.path().join("fails");
    fs::write(&fails, "").unwrap();
    let (mut session, _) = lab.frozen().await;
    session.thaw().await;
    let settled = session.settle().await;
    assert!(settled.writers[0].detail.contains("systemctl start on.service"), "{}", settled.writers[0].detail);
    fs::remove_file(&fails).unwrap();
    drop(session);
    systemd.is_started().await;
}
