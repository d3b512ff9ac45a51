//! MariaDB: a writer for each server, 10.5 or newer, that listens on a unix socket.
//!
//! InnoDB recovers from a cut of all disks at one instant; tables of other engines may be torn by it, and with
//! `innodb_flush_log_at_trx_commit = 0` commits are acknowledged that no disk has. So the server holds its commits for the
//! cut, with the statements that it has for this:
//!
//! | | |
//! |---|---|
//! | `PrepareSnapshot` | a connection, and `BACKUP STAGE START`, which holds nobody |
//! | `Freeze` | `BACKUP STAGE FLUSH`, `BLOCK_DDL`, `BLOCK_COMMIT`, `FLUSH ENGINE LOGS`: nothing is acknowledged; all that was is in files |
//! | kept with the checkpoint | `binlog_file`, `binlog_position`, `gtid`, and in `lsn` up to where InnoDB's log was |
//! | `Thaw` | `BACKUP STAGE END`: the server says that it was held until now |
//! | `PostRestore` | says whether recovery has reached `lsn` |
//!
//! All of this is one connection's, and ends with it: a server whose agent was killed goes on at once, and one whose agent
//! hangs when the window is over.

mod wire;

use std::{path::PathBuf, time::Duration};

use stillpoint_common::{WriterComponent, WriterLevel};
use tokio::time::{Instant, sleep, timeout_at};

