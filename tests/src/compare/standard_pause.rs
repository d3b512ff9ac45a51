//! `standard_pause`: how long a VM stands still for a standard checkpoint, between QEMU's own STOP and RESUME.
//!
//! The floor is `stop`, `transaction`, `migrate`, `query-migrate` every 2 ms until bytes have been sent, `cont`, with
//! overlay and memory file made before. The first capture of a process is a case of its own: later ones have more
//! entries of page tables to walk.

use std::time::Duration;

use tokio::time::Instant;

use super::{Effort, Outcome, figures::Case, pair::Pair};

pub(super) const NAME: &str = "standard_pause";
const TARGET: f64 = 1.3;
/// Which captures of a process are told of, and how many are taken.
const CAPTURES: [(usize, &str); 2] = [(1, "first"), (5, "fifth")];

/// Sizes of guests, and how long the runs of each should take together at most.
const SIZES: [(u64, &str, Duration); 2] =
    [(512, "512 MiB", Duration::from_secs(100)), (2048, "2 GiB", Duration::from_secs(220))];

pub(super) async fn run(effort: Effort) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for (memory_mib, size, limit) in SIZES {
        let mut of_size: Vec<Case> =
            CAPTURES.map(|(_, which)| Case::new(NAME, format!("{size} {which}"), Some(TARGET))).into();
        let begun = Instant::now();
        for run in 0..effort.runs {
            let done = u32::try_from(run)?;
            let next = begun.elapsed().checked_div(done).unwrap_or_default();
            if effort.bounded && begun.elapsed() + next > limit {
                eprintln!("  {size}: no time for more than {run} guests");
                break;
            }
            capture(memory_mib, run, &mut of_size).await?;
        }
        cases.extend(of_size);
    }
    Ok(cases)
}

/// Both sides take turns; who begins changes from run to run.
async fn capture(memory_mib: u64, run: usize, cases: &mut [Case]) -> Outcome {
    let mut pair = Pair::boot(memory_mib).await?;
    pair.fill_memory(memory_mib / 2).await?;
    for count in 1..=CAPTURES[CAPTURES.len() - 1].0 {
        let (ours, floor) = if (run + count).is_multiple_of(2) {
            let ours = pair.ours.standard().await?;
            (ours, pair.twin.standard().await?)
        } else {
            let floor = pair.twin.standard().await?;
            (pair.ours.standard().await?, floor)
        };
        eprintln!("  {memory_mib} MiB, guest {}, capture {count}: ours {ours:.1?}, floor {floor:.1?}", run + 1);
        for (case, _) in cases.iter_mut().zip(CAPTURES).filter(|(_, (which, _))| *which == count) {
            case.ours.add(ours);
            case.floor.add(floor);
        }
    }
    Ok(())
}
