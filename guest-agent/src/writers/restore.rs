//! Tells writers that the guest was brought back to a checkpoint.
//!
//! ```text
//!   Restored ─▶ those that are registered: PreRestore, front ends first, then PostRestore, in reverse
//!           └─▶ those that the host names and that come within ten minutes: the same, as they come
//! ```
//! The files are in place already. A writer that fails PreRestore is not told PostRestore: it is not ready for it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use stillpoint_common::{Restore, WriterEvent, WriterFacts, WriterLevel};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    course::{Key, Trouble},
    life,
    registration::{Ask, Event, Registration, Restored},
    registry::{Found, Registry},
};

/// How long those that the host names may take to register.
const LATE: Duration = Duration::from_secs(600);
/// How often it is looked who has registered.
const LOOK: Duration = Duration::from_secs(1);

/// The restore that writers are told of.
#[derive(Debug, Clone, Default)]
pub struct Restores {
    /// Held for a look or a change.
    current: Arc<Mutex<Option<Current>>>,
}

#[derive(Debug)]
struct Current {
    id: Uuid,
    telling: JoinHandle<()>,
}

impl Restores {
    /// Begins to tell writers, and gives up what is left of an earlier restore. The same one again is fine.
    pub fn begin(&self, registry: &Registry, restore: Restore) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(current) if current.id == restore.id => return,
            Some(earlier) => earlier.telling.abort(),
            None => {}
        }
        let id = restore.id;
        info!(checkpoint = %restore.checkpoint, with_memory = restore.with_memory, "the guest was brought back");
        *current = Some(Current { id, telling: tokio::spawn(tell_all(registry.clone(), restore)) });
    }
}

async fn tell_all(registry: Registry, restore: Restore) {
    let until = Instant::now() + LATE;
    let mut told = BTreeSet::new();
    let is_named = |who: &Registration| restore.writers.iter().any(|writer| is_same(writer, who));
    tell(&registry, registry.find_all(), &restore, &mut told).await;
    let mut missing: BTreeSet<(String, String)> =
        restore.writers.iter().map(|it| (it.name.clone(), it.id.clone())).collect();
    loop {
        for found in registry.find_all().iter().filter(|found| told.contains(&found.key)) {
            missing.remove(&(found.registration.name.clone(), found.registration.id.clone()));
        }
        if missing.is_empty() || Instant::now() >= until {
            return;
        }
        sleep(LOOK).await;
        let late = registry.find_all().into_iter();
        let late = late.filter(|found| !told.contains(&found.key) && is_named(&found.registration)).collect();
        tell(&registry, late, &restore, &mut told).await;
    }
}

async fn tell(registry: &Registry, mut writers: Vec<Found>, restore: &Restore, told: &mut BTreeSet<Key>) {
    told.extend(writers.iter().map(|found| found.key));
    for level in WriterLevel::ALL {
        ask(registry, &mut writers, level, restore, WriterEvent::PreRestore).await;
    }
    for level in WriterLevel::ALL.into_iter().rev() {
        ask(registry, &mut writers, level, restore, WriterEvent::PostRestore).await;
    }
}

/// Asks everyone of a level, one after the other. Who fails is asked nothing more.
async fn ask(registry: &Registry, writers: &mut Vec<Found>, level: WriterLevel, restore: &Restore, event: WriterEvent) {
    let mut failed = BTreeSet::new();
    for found in writers.iter_mut().filter(|found| found.registration.level == level) {
        let result = answer(found, restore, event).await;
        found.facts.state = life::after(found.facts.state, event, result.is_ok());
        if let Err(trouble) = result {
            warn!(writer = found.registration.name, ?event, ?trouble, "a writer could not follow the restore");
            found.facts.last_error = Some(trouble.error());
            failed.insert(found.key);
        }
        let facts: &WriterFacts = &found.facts;
        registry.note(found.key, facts);
    }
    writers.retain(|found| !failed.contains(&found.key));
}

async fn answer(found: &Found, restore: &Restore, event: WriterEvent) -> Result<(), Trouble> {
    let restored = Arc::new(restored(&found.registration, restore));
    let budget = found.registration.budgets.of(event);
    let ask = if event == WriterEvent::PreRestore { Ask::PreRestore(restored) } else { Ask::PostRestore(restored) };
    let answer = found.line.ask(Event { session: None, budget, ask })?;
    match timeout(budget, answer).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(failure))) => Err(Trouble::Refused(failure)),
        Ok(Err(_)) => Err(Trouble::Vanished),
        Err(_) => Err(Trouble::TimedOut(budget)),
    }
}

fn is_same(writer: &stillpoint_common::RestoredWriter, who: &Registration) -> bool {
    (&writer.name, &writer.id) == (&who.name, &who.id)
}

/// What one writer is told.
fn restored(who: &Registration, restore: &Restore) -> Restored {
    let known = restore.writers.iter().find(|writer| is_same(writer, who));
    Restored {
        checkpoint: restore.checkpoint.to_string(),
        with_memory: restore.with_memory,
        was_held: known.is_some_and(|writer| writer.was_held),
        metadata: known.map(|writer| writer.metadata.clone()).unwrap_or_default(),
    }
}