use self::wire::{Connection, Row, WireError};
use super::{
    config::Sockets,
    servers::{Kind, Place, sockets_in},
};
use crate::writers::{
    registration::{Ask, Done, Event, Failure, Registration},
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c05";
/// What of a budget is kept for answering.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it is looked whether InnoDB's log is written.
const WRITTEN: Duration = Duration::from_millis(20);
/// The first version that can hold commits, and tells how far InnoDB's log is written.
const OLDEST: [u32; 3] = [10, 5, 0];

/// Servers on sockets in these folders.
pub(super) struct Servers(pub(super) Sockets);

impl Kind for Servers {
    type Writer = MariaDb;

    fn places(&self) -> Vec<Place> {
        sockets_in(&self.0.folders, |name| instance(name).is_some()).into_iter().map(Place::Socket).collect()
    }

    async fn meet(&self, place: Place) -> Result<(Registration, MariaDb), String> {
        let Place::Socket(socket) = place else { return Err("peer credentials need a unix socket".to_owned()) };
        let name = socket.file_name().and_then(|name| name.to_str()).and_then(instance).unwrap_or_default().to_owned();
        let mut writer = MariaDb { socket, user: self.0.user.clone(), connection: None, held_until: None };
        let version = writer.connection().await.map_err(|error| error.to_string())?.version().to_owned();
        if let Some(why) = unfit(&version) {
            return Err(why);
        }
        let told = writer.describe().await.map_err(|error| error.to_string())?;
        writer.connection = None;
        let mut who = Registration::new(format!("MariaDB {name}"), KIND, WriterLevel::BackEnd);
        who.version = version;
        who.components = vec![told];
        Ok((who, writer))
    }
}

/// The name of a server in that of its socket. The second protocol of MySQL has a socket of its own.
fn instance(name: &str) -> Option<&str> {
    name.strip_suffix(".sock").filter(|name| !name.is_empty() && !name.ends_with("mysqlx"))
}

/// Why a server of this version has no writer, if it has none.
fn unfit(version: &str) -> Option<String> {
    let mut numbers = version.split(|char: char| !char.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    let numbers = [(); 3].map(|()| numbers.next().unwrap_or_default());
    if version.contains("MariaDB") && numbers >= OLDEST {
        return None;
    }
    Some(format!(
        "{version} cannot hold its commits (MariaDB 10.5 and newer can): InnoDB recovers as after a power failure, tables \
         of other engines may need a repair"
    ))
}

/// One server.
pub(super) struct MariaDb {
    socket: PathBuf,
    user: String,
    /// Open from `PrepareSnapshot` on: what it holds is held by it.
    connection: Option<Connection>,
    /// Commits are held, and let go by the server itself then.
    held_until: Option<Instant>,
}

impl Writer for MariaDb {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let until = Instant::now() + event.budget;
        let answer = timeout_at(until, self.answer(&event.ask, event.budget)).await;
        let late = || Failure::timed_out(format!("MariaDB was not ready within {:?}", event.budget));
        let answer = answer.unwrap_or_else(|_| Err(late()));
        if answer.is_err() {
            self.let_go();
        }
        answer
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        let message = error.to_string();
        if error.is_temporary() { Self::retryable(message) } else { Self::non_retryable(message) }
    }
}

impl MariaDb {
    async fn answer(&mut self, ask: &Ask, budget: Duration) -> Result<Done, Failure> {
        match ask {
            Ask::Identify => {
                self.let_go();
                let components = Some(vec![self.describe().await?]);
                self.let_go();
                return Ok(Done { components, ..Done::default() });
            }
            Ask::PrepareSnapshot => self.prepare(budget).await?,
            Ask::Freeze { window } => return self.freeze(*window, budget).await,
            Ask::Thaw => self.thaw().await?,
            Ask::PostRestore(from) if !from.with_memory => self.reached(from.metadata.get("lsn")).await?,
            Ask::PostSnapshot | Ask::BackupShutdown | Ask::Abort => self.let_go(),
            Ask::PrepareBackup(_) | Ask::BackupComplete(_) | Ask::PreRestore(_) | Ask::PostRestore(_) => {}
        }
        Ok(Done::default())
    }

    /// A connection that ends gives up all that it holds.
    fn let_go(&mut self) {
        self.connection = None;
        self.held_until = None;
    }

    async fn connection(&mut self) -> Result<&mut Connection, WireError> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(&self.socket, &self.user).await?,
        };
        Ok(self.connection.insert(open))
    }

    async fn describe(&mut self) -> Result<WriterComponent, WireError> {
        let connection = self.connection().await?;
        let row = connection.row("SELECT @@datadir, coalesce(@@log_bin_basename, '')").await?;
        let [folder, log] = texts(row)?;
        let elsewhere = (!log.is_empty() && !log.starts_with(&folder)).then_some(log);
        let files = std::iter::once(folder).chain(elsewhere).collect();
        Ok(WriterComponent { name: "data".to_owned(), files, version: connection.version().to_owned() })
    }

    /// Whoever holds a table longer than we may wait keeps us from a checkpoint, and is not kept waiting by us for ever.
    async fn prepare(&mut self, budget: Duration) -> Result<(), WireError> {
        // What an abort that was not heard has left.
        self.let_go();
        let (patience, idle) = (whole_seconds(budget), 2 * whole_seconds(budget) + 60);
        let connection = self.connection().await?;
        connection.query(&format!("SET SESSION lock_wait_timeout = {patience}, wait_timeout = {idle}")).await?;
        connection.query("BACKUP STAGE START").await.map(drop)
    }

    /// No commit is acknowledged from now on, and what was acknowledged is written.
    async fn freeze(&mut self, window: Duration, budget: Duration) -> Result<Done, Failure> {
        const POSITION: &str = "SELECT @@gtid_current_pos, @@server_id";
        let Some(connection) = &mut self.connection else {
            return Err(Failure::retryable("it was not prepared: the connection to it was lost"));
        };
        self.held_until = Some(Instant::now() + window);
        let (patience, idle) = (whole_seconds(budget), window.as_secs() + 1);
        connection.query(&format!("SET SESSION lock_wait_timeout = {patience}, wait_timeout = {idle}")).await?;
        // Of these already the first keeps others waiting: whoever would write to a table that does not recover.
        for stage in ["STAGE FLUSH", "STAGE BLOCK_DDL", "STAGE BLOCK_COMMIT"] {
            connection.query(&format!("BACKUP {stage}")).await?;
        }
        connection.query("FLUSH ENGINE LOGS").await?;
        let flushed = flushed(connection).await?;
        let log = connection.query("SHOW MASTER STATUS").await?.into_iter().next().unwrap_or_default();
        let [gtid, server] = texts(connection.row(POSITION).await?)?;
        let mut kept = vec![("gtid", gtid), ("server_id", server)];
        kept.extend(flushed.map(|lsn| ("lsn", lsn.to_string())));
        kept.extend(["binlog_file", "binlog_position"].into_iter().zip(log.into_iter().flatten()));
        let metadata = kept.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Done { components: None, metadata })
    }

    /// The server ends what this connection has held all the time, or says that there was nothing.
    async fn thaw(&mut self) -> Result<(), Failure> {
        let Some(until) = self.held_until else { return Ok(()) };
        let ended = match &mut self.connection {
            Some(connection) => connection.query("BACKUP STAGE END").await,
            None => return Err(Failure::retryable("the connection that held its commits was lost")),
        };
        self.held_until = None;
        match ended {
            Ok(_) if Instant::now() < until => Ok(()),
            Ok(_) => Err(Failure::timed_out("commits went on before they were let go")),
            Err(error) => Err(Failure::retryable(format!("its commits were not held until the end: {error}"))),
        }
    }

    /// Recovery got at least as far as InnoDB's log was written when the checkpoint was made.
    async fn reached(&mut self, kept: Option<&String>) -> Result<(), Failure> {
        let Some(kept) = kept.and_then(|lsn| lsn.parse::<u64>().ok()) else { return Ok(()) };
        let now = lsn(self.connection().await?, "current").await;
        self.let_go();
        let now = now?.unwrap_or_default();
        if now >= kept {
            return Ok(());
        }
        let why = format!("InnoDB has recovered up to {now}, and was at {kept} when the checkpoint was made");
        Err(Failure::non_retryable(why))
    }
}

