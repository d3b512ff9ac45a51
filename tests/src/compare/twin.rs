//! The floor: a QEMU with the very command line of the product's, driven by the shortest sequence that does the work.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::{Outcome, files, script::Script};
use crate::{bare::BOOT_LIMIT, lab::LabChannel, qmp::Qmp};

/// Between two questions while the VM is paused; asking without pause starves QEMU's main lock.
const QUICK: Duration = Duration::from_millis(2);
/// Between two questions while the VM runs.
const EASY: Duration = Duration::from_millis(25);
/// How long memory may take to be written.
const CAPTURE_LIMIT: Duration = Duration::from_secs(120);

/// A guest that a minimal script drives. It ends when this goes.
#[derive(Debug)]
pub(super) struct Twin {
    pub(super) lab: LabChannel,
    qmp: Qmp,
    folder: PathBuf,
    count: u32,
    _process: Child,
}

impl Twin {
    /// Starts what process `pid` is, with every path of `replaced` by its counterpart, and boots it.
    pub(super) async fn start(pid: u32, replaced: &[(PathBuf, PathBuf)], folder: PathBuf) -> Outcome<Self> {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let line = String::from_utf8(line)?;
        let text = |path: &Path| path.display().to_string();
        let change = |line: String, (from, to): &(PathBuf, PathBuf)| line.replace(&text(from), &text(to));
        let line = replaced.iter().fold(line, change);
        let mut words = line.split_terminator('\0');
        // In a session of its own, as the product's: the host shares its CPUs out between sessions.
        let mut command = Command::new("setsid");
        command.arg("--").arg(words.next().ok_or("a process without a command line")?);
        let errors = File::create(folder.join("stderr"))?;
        command.args(words).stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors).kill_on_drop(true);
        let process = command.spawn()?;
        let mut qmp = Qmp::connect(&folder.join("qmp"), BOOT_LIMIT).await?;
        qmp.execute("cont", json!({})).await?;
        let lab = LabChannel::connect(&folder.join("lab"), BOOT_LIMIT).await?;
        Ok(Self { lab, qmp, folder, count: 0, _process: process })
    }

    /// A shell in the guest, ready to freeze.
    pub(super) async fn script(&self) -> Outcome<Script> {
        Script::start(&self.folder.join("script"), &self.lab).await
    }

    /// Takes a standard checkpoint and answers how long QEMU says the VM stood still.
    pub(super) async fn standard(&mut self) -> Outcome<Duration> {
        let cut = self.new_overlay().await?;
        let memory = self.folder.join("memory");
        let capabilities = json!([{ "capability": "background-snapshot", "state": true }]);
        self.qmp.execute("migrate-set-capabilities", json!({ "capabilities": capabilities })).await?;
        self.qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": 0 })).await?;
        let sink = File::create(&memory)?;
        self.qmp.execute_with("getfd", json!({ "fdname": "memory" }), Some(sink.into())).await?;
        self.qmp.events.clear();

        self.qmp.execute("stop", json!({})).await?;
        self.qmp.execute("transaction", cut).await?;
        self.qmp.execute("migrate", json!({ "uri": "fd:memory" })).await?;
        self.migrated(QUICK, |state| state["ram"]["transferred"].as_u64() > Some(0)).await?;
        self.qmp.execute("cont", json!({})).await?;

        self.migrated(EASY, |state| state["status"] == "completed").await?;
        std::fs::remove_file(&memory)?;
        Ok(stood_still(&self.qmp.events)?)
    }

    /// Takes a production checkpoint: freeze, cut, thaw.
    pub(super) async fn production(&mut self, script: &mut Script) -> Outcome {
        let cut = self.new_overlay().await?;
        script.run("fsfreeze --freeze /data").await?;
        let done = self.qmp.execute("transaction", cut).await;
        script.run("fsfreeze --unfreeze /data").await?;
        Ok(done.map(drop)?)
    }

    /// Makes an overlay for each disk, opens it, and answers the transaction that makes them the heads.
    async fn new_overlay(&mut self) -> Outcome<Value> {
        let devices = self.qmp.execute("query-block", json!({})).await?;
        let disks = devices.as_array().into_iter().flatten().filter_map(|device| device.get("inserted"));
        self.count += 1;
        let mut actions = Vec::new();
        for (number, head) in disks.enumerate() {
            let (node, file) = (&head["node-name"], head["file"].as_str().ok_or("a disk of the twin has no file")?);
            let size = head["image"]["virtual-size"].to_string();
            let name = format!("overlay{}-{number}", self.count);
            let overlay = self.folder.join(format!("{name}.qcow2"));
            files::overlay(&overlay, Path::new(file), &size).await?;
            let file = json!({ "driver": "file", "filename": overlay });
            let opened = json!({ "driver": "qcow2", "node-name": name, "file": file, "backing": null });
            self.qmp.execute("blockdev-add", opened).await?;
            actions.push(json!({ "type": "blockdev-snapshot", "data": { "node": node, "overlay": name } }));
        }
        Ok(json!({ "actions": actions }))
    }

    /// Puts overlays on the disks without any care for the guest.
    pub(super) async fn cut(&mut self) -> Outcome {
        let cut = self.new_overlay().await?;
        Ok(self.qmp.execute("transaction", cut).await.map(drop)?)
    }

    /// Merges one file of the first disk into the one below it, and answers how long it took.
    pub(super) async fn merge(&mut self, (top, base): (&Path, &Path)) -> Outcome<Duration> {
        let nodes = self.qmp.execute("query-named-block-nodes", json!({ "flat": true })).await?;
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        let of = |file: &Path| {
            let is_it = |node: &&Value| node["drv"] == "qcow2" && node["file"] == json!(file);
            nodes.iter().find(is_it).map(|node| node["node-name"].clone()).ok_or("the twin has not opened the file")
        };
        let (top, base, head) = (of(top)?, of(base)?, format!("overlay{}-0", self.count));
        let commit = json!({ "job-id": "merge", "device": head, "top-node": top, "base-node": base });
        self.qmp.events.clear();
        let begun = Instant::now();
        self.qmp.execute("block-commit", commit).await?;
        let ended = self.qmp.event("BLOCK_JOB_COMPLETED").await?;
        match ended["data"]["error"].as_str() {
            Some(error) => Err(error.into()),
            None => Ok(begun.elapsed()),
        }
    }

    async fn migrated(&mut self, pause: Duration, is_so: impl Fn(&Value) -> bool) -> Outcome {
        let deadline = Instant::now() + CAPTURE_LIMIT;
        loop {
            let state = self.qmp.execute("query-migrate", json!({})).await?;
            if is_so(&state) {
                return Ok(());
            }
            if state["status"] == "failed" || Instant::now() > deadline {
                return Err(format!("the twin's memory is not written: {state}").into());
            }
            sleep(pause).await;
        }
    }
}

