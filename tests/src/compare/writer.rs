//! A program in the guest that feels every stall.

use std::time::Duration;

use tokio::time::sleep;

use super::Outcome;
use crate::lab::LabChannel;

/// Before and after what is measured: long enough for what a question to the guest stirs up.
const SETTLE: Duration = Duration::from_millis(200);

/// A program in the guest that writes 4 KiB and makes them durable every 2 ms. It stands still while it is not asked,
/// so that one guest does not disturb the other.
pub(super) struct Writer {
    lab: LabChannel,
    pid: String,
}

impl Writer {
    pub(super) async fn start(lab: &LabChannel) -> Outcome<Self> {
        let line = "setsid stillpoint-lab counter writer /data/count 2 4096 < /dev/null > /dev/console 2>&1 & echo $!";
        let pid = lab.sh(line).await?;
        lab.ask("writer", "count").await?;
        let writer = Self { lab: lab.clone(), pid };
        writer.signal("STOP").await?;
        Ok(writer)
    }

    async fn signal(&self, signal: &str) -> Outcome {
        self.lab.sh(&format!("kill -{signal} {}", self.pid)).await?;
        Ok(())
    }

    /// The longest time between two durable writes while `work` is done.
    pub(super) async fn longest_gap(&self, work: impl Future<Output = Outcome>) -> Outcome<Duration> {
        self.signal("CONT").await?;
        sleep(SETTLE).await;
        self.lab.ask("writer", "reset").await?;
        sleep(SETTLE).await;
        work.await?;
        sleep(SETTLE).await;
        let gap = self.lab.gap("writer").await?;
        self.signal("STOP").await?;
        if gap.errors > 0 {
            return Err(format!("{} writes failed in the guest", gap.errors).into());
        }
        Ok(gap.longest)
    }
}
