//! `standard_pause`: how long a VM stands still for a standard checkpoint, between QEMU's own STOP and RESUME.
//!
//! The floor is `stop`, `transaction`, `migrate`, `query-migrate` every 2 ms until bytes have been sent, `cont`, with
//! overlay and memory file made before. It may be too quick by a hair to be right: the stream's head counts as sent
//! just before memory is protected. The product waits for the first page.
//!
//! The first capture of a process is a case of its own: later ones have more entries of page tables to walk. From the
//! fifth on they are alike, and each of them is a run.
//!
//! Before each turn the machine comes to rest: what one side has written would otherwise go to the disk, and its QEMU
//! clear up, while the other's VM stands still.

use std::time::Duration;

use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{Effort, Outcome, figures::Case, pair::Pair};

pub(super) const NAME: &str = "standard_pause";
const TARGET: f64 = 1.3;
/// How many captures come before those of the second case.
const EARLY: usize = 4;
/// What a QEMU needs to clear up after a capture, and more.
const REST: Duration = Duration::from_secs(1);

/// A size of guests.
struct Size {
    memory_mib: u64,
    name: &'static str,
    /// How many captures each guest is good for.
    captures: usize,
    /// How long all guests of this size should take at most.
    limit: Duration,
}

const SIZES: [Size; 2] = [
    Size { memory_mib: 512, name: "512 MiB", captures: 9, limit: Duration::from_secs(110) },
    Size { memory_mib: 2048, name: "2 GiB", captures: 7, limit: Duration::from_secs(210) },
];

pub(super) async fn run(effort: Effort) -> Outcome<Vec<Case>> {
    let mut cases = Vec::new();
    for size in SIZES {
        let mut of_size =
            ["first", "fifth"].map(|which| Case::new(NAME, format!("{} {which}", size.name), Some(TARGET)));
        let begun = Instant::now();
        for guest in 0..effort.runs {
            let next = begun.elapsed().checked_div(u32::try_from(guest)?).unwrap_or_default();
            if effort.bounded && begun.elapsed() + next > size.limit {
                eprintln!("  {}: no time for more than {guest} guests", size.name);
                break;
            }
            capture(&size, guest, &mut of_size).await?;
        }
        cases.extend(of_size);
    }
    Ok(cases)
}

/// Both sides take turns; who begins changes from one capture to the next.
async fn capture(size: &Size, guest: usize, [first, fifth]: &mut [Case; 2]) -> Outcome {
    let mut pair = Pair::boot(size.memory_mib).await?;
    pair.fill_memory(size.memory_mib / 2).await?;
    for count in 0..size.captures {
        let (ours, floor) = if (guest + count).is_multiple_of(2) {
            let ours = after_rest(pair.ours.standard()).await?;
            (ours, after_rest(pair.twin.standard()).await?)
        } else {
            let floor = after_rest(pair.twin.standard()).await?;
            (after_rest(pair.ours.standard()).await?, floor)
        };
        eprintln!("  {}, guest {}, capture {}: ours {ours:.1?}, floor {floor:.1?}", size.name, guest + 1, count + 1);
        let case = match count {
            0 => &mut *first,
            1..EARLY => continue,
            EARLY.. => &mut *fifth,
        };
        case.ours.add(ours);
        case.floor.add(floor);
    }
    Ok(())
}

/// A turn that begins when nothing is left to be written and nobody is at work.
async fn after_rest(turn: impl Future<Output = Outcome<Duration>>) -> Outcome<Duration> {
    spawn_blocking(rustix::fs::sync).await?;
    sleep(REST).await;
    turn.await
}
