//! The writer of MariaDB: a real agent, and a server that plays a part.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{
    fs,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::{Agent, Disks, Host, Session};
use stillpoint_proto::guest::v1::{self as pb, quiesce_response::Step};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

const LEASE: Duration = Duration::from_secs(8);
/// Two seconds more than the lease: as long may writers take to become quiet.
const WINDOW: i64 = 10;
const END: &[u8] = &[0xfe, 0, 0, 2, 0];
const FINE: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

/// What it was asked, who is connected, and what it does at a statement.
#[derive(Debug, Default)]
struct State {
    log: Vec<String>,
    connections: Vec<AbortHandle>,
    open: usize,
    /// How often it says that its log is not written yet.
    unwritten: u32,
    /// It refuses this with this message, or, if there is none, never answers.
    trick: Option<(&'static str, Option<&'static str>)>,
}

/// A server that speaks as MariaDB does.
struct Server {
    state: Arc<Mutex<State>>,
    listening: JoinHandle<()>,
}

impl Server {
    fn new(socket: &std::path::Path) -> Self {
        let (listener, state) = (UnixListener::bind(socket).unwrap(), Arc::new(Mutex::new(State::default())));
        let served = Arc::clone(&state);
        let listening = tokio::spawn(async move {
            loop {
                let (stream, state) = (listener.accept().await.unwrap().0, Arc::clone(&served));
                let talk = tokio::spawn(async move {
                    state.lock().unwrap().open += 1;
                    let over = talk(stream, &state).await;
                    state.lock().unwrap().open -= 1;
                    over
                });
                served.lock().unwrap().connections.push(talk.abort_handle());
            }
        });
        Self { state, listening }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Statements that hold something or let it go.
    fn did(&self) -> Vec<String> {
        let does = |statement: &&String| statement.starts_with("BACKUP") || statement.starts_with("FLUSH");
        self.state().log.iter().filter(does).cloned().collect()
    }

    fn dies(&self) {
        self.listening.abort();
        self.state().connections.iter().for_each(AbortHandle::abort);
    }

    async fn is_left_alone(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.state().open > 0 {
            assert!(Instant::now() < until, "somebody is still connected");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Until the other end goes. Answers none then.
async fn talk(mut stream: UnixStream, state: &Mutex<State>) -> Option<()> {
    send(&mut stream, 0, b"\x0a5.5.5-10.11.6-MariaDB\0salt").await?;
    receive(&mut stream).await?;
    send(&mut stream, 2, FINE).await?;
    loop {
        let said = String::from_utf8(receive(&mut stream).await?).unwrap();
        let statement = said.trim_start_matches('\u{3}').to_owned();
        state.lock().unwrap().log.push(statement.clone());
        let trick = state.lock().unwrap().trick.filter(|(at, _)| statement.starts_with(at));
        match trick {
            Some((_, None)) => while receive(&mut stream).await.is_some() {},
            Some((_, Some(message))) => {
                send(&mut stream, 1, &[b"\xff\xb5\x04#HY000", message.as_bytes()].concat()).await?
            }
            None => {
                let unwritten = statement.ends_with("lsn_flushed'") && {
                    let mut state = state.lock().unwrap();
                    let left = state.unwritten;
                    state.unwritten = left.saturating_sub(1);
                    left > 0
                };
                answer(&mut stream, if unwritten { "unwritten" } else { &statement }).await?;
            }
        }
    }
}

async fn answer(stream: &mut UnixStream, statement: &str) -> Option<()> {
    let row: &[&str] = match statement {
        "SHOW MASTER STATUS" => &["binlog.000007", "4711", "", ""],
        "SHOW GLOBAL STATUS LIKE 'Innodb_lsn_flushed'" => &["Innodb_lsn_flushed", "1000"],
        "unwritten" => &["Innodb_lsn_flushed", "998"],
        "SHOW GLOBAL STATUS LIKE 'Innodb_lsn_current'" => &["Innodb_lsn_current", "999"],
        _ if statement.starts_with("SELECT @@datadir") => &["/srv/db/", "/srv/log/binlog"],
        _ if statement.starts_with("SELECT @@gtid") => &["0-1-9", "1"],
        _ => return send(stream, 1, FINE).await,
    };
    send(stream, 1, &[u8::try_from(row.len()).unwrap()]).await?;
    send(stream, 2, b"\x03def").await?;
    send(stream, 3, END).await?;
    let values = row.iter().flat_map(|value| [&[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat());
    send(stream, 4, &values.collect::<Vec<u8>>()).await?;
    send(stream, 5, END).await
}

async fn send(stream: &mut UnixStream, turn: u8, body: &[u8]) -> Option<()> {
    let [a, b, c, _] = u32::try_from(body.len()).unwrap().to_le_bytes();
    stream.write_all(&[&[a, b, c, turn], body].concat()).await.ok()
}

async fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    let mut body = vec![0; usize::from(head[0]) + 256 * usize::from(head[1])];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

struct Lab {
    server: Server,
    agent: Agent,
    host: Host,
    _disks: Disks,
    _place: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let server = Server::new(&place.path().join("mysqld.sock"));
        let config = place.path().join("config");
        let none = "scripts.folder = off\nhooks.folder = off\npostgresql.sockets = off\nredis.sockets = off\n\
                    redis.ports = off\n";
        fs::write(&config, format!("{none}mariadb.sockets = {}\n", place.path().display())).unwrap();
        let disks = Disks::one();
        let agent = Agent::start_configured(&disks, &config);
        let mut host = agent.host().await;
        let until = Instant::now() + Duration::from_secs(20);
        while host.hello().await.writers.is_empty() {
            assert!(Instant::now() < until, "it is never found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { server, agent, host, _disks: disks, _place: place }
    }

    async fn freeze(&mut self) -> (Session, Step) {
        let mut session = self.host.open().await;
        let writer_window = Some(prost_types::Duration { seconds: WINDOW, nanos: 0 });
        session.start_with(LEASE, pb::QuiesceOptions { writer_window, ..Default::default() }).await;
        let answer = session.answer().await.unwrap().unwrap();
        if !matches!(answer, Step::Prepared(_)) {
            return (session, answer);
        }
        session.freeze().await;
        let answer = session.answer().await.unwrap().unwrap();
        (session, answer)
    }

    async fn frozen(&mut self) -> (Session, pb::Frozen) {
        match self.freeze().await {
            (session, Step::Frozen(frozen)) => (session, frozen),
            (_, answer) => panic!("not frozen: {answer:?}"),
        }
    }

    async fn refused(&mut self) -> (pb::WriterResult, String) {
        match self.freeze().await {
            (_, Step::Refused(refused)) => (refused.writers[0].result(), refused.writers[0].detail.clone()),
            (_, answer) => panic!("not refused: {answer:?}"),
        }
    }
}

const HELD: [&str; 5] = [
    "BACKUP STAGE START",
    "BACKUP STAGE FLUSH",
    "BACKUP STAGE BLOCK_DDL",
    "BACKUP STAGE BLOCK_COMMIT",
    "FLUSH ENGINE LOGS",
];

#[tokio::test]
async fn commits_are_held_from_before_the_freeze_until_after_the_thaw_and_the_position_is_kept() {
    let mut lab = Lab::new().await;
    lab.server.state().unwritten = 5;
    let (mut session, frozen) = lab.frozen().await;
    assert_eq!(lab.server.state().unwritten, 0, "what was acknowledged is written");
    assert_eq!(lab.server.did(), HELD);
    let limits =
        |log: &[String]| log.iter().filter(|said| said.starts_with("SET SESSION")).cloned().collect::<Vec<_>>();
    let said = limits(&lab.server.state().log);
    let idle: i64 = said[1].rsplit(' ').next().unwrap().parse().unwrap();
    assert!((WINDOW - 1..=WINDOW + 1).contains(&idle), "it ends by itself, not before the lease: {said:?}");
    let writer = &frozen.writers[0];
    assert_eq!((writer.name.as_str(), writer.result()), ("MariaDB mysqld", pb::WriterResult::Held));
    let facts = writer.facts.clone().unwrap();
    let mut kept: Vec<_> = facts.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    kept.sort_unstable();
    let wanted = [("binlog_file", "binlog.000007"), ("binlog_position", "4711"), ("gtid", "0-1-9"), ("lsn", "1000")];
    assert_eq!(kept, [&wanted[..], &[("server_id", "1")]].concat());
    assert_eq!(facts.components[0].files, ["/srv/db/", "/srv/log/binlog"]);
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
    assert_eq!(lab.server.did()[5..], ["BACKUP STAGE END"]);
}

#[tokio::test]
async fn a_server_that_hangs_or_refuses_fails_the_freeze_and_is_let_go() {
    let mut lab = Lab::new().await;
    for (at, trick, result) in [
        ("BACKUP STAGE BLOCK_COMMIT", None, pb::WriterResult::TimedOut),
        ("BACKUP STAGE BLOCK_DDL", Some("Lock wait timeout exceeded"), pb::WriterResult::Refused),
        ("BACKUP STAGE START", Some("Access denied; you need RELOAD"), pb::WriterResult::Refused),
    ] {
        lab.server.state().trick = Some((at, trick));
        let (told, detail) = lab.refused().await;
        assert_eq!(told, result, "{at}: {detail}");
        assert!(detail.contains(trick.unwrap_or("was not ready")), "{detail}");
        lab.server.is_left_alone().await;
    }
    lab.server.state().trick = None;
    let (mut session, _) = lab.frozen().await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
}

#[tokio::test]
async fn a_server_that_has_not_held_until_the_end_is_not_said_to_have() {
    let mut lab = Lab::new().await;
    let (mut session, _) = lab.frozen().await;
    lab.server.state().trick = Some(("BACKUP STAGE END", Some("You must start backup with BACKUP STAGE START")));
    let thawed = session.thaw().await;
    assert_ne!(thawed.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(thawed.writers[0].detail.contains("not held until the end"), "{}", thawed.writers[0].detail);
    drop(session);
    lab.server.is_left_alone().await;
    lab.server.state().trick = None;

    let (mut session, _) = lab.frozen().await;
    lab.server.dies();
    let thawed = session.thaw().await;
    assert_ne!(thawed.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(thawed.writers[0].detail.contains("cannot be reached"), "{}", thawed.writers[0].detail);
}

#[tokio::test]
async fn an_agent_that_dies_holds_nothing_any_more() {
    let mut lab = Lab::new().await;
    let (_session, _) = lab.frozen().await;
    assert!(lab.server.state().open > 0);
    drop(lab.agent);
    lab.server.is_left_alone().await;
}
