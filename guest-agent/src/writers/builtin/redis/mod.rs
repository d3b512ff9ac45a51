//! Redis and Valkey: a writer for each server on a unix socket or a port of this machine.
//!
//! A server acknowledges writes that it has not yet given to the file system, while that is busy; and a frozen one is
//! busy. So writes are held, by the server itself, from before the freeze until after the thaw:
//!
//! | | with an append-only file | with snapshots alone | with neither |
//! |---|---|---|---|
//! | `PrepareSnapshot` | a rewrite that is going on is waited for | a snapshot is made, and waited for | |
//! | `Freeze` | `CLIENT PAUSE … WRITE`; what was answered is written | | |
//! | `Thaw` | the server tells that nothing was written meanwhile; `CLIENT UNPAUSE` | | |
//! | on the disks | every write that was acknowledged before the cut | those before the snapshot | nothing |
//! | kept: `persistence` | `aof` | `rdb` | `none` |
//! | and beside `role` | `aof_size` | `saved_at`, and at least how many writes were lost: `changes_not_kept` | |
//!
//! Freezing the file system takes what was written to the disk, whatever `appendfsync` says. (`WAITAOF` would answer for
//! the writes of our own connection, and there are none.)
//!
//! The pause ends by itself when the window does. An agent that was killed finds its mark when it starts again, and ends
//! it then.

mod info;
mod wire;

use std::{path::PathBuf, time::Duration};

