//! A merge follows what the guest suffers, and comes to its end under a guest that never ceases to write, on real QEMU.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod lab;

use std::time::{Duration, Instant};

use lab::{LONG, Lab, config, disk, quiet, tool, write_pattern};
use serde::{Deserialize, Serialize};
use stillpoint_common::{DiskFormat, LayerFile, LayerId};
use stillpoint_engine::ports::{Hypervisor, Images, LiveMerge};
use stillpoint_qemu::{
    MergePace, QemuConfig, QemuHypervisor,
    qmp::{self, Client},
};

const MIB: u64 = 1 << 20;
const BIG: u64 = 512;
const FLOOR: u64 = 48 * MIB;

/// What people ask of a job.
#[derive(Serialize)]
struct QueryBlockJobs {}

#[derive(Deserialize)]
struct Speed {
    device: String,
    speed: u64,
}

/// What people set of a job.
#[derive(Serialize)]
struct SetSpeed {
    device: String,
    speed: u64,
}

impl qmp::Command for SetSpeed {
    const NAME: &'static str = "block-job-set-speed";
    type Ok = serde_json::Value;
}

/// What people ask of the disks.
#[derive(Serialize)]
struct QueryBlock {}

impl qmp::Command for QueryBlock {
    const NAME: &'static str = "query-block";
    type Ok = Vec<serde_json::Value>;
}

impl qmp::Command for QueryBlockJobs {
    const NAME: &'static str = "query-block-jobs";
    type Ok = Vec<Speed>;
}

/// Limits the guest's requests to a disk to so many a second; 0 is no limit.
#[derive(Serialize)]
struct Limit {
    id: String,
    bps: u64,
    bps_rd: u64,
    bps_wr: u64,
    iops: u64,
    iops_rd: u64,
    iops_wr: u64,
}

impl qmp::Command for Limit {
    const NAME: &'static str = "block_set_io_throttle";
    type Ok = serde_json::Value;
}

async fn limit(debug: &Client, disk: &str, iops: u64) {
    let id = format!("/machine/peripheral/disk-{disk}/virtio-backend");
    let limit = Limit { id, bps: 0, bps_rd: 0, bps_wr: 0, iops: 0, iops_rd: 0, iops_wr: iops };
    debug.execute(&limit, LONG).await.unwrap();
}

/// A running guest that writes to both disks; `data` has a layer of so many MiB between its base and its head.
async fn with_a_layer(mib: u64, pace: MergePace) -> (Lab, LiveMerge, Client) {
    let mut lab = Lab::new().await;
    lab.hypervisor = QemuHypervisor::new(QemuConfig { pace, ..config() }, lab.layout.clone());
    let base = lab.chains[1].layers[0].clone();
    tool(&["resize", "-q", "-f", "qcow2", lab::text(&base.path), "1G"]);
    let path = lab.folder.path().join("big.qcow2");
    lab.images.create_overlay(&path, &base, 1 << 30).await.unwrap();
    let big = LayerFile { id: LayerId::generate(), path, format: DiskFormat::Qcow2 };
    lab.chains[1].layers.push(big.clone());
    lab.launch().await;
    let debug = lab.debug().await;
    write_pattern(&debug, "data", 0x5a, "16M", &format!("{mib}M")).await;
    lab.hypervisor.resume(lab.instance).await.unwrap();
    lab.progress(5).await;
    (lab, LiveMerge { disk: disk("data"), child: big.id, parent: base }, debug)
}

