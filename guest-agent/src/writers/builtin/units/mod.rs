//! Units of systemd that the settings name: one writer for all of them, for applications that have none of their own.
//!
//! | | `units.freeze` | `units.stop` |
//! |---|---|---|
//! | `PrepareSnapshot` | their cgroups are found | those that run are stopped, in order |
//! | `Freeze` | everything in them stands still, by the kernel | |
//! | `Thaw` | says whether it did until then; it goes on | |
//! | `PostSnapshot` | | those that were stopped are started |
//!
//! They are of the level of the system: they stand still after every other writer has done what it is asked, so that none
//! of them is caught with a lock that another writer waits for, and go on before.
//!
//! What holds the agent, a writer or the guest's first process is refused. Whatever is done is noted first ([`note`]): the
//! next agent undoes it if this one is killed. What stands still goes on without waiting for that: a guardian sees to it
//! when the agent is gone or the window is over ([`still`]).

mod cgroup;
mod note;
mod still;
mod systemctl;

use std::{path::Path, time::Duration};

use stillpoint_common::{WriterComponent, WriterLevel};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use self::{
    cgroup::Cgroup,
    note::{Note, Noted},
    still::Still,
    systemctl::{Systemctl, Unit},
};
use super::config::UnitSettings;
use crate::writers::{
    local,
    registration::{Ask, Budgets, Done, Event, Failure, Registration},
    registry::Registry,
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c07";
/// What of a budget is kept for answering.
const ANSWER: Duration = Duration::from_millis(300);

/// Undoes what an agent that was killed has left, and registers the writer if there is one to register.
pub(super) async fn keep(registry: Registry, settings: UnitSettings, runtime: &Path) {
    let note = Note::new(runtime);
    let noted = note.read();
    let is_wanted = !settings.freeze.is_empty() || !settings.stop.is_empty();
    let mut units = Units::new(registry.clone(), settings, note, noted);
    if let Err(failure) = units.undo().await {
        warn!(%failure, "what an earlier agent has left held");
    }
    if is_wanted {
        let mut who = Registration::new("systemd units", KIND, WriterLevel::System);
        let limit = units.settings.timeout + ANSWER;
        who.budgets = Budgets { prepare: limit, freeze: limit, finish: limit, ..Budgets::default() };
        who.components = units.components();
        drop(local::attach(&registry, who, units));
    }
}

struct Units {
    registry: Registry,
    settings: UnitSettings,
    systemctl: Systemctl,
    note: Note,
    noted: Noted,
    /// Names of the cgroups that are to stand still.
    planned: Vec<String>,
    still: Still,
}

impl Writer for Units {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        match event.ask {
            Ask::Identify => return Ok(Done { components: Some(self.components()), ..Done::default() }),
            Ask::PrepareSnapshot => {
                let limit = event.budget.saturating_sub(ANSWER).min(self.settings.timeout);
                let prepared = timeout(limit, self.prepare(limit)).await;
                let prepared = prepared.unwrap_or_else(|_| Err(Failure::timed_out("units do not stop in time")));
                if prepared.is_err() {
                    // What could not be started again is in the log, and is tried again when the session ends.
                    let _ = self.undo().await;
                }
                prepared?;
            }
            Ask::Freeze { window } => return self.freeze(event.budget, window).await,
            Ask::Thaw => self.thaw().await?,
            Ask::PostSnapshot => self.start_again().await?,
            Ask::Abort | Ask::BackupShutdown => self.undo().await?,
            Ask::PrepareBackup(_) | Ask::BackupComplete(_) | Ask::PreRestore(_) | Ask::PostRestore(_) => {}
        }
        Ok(Done::default())
    }
}

impl Units {
    fn new(registry: Registry, settings: UnitSettings, note: Note, noted: Noted) -> Self {
        let systemctl = Systemctl { program: settings.systemctl.clone() };
        Self { registry, settings, systemctl, note, noted, planned: Vec::new(), still: Still::default() }
    }

    fn components(&self) -> Vec<WriterComponent> {
        const MOST: usize = 60;
        let component = |name: &String| WriterComponent { name: name.clone(), ..WriterComponent::default() };
        self.settings.freeze.iter().chain(&self.settings.stop).take(MOST).map(component).collect()
    }

    fn save(&self) -> Result<(), Failure> {
        let noted = self.note.write(&self.noted);
        noted.map_err(|error| Failure::retryable(format!("what is held cannot be noted: {error}")))
    }

    async fn prepare(&mut self, limit: Duration) -> Result<(), Failure> {
        // What an abort that was not heard has left.
        self.undo().await?;
        self.planned.clear();
        for name in self.settings.freeze.clone() {
            let cgroup = if name.starts_with('/') { Some(name.clone()) } else { self.show(&name, limit).await?.cgroup };
            if let Some(cgroup) = cgroup {
                self.admit(&name, &cgroup)?;
                self.planned.push(cgroup);
            }
        }
        if !self.planned.is_empty() {
            self.with_still(Still::prepare).await?;
        }
        for name in self.settings.stop.clone() {
            let unit = self.show(&name, limit).await?;
            if !unit.active {
                continue;
            }
            if let Some(cgroup) = &unit.cgroup {
                self.admit(&name, cgroup)?;
            }
            self.noted.stopped.push(name.clone());
            self.save()?;
            self.systemctl.stop(&name, limit).await?;
            info!(unit = name, "stopped for a checkpoint");
        }
        Ok(())
    }

