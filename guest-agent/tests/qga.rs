//! Hosts that speak as to qemu-ga: a real agent, and its protocol byte by byte.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{Agent, Disks, NO_SERVERS, Writer};
use serde_json::{Value, json};
use stillpoint_proto::guest::v1 as pb;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

const LEASE: Duration = Duration::from_secs(8);

struct Qga(UnixStream);

impl Qga {
    async fn connect(agent: &Agent) -> Self {
        Self(agent.qga().await)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next line, with its end.
    async fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(timeout(Duration::from_secs(20), self.0.read_u8()).await.expect("an answer in time").unwrap());
        }
        line
    }

    async fn answer(&mut self) -> Value {
        serde_json::from_slice(&self.line().await).unwrap()
    }

    async fn ask_with(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.send(text.as_bytes()).await;
        self.answer().await
    }

    async fn ask(&mut self, command: &str) -> Value {
        self.ask_with(command, json!({})).await
    }

    async fn gets(&mut self, command: &str) -> Value {
        let mut answer = self.ask(command).await;
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["return"].take()
    }

    async fn refused(&mut self, command: &str) -> String {
        let answer = self.ask(command).await;
        answer["error"]["desc"].as_str().unwrap_or_else(|| panic!("{command}: {answer}")).to_owned()
    }

    async fn is_thawed(&mut self) {
        timeout(Duration::from_secs(20), async {
            while self.gets("guest-fsfreeze-status").await != "thawed" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("it is thawed");
    }
}

fn configured(folder: &Path, settings: &str) -> std::path::PathBuf {
    let path = folder.join("config");
    fs::write(&path, format!("scripts.folder = off\nhooks.folder = off\n{NO_SERVERS}{settings}\n")).unwrap();
    path
}

#[tokio::test]
async fn a_host_that_speaks_as_to_qemu_ga_freezes_and_thaws_the_guest() {
    let disks = Disks::stacked();
    let agent = Agent::start(&disks);
    let mut qga = Qga::connect(&agent).await;
    let writer = Writer::start(&disks.inner());
    qga.send(b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":4711}}\n").await;
    assert_eq!(qga.line().await, b"\xFF{\"return\":4711}\n");
    assert_eq!(qga.ask_with("guest-sync", json!({ "id": 1 })).await, json!({ "return": 1 }));
    assert_eq!(qga.gets("guest-fsfreeze-status").await, "thawed");
    assert_eq!(qga.gets("guest-fsfreeze-freeze").await, 2);
    writer.is_held().await;
    assert_eq!(qga.gets("guest-fsfreeze-status").await, "frozen");
    assert!(qga.refused("guest-fsfreeze-freeze").await.contains("disabled"));
    assert!(qga.refused("guest-get-osinfo").await.contains("disabled"));
    assert_eq!(qga.gets("guest-ping").await, json!({}));
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 2);
    assert_eq!(qga.gets("guest-fsfreeze-status").await, "thawed");
    writer.goes_on().await;
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 0, "nothing was frozen");

    // A part of them, and again.
    let only = json!({ "mountpoints": [disks.inner(), "/none"] });
    assert_eq!(qga.ask_with("guest-fsfreeze-freeze-list", only).await, json!({ "return": 1 }));
    fs::write(disks.outer().join("file"), "is not frozen").unwrap();
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 1);
    assert_eq!(qga.gets("guest-fsfreeze-freeze").await, 2);
    assert!(disks.thaw(), "somebody else thaws");
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 0);
    assert!(writer.longest_pause() < LEASE);
}

#[tokio::test]
async fn a_host_that_never_thaws_holds_the_guest_no_longer_than_the_lease() {
    let (disks, folder) = (Disks::one(), tempfile::tempdir().unwrap());
    let mut agent = Agent::start_configured(&disks, &configured(folder.path(), "qemu-ga.lease = 1"));
    let mut qga = Qga::connect(&agent).await;
    let writer = Writer::start(&disks.outer());
    assert_eq!(qga.gets("guest-fsfreeze-freeze").await, 1);
    drop(qga);
    writer.is_held().await;
    writer.goes_on().await;
    let mut qga = Qga::connect(&agent).await;
    qga.is_thawed().await;
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 0, "a late thaw says so");
    // Nor does an agent that dies.
    assert_eq!(qga.gets("guest-fsfreeze-freeze").await, 1);
    agent.kill();
    writer.goes_on().await;
    assert!(writer.longest_pause() < Duration::from_secs(2));
}

#[tokio::test]
async fn one_host_at_a_time_holds_the_guest_whichever_language_it_speaks() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut host = agent.host().await;
    let mut qga = Qga::connect(&agent).await;
    let (mut session, _) = host.frozen(LEASE).await;
    assert!(qga.refused("guest-fsfreeze-freeze").await.contains("another session"));
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 0, "that is not its own");
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    drop(session);
    assert_eq!(qga.gets("guest-fsfreeze-freeze").await, 1);
    let (_steps, stream) = tokio::sync::mpsc::channel(1);
    let second = host.client.quiesce(tokio_stream::wrappers::ReceiverStream::new(stream)).await;
    assert_eq!(second.unwrap_err().code(), tonic::Code::Aborted);
    // A new host of our own is never served by a guest that is held for somebody else.
    drop(host);
    let mut another = agent.host().await;
    another.hello().await;
    assert!(!disks.thaw());
    qga.is_thawed().await;
    another.frozen(LEASE).await;
}