use stillpoint_common::{WriterComponent, WriterLevel};
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use self::{
    info::{Info, Persistence, Position},
    wire::{Connection, WireError},
};
use super::{
    config::Listeners,
    mark::Mark,
    servers::{Kind, Place, sockets_in},
};
use crate::writers::{
    registration::{Ask, Done, Event, Failure, Registration},
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c04";
/// How often a snapshot or a rewrite is looked after.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked whether everything answered is written.
const WRITTEN: Duration = Duration::from_millis(5);

/// Servers in these places.
pub(super) struct Servers {
    settings: Listeners,
    runtime: PathBuf,
}

impl Servers {
    /// `runtime`: where marks are made.
    pub(super) const fn new(settings: Listeners, runtime: PathBuf) -> Self {
        Self { settings, runtime }
    }
}

impl Kind for Servers {
    type Writer = Redis;

    fn places(&self) -> Vec<Place> {
        let sockets = sockets_in(&self.settings.folders, |name| name.ends_with(".sock"));
        let ports = self.settings.ports.iter().copied().map(Place::Port);
        sockets.into_iter().map(Place::Socket).chain(ports).collect()
    }

    async fn meet(&self, place: Place) -> Result<(Registration, Redis), String> {
        let mut server = Server { place, settings: self.settings.clone(), connection: None };
        let told = server.info().await.map_err(|error| error.to_string())?;
        if let Some(why) = told.unfit() {
            return Err(why);
        }
        let mut who = Registration::new(told.name(server.socket().as_deref()), KIND, WriterLevel::BackEnd);
        told.version().clone_into(&mut who.version);
        who.components = vec![server.describe(&told).await.map_err(|error| error.to_string())?];
        let mark = Mark::new(&self.runtime, &who.name);
        if mark.is_set() {
            info!(writer = who.name, "an earlier agent left it without writes: they go on");
            server.ask(&["CLIENT", "UNPAUSE"]).await.map_err(|error| error.to_string())?;
            mark.clear();
        }
        server.connection = None;
        Ok((who, Redis { server, mark, hold: None }))
    }
}

/// One server.
pub(super) struct Redis {
    server: Server,
    /// Set for as long as writes may be held.
    mark: Mark,
    hold: Option<Hold>,
}

/// Writes are held, or may be.
struct Hold {
    /// By then the server lets them go by itself.
    until: Instant,
    /// Where it was when everything was written; none: that never came to be.
    position: Option<Position>,
}

impl Writer for Redis {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let answer = timeout(event.budget, self.answer(&event.ask)).await;
        let late = || Failure::timed_out(format!("Redis was not ready within {:?}", event.budget));
        let answer = answer.unwrap_or_else(|_| Err(late()));
        if answer.is_err() {
            self.server.connection = None;
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

impl Redis {
    async fn answer(&mut self, ask: &Ask) -> Result<Done, Failure> {
        match ask {
            Ask::Identify => return self.identify().await,
            Ask::PrepareSnapshot => self.prepare().await?,
            Ask::Freeze { window } => return self.freeze(*window).await,
            Ask::Thaw => self.thaw().await?,
            Ask::Abort => {
                self.server.connection = None;
                self.release().await?;
            }
            Ask::PostSnapshot | Ask::BackupShutdown => self.server.connection = None,
            Ask::PrepareBackup(_) | Ask::BackupComplete(_) | Ask::PreRestore(_) | Ask::PostRestore(_) => {}
        }
        Ok(Done::default())
    }

    async fn identify(&mut self) -> Result<Done, Failure> {
        self.server.connection = None;
        let told = self.server.info().await?;
        let components = Some(vec![self.server.describe(&told).await?]);
        Ok(Done { components, ..Done::default() })
    }

    async fn prepare(&mut self) -> Result<(), Failure> {
        // What an abort that was not heard has left.
        self.release().await?;
        let (told, persistence) = self.server.persistence().await?;
        match persistence {
            Persistence::Aof if told.broken() => Err(broken()),
            Persistence::Aof => Ok(self.server.becomes(LOOK, |told| !told.rewrites()).await.map(drop)?),
            Persistence::Rdb => self.server.snapshot().await,
            Persistence::Nothing => Ok(()),
        }
    }

    async fn freeze(&mut self, window: Duration) -> Result<Done, Failure> {
        let (mut told, persistence) = self.server.persistence().await?;
        let kept = match persistence {
            Persistence::Aof => {
                told = self.hold(window).await?;
                vec![("persistence", "aof"), ("aof_size", told.text("aof_current_size"))]
            }
            Persistence::Rdb => vec![
                ("persistence", "rdb"),
                ("saved_at", told.text("rdb_last_save_time")),
                ("changes_not_kept", told.text("rdb_changes_since_last_save")),
            ],
            Persistence::Nothing => vec![("persistence", "none")],
        };
        let kept = kept.into_iter().chain([("role", told.text("role"))]);
        let metadata = kept.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Ok(Done { components: None, metadata })
    }

    /// No write is answered from now on, and what was answered is written.
    async fn hold(&mut self, window: Duration) -> Result<Info, Failure> {
        self.mark.set();
        self.hold = Some(Hold { until: Instant::now() + window, position: None });
        self.server.ask(&["CLIENT", "PAUSE", &window.as_millis().to_string(), "WRITE"]).await?;
        let told = self.server.becomes(WRITTEN, |told| !told.unwritten() || told.broken()).await?;
        if told.broken() {
            return Err(broken());
        }
        self.hold.iter_mut().for_each(|hold| hold.position = Some(told.position()));
        Ok(told)
    }

    async fn thaw(&mut self) -> Result<(), Failure> {
        let Some(Hold { until, position: Some(held) }) = &self.hold else { return Ok(()) };
        let (until, held) = (*until, held.clone());
        let told = self.server.info().await?;
        let in_time = Instant::now() < until;
        self.release().await?;
        match (in_time, held.is_still(&told.position())) {
            (true, true) => Ok(()),
            (true, false) => Err(Failure::retryable("it was written to while writes were to be held")),
            (false, _) => Err(Failure::timed_out("writes went on before they were let go")),
        }
    }

    /// Writes go on. Fine if nothing is held; a server that is gone holds nothing.
    async fn release(&mut self) -> Result<(), Failure> {
        if self.hold.is_some() {
            match self.server.ask(&["CLIENT", "UNPAUSE"]).await {
                Ok(_) => {}
                Err(error) if error.is_nobody() => {}
                Err(error) => return Err(error.into()),
            }
            self.hold = None;
            self.mark.clear();
        }
        Ok(())
    }
}

fn broken() -> Failure {
    Failure::retryable("its append-only file cannot be written (aof_last_write_status): see its log")
}

/// Speaks to one server.
struct Server {
    place: Place,
    settings: Listeners,
    /// Open from `Identify` on, so that the held window has no connecting in it.
    connection: Option<Connection>,
}

impl Server {
    fn socket(&self) -> Option<String> {
        match &self.place {
            Place::Socket(path) => path.file_stem().map(|name| name.to_string_lossy().into_owned()),
            Place::Port(_) => None,
        }
    }

    async fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, WireError> {
        let mut open = match self.connection.take() {
            Some(open) => open,
            None => Connection::open(&self.place, &self.settings).await?,
        };
        let answer = open.ask(words).await;
        if matches!(answer, Ok(_) | Err(WireError::Refused(_))) {
            self.connection = Some(open);
        }
        answer
    }

    async fn info(&mut self) -> Result<Info, WireError> {
        Ok(Info::read(&self.ask(&["INFO"]).await?.concat()))
    }

    /// Asks until it is so.
    async fn becomes(&mut self, every: Duration, wanted: impl Fn(&Info) -> bool) -> Result<Info, WireError> {
        loop {
            let told = self.info().await?;
            if wanted(&told) {
                return Ok(told);
            }
            sleep(every).await;
        }
    }

    /// A setting; none: it has none, or does not tell.
    async fn setting(&mut self, name: &str) -> Result<Option<String>, WireError> {
        match self.ask(&["CONFIG", "GET", name]).await {
            Ok(told) => Ok(told.into_iter().nth(1)),
            Err(WireError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn describe(&mut self, told: &Info) -> Result<WriterComponent, WireError> {
        let files = self.setting("dir").await?.into_iter().collect();
        Ok(WriterComponent { name: "data".to_owned(), files, version: told.version().to_owned() })
    }

    /// A server that does not tell its settings is taken to make snapshots.
    async fn persistence(&mut self) -> Result<(Info, Persistence), WireError> {
        let saves = self.setting("save").await?.is_none_or(|rules| !rules.is_empty());
        let told = self.info().await?;
        let persistence = told.persistence(saves);
        Ok((told, persistence))
    }

    /// A snapshot that was begun after we were asked, and has succeeded.
    async fn snapshot(&mut self) -> Result<(), Failure> {
        let is_over = |told: &Info| !told.is("rdb_bgsave_in_progress", "1");
        self.becomes(LOOK, is_over).await?;
        self.ask(&["BGSAVE"]).await?;
        let told = self.becomes(LOOK, is_over).await?;
        if told.is("rdb_last_bgsave_status", "ok") {
            return Ok(());
        }
        Err(Failure::retryable("its snapshot failed (rdb_last_bgsave_status): see its log"))
    }
}