    async fn show(&self, name: &str, limit: Duration) -> Result<Unit, Failure> {
        let unit = self.systemctl.show(name, limit).await?;
        if unit.known { Ok(unit) } else { Err(Failure::non_retryable(format!("there is no unit {name}"))) }
    }

    /// Nobody whom the session needs is in this cgroup.
    fn admit(&self, name: &str, found: &str) -> Result<(), Failure> {
        let writers: Vec<_> = self.registry.processes().into_iter().filter_map(cgroup::of_pid).collect();
        let (agent, init) = (cgroup::of_pid(std::process::id()), cgroup::of_pid(1));
        match cgroup::objection(found, agent.as_deref(), init.as_deref(), &writers) {
            Some(why) => Err(Failure::non_retryable(format!("{name} must not be held: {why}"))),
            None => Ok(()),
        }
    }

    async fn freeze(&mut self, budget: Duration, window: Duration) -> Result<Done, Failure> {
        let asked = Instant::now();
        let (root, planned) = (self.settings.cgroups.clone(), self.planned.clone());
        let mut still = std::mem::take(&mut self.still);
        let chosen = spawn_blocking(move || {
            let open = |name: &String| {
                let opened = Cgroup::open(&root, name);
                opened.map_err(|error| Failure::retryable(format!("cgroup {name}: {error}"))).transpose()
            };
            let all = planned.iter().filter_map(open).collect::<Result<Vec<_>, _>>()?;
            let ours = still.choose(all)?.iter().map(|cgroup| (cgroup.inode, cgroup.name.clone())).collect();
            Ok::<_, Failure>((still, ours))
        });
        let (still, ours) = chosen.await.map_err(|error| Failure::retryable(error.to_string()))??;
        self.still = still;
        self.noted.frozen = ours;
        self.save()?;
        let patience = budget.saturating_sub(ANSWER).min(self.settings.timeout);
        let stands = self.with_still(move |still| still.stand(patience, window.saturating_sub(asked.elapsed()))).await;
        if stands.is_err() {
            self.noted.frozen.clear();
            self.save()?;
        }
        stands?;
        let kept = [("frozen", &self.planned), ("stopped", &self.noted.stopped)];
        let metadata = kept.into_iter().filter(|(_, names)| !names.is_empty());
        let metadata = metadata.map(|(key, names)| (key.to_owned(), names.join(" "))).collect();
        Ok(Done { components: None, metadata })
    }

    async fn thaw(&mut self) -> Result<(), Failure> {
        let went = self.with_still(Still::go_on).await;
        self.noted.frozen.clear();
        self.save()?;
        went
    }

    /// What was noted of an earlier agent goes on too.
    async fn undo(&mut self) -> Result<(), Failure> {
        // What stood still has nothing to answer for any more.
        let _ = self.with_still(Still::go_on).await;
        let (root, noted) = (self.settings.cgroups.clone(), std::mem::take(&mut self.noted.frozen));
        if !noted.is_empty() {
            let let_go = spawn_blocking(move || noted.iter().for_each(|(inode, name)| let_go(&root, *inode, name)));
            let_go.await.map_err(|error| Failure::retryable(error.to_string()))?;
        }
        self.save()?;
        self.start_again().await
    }

    /// All that were stopped, whatever becomes of one of them. What cannot be started stays noted, and is tried again.
    async fn start_again(&mut self) -> Result<(), Failure> {
        let mut first = Ok(());
        for name in std::mem::take(&mut self.noted.stopped) {
            match self.systemctl.start(&name, self.settings.timeout).await {
                Ok(()) => info!(unit = name, "started again"),
                Err(failure) => {
                    warn!(%failure, unit = name, "it cannot be started again");
                    first = first.and(Err(failure));
                    self.noted.stopped.push(name);
                }
            }
        }
        self.save()?;
        first
    }

    /// On a thread that may wait for the kernel. If that fails, the guardian goes, and lets go.
    async fn with_still(
        &mut self,
        work: impl FnOnce(&mut Still) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let mut still = std::mem::take(&mut self.still);
        let done = spawn_blocking(move || {
            let done = work(&mut still);
            (still, done)
        });
        let (still, done) = done.await.map_err(|error| Failure::retryable(error.to_string()))?;
        self.still = still;
        done
    }
}

/// Lets a cgroup go, if it is still the same.
fn let_go(root: &Path, inode: u64, name: &str) {
    match Cgroup::open(root, name) {
        Ok(Some(cgroup)) if cgroup.inode == inode => {
            if let Err(error) = cgroup.tell(false) {
                warn!(%error, name, "it cannot be let go");
            }
        }
        Ok(_) => {}
        Err(error) => warn!(%error, name, "it cannot be let go"),
    }
}
