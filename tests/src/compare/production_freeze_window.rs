//! `production_freeze_window`: the longest time between two durable writes of a program in the guest that writes all
//! the time, while a production checkpoint is made.
//!
//! The floor is `fsfreeze` by a waiting shell in the guest, one `transaction`, and `fsfreeze` again, with the overlay
//! made before. The control is the same program without any checkpoint: what the machine's own noise comes to.

use std::time::Duration;

use stillpoint_common::CheckpointPolicy;
use tokio::time::sleep;

use super::{Outcome, figures::Case, pair::Pair, writer::Writer};

pub(super) const NAME: &str = "production_freeze_window";
const TARGET: f64 = 1.5;
const MEMORY_MIB: u64 = 512;
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
