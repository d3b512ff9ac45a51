//! Gives up a capture.

use std::time::Duration;

use stillpoint_engine::ports::{Capture, HypervisorError};
use tokio::time::{Instant, sleep};

use super::{QUICK, SINK};
use crate::{
    attached::Attached,
    observe::{capture, takes_in},
    qmp::commands::{CloseFd, MigrateCancel, QueryMigrate, QueryYank},
};

/// Gives up a capture, and returns when QEMU has cleared it away. None at work is fine.
pub(crate) async fn cancel(at: &Attached) -> Result<(), HypervisorError> {
    let mut asked = at.needs_care();
    let mut waited = Waited::new(at.deadlines.drain);
    loop {
        let migration = at.run(&QueryMigrate {}).await?;
        if takes_in(&migration) {
            // None was begun: that waits until all memory is in.
            return Ok(());
        }
        let remaining = migration.ram.remaining;
        if capture(migration) != Capture::Active {
            break;
        }
        if !asked {
            at.run(&MigrateCancel {}).await?;
            asked = true;
        }
        waited.check(remaining)?;
        sleep(QUICK * 5).await;
    }
    cleared_away(at).await?;
    at.capture.lock().sink = None;
    // A descriptor that was given and not used would keep a removed file on the disk. Mostly there is none.
    match at.run(&CloseFd { fdname: SINK }).await {
        Ok(_) | Err(HypervisorError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// QEMU says that a capture has ended before it has cleared it away. The next one, begun in between, would be refused
/// ("duplicate yank instance") and leave QEMU in the belief that it is at work.
async fn cleared_away(at: &Attached) -> Result<(), HypervisorError> {
    let deadline = Instant::now() + at.deadlines.drain;
    while at.run(&QueryYank {}).await?.iter().any(|held| held.kind == "migration") {
        if Instant::now() >= deadline {
            return Err(HypervisorError::Unanswered { command: "query-yank".to_owned(), waited: at.deadlines.drain });
        }
        sleep(QUICK).await;
    }
    Ok(())
}

/// A wait for something that goes on: its deadline begins anew with every step.
struct Waited {
    at_most: Duration,
    deadline: Instant,
    remaining: u64,
}

impl Waited {
    fn new(at_most: Duration) -> Self {
        Self { at_most, deadline: Instant::now() + at_most, remaining: u64::MAX }
    }

    fn check(&mut self, remaining: u64) -> Result<(), HypervisorError> {
        if remaining != self.remaining {
            (self.remaining, self.deadline) = (remaining, Instant::now() + self.at_most);
        }
        if Instant::now() < self.deadline {
            return Ok(());
        }
        Err(HypervisorError::Unanswered { command: "migrate_cancel".to_owned(), waited: self.at_most })
    }
}
