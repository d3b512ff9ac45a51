//! `engine_overhead`: what a production checkpoint takes when QEMU, images and guest answer at once, so that only the
//! engine, its journal and the product's own store on this machine's disk are left. The floor is the limit.

use std::{path::Path, sync::Arc, time::Duration};

use stillpoint_engine::Request;
use stillpoint_store::RedbStore;
use tokio::{task::JoinSet, time::Instant};

use super::{Outcome, crowd::Crowd, figures::Case};

pub(super) const NAME: &str = "engine_overhead";
const LIMIT: Duration = Duration::from_millis(10);
/// A VM may have so many checkpoints; then the next VM is asked.
const EACH: usize = 50;
/// How many VMs make a checkpoint at the same time.
const AT_ONCE: usize = 64;

pub(super) async fn run(runs: usize) -> Outcome<Vec<Case>> {
    Ok(vec![alone(runs).await?, at_once().await?])
}

/// Running VMs, with a catalogue in this folder.
async fn running(vms: usize, folder: &Path) -> Outcome<Crowd> {
    let store = Arc::new(RedbStore::open(&folder.join("catalogue.redb")).await?);
    let crowd = Crowd::of(vms, Some(store)).await?;
    for number in 0..vms {
        crowd.run(number, Request::Start).await?;
    }
    Ok(crowd)
}

async fn alone(runs: usize) -> Outcome<Case> {
    let folder = tempfile::tempdir()?;
    let crowd = running(runs.div_ceil(EACH), folder.path()).await?;
    let mut case = Case::new(NAME, "one production checkpoint", Some(1.0));
    case.floor.add(LIMIT);
    for run in 0..runs {
        let begun = Instant::now();
        crowd.checkpoint(run / EACH).await?;
        case.ours.add(begun.elapsed());
    }
    Ok(case)
}

/// The floor is one after the other; so the ratio says how much 64 VMs get in each other's way.
async fn at_once() -> Outcome<Case> {
    let folder = tempfile::tempdir()?;
    let crowd = Arc::new(running(AT_ONCE, folder.path()).await?);
    let mut case = Case::new(NAME, "64 VMs at once, each", Some(1.0));
    let each = |since: Instant| since.elapsed() / u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
    let since = Instant::now();
    for number in 0..AT_ONCE {
        crowd.checkpoint(number).await?;
    }
    case.floor.add(each(since));
    let since = Instant::now();
    let mut all = JoinSet::new();
    for number in 0..AT_ONCE {
        let crowd = Arc::clone(&crowd);
        all.spawn(async move { crowd.checkpoint(number).await });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    case.ours.add(each(since));
    Ok(case)
}
