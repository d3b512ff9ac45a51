//! The writer of Redis and Valkey: a real agent, and servers that play a part.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use common::{Agent, Disks, Host, Session};
use stillpoint_proto::guest::v1::{self as pb, quiesce_response::Step};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, UnixListener},
    task::{AbortHandle, JoinHandle},
    time::Instant,
};

const LEASE: Duration = Duration::from_secs(8);
/// Two seconds more than the lease: as long may writers take to become quiet.
const WINDOW: i64 = 10;

/// What a server does when it is asked for something.
#[derive(Debug, Clone)]
enum Trick {
    Hangs,
    Says(&'static str),
}

/// What it is, and what it was asked.
#[derive(Debug)]
struct State {
    aof: bool,
    saves: bool,
    size: u64,
    /// Answers to INFO until a rewrite is over, what was answered is written, a snapshot is made.
    rewriting: u32,
    unwritten: u32,
    saving: u32,
    save_fails: bool,
    password: Option<&'static str>,
    trick: Option<(&'static str, Trick)>,
    log: Vec<String>,
    connections: Vec<AbortHandle>,
}

/// A server that speaks as Redis does.
struct Server {
    state: Arc<Mutex<State>>,
    listening: Vec<JoinHandle<()>>,
}

impl Server {
    fn new() -> Self {
        let state = State {
            aof: true,
            saves: false,
            size: 100,
            rewriting: 0,
            unwritten: 0,
            saving: 0,
            save_fails: false,
            password: None,
            trick: None,
            log: Vec::new(),
            connections: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), listening: Vec::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn listens_on(mut self, path: &Path) -> Self {
        let (listener, state) = (UnixListener::bind(path).unwrap(), Arc::clone(&self.state));
        self.listening.push(tokio::spawn(async move {
            loop {
                serve(listener.accept().await.unwrap().0, &state);
            }
        }));
        self
    }

    async fn listens_on_a_port(&mut self) -> u16 {
        let (listener, state) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::clone(&self.state));
        let port = listener.local_addr().unwrap().port();
        self.listening.push(tokio::spawn(async move {
            loop {
                serve(listener.accept().await.unwrap().0, &state);
            }
        }));
        port
    }

    fn dies(&self) {
        self.listening.iter().for_each(JoinHandle::abort);
        self.state().connections.iter().for_each(AbortHandle::abort);
    }

    /// Commands that do something.
    fn did(&self) -> Vec<String> {
        let does = |command: &&String| ["CLIENT", "BGSAVE"].iter().any(|one| command.starts_with(one));
        self.state().log.iter().filter(does).cloned().collect()
    }

