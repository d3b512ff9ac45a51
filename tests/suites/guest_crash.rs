//! QEMU and the service are killed in the middle of work on a real guest: nothing acknowledged is lost, no half
//! checkpoint is listed, no file is left over, and the VM goes on.

use std::{collections::BTreeMap, time::Duration};

use stillpoint_cli::{client::Client, view::Checkpoint};
use stillpoint_common::{CheckpointId, CheckpointPolicy, OperationId, PowerState, VmId};
use stillpoint_tests::{
    audit::{assert_layers_sound, assert_memory_sound, quiet},
    guest_image::GuestSet,
    lab::LabChannel,
    service::Service,
};
use tokio::{process::Command, time::Instant};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const STANDARD: Option<CheckpointPolicy> = Some(CheckpointPolicy::Standard);

/// Waits until the operation is in this phase.
async fn in_phase(client: &Client, id: OperationId, phase: &str) -> Tested {
    let reached = async {
        loop {
            let now = client.operation(id).await?;
            if now.phase == phase {
                return Ok(());
            }
            if now.done {
                return Err(format!("it has ended without the phase {phase}: {now:?}").into());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_killed_in_a_capture_leaves_no_half_checkpoint_and_all_acknowledged_data() -> Tested {
    let set = GuestSet::new()?;
    let service = Service::start(set.path()).await?;
    let (vm, lab) = service.boot("web", &set).await?;
    let client = service.client().await?;
    lab.start("counter c /data/count 2").await?;
    lab.start("memory m 250 7 100").await?;
    lab.sh("until stillpoint-lab ask m size; do usleep 50000; done").await?;

    let asked = client.create_checkpoint(&vm, "half", STANDARD).await?;
    in_phase(&client, asked.id, "capture").await?;
    let acknowledged = lab.ask("c", "count").await?.parse::<u64>()?;
    let pids = service.qemu_pids();
    assert_eq!(pids.len(), 1, "{pids:?}");
    Command::new("kill").args(["-9", &pids[0].to_string()]).status().await?;
    let refused = client.wait(&asked.id).await.unwrap_err();
    assert_eq!(refused.reason(), Some("VM_STOPPED_UNEXPECTEDLY"), "{refused}");
    quiet(&client, &vm).await?;
    assert_eq!(client.vm(&vm).await?.state, Some(PowerState::Off));
    assert!(client.list_checkpoints(&vm).await?.is_empty());
    assert_layers_sound(&client, &vm, set.path(), "qemu killed").await?;
    assert_memory_sound(&client, &vm, "qemu killed").await?;

    client.wait(&client.start_vm(&vm).await?.id).await?;
    let lab = service.lab().await?;
    let kept = lab.sh("head -n 1 /data/count").await?.parse::<u64>()?;
    assert!(kept >= acknowledged, "{acknowledged} was acknowledged, {kept} is there");
    client.wait(&client.create_checkpoint(&vm, "whole", None).await?.id).await?;
    Ok(())
}

/// A guest at work, with checkpoints.
struct AtWork {
    set: GuestSet,
    service: Service,
    client: Client,
    vm: VmId,
    lab: LabChannel,
}

/// What is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create,
    Apply(CheckpointId),
    Delete(CheckpointId),
}

impl AtWork {
    async fn new() -> Tested<Self> {
        let set = GuestSet::new()?;
        let service = Service::start(set.path()).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        Ok(Self { set, service, client, vm, lab })
    }

    async fn begin(&self, act: Act, name: &str) -> Tested<OperationId> {
        let (client, vm) = (&self.client, &self.vm);
        Ok(match act {
            Act::Create => client.create_checkpoint(vm, name, STANDARD).await?,
            Act::Apply(id) => client.apply_checkpoint(vm, id).await?,
            Act::Delete(id) => client.delete_checkpoint(vm, id).await?,
        }
        .id)
    }

    /// Writes `value` to memory and to disk, durably, with some bulk that a merge has to move.
    async fn write(&self, value: &str) -> Tested {
        let write = format!(
            "echo {value} > /tmp/value; echo {value} > /data/value; stillpoint-lab fill /data/bulk 24 {value}; sync"
        );
        self.lab.sh(&write).await?;
        Ok(())
    }

    async fn value(&self) -> Tested<String> {
        Ok(self.lab.sh("cat /tmp/value /data/value").await?.replace('\n', " "))
    }

    /// A standard checkpoint of the guest with this value.
    async fn checkpoint(&self, value: &str) -> Tested<Checkpoint> {
        self.write(value).await?;
        let asked = self.begin(Act::Create, value).await?;
        Ok(self.client.wait(&asked).await?.checkpoint_response().ok_or("no checkpoint")?.clone())
    }

    /// Does it, kills the service after `delay`, starts it again, and asserts what must hold whatever was interrupted.
    async fn interrupt(&mut self, act: Act, delay: Duration) -> Tested<bool> {
        let what = format!("{act:?} interrupted after {delay:?}");
        let before = self.names().await?;
        let operation = self.begin(act, "interrupted").await?;
        tokio::time::sleep(delay).await; // the moment is what is tested
        self.service.kill().await?;
        self.service.start_again().await?;
        quiet(&self.client, &self.vm).await?;
        let ended = self.client.watch(operation, |_| ()).await?;
        println!("{what}: {}", ended.refusal().map_or("done", |refusal| &refusal.message));
        assert_eq!(self.client.vm(&self.vm).await?.state, Some(PowerState::Running), "{what}");
        assert_layers_sound(&self.client, &self.vm, self.set.path(), &what).await?;
        assert_memory_sound(&self.client, &self.vm, &what).await?;
        let after = self.names().await?;
        let done = ended.refusal().is_none();
        if done && matches!(act, Act::Apply(_)) {
            self.lab = self.service.lab().await?; // the port serves one at a time: not while the old one is open
        }
        for (id, name) in &before {
            assert!(after.get(id) == Some(name) || act == Act::Delete(*id), "{what}: {name} is lost");
        }
        let new: Vec<_> = after.keys().filter(|id| !before.contains_key(id)).collect();
        assert_eq!(new.len(), usize::from(done && act == Act::Create), "{what}");
        Ok(done)
    }

    async fn names(&self) -> Tested<BTreeMap<CheckpointId, String>> {
        let all = self.client.list_checkpoints(&self.vm).await?;
        Ok(all.into_iter().map(|checkpoint| (checkpoint.id, checkpoint.display_name)).collect())
    }
}

/// Moments at which to kill: within the time that the work takes when nobody interrupts it.
fn moments(took: Duration) -> [Duration; 4] {
    [2, 25, 55, 85].map(|percent| took * percent / 100)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_killed_while_it_creates_and_applies_standard_checkpoints_loses_nothing() -> Tested {
    let mut at_work = AtWork::new().await?;
    at_work.write("1").await?;
    let since = Instant::now();
    let first = at_work.checkpoint("1").await?;
    for delay in moments(since.elapsed()) {
        at_work.write("2").await?;
        at_work.interrupt(Act::Create, delay).await?;
        assert_eq!(at_work.value().await?, "2 2");
    }
    at_work.write("3").await?;
    let since = Instant::now();
    at_work.client.wait(&at_work.begin(Act::Apply(first.id), "").await?).await?;
    let took = since.elapsed();
    at_work.lab = at_work.service.lab().await?;
    assert_eq!(at_work.value().await?, "1 1");
    for delay in moments(took) {
        at_work.write("4").await?;
        let done = at_work.interrupt(Act::Apply(first.id), delay).await?;
        assert_eq!(at_work.value().await?, if done { "1 1" } else { "4 4" }, "{delay:?}");
    }
    at_work.lab.sh("stillpoint-lab fill /data/after 4 9 && stillpoint-lab check /data/after 4 9").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_killed_while_it_merges_finishes_the_merge_and_loses_nothing() -> Tested {
    let mut at_work = AtWork::new().await?;
    let keep = at_work.checkpoint("1").await?;
    let mut gone = Vec::new();
    for value in ["2", "3", "4", "5", "6", "7"] {
        gone.push(at_work.checkpoint(value).await?);
    }
    at_work.write("8").await?;
    // one without trouble, to know how long it takes; then the last, a middle one, the last, …
    let since = Instant::now();
    at_work.client.wait(&at_work.begin(Act::Delete(gone.remove(2).id), "").await?).await?;
    let took = since.elapsed();
    for (delay, middle) in moments(took).into_iter().zip([false, true, false, true]) {
        let next = if middle { gone.remove(0) } else { gone.pop().ok_or("none is left")? };
        // killed before it was promised, the deletion is undone
        let done = at_work.interrupt(Act::Delete(next.id), delay).await?;
        assert_eq!(at_work.client.checkpoint(&at_work.vm, next.id).await.is_err(), done);
        assert_eq!(at_work.value().await?, "8 8");
    }
    at_work.lab.sh("stillpoint-lab check /data/bulk 24 8").await?;
    at_work.client.wait(&at_work.begin(Act::Apply(keep.id), "").await?).await?;
    at_work.lab = at_work.service.lab().await?;
    assert_eq!(at_work.value().await?, "1 1");
    at_work.lab.sh("stillpoint-lab check /data/bulk 24 1").await?;
    Ok(())
}
