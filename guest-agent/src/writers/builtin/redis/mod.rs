//! Redis and Valkey: a writer for each server on a unix socket or a port of this machine.
//!
//! With an append-only file it is waited, in `Freeze`, until everything answered is written to it; freezing the file system
//! takes that to the disk, whatever `appendfsync` says. Without one the data is on disk as of the last snapshot: so one
//! is made in `PrepareSnapshot`, and waited for. Nothing is held here, and nothing has to be undone if the agent or the
//! host dies.
//!
//! Kept with the checkpoint: `persistence` (`aof`, `rdb`, or `none` if the server is set to keep nothing), and with it for
//! `aof` the replication `offset`, for `rdb` the time `saved_at`.

mod wire;

use std::{collections::BTreeMap, time::Duration};

use stillpoint_common::{WriterComponent, WriterLevel};
use tokio::time::{sleep, timeout};

use self::wire::{Connection, WireError};
use super::{
    config::Ports,
    servers::{Kind, Place, sockets_in},
};
use crate::writers::{
    registration::{Ask, Done, Event, Failure, Registration},
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c04";
/// How often a snapshot is looked after.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked whether everything answered is written.
const WRITTEN: Duration = Duration::from_millis(2);

/// Servers in these places.
pub(super) struct Servers(pub(super) Ports);

impl Kind for Servers {
    type Writer = Redis;

    fn places(&self) -> Vec<Place> {
        let sockets = sockets_in(&self.0.folders, |name| name.ends_with(".sock")).into_iter().map(Place::Socket);
        sockets.chain(self.0.ports.iter().copied().map(Place::Port)).collect()
    }

    async fn meet(&self, place: Place) -> Result<(Registration, Redis), String> {
        let name = match &place {
            Place::Socket(path) => path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            Place::Port(port) => port.to_string(),
        };
        let mut writer = Redis { place, connection: None };
        let told = writer.describe().await.map_err(|error| error.to_string())?;
        writer.connection = None;
        let mut who = Registration::new(format!("Redis {name}"), KIND, WriterLevel::BackEnd);
        who.version.clone_from(&told.version);
        who.components = vec![told];
        Ok((who, writer))
    }
}

/// One server.
pub(super) struct Redis {
    place: Place,
    /// Open from `PrepareSnapshot` on, so that the held window has no connecting in it.
    connection: Option<Connection>,
}

impl Writer for Redis {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let answer = timeout(event.budget, self.answer(&event.ask)).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.connection = None;
        }
        match answer {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.is_temporary() => Err(Failure::retryable(error.to_string())),
            Ok(Err(error)) => Err(Failure::non_retryable(error.to_string())),
            Err(_) => Err(Failure::timed_out(format!("Redis was not ready within {:?}", event.budget))),
        }
    }
}