const SCRIPT: &str = "#!/bin/sh\necho $1 >> $(dirname $0)/../log\n[ $1 = freeze ] && [ -e $(dirname $0)/../no ] && \
                      { echo not now >&2; exit 75; }\nexit 0\n";

#[tokio::test]
async fn writers_are_asked_and_one_that_refuses_fails_the_freeze() {
    let (disks, folder) = (Disks::one(), tempfile::tempdir().unwrap());
    let scripts = folder.path().join("d");
    fs::create_dir(&scripts).unwrap();
    fs::write(folder.path().join("text"), SCRIPT).unwrap();
    let mut install = std::process::Command::new("install");
    install.arg("-m755").args([folder.path().join("text"), scripts.join("shop")]);
    assert!(install.status().unwrap().success());
    let config = configured(folder.path(), "").with_file_name("config-2");
    let own = format!("hooks.folder = off\n{NO_SERVERS}scripts.folder = {}\n", scripts.display());
    fs::write(&config, own).unwrap();
    let agent = Agent::start_configured(&disks, &config);
    let mut host = agent.host().await;
    while host.hello().await.writers.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = || fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let mut qga = Qga::connect(&agent).await;
    assert_eq!(qga.gets("guest-fsfreeze-freeze").await, 1);
    assert!(log().ends_with("prepare-snapshot\nfreeze\n"), "{}", log());
    assert_eq!(qga.gets("guest-fsfreeze-thaw").await, 1);
    assert!(log().contains("freeze\nthaw\n"), "{}", log());
    timeout(Duration::from_secs(20), async {
        while !log().ends_with("thaw\npost-snapshot\nbackup-shutdown\n") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{}", log()));
    fs::write(folder.path().join("no"), "").unwrap();
    let why = qga.refused("guest-fsfreeze-freeze").await;
    assert!(why.contains("shop"), "{why}");
    assert_eq!(qga.gets("guest-fsfreeze-status").await, "thawed");
    assert!(!disks.thaw());
}

#[tokio::test]
async fn what_is_not_understood_is_said_and_what_was_cut_off_is_forgotten() {
    let disks = Disks::one();
    let agent = Agent::start(&disks);
    let mut qga = Qga::connect(&agent).await;
    assert!(qga.refused("guest-exec").await.contains("guest-exec has not been found"));
    qga.send(b"hello\n{\"execute\":7}\n[1]\n{\"a\" 1}\n").await;
    for wanted in
        ["does not begin with an object", "does not name a command", "does not begin with an object", "no JSON"]
    {
        let answer = qga.answer().await;
        assert!(answer["error"]["desc"].as_str().unwrap().contains(wanted), "{wanted}: {answer}");
    }
    // Half a request of a host that is gone, and one that comes in single bytes.
    qga.send(b"{\"execute\":\"guest-fsfreeze-fre").await;
    drop(qga);
    let mut qga = Qga::connect(&agent).await;
    for byte in b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":9}}" {
        qga.send(&[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(qga.line().await, b"\xFF{\"return\":9}\n");
    // An endless one.
    qga.send(b"{\"execute\":\"").await;
    for _ in 0..64 {
        qga.send(&[b'x'; 64 * 1024]).await;
    }
    assert!(qga.answer().await["error"]["desc"].as_str().unwrap().contains("at most 65536 bytes"));
    qga.send(b"\xFF").await;
    let told = qga.gets("guest-info").await;
    let names: Vec<_> = told["supported_commands"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert!(names.contains(&json!("guest-fsfreeze-freeze")) && !names.contains(&json!("guest-exec")), "{names:?}");
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(qga.gets("guest-get-host-name").await, json!({ "host-name": host_name.trim() }));
    assert!(qga.gets("guest-get-osinfo").await["kernel-release"].as_str().is_some());
    assert!(qga.gets("guest-get-time").await.as_i64().unwrap() > 1_577_836_800_000_000_000);
    let answer = qga.ask_with("guest-set-time", json!({ "time": -1 })).await;
    assert!(answer["error"]["desc"].as_str().unwrap().contains("no such time"), "{answer}");
    // Noise of every kind, and then it still answers.
    let mut state = 7_u32;
    for _ in 0..200 {
        let noise: Vec<u8> = (0..997)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                b"{}[]\"\\,:ae1\n \xFE"[(state >> 20) as usize % 14]
            })
            .collect();
        qga.send(&noise).await;
        let mut unread = [0; 65536];
        while timeout(Duration::from_millis(1), qga.0.read(&mut unread)).await.is_ok() {}
    }
    qga.send(b"\xFF\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":77}}\n").await;
    while !qga.line().await.ends_with(b"\xFF{\"return\":77}\n") {}
}
