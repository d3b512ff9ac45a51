//! The service dies at each step of its work on a real guest, by fail points that are compiled in for tests only. One
//! guest lives through all of it.
//!
//! After each: the VM runs and can write, every acknowledged write and every older checkpoint is there, what was promised
//! is true, qemu-img finds nothing wrong with any layer, and no file is left over or missing.

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use stillpoint_cli::client::Client;
use stillpoint_common::{CheckpointId, CheckpointPolicy, OperationId, PowerState, VmId};
use stillpoint_tests::{
    audit::{assert_layers_sound, assert_memory_sound, quiet},
    guest_image::GuestSet,
    lab::LabChannel,
    service::Service,
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// How long the service may take to come to a point.
const REACHED: Duration = Duration::from_secs(60);
/// A guest whose file systems were held goes on within the lease, and some time to be slow.
const GOES_ON: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create(CheckpointPolicy),
    /// The youngest checkpoint, which Now came from.
    DeleteParentOfNow,
    Apply(CheckpointId),
}

struct AtWork {
    set: GuestSet,
    service: Service,
    client: Client,
    vm: VmId,
    lab: LabChannel,
    fail_point: PathBuf,
    kills: u32,
}

impl AtWork {
    async fn new() -> Tested<Self> {
        let set = GuestSet::new()?;
        let fail_point = set.path().join("fail-point");
        let environment = vec![("STILLPOINT_FAIL_POINT".to_owned(), fail_point.display().to_string())];
        let service = Service::start_with(set.path(), environment).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        Ok(Self { set, service, client, vm, lab, fail_point, kills: 0 })
    }

    async fn begin(&self, act: Act) -> Tested<OperationId> {
        let (client, vm) = (&self.client, &self.vm);
        Ok(match act {
            Act::Create(policy) => client.create_checkpoint(vm, "new", Some(policy)).await?.id,
            Act::Apply(id) => client.apply_checkpoint(vm, id).await?.id,
            Act::DeleteParentOfNow => {
                let all = client.list_checkpoints(vm).await?;
                client.delete_checkpoint(vm, all.last().ok_or("there is none")?.id).await?.id
            }
        })
    }

    async fn checkpoint(&self) -> Tested<CheckpointId> {
        let asked = self.begin(Act::Create(CheckpointPolicy::Standard)).await?;
        let made = self.client.wait(&asked).await?;
        Ok(made.checkpoint_response().ok_or("no checkpoint")?.id)
    }

    async fn write(&self, value: u32) -> Tested {
        self.lab.sh(&format!("echo {value} > /tmp/value; echo {value} > /data/value; sync")).await?;
        Ok(())
    }

    async fn value(&self) -> Tested<String> {
        Ok(self.lab.sh("cat /tmp/value /data/value").await?.replace('\n', " "))
    }

    async fn names(&self) -> Tested<BTreeSet<CheckpointId>> {
        Ok(self.client.list_checkpoints(&self.vm).await?.into_iter().map(|checkpoint| checkpoint.id).collect())
    }

    /// Does it, dies at this point, starts again, and asserts what must hold. Answers whether the operation was done.
    async fn dies(&mut self, act: Act, point: &str) -> Tested<bool> {
        let what = format!("{act:?}, dead at {point}");
        let (value, before) = (self.value().await?, self.names().await?);
        fs::write(&self.fail_point, point)?;
        let operation = self.begin(act).await?;
        let reached = self.service.ended(REACHED).await;
        fs::remove_file(&self.fail_point)?;
        reached.map_err(|error| format!("{what}: {error}"))?;
        if act == Act::Create(CheckpointPolicy::ProductionOnly) {
            // A hold on its file systems ends in the guest, without the service. A pause of the VM does not.
            self.lab.run_within("touch /data/goes-on && sync", GOES_ON).await.map_err(|e| format!("{what}: {e}"))?;
        }
        self.service.start_again().await?;
        quiet(&self.client, &self.vm).await?;
        let ended = self.client.watch(operation, |_| ()).await?;
        let done = ended.refusal().is_none();
        println!("{what}: {}", ended.refusal().map_or("done", |refusal| &refusal.reason));
        assert_eq!(self.client.vm(&self.vm).await?.state, Some(PowerState::Running), "{what}");
        assert_layers_sound(&self.client, &self.vm, self.set.path(), &what).await?;
        assert_memory_sound(&self.client, &self.vm, &what).await?;
        if done && matches!(act, Act::Apply(_)) {
            self.lab = self.service.lab().await?;
        } else {
            self.lab.run_within("touch /data/goes-on && sync", GOES_ON).await.map_err(|e| format!("{what}: {e}"))?;
            assert_eq!(self.value().await?, value, "{what}");
        }
        let after = self.names().await?;
        let (new, gone) = (after.difference(&before).count(), before.difference(&after).count());
        match act {
            Act::Create(_) => assert_eq!((new, gone), (usize::from(done), 0), "{what}"),
            Act::DeleteParentOfNow => assert_eq!((new, gone), (0, usize::from(done)), "{what}"),
            Act::Apply(_) => assert_eq!((new, gone), (0, 0), "{what}"),
        }
        self.kills += 1;
        Ok(done)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_dies_at_each_step_of_checkpoints_and_merges() -> Tested {
    let mut at_work = AtWork::new().await?;
    at_work.write(1).await?;
    at_work.checkpoint().await?;
    at_work.write(2).await?;
    let production = Act::Create(CheckpointPolicy::ProductionOnly);
    for point in ["create_overlay 1 after", "prepare 1 after", "freeze 1 after", "switch_heads 1 after", "thaw 1 after"]
    {
        at_work.dies(production, point).await?;
    }
    let standard = Act::Create(CheckpointPolicy::Standard);
    for point in ["prepare_capture 1 after", "pause 1 after", "start_capture 1 after", "memory.seal 1 after"] {
        at_work.dies(standard, point).await?;
    }
    for point in ["merge 1 after", "pause 1 after", "finish_merge 1 after", "resume 1 before", "remove 1 before"] {
        at_work.write(3).await?;
        at_work.checkpoint().await?;
        at_work.write(4).await?;
        at_work.dies(Act::DeleteParentOfNow, point).await?;
    }
    println!("{} kills of one guest's service", at_work.kills);
    assert_eq!(at_work.kills, 14);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_dies_at_each_step_of_an_apply() -> Tested {
    let mut at_work = AtWork::new().await?;
    at_work.write(1).await?;
    let first = at_work.checkpoint().await?;
    for point in ["launch 1 after", "load_memory 1 after", "retire 1 before", "retire 1 after", "resume 1 before"] {
        at_work.write(2).await?;
        let done = at_work.dies(Act::Apply(first), point).await?;
        assert_eq!(at_work.value().await?, if done { "1 1" } else { "2 2" }, "{point}");
    }
    Ok(())
}