impl Redis {
    async fn answer(&mut self, ask: &Ask) -> Result<Done, WireError> {
        match ask {
            Ask::Identify => {
                self.connection = None;
                let components = Some(vec![self.describe().await?]);
                self.connection = None;
                return Ok(Done { components, ..Done::default() });
            }
            Ask::PrepareSnapshot => self.make_durable().await?,
            Ask::Freeze { .. } => return self.position().await,
            Ask::PostSnapshot | Ask::BackupShutdown | Ask::Abort => self.connection = None,
            Ask::PrepareBackup(_) | Ask::Thaw | Ask::BackupComplete(_) | Ask::PreRestore(_) | Ask::PostRestore(_) => {}
        }
        Ok(Done::default())
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, WireError> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(&self.place).await?,
        };
        self.connection.insert(open).ask(words).await
    }

    async fn info(&mut self) -> Result<BTreeMap<String, String>, WireError> {
        let text = self.ask(&["INFO"]).await?.concat();
        let facts = text.lines().filter_map(|line| line.split_once(':'));
        Ok(facts.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    }

    async fn describe(&mut self) -> Result<WriterComponent, WireError> {
        let info = self.info().await?;
        let version = ["valkey_version", "redis_version"].iter().find_map(|key| info.get(*key)).cloned();
        let version = version.ok_or(WireError::Strange)?;
        // A server may hide its settings; where its files are is only told to people.
        let files = match self.ask(&["CONFIG", "GET", "dir"]).await {
            Ok(told) => told.into_iter().skip(1).collect(),
            Err(WireError::Refused(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(WriterComponent { name: "data".to_owned(), files, version })
    }

    async fn make_durable(&mut self) -> Result<(), WireError> {
        let saves = self.is_told_to_save().await?;
        match persistence(&self.info().await?, saves) {
            Persistence::Aof { broken: true } => {
                Err(WireError::Refused("the append-only file cannot be written (aof_last_write_status)".to_owned()))
            }
            Persistence::Aof { broken: false } | Persistence::Nothing => Ok(()),
            Persistence::Rdb => self.snapshot().await,
        }
    }

    /// A snapshot that was begun after we were asked, and has succeeded.
    async fn snapshot(&mut self) -> Result<(), WireError> {
        while is(&self.info().await?, "rdb_bgsave_in_progress", "1") {
            sleep(LOOK).await;
        }
        self.ask(&["BGSAVE"]).await?;
        loop {
            let info = self.info().await?;
            if !is(&info, "rdb_bgsave_in_progress", "1") {
                let failed = || WireError::Refused("its snapshot failed: see its log".to_owned());
                return is(&info, "rdb_last_bgsave_status", "ok").then_some(()).ok_or_else(failed);
            }
            sleep(LOOK).await;
        }
    }

    async fn position(&mut self) -> Result<Done, WireError> {
        let saves = self.is_told_to_save().await?;
        let mut info = self.info().await?;
        // Answers may go out before their commands are written, while the disk is busy with what came before.
        while info.get("aof_buffer_length").is_some_and(|length| length != "0") {
            sleep(WRITTEN).await;
            info = self.info().await?;
        }
        let fact = |key: &str| info.get(key).cloned().unwrap_or_default();
        let (offset, saved_at) = (fact("master_repl_offset"), fact("rdb_last_save_time"));
        Ok(match persistence(&info, saves) {
            Persistence::Aof { .. } => Done::keeping([("persistence", "aof".to_owned()), ("offset", offset)]),
            Persistence::Rdb => Done::keeping([("persistence", "rdb".to_owned()), ("saved_at", saved_at)]),
            Persistence::Nothing => Done::keeping([("persistence", "none".to_owned())]),
        })
    }

    /// Snapshots are wanted; a server that hides its settings is taken to want them.
    async fn is_told_to_save(&mut self) -> Result<bool, WireError> {
        match self.ask(&["CONFIG", "GET", "save"]).await {
            Ok(told) => Ok(told.get(1).is_none_or(|rules| !rules.is_empty())),
            Err(WireError::Refused(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// How a server keeps its data.
#[derive(Debug, PartialEq, Eq)]
enum Persistence {
    Aof { broken: bool },
    Rdb,
    Nothing,
}

fn persistence(info: &BTreeMap<String, String>, saves: bool) -> Persistence {
    if is(info, "aof_enabled", "1") {
        Persistence::Aof { broken: is(info, "aof_last_write_status", "err") }
    } else if saves {
        Persistence::Rdb
    } else {
        Persistence::Nothing
    }
}

fn is(info: &BTreeMap<String, String>, key: &str, value: &str) -> bool {
    info.get(key).is_some_and(|found| found == value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_the_data_is_seen_from_what_the_server_says() {
        let info = |facts: &[(&str, &str)]| {
            facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let on = info(&[("aof_enabled", "1"), ("aof_last_write_status", "ok")]);
        assert_eq!(persistence(&on, false), Persistence::Aof { broken: false });
        let broken = info(&[("aof_enabled", "1"), ("aof_last_write_status", "err")]);
        assert_eq!(persistence(&broken, true), Persistence::Aof { broken: true });
        assert_eq!(persistence(&info(&[("aof_enabled", "0")]), true), Persistence::Rdb);
        assert_eq!(persistence(&info(&[]), false), Persistence::Nothing);
    }
}
