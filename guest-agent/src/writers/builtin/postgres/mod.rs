//! PostgreSQL: a writer for each server that listens on a unix socket.
//!
//! A cut of all disks at one instant is what PostgreSQL recovers from by itself, as after a power failure; so nothing is
//! held here, no backup mode is entered, and nothing has to be undone if the agent or the host dies. What the
//! writer adds:
//!
//! | | |
//! |---|---|
//! | `PrepareSnapshot` | a `CHECKPOINT`, so that recovery has little to do. One that takes too long is not waited for |
//! | `Freeze` | everything acknowledged is flushed, also what was committed with `synchronous_commit = off` |
//! | kept with the checkpoint | up to where that was, in `wal_lsn`: recovery will reach at least there |
//! | `PostRestore` | says whether it has |
//!
//! WAL is written before the pages it describes, and a frozen file system takes neither: so it does not matter in which
//! order the file systems of one server are frozen.

mod wire;

use std::{path::PathBuf, time::Duration};

use stillpoint_common::{WriterComponent, WriterLevel};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use self::wire::{Connection, Row, WireError};
use super::{
    config::Sockets,
    servers::{Kind, Place, sockets_in},
};
use crate::writers::{
    registration::{Ask, Done, Event, Failure, Registration},
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c03";
/// What of a budget is kept for answering.
const ANSWER: Duration = Duration::from_millis(500);

/// Servers on sockets of PostgreSQL's names in these folders.
pub(super) struct Servers(pub(super) Sockets);

impl Kind for Servers {
    type Writer = Postgres;

    fn places(&self) -> Vec<Place> {
        sockets_in(&self.0.folders, |name| port(name).is_some()).into_iter().map(Place::Socket).collect()
    }

    async fn meet(&self, place: Place) -> Result<(Registration, Postgres), String> {
        let Place::Socket(socket) = place else { return Err("peer credentials need a unix socket".to_owned()) };
        let name = socket.file_name().and_then(|name| name.to_str()).and_then(port).unwrap_or_default().to_owned();
        let mut writer = Postgres { socket, user: self.0.user.clone(), connection: None };
        let told = writer.describe().await.map_err(|error| error.to_string())?;
        writer.connection = None;
        let mut who = Registration::new(format!("PostgreSQL {name}"), KIND, WriterLevel::BackEnd);
        who.version = told.version.clone();
        who.components = vec![told];
        Ok((who, writer))
    }
}

/// The port in the name of a socket, which tells servers of one machine apart.
fn port(name: &str) -> Option<&str> {
    name.strip_prefix(".s.PGSQL.").filter(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// One server.
pub(super) struct Postgres {
    socket: PathBuf,
    user: String,
    /// Open from `PrepareSnapshot` on, so that the held window has no connecting in it.
    connection: Option<Connection>,
}

impl Writer for Postgres {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let until = Instant::now() + event.budget;
        let answer = timeout_at(until, self.answer(&event.ask, until)).await;
        match answer {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                self.connection = None;
                let message = error.to_string();
                Err(if error.is_temporary() { Failure::retryable(message) } else { Failure::non_retryable(message) })
            }
            Err(_) => {
                self.connection = None;
                Err(Failure::timed_out(format!("PostgreSQL did not answer within {:?}", event.budget)))
            }
        }
    }
}

impl Postgres {
    async fn answer(&mut self, ask: &Ask, until: Instant) -> Result<Done, WireError> {
        match ask {
            Ask::Identify => {
                self.connection = None;
                let components = Some(vec![self.describe().await?]);
                self.connection = None;
                Ok(Done { components, ..Done::default() })
            }
            Ask::PrepareSnapshot => self.make_recovery_short(until).await.map(|()| Done::default()),
            Ask::Freeze { .. } => self.flush().await,
            Ask::PostRestore(from) if !from.with_memory => {
                self.reached(from.metadata.get("wal_lsn").map(String::as_str)).await.map(|()| Done::default())
            }
            Ask::PostSnapshot | Ask::BackupShutdown | Ask::Abort => {
                self.connection = None;
                Ok(Done::default())
            }
            Ask::PrepareBackup(_) | Ask::Thaw | Ask::BackupComplete(_) | Ask::PreRestore(_) | Ask::PostRestore(_) => {
                Ok(Done::default())
            }
        }
    }

    async fn connection(&mut self) -> Result<&mut Connection, WireError> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(&self.socket, &self.user).await?,
        };
        Ok(self.connection.insert(open))
    }

    async fn describe(&mut self) -> Result<WriterComponent, WireError> {
        const WHO: &str = "SELECT current_setting('server_version'), current_setting('data_directory'), \
                           coalesce(nullif(current_setting('cluster_name'), ''), 'cluster')";
        const ELSEWHERE: &str =
            "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''";
        let connection = self.connection().await?;
        let [version, folder, name] = texts(connection.row(WHO).await?)?;
        let elsewhere = connection.query(ELSEWHERE).await?.into_iter().flatten().flatten();
        let files = std::iter::once(folder).chain(elsewhere).collect();
        Ok(WriterComponent { name, files, version })
    }

    /// A checkpoint of PostgreSQL's own, for as long as there is time. It only makes recovery shorter: one that is not over
    /// in time goes on without us, and one that is not allowed is done without.
    async fn make_recovery_short(&mut self, until: Instant) -> Result<(), WireError> {
        let patience = until.saturating_duration_since(Instant::now() + ANSWER);
        match timeout(patience, self.connection().await?.query("CHECKPOINT")).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(WireError::Refused { code, message })) => info!(code, message, "PostgreSQL makes no checkpoint"),
            Ok(Err(error)) => return Err(error),
            Err(_) => info!(?patience, "PostgreSQL's checkpoint takes long: not waited for"),
        }
        // The one that we had waits for its answer.
        self.connection = None;
        self.connection().await.map(drop)
    }

    async fn flush(&mut self) -> Result<Done, WireError> {
        // A commit that is flushed here and does not wait for standbys takes everything before it to the disk.
        const MARK: &str = "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'stillpoint', 'held')";
        const POSITION: &str = "SELECT pg_current_wal_flush_lsn()::text, timeline_id::text, system_identifier::text \
                                FROM pg_control_checkpoint(), pg_control_system()";
        const REPLAYED: &str = "SELECT coalesce(pg_last_wal_replay_lsn()::text, '0/0'), timeline_id::text, \
                                system_identifier::text FROM pg_control_checkpoint(), pg_control_system()";
        let connection = self.connection().await?;
        let [standby] = texts(connection.row("SELECT pg_is_in_recovery()::text").await?)?;
        let standby = standby == "true";
        if !standby {
            connection.query(MARK).await?;
        }
        let position = connection.row(if standby { REPLAYED } else { POSITION }).await?;
        let [lsn, timeline, system] = texts(position)?;
        let role = if standby { "standby" } else { "primary" }.to_owned();
        Ok(Done::keeping([("wal_lsn", lsn), ("timeline", timeline), ("system_identifier", system), ("role", role)]))
    }

    /// Recovery got at least as far as what was acknowledged when the checkpoint was made.
    async fn reached(&mut self, kept: Option<&str>) -> Result<(), WireError> {
        // What was kept comes from a host and goes into a statement: only a position is one.
        let Some(kept) = kept.filter(|lsn| lsn.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'/')) else {
            return Ok(());
        };
        let question = format!(
            "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END \
             >= '{kept}')::text"
        );
        let answer = self.connection().await?.row(&question).await;
        self.connection = None;
        match texts(answer?)? {
            [reached] if reached == "true" => Ok(()),
            [_] => Err(WireError::Refused {
                code: "stillpoint".to_owned(),
                message: format!("it has not recovered up to {kept}, where it was when the checkpoint was made"),
            }),
        }
    }
}

fn texts<const N: usize>(row: Row) -> Result<[String; N], WireError> {
    let texts: Option<Vec<String>> = row.into_iter().collect();
    texts.and_then(|texts| texts.try_into().ok()).ok_or(WireError::Strange("a row of another form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_postgresql_are_told_from_their_locks() {
        assert_eq!(port(".s.PGSQL.5432"), Some("5432"));
        assert_eq!((port(".s.PGSQL.5432.lock"), port(".s.PGSQL."), port("mysqld.sock")), (None, None, None));
    }
}
