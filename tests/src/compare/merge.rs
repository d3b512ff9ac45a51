//! `merge`: a layer of 512 MiB below the running disk moves into the one below it, while the guest is idle and while it
//! writes all the time. The floor is the same `block-commit`, told to QEMU by a script.

use std::time::Duration;

use stillpoint_common::CheckpointPolicy;

use super::{
    Outcome,
    figures::Case,
    pair::{Pair, Shape},
    writer::Writer,
};

pub(super) const NAME: &str = "merge";
/// 0.9 of the floor's throughput.
const TIME: f64 = 1.11;
const STALL: f64 = 1.2;
const SHAPE: Shape = Shape { memory_mib: 512, disks: 1, layer_mib: Some(512) };

pub(super) async fn run(runs: usize) -> Outcome<Vec<Case>> {
    let mut idle = Case::new(NAME, "512 MiB, idle guest", Some(TIME));
    let mut writing = Case::new(NAME, "512 MiB, writing guest", Some(TIME));
    let mut stall = Case::new(NAME, "its longest write stall", Some(STALL));
    for _ in 0..runs {
        let (ours, floor) = both(None).await?;
        idle.ours.add(ours);
        idle.floor.add(floor);
        let (ours, floor) = both(Some(&mut stall)).await?;
        writing.ours.add(ours);
        writing.floor.add(floor);
    }
    Ok(vec![idle, writing, stall])
}

/// How long either side took; with a case for the stall, the guests write meanwhile.
async fn both(stall: Option<&mut Case>) -> Outcome<(Duration, Duration)> {
    let mut pair = Pair::boot_as(SHAPE).await?;
    pair.ours.checkpoint(CheckpointPolicy::ProductionOnly).await?;
    pair.twin.cut().await?;
    let (top, base) = pair.twin_layer();
    let Some(stall) = stall else {
        return Ok((pair.ours.merge_oldest().await?, pair.twin.merge((&top, &base)).await?));
    };
    let (ours, twin) = (Writer::start(&pair.ours.lab).await?, Writer::start(&pair.twin.lab).await?);
    let (mut took_ours, mut took_twin) = (Duration::ZERO, Duration::ZERO);
    let gap = ours.longest_gap(async {
        took_ours = pair.ours.merge_oldest().await?;
        Ok(())
    });
    stall.ours.add(gap.await?);
    let gap = twin.longest_gap(async {
        took_twin = pair.twin.merge((&top, &base)).await?;
        Ok(())
    });
    stall.floor.add(gap.await?);
    eprintln!("  writing guest: ours {took_ours:.1?}, floor {took_twin:.1?}");
    Ok((took_ours, took_twin))
}
