//! Gives up a capture.

use std::time::Duration;

use stillpoint_engine::ports::{Capture, HypervisorError};
use tokio::time::{Instant, sleep};

use super::{QUICK, SINK};
use crate::{
    attached::Attached,
    observe::capture,
    qmp::commands::{CloseFd, MigrateCancel, QueryMigrate},
};

/// Gives up a capture, and returns when QEMU has cleared it away. None at work is fine.
pub(crate) async fn cancel(at: &Attached) -> Result<(), HypervisorError> {
    let mut asked = at.needs_care();
    let mut waited = Waited::new(at.deadlines.drain);
    loop {
        let migration = at.run(&QueryMigrate {}).await?;
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
    at.capture.lock().sink = None;
    // A descriptor that was given and not used would keep a removed file on the disk. Mostly there is none.
    match at.run(&CloseFd { fdname: SINK }).await {
        Ok(_) | Err(HypervisorError::Refused { .. }) => Ok(()),
        Err(error) => Err(error),
    }
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
