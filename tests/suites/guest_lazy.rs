//! A real guest that runs before its memory is in: pages that it waits for are served, all others follow. A file holds those
//! back that nobody waits for, so that what lies in between is as long as a test needs it to be.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use stillpoint_cli::{client::Client, view::Operation};
use stillpoint_common::{CheckpointId, CheckpointPolicy, PowerState, VmId};
use stillpoint_tests::{
    audit::{assert_layers_sound, quiet},
    guest_image::GuestSet,
    lab::LabChannel,
    qmp::Qmp,
    service::Service,
};
use tokio::process::Command;

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Fills some of the guest's memory with what cannot be guessed, and answers its hash.
const PATTERN: &str = "dd if=/dev/urandom of=/tmp/pattern bs=1M count=24 2>/dev/null; md5sum /tmp/pattern";
const LOOK: &str = "md5sum /tmp/pattern";
const SOON: Duration = Duration::from_secs(30);

/// A guest with a pattern in its memory and a standard checkpoint of that; since then the pattern is gone.
struct Held {
    set: GuestSet,
    service: Service,
    client: Client,
    vm: VmId,
    first: CheckpointId,
    pattern: String,
}

impl Held {
    async fn new() -> Tested<Self> {
        let set = GuestSet::new()?;
        let hold = set.path().join("hold").display().to_string();
        let service = Service::start_with(set.path(), vec![("STILLPOINT_HOLD_PAGES".to_owned(), hold)]).await?;
        let (vm, lab) = service.boot("web", &set).await?;
        let client = service.client().await?;
        let pattern = lab.sh(PATTERN).await?;
        let first = standard(&client, &vm, "first").await?;
        lab.sh("echo none > /tmp/pattern").await?;
        Ok(Self { set, service, client, vm, first, pattern })
    }

    fn hold(&self) -> Tested {
        Ok(fs::write(self.set.path().join("hold"), "")?)
    }

    fn let_go(&self) -> Tested {
        Ok(fs::remove_file(self.set.path().join("hold"))?)
    }

    /// Applies the checkpoint; the guest runs, and most of its memory is not in.
    async fn apply_held(&self, checkpoint: CheckpointId) -> Tested<LabChannel> {
        self.hold()?;
        let done = self.client.wait(&self.client.apply_checkpoint(&self.vm, checkpoint).await?.id).await?;
        assert_eq!(done.warnings, Vec::<String>::new(), "it was loaded by page");
        let lab = self.service.lab().await?;
        assert_eq!(lab.sh("echo it runs").await?.trim(), "it runs");
        assert_eq!(self.migration().await?, "postcopy-active");
        Ok(lab)
    }

    fn instance(&self) -> Tested<PathBuf> {
        Ok(self.service.instances().pop().ok_or("no VM runs")?)
    }