/// Speeds that the job had, and how long the merge took.
async fn merged(lab: &Lab, merge: &LiveMerge, debug: &Client) -> (Vec<u64>, Duration) {
    let (since, sink) = (Instant::now(), quiet());
    let mut merging = std::pin::pin!(lab.hypervisor.merge(lab.instance, merge, &sink));
    let mut speeds = Vec::new();
    loop {
        tokio::select! {
            done = &mut merging => {
                done.unwrap();
                return (speeds, since.elapsed());
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {
                speeds.extend(debug.execute(&QueryBlockJobs {}, LONG).await.unwrap().iter().map(|job| job.speed));
            }
        }
    }
}

/// The head merges into the base, is finished, and nothing of it is lost.
async fn finish(mut lab: Lab, mib: u64, merge: &LiveMerge, debug: &Client) {
    lab.hypervisor.pause(lab.instance).await.unwrap();
    lab.hypervisor.finish_merge(lab.instance, merge).await.unwrap();
    lab.hypervisor.resume(lab.instance).await.unwrap();
    assert_eq!(limit_of(debug, "disk-data").await, 0, "the guest is let go");
    lab.chains[1].layers.pop();
    lab.assert_chains().await;
    lab.progress(3).await;
    lab.retire().await;
    let content = tool(&["map", "--output=json", lab::text(&lab.chains[1].layers[0].path)]);
    assert!(content.contains("data"), "{content}");
    let read = format!("read -P 0x5a 16M {mib}M");
    lab::io(&["-r", "-f", "qcow2", "-c", &read, lab::text(&lab.chains[1].layers[0].path)]);
}

#[tokio::test]
async fn real_qemu_a_merge_slows_down_while_the_writes_of_the_guest_take_long_and_never_below_its_floor() {
    // That of the merged disk, and of another: they share what there is.
    for slow in ["data", "system"] {
        let (lab, merge, debug) =
            with_a_layer(BIG, MergePace { bearable: Duration::from_millis(5), floor: FLOOR }).await;
        // From now on each write of the guest waits for its turn.
        limit(&debug, slow, 20).await;
        let (speeds, took) = merged(&lab, &merge, &debug).await;
        assert!(speeds.iter().any(|speed| *speed > 0), "{slow}: {speeds:?}");
        assert!(speeds.iter().all(|speed| *speed == 0 || *speed >= FLOOR), "{slow}: {speeds:?}");
        let most = Duration::from_secs(BIG * MIB / FLOOR) + Duration::from_secs(30);
        assert!(took < most, "{slow}, {took:?}: the floor bounds it");
        limit(&debug, slow, 0).await;
        finish(lab, BIG, &merge, &debug).await;
    }
}

#[tokio::test]
async fn real_qemu_a_merge_goes_at_full_speed_while_the_guest_is_well() {
    let (lab, merge, debug) = with_a_layer(BIG, MergePace { bearable: Duration::from_secs(60), floor: FLOOR }).await;
    limit(&debug, "data", 20).await;
    let (speeds, _) = merged(&lab, &merge, &debug).await;
    assert!(speeds.iter().all(|speed| *speed == 0), "{speeds:?}");
    limit(&debug, "data", 0).await;
    finish(lab, BIG, &merge, &debug).await;
}

/// What the guest's writes to a disk are limited to, in bytes a second; 0 is no limit.
async fn limit_of(debug: &Client, disk: &str) -> u64 {
    let all = debug.execute(&QueryBlock {}, LONG).await.unwrap();
    let is_it = |device: &&serde_json::Value| device["qdev"].as_str().is_some_and(|qdev| qdev.contains(disk));
    all.iter().find(is_it).and_then(|device| device["inserted"]["bps_wr"].as_u64()).unwrap()
}

/// Writes to a disk as fast as it can, more than the merge copies in a second. Notes what it is limited to.
async fn outwrite(debug: &Client, limits: &mut Vec<u64>) {
    loop {
        if let [job] = debug.execute(&QueryBlockJobs {}, LONG).await.unwrap().as_slice() {
            let slow = SetSpeed { device: job.device.clone(), speed: 4 * MIB };
            debug.execute(&slow, LONG).await.unwrap();
            break;
        }
    }
    for at in (600..900).cycle() {
        write_pattern(debug, "data", 0x33, &format!("{at}M"), "512k").await;
        limits.push(limit_of(debug, "disk-data").await);
    }
}

#[tokio::test]
async fn real_qemu_a_guest_that_writes_more_than_a_merge_copies_is_slowed_down_step_by_step_until_it_ends() {
    const SMALL: u64 = 24;
    let pace = MergePace { bearable: Duration::from_secs(60), floor: FLOOR };
    let (lab, merge, debug) = with_a_layer(SMALL, pace).await;
    let (sink, mut limits) = (quiet(), Vec::new());
    {
        let merging = lab.hypervisor.merge(lab.instance, &merge, &sink);
        tokio::select! {
            done = merging => done.unwrap(),
            () = outwrite(&debug, &mut limits) => {}
        }
    }
    limits.dedup();
    assert!(limits.len() >= 3 && limits[0] == 0, "{limits:?}: unlimited, then less and less");
    assert!(limits[1..].is_sorted_by(|one, next| one > next), "{limits:?}");
    finish(lab, SMALL, &merge, &debug).await;
}
