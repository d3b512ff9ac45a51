//! A catalogue with many VMs, made by the engine itself over a simulated world.

use std::{sync::Arc, time::Duration};

use stillpoint_common::{CheckpointPolicy, Operation, OperationState, VmId, VmSettings};
use stillpoint_engine::{
    Engine, EngineConfig, NewCheckpoint, NewVm, Ports, Request,
    ports::{Put, Store, Txn},
};
use stillpoint_sim::{World, definition};

use tokio::task::JoinSet;

use super::Outcome;

/// Records that are copied at once; less than a store must accept.
const AT_ONCE: usize = 100;
/// Transactions of a copy that wait at the same time.
const TOGETHER: usize = 48;
/// How long one operation may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Simulated VMs under a real engine.
pub(super) struct Crowd {
    pub(super) world: World,
    pub(super) engine: Engine,
}

/// The name of the VM of this number.
pub(super) fn vm(number: usize) -> Outcome<VmId> {
    Ok(format!("vm-{number:05}").parse()?)
}

impl Crowd {
    /// So many VMs that are off, with one disk each. The catalogue is in `store`, or else in memory.
    pub(super) async fn of(vms: usize, store: Option<Arc<dyn Store>>) -> Outcome<Self> {
        let world = World::unwatched();
        let ports = world.ports();
        let ports = Ports { store: store.unwrap_or_else(|| ports.store.clone()), ..ports };
        let engine = Engine::open(ports, EngineConfig::new("/state")).await?;
        for number in 0..vms {
            let disk = format!("/vm/{number}.qcow2");
            world.add_image(&disk, 1 << 30);
            let new = NewVm {
                id: vm(number)?,
                definition: definition(&[("system", disk.as_str())]),
                checkpoint_policy: CheckpointPolicy::Production,
                checkpoint_location: None,
                critical: stillpoint_common::CriticalSettings::default(),
                settings: VmSettings::default(),
            };
            engine.create_vm(new, None).await?;
        }
        Ok(Self { world, engine })
    }

    /// Does a request to its end.
    pub(super) async fn run(&self, number: usize, request: Request) -> Outcome<Operation> {
        let accepted = self.engine.submit(&vm(number)?, request, None).await?;
        let mut watch = self.engine.watch_operation(accepted.id).await?;
        let ended = watch.wait_for(|operation| operation.state != OperationState::Running);
        let ended = tokio::time::timeout(LIMIT, ended).await??.clone();
        match &ended.state {
            OperationState::Failed(failure) => Err(failure.clone().into()),
            OperationState::Done(_) | OperationState::Running => Ok(ended),
        }
    }

    /// A checkpoint of one VM.
    pub(super) async fn checkpoint(&self, number: usize) -> Outcome<Operation> {
        self.run(number, Request::CreateCheckpoint(NewCheckpoint::default())).await
    }
}

/// Copies the whole catalogue into another store. Transactions that wait beside each other share a sync.
pub(super) async fn copy_catalogue(from: &Arc<dyn Store>, to: &Arc<dyn Store>) -> Outcome {
    let (mut after, mut writing) = (None, JoinSet::new());
    loop {
        let records = from.scan("", after.as_deref(), AT_ONCE).await?;
        let Some((last, _)) = records.last() else { break };
        after = Some(last.clone());
        let writes = records.into_iter().map(|(key, stored)| Put::Set(key, stored.value)).collect();
        let to = Arc::clone(to);
        writing.spawn(async move { to.commit(Txn { guards: Vec::new(), writes }).await });
        if writing.len() >= TOGETHER {
            writing.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(())
}