    /// What QEMU says of its memory.
    async fn migration(&self) -> Tested<String> {
        let mut qmp = Qmp::connect(&self.instance()?.join("qmp-debug"), SOON).await?;
        let told: Value = qmp.execute("query-migrate", json!({})).await?;
        Ok(told["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Who serves the pages of the only VM.
    fn server(&self) -> Tested<u32> {
        let stat = fs::read_to_string(self.instance()?.join("pages/process"))?;
        Ok(stat.split(' ').next().ok_or("no process")?.parse()?)
    }

    fn files(&self, extension: &str) -> Vec<PathBuf> {
        let folder = self.set.path().join("s/checkpoints/web");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
    }

    /// All of the memory comes in, it is what it was, and what was held for it is gone.
    async fn comes_in(&self, lab: &LabChannel, states: usize) -> Tested {
        self.let_go()?;
        until("all memory is in", async || Ok(self.migration().await? == "completed")).await?;
        assert_eq!(lab.sh(LOOK).await?, self.pattern);
        until("nothing is held", async || Ok(self.files("memory").len() == states)).await
    }

    /// All of its memory is in although pages are held back: it is what it was, and nothing is held for it.
    async fn is_whole(&self) -> Tested {
        assert_ne!(self.migration().await?, "postcopy-active");
        assert!(self.server().is_err(), "nothing serves pages");
        assert_eq!(self.service.lab().await?.sh(LOOK).await?, self.pattern);
        self.let_go()
    }

    /// QEMU is killed; this process, which serves it or is it, ends, and the VM has failed for no other reason.
    async fn loses_qemu(&self, ends: u32) -> Tested {
        let [qemu] = self.service.qemu_pids()[..] else { return Err("not one VM runs".into()) };
        kill(qemu).await?;
        until("it has ended", async || Ok(!lives(ends))).await?;
        let failed = async || {
            let failure = self.client.vm(&self.vm).await?.failure;
            Ok(failure.is_some_and(|failure| failure.reason == "VM_STOPPED_UNEXPECTEDLY"))
        };
        until("the VM has failed", failed).await
    }

    /// The VM was stopped for this reason.
    async fn is_lost(&self, why: &str) -> Tested {
        let lost = async || {
            let vm = self.client.vm(&self.vm).await?;
            let failed = vm.failure.is_some_and(|failure| failure.reason == "MEMORY_LOST");
            Ok(failed && vm.state == Some(PowerState::Off))
        };
        until("the VM was stopped since its memory was lost", lost).await?;
        let (events, _, _) = self.service.stillpoint(&["events", "--vm", "web"]).await?;
        assert!(events.contains(why), "{why:?} is told: {events}");
        assert!(self.service.qemu_pids().is_empty());
        Ok(())
    }
}

async fn standard(client: &Client, vm: &VmId, name: &str) -> Tested<CheckpointId> {
    let made = client.create_checkpoint(vm, name, Some(CheckpointPolicy::Standard)).await?;
    let made: Operation = client.wait(&made.id).await?;
    Ok(made.checkpoint_response().ok_or("no checkpoint")?.id)
}

async fn until(what: &str, so: impl AsyncFn() -> Tested<bool>) -> Tested {
    let end = tokio::time::Instant::now() + SOON;
    while !so().await? {
        if tokio::time::Instant::now() > end {
            return Err(format!("not so within {SOON:?}: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

async fn kill(pid: u32) -> Tested {
    Command::new("kill").args(["-9", &pid.to_string()]).status().await?;
    Ok(())
}

fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Bends bytes all over the middle of a file; twice, and it is as before.
fn bend(path: &Path) -> Tested {
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let (length, mut byte) = (file.metadata()?.len(), [0]);
    for at in (length / 4..length / 4 * 3).step_by(1 << 16) {
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 0x40], at)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_before_its_memory_is_in_and_all_of_it_comes_whatever_is_done_meanwhile() -> Tested {
    let mut held = Held::new().await?;

    // The service dies in between: what serves the pages goes on, and the next service finds it.
    held.apply_held(held.first).await?;
    held.service.kill().await?;
    held.service.start_again().await?;
    held.client = held.service.client().await?;
    assert_eq!(held.client.vm(&held.vm).await?.state, Some(PowerState::Running));
    assert_eq!(held.migration().await?, "postcopy-active");
    let lab = held.service.lab().await?;
    held.comes_in(&lab, 1).await?;

    // A checkpoint right after the apply waits until the memory is in.
    lab.sh("echo none > /tmp/pattern").await?;
    held.apply_held(held.first).await?;
    let asked = held.client.create_checkpoint(&held.vm, "second", Some(CheckpointPolicy::Standard)).await?;
    let phase = async || Ok(held.client.operation(asked.id).await?.phase == "take in");
    until("the checkpoint waits for the memory", phase).await?;
    held.let_go()?;
    let made = held.client.wait(&asked.id).await?;
    let second = made.checkpoint_response().ok_or("no checkpoint")?.id;
    quiet(&held.client, &held.vm).await?;

    // The checkpoint that is being loaded is deleted, with the one that its pages lie in.
    held.service.lab().await?.sh("echo none > /tmp/pattern").await?;
    let lab = held.apply_held(second).await?;
    for id in [held.first, second] {
        held.client.wait(&held.client.delete_checkpoint(&held.vm, id).await?.id).await?;
    }
    held.comes_in(&lab, 0).await?;
    until("its pages are gone", async || Ok(held.files("pages").is_empty())).await?;

    // Of a saved VM it is the only copy: all of it is loaded before the VM runs.
    held.client.wait(&held.client.save_vm(&held.vm).await?.id).await?;
    held.hold()?;
    held.client.wait(&held.client.start_vm(&held.vm).await?.id).await?;
    held.is_whole().await?;
    quiet(&held.client, &held.vm).await?;
    assert_layers_sound(&held.client, &held.vm, held.set.path(), "afterwards").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_memory_does_not_come_is_stopped_with_the_reason_and_brought_back_again() -> Tested {
    let held = Held::new().await?;

    // QEMU dies: what serves its pages ends by itself.
    let lab = held.apply_held(held.first).await?;
    held.loses_qemu(held.server()?).await?;
    drop(lab);

    // A page is not what was written: it does not reach the guest.
    let pack = held.files("pages").pop().ok_or("there are no pages")?;
    held.apply_held(held.first).await?;
    bend(&pack)?;
    held.let_go()?;
    held.is_lost("is not what was written").await?;

    // From then on nothing is given up for a memory that was not read as a whole.
    held.hold()?;
    let failed = held.client.wait(&held.client.apply_checkpoint(&held.vm, held.first).await?.id).await;
    assert!(failed.is_err(), "it is damaged");
    bend(&pack)?;
    held.client.wait(&held.client.apply_checkpoint(&held.vm, held.first).await?.id).await?;
    held.is_whole().await?;

    // What serves the pages is killed.
    let [qemu] = held.service.qemu_pids()[..] else { return Err("not one VM runs".into()) };
    held.loses_qemu(qemu).await?;
    held.apply_held(held.first).await?;
    kill(held.server()?).await?;
    held.is_lost("ended without a word").await?;
    held.client.wait(&held.client.apply_checkpoint(&held.vm, held.first).await?.id).await?;
    held.is_whole().await
}
