//! The writer of SQLite: a real agent, and programs that use the real library. The databases lie outside of what the agent
//! freezes, so that only their locks hold them.

#![expect(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

mod common;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Agent, Disks, Host, NO_SERVERS, Session};
use stillpoint_proto::guest::v1::{self as pb, quiesce_response::Step};
use tokio::time::Instant;

const LEASE: Duration = Duration::from_secs(8);

/// Commits without a pause, each time two rows that belong together, and notes what it was told is done.
const LOAD: &str = r"
import os, sqlite3, sys
path, journal, said = sys.argv[1:]
db = sqlite3.connect(path, timeout=60, isolation_level=None)
db.execute('PRAGMA journal_mode=' + journal)
db.execute('PRAGMA wal_autocheckpoint=7')
db.execute('CREATE TABLE IF NOT EXISTS pairs (n INTEGER, half TEXT, body BLOB)')
out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
n = 0
while True:
    n += 1
    db.execute('BEGIN IMMEDIATE')
    db.execute('INSERT INTO pairs VALUES (?, ?, ?)', (n, 'one', os.urandom(6000)))
    db.execute('INSERT INTO pairs VALUES (?, ?, ?)', (n, 'other', os.urandom(3000)))
    db.execute('COMMIT')
    os.write(out, b'%d\n' % n)
";

/// What a copy of a database has: the last row, and whether anything is wrong with it.
const CHECK: &str = r"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60)
wrong = [row[0] for row in db.execute('PRAGMA integrity_check') if row[0] != 'ok']
torn = db.execute('SELECT count(*) FROM (SELECT n FROM pairs GROUP BY n HAVING count(*) <> 2)').fetchone()[0]
last, count = db.execute('SELECT coalesce(max(n), 0), count(DISTINCT n) FROM pairs').fetchone()
print(last, count, torn, len(wrong))
";

/// Does one thing with a database, says `ready`, and waits to be ended.
const ONCE: &str = r"
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for statement in sys.argv[2:]:
    db.execute(statement)
