//! `production_freeze_window`: the longest time between two durable writes of a program in the guest that writes all
//! the time, while a production checkpoint is made.
//!
//! The floor is `fsfreeze` by a waiting shell in the guest, one `transaction`, and `fsfreeze` again, with the overlay
//! made before. The control is the same program without any checkpoint: what the machine's own noise comes to.

use std::time::Duration;

use stillpoint_common::CheckpointPolicy;
use tokio::time::sleep;

use super::{Outcome, figures::Case, pair::Pair};
use crate::lab::LabChannel;

pub(super) const NAME: &str = "production_freeze_window";
const TARGET: f64 = 1.5;
const MEMORY_MIB: u64 = 512;
/// Before and after what is measured: long enough for what a question to the guest stirs up.
const SETTLE: Duration = Duration::from_millis(200);
/// About as long as a checkpoint takes.
const CONTROL: Duration = Duration::from_millis(500);

pub(super) async fn run(runs: usize) -> Outcome<Vec<Case>> {
    let mut window = Case::new(NAME, "write + fsync", Some(TARGET));
    let mut control = Case::new(NAME, "control", None);
    let mut pair = Pair::boot(MEMORY_MIB).await?;
    let mut script = pair.twin.script().await?;
    let (ours, twin) = (Writer::start(&pair.ours.lab).await?, Writer::start(&pair.twin.lab).await?);
    for run in 0..runs {
        let product = pair.ours.checkpoint(CheckpointPolicy::ProductionOnly);
        let gap = ours.longest_gap(async { product.await.map(drop) }).await?;
        let floor = twin.longest_gap(pair.twin.production(&mut script)).await?;
        eprintln!("  checkpoint {}: ours {gap:.1?}, floor {floor:.1?}", run + 1);
        window.ours.add(gap);
        window.floor.add(floor);
        control.ours.add(ours.longest_gap(idle()).await?);
        control.floor.add(twin.longest_gap(idle()).await?);
    }
    Ok(vec![window, control])
}

async fn idle() -> Outcome {
    sleep(CONTROL).await;
    Ok(())
}

/// A program in the guest that writes 4 KiB and makes them durable every 2 ms. It stands still while it is not asked,
/// so that one guest does not disturb the other.
struct Writer {
    lab: LabChannel,
    pid: String,
}

impl Writer {
    async fn start(lab: &LabChannel) -> Outcome<Self> {
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
    async fn longest_gap(&self, work: impl Future<Output = Outcome>) -> Outcome<Duration> {
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
