//! `growth`: how long a production checkpoint takes as a client sees it, when there are others already, and when the VM
//! has many disks. The floor is a script that makes the overlay with `qemu-img`, freezes, cuts and thaws: it does less
//! (nothing is journalled, nobody proves that the guest was held), so the ratio is to be flat rather than small.

use stillpoint_common::CheckpointPolicy;
use tokio::time::Instant;

use super::{
    Outcome,
    figures::Case,
    pair::{Pair, Shape},
};

pub(super) const NAME: &str = "growth";
/// After how many checkpoints it is measured.
const DEPTHS: [usize; 3] = [1, 10, 50];
const MANY_DISKS: usize = 8;

pub(super) async fn run(runs: usize) -> Outcome<Vec<Case>> {
    let mut by_depth = DEPTHS.map(|depth| Case::new(NAME, format!("checkpoint number {depth}"), None));
    let mut by_disks = Case::new(NAME, format!("{MANY_DISKS} disks, the first ten"), None);
    for _ in 0..runs {
        let mut pair = Pair::boot_as(Shape::default()).await?;
        for number in 1..=DEPTHS[2] {
            let case = DEPTHS.iter().position(|depth| *depth == number).map(|at| &mut by_depth[at]);
            checkpoint(&mut pair, case).await?;
        }
        let mut pair = Pair::boot_as(Shape { disks: MANY_DISKS, ..Shape::default() }).await?;
        for _ in 0..10 {
            checkpoint(&mut pair, Some(&mut by_disks)).await?;
        }
    }
    Ok(by_depth.into_iter().chain([by_disks]).collect())
}

async fn checkpoint(pair: &mut Pair, case: Option<&mut Case>) -> Outcome {
    let begun = Instant::now();
    pair.ours.checkpoint(CheckpointPolicy::ProductionOnly).await?;
    let ours = begun.elapsed();
    let mut script = pair.twin.script().await?;
    let begun = Instant::now();
    pair.twin.production(&mut script).await?;
    if let Some(case) = case {
        case.ours.add(ours);
        case.floor.add(begun.elapsed());
    }
    Ok(())
}