print('ready', flush=True)
time.sleep(600)
";

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("STILLPOINT_PYTHON").unwrap_or_else(|| "python3".into()));
    command.arg("-c").arg(script).args(arguments).stdin(Stdio::null());
    command
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has done these, and still has the database open.
fn once(database: &Path, statements: &[&str]) -> Program {
    use std::io::BufRead as _;
    let arguments = [&[database.to_str().unwrap()], statements].concat();
    let mut child = python(ONCE, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Program(child)
}

/// A database under load.
struct Load {
    database: PathBuf,
    said: PathBuf,
    _program: Program,
}

impl Load {
    fn start(folder: &Path, journal: &str) -> Self {
        let (database, said) = (folder.join(format!("{journal}.db")), folder.join(format!("{journal}.said")));
        let program = python(LOAD, &[database.to_str().unwrap(), journal, said.to_str().unwrap()]).spawn().unwrap();
        Self { database, said, _program: Program(program) }
    }

    /// The last row that it was told is there.
    fn acknowledged(&self) -> u64 {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        said.trim_end_matches(|char| char != '\n').lines().next_back().map_or(0, |line| line.parse().unwrap())
    }

    async fn gets_beyond(&self, row: u64) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.acknowledged() <= row {
            assert!(Instant::now() < until, "it does not go on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Copies what belongs to a database, a byte after the other, and answers what the copy has.
fn copied(database: &Path, to: &Path) -> [u64; 4] {
    fs::create_dir_all(to).unwrap();
    let copy = to.join("copy.db");
    for end in ["", "-wal", "-journal"] {
        let [from, to] = [database, &copy].map(|path| format!("{}{end}", path.display()));
        let Ok(bytes) = fs::read(from) else { continue };
        fs::write(to, bytes).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    checked(&copy)
}

/// The last row, how many there are, how many are there in part, and what is wrong with the file.
fn checked(database: &Path) -> [u64; 4] {
    let output = python(CHECK, &[database.to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{output:?}"))
}

struct Lab {
    agent: Agent,
    host: Host,
    _disks: Disks,
}

impl Lab {
    async fn new(place: &Path, databases: &str) -> Self {
        let config = place.join("config");
        let none = format!("scripts.folder = off\nhooks.folder = off\n{NO_SERVERS}");
        fs::write(&config, format!("{none}sqlite.databases = {databases}\nsqlite.timeout = 3\n")).unwrap();
        let disks = Disks::one();
        let agent = Agent::start_configured(&disks, &config);
        let mut host = agent.host().await;
        let until = Instant::now() + Duration::from_secs(20);
        while host.hello().await.writers.is_empty() {
            assert!(Instant::now() < until, "it is never found");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { agent, host, _disks: disks }
    }

    async fn freeze(&mut self) -> (Session, Step) {
        let mut session = self.host.prepared(LEASE).await;
        session.freeze().await;
        let answer = session.answer().await.unwrap().unwrap();
        (session, answer)
    }

    async fn frozen(&mut self) -> (Session, pb::Writer) {
        match self.freeze().await {
            (session, Step::Frozen(frozen)) => (session, frozen.writers[0].clone()),
            (_, answer) => panic!("not frozen: {answer:?}"),
        }
    }
}

/// What was kept of this database.
fn kept(writer: &pb::Writer, database: &Path) -> String {
    let metadata = writer.facts.clone().unwrap().metadata;
    let end = format!(" file={}", database.canonicalize().unwrap().display());
    metadata.into_values().find_map(|value| value.strip_suffix(&end).map(str::to_owned)).unwrap()
}

#[tokio::test]
async fn no_transaction_of_sqlite_is_half_in_its_files_while_it_is_held_and_every_acknowledged_one_is() {
    let place = tempfile::tempdir().unwrap();
    let loads = ["delete", "truncate", "persist", "wal"].map(|journal| Load::start(place.path(), journal));
    for load in &loads {
        load.gets_beyond(5).await;
    }
    let mut lab = Lab::new(place.path(), &format!("{}/*.db", place.path().display())).await;
    for round in 0..5 {
        let (mut session, writer) = lab.frozen().await;
        assert_eq!((writer.name.as_str(), writer.result()), ("SQLite", pb::WriterResult::Held), "{}", writer.detail);
        let before = loads.each_ref().map(Load::acknowledged);
        for (load, before) in loads.iter().zip(before) {
            let name = load.database.file_stem().unwrap().to_str().unwrap();
            let [last, count, torn, wrong] = copied(&load.database, &place.path().join(format!("{round}-{name}")));
            assert_eq!((torn, wrong), (0, 0), "{name}");
            // What was done may not have been noted yet when it was held.
            assert!(last >= before && last <= before + 1, "{name}: {before} acknowledged, {last} there");
            assert_eq!(count, last, "{name}");
            let kept = kept(&writer, &load.database);
            let journal = if name == "wal" { "journal=wal" } else { "journal=rollback" };
            assert!(kept.starts_with(&format!("{journal} page_size=4096 ")), "{name}: {kept}");
        }
        for (load, before) in loads.iter().zip(before) {
            assert!(load.acknowledged() <= before + 1, "it goes on while it is held");
        }
        let thawed = session.thaw().await;
        assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
        for load in &loads {
            load.gets_beyond(load.acknowledged()).await;
        }
    }
}

#[tokio::test]
async fn locks_go_with_the_agent_and_at_the_end_of_the_window() {
    let place = tempfile::tempdir().unwrap();
    let loads = ["delete", "wal"].map(|journal| Load::start(place.path(), journal));
    for load in &loads {
        load.gets_beyond(5).await;
    }
    let mut lab = Lab::new(place.path(), &format!("{}/*.db", place.path().display())).await;
    for _ in 0..2 {
        let (_session, _) = lab.frozen().await;
        let held = loads.each_ref().map(Load::acknowledged);
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (load, held) in loads.iter().zip(held) {
            assert!(load.acknowledged() <= held + 1);
        }
        lab.agent.kill();
        for (load, held) in loads.iter().zip(held) {
            load.gets_beyond(held + 1).await;
        }
        lab.agent.start_again(&lab._disks);
        lab.host = lab.agent.host().await;
        while lab.host.hello().await.writers.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    // The host says nothing more.
    let mut session = lab.host.prepared(Duration::from_millis(700)).await;
    session.freeze().await;
    assert!(matches!(session.answer().await, Ok(Some(Step::Frozen(_)))));
    let held = loads.each_ref().map(Load::acknowledged);
    assert!(matches!(session.answer().await, Ok(Some(Step::Lapsed(_)))));
    for (load, held) in loads.iter().zip(held) {
        load.gets_beyond(held + 1).await;
    }
    assert_ne!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    drop((session, lab));
    for load in &loads {
        let [_, _, torn, wrong] = checked(&load.database);
        assert_eq!((torn, wrong), (0, 0));
    }
}

#[tokio::test]
async fn a_database_that_stays_busy_is_named_and_the_others_are_let_go() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().canonicalize().unwrap();
    let free = Load::start(&folder, "wal");
    free.gets_beyond(1).await;
    for journal in ["delete", "wal"] {
        let busy = folder.join(format!("zz-busy-{journal}.db"));
        let pragma = format!("PRAGMA journal_mode={journal}");
        drop(once(&busy, &[&pragma, "CREATE TABLE pairs (n INTEGER, half TEXT, body BLOB)"]));
        let mut lab = Lab::new(&folder, &format!("{0}/wal.db {0}/zz-busy-{journal}.db", folder.display())).await;
        let program = once(&busy, &["BEGIN IMMEDIATE", "INSERT INTO pairs VALUES (1, 'one', 'x')"]);
        let (session, answer) = lab.freeze().await;
        let Step::Refused(refused) = answer else { panic!("{journal}: {answer:?}") };
        assert_eq!(refused.writers[0].result(), pb::WriterResult::TimedOut);
        let detail = &refused.writers[0].detail;
        assert!(detail.contains(&format!("{} is busy", busy.display())), "{detail}");
        free.gets_beyond(free.acknowledged()).await;
        drop((session, program));
        let (mut session, _) = lab.frozen().await;
        assert_eq!(session.thaw().await.outcome(), pb::ThawOutcome::HeldThroughout);
    }
}

/// Whatever of it could be changed by mistake.
fn seen(folder: &Path) -> Vec<(PathBuf, [u64; 3], [i64; 4])> {
    let facts = |path: PathBuf| {
        let facts = fs::metadata(&path).unwrap();
        let times = [facts.mtime(), facts.mtime_nsec(), facts.atime(), facts.atime_nsec()];
        (path, [facts.len(), facts.uid().into(), facts.mode().into()], times)
    };
    let mut seen: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| facts(entry.unwrap().path())).collect();
    seen.sort();
    seen
}

#[tokio::test]
async fn a_database_that_nobody_uses_is_held_without_a_trace() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    fs::create_dir(&data).unwrap();
    let path = |name: &str| data.join(name);
    for journal in ["delete", "wal"] {
        let closed = format!(
            "import sqlite3; db = sqlite3.connect('{}'); db.execute('PRAGMA journal_mode={journal}'); \
             db.execute('CREATE TABLE pairs (n INTEGER, half TEXT, body BLOB)'); db.close()",
            path(&format!("{journal}.db")).display()
        );
        assert!(python(&closed, &[]).status().unwrap().success());
    }
    // Killed in the middle of a transaction that had reached the file: cache_size makes it spill.
    let killed = "CREATE TABLE pairs (n INTEGER, half TEXT, body BLOB)";
    let fill = "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 300) \
                INSERT INTO pairs SELECT n, 'one', randomblob(3000) FROM many";
    drop(once(&path("left.db"), &[killed, "PRAGMA cache_size=2", "BEGIN", fill]));
    assert!(path("left.db-journal").metadata().unwrap().len() > 512, "there is something to take back");
    fs::write(path("empty.db"), "").unwrap();
    for entry in fs::read_dir(&data).unwrap() {
        std::os::unix::fs::chown(entry.unwrap().path(), Some(1234), Some(1234)).unwrap();
    }
    // As if nobody had looked for days: the next look would be noted by the file system.
    let touched = Command::new("sh").args(["-c", "touch -a -d '3 days ago' $0/*"]).arg(&data).status().unwrap();
    assert!(touched.success());
    let before = seen(&data);
    let mut lab = Lab::new(place.path(), &format!("{}/*.db", data.display())).await;
    let (mut session, writer) = lab.frozen().await;
    assert!(kept(&writer, &path("left.db")).starts_with("journal=rollback-left-behind "));
    assert_eq!(seen(&data), before);

    // While it is held nobody writes to it, nor takes back what was left behind.
    for name in ["delete.db", "wal.db", "left.db", "empty.db"] {
        let tries = format!(
            "import sqlite3; db = sqlite3.connect('{}', timeout=0.2); db.execute('CREATE TABLE t (a)')",
            path(name).display()
        );
        let output = python(&tries, &[]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("database is locked"), "{name}: {output:?}");
    }
    assert_eq!(copied(&path("left.db"), &place.path().join("copy")), [0, 0, 0, 0], "it is taken back in the copy");
    let thawed = session.thaw().await;
    assert_eq!(thawed.outcome(), pb::ThawOutcome::HeldThroughout, "{}", thawed.message);
    // Those who tried have read, and nothing more.
    let without_reads = |all: Vec<(PathBuf, [u64; 3], [i64; 4])>| {
        let written =
            |(path, facts, [seconds, nanos, ..]): (PathBuf, [u64; 3], [i64; 4])| (path, facts, seconds, nanos);
        all.into_iter().map(written).collect::<Vec<_>>()
    };
    assert_eq!(without_reads(seen(&data)), without_reads(before));
    assert_eq!(checked(&path("left.db")), [0, 0, 0, 0], "and in the original");
    assert_eq!(checked(&path("wal.db")), [0, 0, 0, 0]);
}

#[tokio::test]
async fn one_that_is_written_to_without_locks_is_not_said_to_have_been_held() {
    let place = tempfile::tempdir().unwrap();
    let database = place.path().join("x.db");
    let _open = once(&database, &["CREATE TABLE pairs (n INTEGER, half TEXT, body BLOB)"]);
    let mut lab = Lab::new(place.path(), &database.display().to_string()).await;
    let (mut session, _) = lab.frozen().await;
    let rude = format!("file:{}?nolock=1", database.display());
    let writes = format!(
        "import sqlite3; db = sqlite3.connect('{rude}', uri=True); \
         db.execute(\"INSERT INTO pairs VALUES (1, 'one', 'x')\"); db.commit()"
    );
    assert!(python(&writes, &[]).status().unwrap().success());
    let thawed = session.thaw().await;
    assert_ne!(thawed.outcome(), pb::ThawOutcome::HeldThroughout);
    assert!(thawed.writers[0].detail.contains("does not keep to locks"), "{}", thawed.writers[0].detail);
    drop(session);

    fs::write(&database, "no database, but much longer than the header of one would be.".repeat(9)).unwrap();
    let (_, answer) = lab.freeze().await;
    let Step::Refused(refused) = answer else { panic!("{answer:?}") };
    assert!(refused.writers[0].detail.contains("is not a database of SQLite"), "{}", refused.writers[0].detail);
}