    async fn is_told(&self, command: &str) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.did().last().is_none_or(|last| last != command) {
            assert!(Instant::now() < until, "never {command}, but {:?}", self.did());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: &Arc<Mutex<State>>) {
    let task = tokio::spawn(talk(BufReader::new(stream), Arc::clone(state)));
    state.lock().unwrap().connections.push(task.abort_handle());
}

async fn talk(mut stream: BufReader<impl AsyncRead + AsyncWrite + Unpin>, state: Arc<Mutex<State>>) {
    let mut admitted = state.lock().unwrap().password.is_none();
    while let Some(command) = command(&mut stream).await {
        let answer = state.lock().unwrap().answer(&command, &mut admitted);
        match answer {
            Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            None => std::future::pending().await,
        }
    }
}

/// The next one, its words with spaces between.
async fn command(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<String> {
    let mut words = Vec::new();
    for _ in 0..number(stream, '*').await? {
        let mut word = vec![0; number(stream, '$').await? + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8(word).unwrap().trim_end().to_owned());
    }
    Some(words.join(" "))
}

async fn number(stream: &mut BufReader<impl AsyncRead + Unpin>, kind: char) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(kind)?.parse().ok()
}

impl State {
    /// None: it never comes.
    fn answer(&mut self, command: &str, admitted: &mut bool) -> Option<String> {
        self.log.push(command.to_owned());
        match &self.trick {
            Some((at, Trick::Hangs)) if command.starts_with(at) => return None,
            Some((at, Trick::Says(says))) if command.starts_with(at) => return Some((*says).to_owned()),
            Some(_) | None => {}
        }
        if let Some(given) = command.strip_prefix("AUTH ") {
            *admitted = self.password == Some(given);
        }
        let bulk = |text: String| format!("${}\r\n{text}\r\n", text.len());
        Some(match command {
            _ if !*admitted => "-NOAUTH Authentication required.\r\n".to_owned(),
            "INFO" => bulk(self.info()),
            "CONFIG GET save" => {
                format!("*2\r\n$4\r\nsave\r\n{}", bulk((if self.saves { "60 1" } else { "" }).to_owned()))
            }
            "CONFIG GET dir" => "*2\r\n$3\r\ndir\r\n$4\r\n/srv\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        })
    }

    fn info(&mut self) -> String {
        let on = |left: &mut u32| {
            let is_on = *left > 0;
            *left = left.saturating_sub(1);
            u32::from(is_on)
        };
        let (rewriting, unwritten, saving) = (on(&mut self.rewriting), on(&mut self.unwritten), on(&mut self.saving));
        let (aof, size, status) = (u32::from(self.aof), self.size, if self.save_fails { "err" } else { "ok" });
        format!(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\ntcp_port:6379\r\nrole:master\r\naof_enabled:{aof}\r\n\
             aof_rewrite_in_progress:{rewriting}\r\naof_last_write_status:ok\r\naof_current_size:{size}\r\n\
             aof_buffer_length:{unwritten}\r\nrdb_bgsave_in_progress:{saving}\r\nrdb_last_bgsave_status:{status}\r\n\
             rdb_last_save_time:1700000000\r\nrdb_changes_since_last_save:3\r\n"
        )
    }
}

struct Lab {
    server: Server,
    disks: Disks,
    agent: Agent,
    host: Host,
    _place: tempfile::TempDir,
}

impl Lab {
    async fn new(set: impl FnOnce(&mut State)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let server = Server::new().listens_on(&place.path().join("ledger.sock"));
        set(&mut server.state());
        Self::with(place, server, "redis.ports = off\n").await
    }

    async fn with(place: tempfile::TempDir, server: Server, settings: &str) -> Self {
        let config = place.path().join("config");
        let folder = place.path().display();
        let none = "scripts.folder = off\nhooks.folder = off\npostgresql.sockets = off\n";
        fs::write(&config, format!("{none}redis.sockets = {folder}\n{settings}")).unwrap();
        let disks = Disks::one();
        let agent = Agent::start_configured(&disks, &config);
        let mut host = agent.host().await;
        let until = Instant::now() + Duration::from_secs(20);
        while host.hello().await.writers.is_empty() {
            assert!(Instant::now() < until, "it is never found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { server, disks, agent, host, _place: place }
    }

    async fn prepare(&mut self) -> (Session, Step) {
        let mut session = self.host.open().await;
        let writer_window = Some(prost_types::Duration { seconds: WINDOW, nanos: 0 });
        session.start_with(LEASE, pb::QuiesceOptions { writer_window, ..Default::default() }).await;
        let answer = session.answer().await.unwrap().unwrap();
        (session, answer)
    }

    async fn freeze(&mut self) -> (Session, Step) {
        let (mut session, answer) = self.prepare().await;
        assert!(matches!(answer, Step::Prepared(_)), "{answer:?}");
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

/// What the only writer gave to be kept.
fn kept(writers: &[pb::Writer]) -> Vec<(String, String)> {
    let mut kept: Vec<_> = writers[0].facts.clone().unwrap().metadata.into_iter().collect();
    kept.sort();
    kept
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn writes_are_held_until_after_the_thaw_and_what_was_answered_is_written_first() {
    let mut lab = Lab::new(|server| (server.rewriting, server.unwritten) = (9, 0)).await;
    let (mut session, answer) = lab.prepare().await;
    assert!(matches!(answer, Step::Prepared(_)), "{answer:?}");
    assert_eq!(lab.server.state().rewriting, 0, "a rewrite is waited for");
    lab.server.state().unwritten = 9;
    session.freeze().await;
    let Some(Step::Frozen(frozen)) = session.answer().await.unwrap() else { panic!("not frozen") };
    assert_eq!(lab.server.state().unwritten, 0, "what was answered is written");
    assert_eq!((frozen.writers[0].name.as_str(), frozen.writers[0].result()), ("Redis 6379", pb::WriterResult::Held));
    assert_eq!(kept(&frozen.writers), pairs(&[("aof_size", "100"), ("persistence", "aof"), ("role", "master")]));
    let did = lab.server.did();
    let [pause] = did.as_slice() else { panic!("{did:?}") };
    let limit = pause.strip_prefix("CLIENT PAUSE ").and_then(|rest| rest.strip_suffix(" WRITE")).unwrap();
    let limit = Duration::from_millis(limit.parse().unwrap());
    assert!(LEASE < limit && limit <= Duration::from_secs(10), "it ends by itself, not before the lease: {limit:?}");
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
    assert_eq!(lab.server.did()[1..], ["CLIENT UNPAUSE"]);
}

#[tokio::test]
async fn a_server_that_was_written_to_while_it_was_held_is_not_said_to_have_been_held() {
    let mut lab = Lab::new(|_| {}).await;
    let (mut session, _) = lab.frozen().await;
    lab.server.state().size += 1;
    let thawed = session.thaw().await;
    assert_ne!(thawed.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(thawed.writers[0].detail.contains("written to"), "{}", thawed.writers[0].detail);
    assert_eq!(lab.server.did()[1..], ["CLIENT UNPAUSE"]);
}

#[tokio::test]
async fn a_server_that_hangs_or_refuses_fails_the_freeze_and_is_let_go() {
    let mut lab = Lab::new(|server| server.trick = Some(("CLIENT PAUSE", Trick::Hangs))).await;
    let (result, detail) = lab.refused().await;
    assert_eq!(result, pb::WriterResult::TimedOut, "{detail}");
    lab.server.is_told("CLIENT UNPAUSE").await;
    lab.server.state().trick = Some(("CLIENT PAUSE", Trick::Says("-NOPERM no permission\r\n")));
    let (result, detail) = lab.refused().await;
    assert_eq!(result, pb::WriterResult::Refused, "{detail}");
    assert!(detail.contains("NOPERM no permission"), "{detail}");
    lab.server.is_told("CLIENT UNPAUSE").await;
    // One that never has everything written is let go, too.
    lab.server.state().trick = None;
    lab.server.state().unwritten = u32::MAX;
    assert_eq!(lab.refused().await.0, pb::WriterResult::TimedOut);
    lab.server.is_told("CLIENT UNPAUSE").await;
    lab.server.state().unwritten = 0;
    let (mut session, _) = lab.frozen().await;
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
}

#[tokio::test]
async fn a_server_that_dies_while_it_is_held_is_told_of_and_holds_nobody_up() {
    let mut lab = Lab::new(|_| {}).await;
    let (mut session, _) = lab.frozen().await;
    lab.server.dies();
    let thawed = session.thaw().await;
    assert_ne!(thawed.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(thawed.writers[0].detail.contains("cannot be reached"), "{}", thawed.writers[0].detail);
    assert!(!lab.disks.thaw(), "no file system is frozen");
}

#[tokio::test]
async fn an_agent_that_was_killed_lets_writes_go_on_when_it_starts_again() {
    let mut lab = Lab::new(|_| {}).await;
    let (_session, _) = lab.frozen().await;
    lab.agent.kill();
    assert_eq!(lab.server.did().len(), 1);
    lab.agent.start_again(&lab.disks);
    lab.server.is_told("CLIENT UNPAUSE").await;
}

#[tokio::test]
async fn a_snapshot_is_made_where_there_is_no_append_only_file_and_what_is_lost_is_told() {
    let mut lab = Lab::new(|server| (server.aof, server.saves, server.saving) = (false, true, 5)).await;
    let (mut session, frozen) = lab.frozen().await;
    assert_eq!((lab.server.did(), lab.server.state().saving), (vec!["BGSAVE".to_owned()], 0));
    let wanted = [("changes_not_kept", "3"), ("persistence", "rdb"), ("role", "master"), ("saved_at", "1700000000")];
    assert_eq!(kept(&frozen.writers), pairs(&wanted));
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    drop(session);
    lab.server.state().save_fails = true;
    let (session, answer) = lab.prepare().await;
    let Step::Refused(refused) = answer else { panic!("{answer:?}") };
    assert!(refused.writers[0].detail.contains("rdb_last_bgsave_status"), "{}", refused.writers[0].detail);
    drop(session);
    // Nothing is kept: nothing is to be done, and that is said.
    lab.server.state().saves = false;
    let (mut session, frozen) = lab.frozen().await;
    assert_eq!(kept(&frozen.writers), pairs(&[("persistence", "none"), ("role", "master")]));
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(!lab.server.did().iter().any(|command| command.starts_with("CLIENT")), "{:?}", lab.server.did());
}

#[tokio::test]
async fn a_server_in_two_places_has_one_writer_and_what_speaks_otherwise_has_none() {
    let place = tempfile::tempdir().unwrap();
    let web = Server::new().listens_on(&place.path().join("a-web.sock"));
    web.state().trick = Some(("AUTH", Trick::Says("HTTP/1.1 400 Bad Request\r\n\r\n")));
    let mut server = Server::new().listens_on(&place.path().join("ledger.sock"));
    let port = server.listens_on_a_port().await;
    let password = place.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    server.state().password = Some("still secret");
    let settings = format!("redis.ports = {port}\nredis.user = still\nredis.password-file = {}\n", password.display());
    let mut lab = Lab::with(place, server, &settings).await;
    let met = |log: &[String]| log.iter().filter(|command| *command == "AUTH still secret").count();
    let until = Instant::now() + Duration::from_secs(20);
    while met(&lab.server.state().log) < 2 {
        assert!(Instant::now() < until, "the port is never tried");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(web.state().log, ["AUTH still secret"]);
    let (mut session, frozen) = lab.frozen().await;
    let names: Vec<_> = frozen.writers.iter().map(|writer| writer.name.as_str()).collect();
    assert_eq!(names, ["Redis 6379"]);
    assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    assert_eq!(lab.server.did().len(), 2, "{:?}", lab.server.did());
}
