//! SQLite: one writer for all databases that the settings name.
//!
//! A program that uses SQLite has nobody who could be asked to be quiet; but it keeps to locks, and whoever has the
//! writer's lock of a database keeps everybody else from changing it. So that is what is held, for each of them, from
//! before the freeze until after the thaw: no transaction that writes is open then, everything that was acknowledged is in
//! the file or in its write-ahead log, and what a program writes meanwhile waits as long as its own `busy_timeout` says.
//! Freezing the file system takes what was written to the disk, whatever `synchronous` says. Programs read on.
//!
//! | | |
//! |---|---|
//! | `Freeze` | the writer's lock of every database, at once; one that stays busy is named, and nothing is held |
//! | `Thaw` | says whether every one was left alone until then; the locks go |
//! | kept: `database.N` | journal, size of pages, their number, the change counter, length of the log, path |
//!
//! The locks are those of the agent's open files: they go with it, however it ends. See [`database`] for what is locked.

mod database;
mod hold;
mod lock;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_common::{WriterComponent, WriterLevel};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::info;

use self::{
    database::DatabaseError,
    hold::{End, Hold, HoldError, Orders},
};
use super::config::Databases;
use crate::writers::{
    local,
    registration::{Ask, Budgets, Done, Event, Failure, Registration},
    registry::Registry,
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c06";
/// How often databases are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// Databases at once, at most: each is named, and kept with the checkpoint.
const MOST: usize = 60;
/// What of a budget is kept for answering.
const ANSWER: Duration = Duration::from_millis(300);

/// Keeps the writer registered for as long as there are databases. Runs for ever.
pub(super) async fn keep(registry: Registry, settings: Databases) {
    if settings.patterns.is_empty() {
        return;
    }
    let mut writer: Option<JoinHandle<()>> = None;
    loop {
        // A folder of a server that is gone may hang.
        let looking = settings.clone();
        let found = spawn_blocking(move || find(&looking)).await.unwrap_or_default();
        match (found.is_empty(), &writer) {
            (false, None) => {
                info!(databases = found.len(), "databases of SQLite");
                let mut who = Registration::new("SQLite", KIND, WriterLevel::BackEnd);
                who.budgets = Budgets { freeze: settings.timeout + ANSWER, ..Budgets::default() };
                who.components = components(&found);
                writer = Some(local::attach(&registry, who, Sqlite { settings: settings.clone(), hold: None }));
            }
            (true, Some(task)) => {
                task.abort();
                writer = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The databases that are there now. One that the settings name is one whatever it looks like, so that it is missed if it
/// is none; among what only fits a pattern, those that say so themselves.
fn find(settings: &Databases) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for pattern in &settings.patterns {
        // The names of what lies beside a database come from its own, not from a link to it.
        let found = pattern.expand().into_iter().filter_map(|path| path.canonicalize().ok());
        let is_one = |path: &PathBuf| pattern.is_plain() || (!is_beside(path) && database::is_database(path));
        all.extend(found.filter(is_one));
    }
    all.sort();
    all.dedup();
    all
}

/// It belongs to a database.
fn is_beside(path: &Path) -> bool {
    let name = path.to_string_lossy();
    ["-wal", "-shm", "-journal"].iter().any(|end| name.ends_with(end))
}

fn components(found: &[PathBuf]) -> Vec<WriterComponent> {
    let text = |path: &PathBuf| path.display().to_string();
    let component = |path: &PathBuf| WriterComponent {
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        files: database::files(path).iter().map(text).collect(),
        version: String::new(),
    };
    found.iter().take(MOST).map(component).collect()
}

struct Sqlite {
    settings: Databases,
    hold: Option<Hold>,
}

impl Writer for Sqlite {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        match event.ask {
            Ask::Identify => {
                let components = Some(components(&self.found().await?));
                return Ok(Done { components, ..Done::default() });
            }
            Ask::PrepareSnapshot => {
                // What an abort that was not heard has left.
                self.let_go().await;
                self.found().await?;
            }
            Ask::Freeze { window } => return self.freeze(event.budget, window).await,
            Ask::Thaw => return self.thaw().await,
            Ask::Abort | Ask::BackupShutdown => self.let_go().await,
            Ask::PrepareBackup(_)
            | Ask::PostSnapshot
            | Ask::BackupComplete(_)
            | Ask::PreRestore(_)
            | Ask::PostRestore(_) => {}
        }
        Ok(Done::default())
    }
}

impl Sqlite {
    async fn found(&self) -> Result<Vec<PathBuf>, Failure> {
        let settings = self.settings.clone();
        let found = spawn_blocking(move || find(&settings)).await;
        let found = found.map_err(|error| Failure::retryable(error.to_string()))?;
        if found.len() > MOST {
            let message = format!("sqlite.databases names {} databases; at most {MOST} can be held", found.len());
            return Err(Failure::non_retryable(message));
        }
        Ok(found)
    }

    async fn freeze(&mut self, budget: Duration, window: Duration) -> Result<Done, Failure> {
        self.let_go().await;
        let databases = self.found().await?;
        let patience = budget.saturating_sub(ANSWER).min(self.settings.timeout);
        let (hold, answered) = Hold::begin(Orders { databases, patience, window })?;
        let held = answered.await.map_err(|_| Failure::retryable("the thread that holds them has failed"))??;
        self.hold = Some(hold);
        let metadata: BTreeMap<String, String> =
            held.into_iter().enumerate().map(|(at, held)| (format!("database.{}", at + 1), held)).collect();
        Ok(Done { components: None, metadata })
    }

    async fn thaw(&mut self) -> Result<Done, Failure> {
        let Some(hold) = self.hold.take() else { return Ok(Done::default()) };
        match hold.end().await {
            Some(End::Throughout) => Ok(Done::default()),
            Some(End::Lapsed) => Err(Failure::timed_out("the window was over before they were let go")),
            Some(End::Written(path)) => {
                let message = format!("{} was written to by a program that does not keep to locks", path.display());
                Err(Failure::retryable(message))
            }
            None => Err(Failure::retryable("the thread that held them has failed")),
        }
    }

    async fn let_go(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.end().await;
        }
    }
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        let message = error.to_string();
        match error {
            HoldError::Busy { .. } => Self::timed_out(message),
            HoldError::Database(DatabaseError::Io { .. }) | HoldError::Cancelled | HoldError::NoThread(_) => {
                Self::retryable(message)
            }
            HoldError::Database(DatabaseError::Strange(_) | DatabaseError::NoFile(_)) => Self::non_retryable(message),
        }
    }
}