/// Waits until InnoDB's log is written as far as it is now, and answers how far that is. `FLUSH ENGINE LOGS` has done it already,
/// but not with `innodb_flush_log_at_trx_commit = 0`: then only the server itself does, once in a while (a second, unless it
/// is set otherwise).
async fn flushed(connection: &mut Connection) -> Result<Option<u64>, WireError> {
    let wanted = lsn(connection, "current").await?;
    loop {
        let flushed = lsn(connection, "flushed").await?;
        if flushed >= wanted {
            return Ok(flushed);
        }
        sleep(WRITTEN).await;
    }
}

/// A position in InnoDB's log; none: it has no InnoDB.
async fn lsn(connection: &mut Connection, which: &str) -> Result<Option<u64>, WireError> {
    let rows = connection.query(&format!("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_{which}'")).await?;
    let value = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
    Ok(value.and_then(|lsn| lsn.parse().ok()))
}

/// What the server may wait for others, so that its answer comes before our time is over.
fn whole_seconds(budget: Duration) -> u64 {
    budget.saturating_sub(ANSWER).as_secs().max(1)
}

fn texts<const N: usize>(row: Row) -> Result<[String; N], WireError> {
    let texts: Vec<String> = row.into_iter().map(Option::unwrap_or_default).collect();
    texts.try_into().map_err(|_| WireError::Strange("a row of another form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_mariadb_are_told_from_others() {
        assert_eq!((instance("mysqld.sock"), instance("mysqld-two.sock")), (Some("mysqld"), Some("mysqld-two")));
        assert_eq!((instance("mysqlx.sock"), instance(".sock"), instance("mysqld.pid")), (None, None, None));
    }

    #[test]
    fn a_server_that_cannot_hold_its_commits_has_no_writer() {
        for fit in ["10.11.6-MariaDB-0+deb12u1-log", "10.5.0-MariaDB", "11.4.2-MariaDB"] {
            assert_eq!(unfit(fit), None, "{fit}");
        }
        for unfit_one in ["8.0.36", "10.4.34-MariaDB", "10.3.39-MariaDB-0ubuntu0.20.04.2", "MariaDB", ""] {
            let why = unfit(unfit_one).unwrap_or_else(|| panic!("{unfit_one} is fit"));
            assert!(why.contains("recovers as after a power failure"), "{why}");
        }
    }

    #[test]
    fn the_server_gives_up_before_we_do() {
        assert_eq!(whole_seconds(Duration::from_secs(30)), 29);
        assert_eq!(whole_seconds(Duration::from_millis(300)), 1);
    }
}
