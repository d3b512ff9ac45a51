//! `engine_overhead`: what a production checkpoint takes when QEMU, images and guest answer at once, so that only the
//! engine, its journal and the product's own store on this machine's disk are left. The floor is the limit.

use std::{sync::Arc, time::Duration};

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
    let folder = tempfile::tempdir()?;
    let store = Arc::new(RedbStore::open(&folder.path().join("catalogue.redb")).await?);
    let vms = runs.div_ceil(EACH) + AT_ONCE;
    let crowd = Arc::new(Crowd::of(vms, Some(store)).await?);
    for number in 0..vms {
        crowd.run(number, Request::Start).await?;
    }
    let mut one = Case::new(NAME, "one production checkpoint", Some(1.0));
    one.floor.add(LIMIT);
    for run in 0..runs {
        let begun = Instant::now();
        crowd.checkpoint(run / EACH).await?;
        one.ours.add(begun.elapsed());
    }
    Ok(vec![one, at_once(&crowd).await?])
}

/// The floor is one after the other; so the ratio says how much 64 VMs get in each other's way.
async fn at_once(crowd: &Arc<Crowd>) -> Outcome<Case> {
    let mut case = Case::new(NAME, "64 VMs at once, each", Some(1.0));
    let first = crowd.engine.vm_count().await - AT_ONCE;
    let each = |since: Instant| since.elapsed() / u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
    let since = Instant::now();
    for number in first..first + AT_ONCE {
        crowd.checkpoint(number).await?;
    }
    case.floor.add(each(since));
    let since = Instant::now();
    let mut all = JoinSet::new();
    for number in first..first + AT_ONCE {
        let crowd = Arc::clone(crowd);
        all.spawn(async move { crowd.checkpoint(number).await });
    }
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    case.ours.add(each(since));
    Ok(case)
}
