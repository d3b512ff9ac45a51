//! `control_plane`: a service with many VMs. The catalogue is made by the engine over a simulated world and copied into
//! the product's own store; then `stillpointd` itself starts on it, and a client asks. All VMs are off. The floor is the
//! limit: 5 ms for a page of VMs, one VM, the tree of one VM; 2 s for the start; 200 MiB of memory.

use std::{sync::Arc, time::Duration};

use stillpoint_cli::client::{Client, ClientError};
use stillpoint_engine::{Engine, EngineConfig, ports::Store};
use stillpoint_store::RedbStore;
use tokio::{task::JoinSet, time::Instant};

use super::{
    Outcome,
    crowd::{Crowd, copy_catalogue, vm},
    figures::{Case, Figures},
};
use crate::service::Service;

pub(super) const NAME: &str = "control_plane";
const VMS: usize = 5_000;
const CHECKPOINTS: usize = 20;
/// How many of them are made at the same time.
const MAKERS: usize = 4;
/// Calls of each kind in a run.
const CALLS: usize = 300;
const ANSWER: Duration = Duration::from_millis(5);
const START: Duration = Duration::from_secs(2);
const MEMORY_MIB: f64 = 200.0;

pub(super) async fn run(runs: usize) -> Outcome<Vec<Case>> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("s"))?;
    populate(folder.path()).await?;
    let limited = |case| Case::new(NAME, case, Some(1.0));
    let [mut page, mut get, mut tree] = ["a page of VMs", "one VM", "the tree of a VM"].map(limited);
    let (mut start, mut memory) = (limited("start until it answers"), limited("resident memory"));
    for case in [&mut page, &mut get, &mut tree] {
        case.floor.add(ANSWER);
    }
    start.floor.add(START);
    memory.unit = "MiB";
    memory.floor.add_number(MEMORY_MIB);
    for _ in 0..runs {
        let begun = Instant::now();
        let mut service = Service::start(folder.path()).await?;
        start.ours.add(begun.elapsed());
        let client = service.client().await?;
        page.ours.add_number(pages(&client).await?);
        get.ours.add_number(p99_of(async |number| client.vm(&vm(number)?).await.map(drop).map_err(Into::into)).await?);
        let list = async |number| client.list_checkpoints(&vm(number)?).await.map(drop).map_err(Into::into);
        tree.ours.add_number(p99_of(list).await?);
        memory.ours.add_number(service.resident_mib()?);
        service.terminate().await?;
    }
    Ok(vec![page, get, tree, start, memory])
}

/// The VMs with their checkpoints, in a store where the service looks for it.
async fn populate(folder: &std::path::Path) -> Outcome {
    let begun = Instant::now();
    let crowd = Arc::new(Crowd::of(VMS, None).await?);
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let crowd = Arc::clone(&crowd);
        makers.spawn(async move {
            for number in (maker..VMS).step_by(MAKERS) {
                for _ in 0..CHECKPOINTS {
                    crowd.checkpoint(number).await?;
                }
            }
            Outcome::Ok(())
        });
    }
    while let Some(made) = makers.join_next().await {
        made??;
    }
    // A service that starts forgets old operations.
    crowd.engine.stop().await;
    let ports = crowd.world.restart();
    let made = Arc::clone(&ports.store);
    Engine::open(ports, EngineConfig::new("/state")).await?.stop().await;
    eprintln!("  {VMS} VMs with {CHECKPOINTS} checkpoints each, made in {:.0?}", begun.elapsed());
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(&folder.join("s/catalogue.redb")).await?);
    copy_catalogue(&made, &store).await?;
    eprintln!("  and copied after {:.0?}", begun.elapsed());
    Ok(())
}

/// Every page in turn, until enough were read.
async fn pages(client: &Client) -> Result<f64, ClientError> {
    let (mut figures, mut after) = (Figures::default(), String::new());
    for _ in 0..CALLS {
        let begun = Instant::now();
        let (_, next) = client.list_vms_page(after).await?;
        figures.add(begun.elapsed());
        after = next.unwrap_or_default();
    }
    Ok(figures.p99())
}

/// A call about VMs from all over the catalogue.
async fn p99_of(call: impl AsyncFn(usize) -> Outcome) -> Outcome<f64> {
    let mut figures = Figures::default();
    for number in 0..CALLS {
        let begun = Instant::now();
        call(number * 7919 % VMS).await?;
        figures.add(begun.elapsed());
    }
    Ok(figures.p99())
}