/// How long the VM stood still, by the stamps of QEMU's own events.
pub(super) fn stood_still(events: &[Value]) -> io::Result<Duration> {
    let (mut still, mut since) = (None, None);
    for event in events {
        match (event["event"].as_str(), since) {
            (Some("STOP"), None) => since = Some(stamp(event)),
            (Some("RESUME"), Some(from)) => {
                still = Some(still.unwrap_or_default() + stamp(event).saturating_sub(from));
                since = None;
            }
            (_, _) => {}
        }
    }
    match (still, since) {
        (Some(still), None) => Ok(still),
        (_, _) => Err(io::Error::other("QEMU does not tell of a stop and the resume after it")),
    }
}

fn stamp(event: &Value) -> Duration {
    let part = |name: &str| event["timestamp"][name].as_u64().unwrap_or(0);
    Duration::from_secs(part("seconds")) + Duration::from_micros(part("microseconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, seconds: u64, microseconds: u64) -> Value {
        json!({ "event": name, "timestamp": { "seconds": seconds, "microseconds": microseconds } })
    }

    #[test]
    fn every_stop_counts_until_its_resume() {
        let twice = [
            event("STOP", 7, 999_000),
            event("RESUME", 8, 9_000),
            event("BLOCK_JOB", 8, 9_500),
            event("STOP", 8, 10_000),
            event("RESUME", 8, 15_000),
        ];
        assert_eq!(stood_still(&twice).unwrap(), Duration::from_millis(15));
        assert!(stood_still(&twice[..1]).is_err() && stood_still(&[]).is_err());
    }
}
