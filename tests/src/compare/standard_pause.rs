//! `standard_pause`: how long a VM stands still for a standard checkpoint, between QEMU's own STOP and RESUME.
//!
//! The floor is `stop`, `transaction`, `migrate`, `query-migrate` every 2 ms until bytes have been sent, `cont`, with
//! overlay and memory file made before. The first capture of a process is a case of its own: later ones have more
//! entries of page tables to walk.

use super::{Outcome, figures::Case, pair::Pair};

pub(super) const NAME: &str = "standard_pause";
const TARGET: f64 = 1.3;
/// Which captures of a process are told of, and how many are taken.
const CAPTURES: [(usize, &str); 2] = [(1, "first"), (5, "fifth")];

pub(super) async fn run(runs: usize) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for (memory_mib, size) in [(512, "512 MiB"), (2048, "2 GiB")] {
        let mut of_size: Vec<Case> =
            CAPTURES.map(|(_, which)| Case::new(NAME, format!("{size} {which}"), Some(TARGET))).into();
        for run in 0..runs {
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
