//! QEMU dies, the agent dies, or the disk fills up, at each step of the service's work on a real guest, by fail points
//! at which the service waits.
//!
//! After each: the VM runs unless it was QEMU that died, no guest is held past its lease, every acknowledged write and
//! every older checkpoint is there with what it held, what was promised is true, qemu-img finds nothing wrong with any
//! layer, and no file is left over or missing.

use std::collections::BTreeSet;

use stillpoint_common::{CheckpointId, CheckpointPolicy, PowerState};
use stillpoint_tests::{
    guest_image::GuestSet,
    small_fs::SmallFs,
    steps::{Act, Steps},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

const PRODUCTION: Act = Act::Create(CheckpointPolicy::ProductionOnly);
const STANDARD: Act = Act::Create(CheckpointPolicy::Standard);

/// Begins it, strikes while the service waits at this point, lets it go on, and answers how it ended.
async fn struck(
    guest: &Steps,
    (act, point): (Act, &str),
    strike: impl AsyncFnOnce(&Steps) -> Tested,
) -> Tested<Result<(), String>> {
    guest.waits_at(point)?;
    let operation = guest.begin(act).await?;
    let waits = guest.waits().await;
    let strikes = match waits {
        Ok(()) => strike(guest).await,
        Err(late) => Err(late),
    };
    guest.goes_on()?;
    strikes.map_err(|error| format!("{act:?}, {point}: {error}"))?;
    let ended = guest.end_of(operation).await?;
    println!("{act:?}, struck at {point}: {}", ended.as_ref().map_or_else(String::as_str, |()| "done"));
    Ok(ended)
}

/// The checkpoints are those that should be there, and of an export all or nothing.
async fn assert_kept(guest: &Steps, before: &BTreeSet<CheckpointId>, act: (Act, bool), what: &str) -> Tested {
    let after = guest.names().await?;
    let (new, gone) = (after.difference(before).count(), before.difference(&after).count());
    let expected = match act {
        (Act::Create(_), done) => (usize::from(done), 0),
        // It is gone before its layers are merged, and stays so.
        (Act::DeleteParentOfNow | Act::MergeUp, _) => (0, 1),
        (Act::Apply(_) | Act::Revert | Act::Export(_) | Act::Save, _) => (0, 0),
    };
    assert_eq!((new, gone), expected, "{what}");
    if let (Act::Export(_), done) = act {
        let folder = guest.export_folder();
        assert_eq!(folder.exists(), done, "{what}");
        if done {
            let verified = guest.service.stillpoint(&["export", "verify", &folder.display().to_string()]).await?;
            assert_eq!(verified.2, 0, "{what}: {verified:?}");
        }
    }
    Ok(())
}

/// QEMU is killed there. The VM is off then, or saved if all of it was kept already, and starts with all that was
/// acknowledged.
async fn qemu_dies(guest: &mut Steps, act: Act, point: &str, value: u32) -> Tested {
    let what = format!("{act:?}, QEMU dead at {point}");
    guest.write(value).await?;
    let (names, contents) = (guest.names().await?, guest.contents().await?);
    let ended = struck(guest, (act, point), async |guest| {
        for pid in guest.service.qemu_pids() {
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
        }
        Ok(())
    })
    .await?;
    let saved = act == Act::Save && ended.is_ok();
    guest.becomes(if saved { PowerState::Saved } else { PowerState::Off }).await?;
    guest.is_sound(guest.set.path(), &contents, &what).await?;
    assert_kept(guest, &names, (act, ended.is_ok()), &what).await?;
    guest.start().await?;
    if saved {
        assert_eq!(guest.value().await?, format!("{value} {value}"), "{what}: it goes on");
    }
    let is = guest.lab.sh("cat /data/value").await?;
    // Past its commit an apply stands, whatever becomes of the process: Now is the checkpoint.
    assert!(is == value.to_string() || (matches!(act, Act::Apply(_) | Act::Revert) && is == "1"), "{what}: {is}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_dies_at_each_step_and_nothing_that_was_acknowledged_is_lost() -> Tested {
    let mut guest = Steps::new(GuestSet::new()?, Vec::new()).await?;
    guest.write(1).await?;
    let first = guest.checkpoint().await?;
    for (number, (act, point)) in (2..).zip([
        (PRODUCTION, "freeze 1 after"),
        (PRODUCTION, "switch_heads 1 after"),
        (STANDARD, "pause 1 after"),
        (STANDARD, "start_capture 1 after"),
        (STANDARD, "memory.seal 1 before"),
        (Act::DeleteParentOfNow, "merge 1 after"),
        (Act::Apply(first), "launch 1 after"),
        (Act::Apply(first), "load_memory 1 after"),
    ]) {
        guest.prepare(act).await?;
        qemu_dies(&mut guest, act, point, number).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_dies_in_a_revert_a_merge_upwards_an_export_or_a_save_and_nothing_that_was_acknowledged_is_lost() -> Tested
{
    let mut guest = Steps::new(GuestSet::new()?, Vec::new()).await?;
    guest.write(1).await?;
    let first = guest.checkpoint().await?;
    for (number, (act, point)) in (2..).zip([
        (Act::Revert, "launch 1 after"),
        (Act::Revert, "load_memory 1 after"),
        (Act::MergeUp, "stream 1 before"),
        (Act::MergeUp, "stream 1 after"),
        (Act::Export(first), "flatten 1 before"),
        (Act::Export(first), "flatten 1 after"),
        (Act::Save, "save_memory 1 before"),
        (Act::Save, "save_memory 1 after"),
    ]) {
        guest.prepare(act).await?;
        qemu_dies(&mut guest, act, point, number).await?;
    }
    Ok(())
}

/// The agent is killed there. The VM runs on, and its guest writes within the lease.
async fn agent_dies(guest: &Steps, point: &str) -> Tested {
    let what = format!("the agent dead at {point}");
    let (names, contents, value) = (guest.names().await?, guest.contents().await?, guest.value().await?);
    let ended = struck(guest, (PRODUCTION, point), async |guest| {
        guest.lab.sh("agent crash").await?;
        guest.writes("before the service goes on").await
    })
    .await?;
    guest.becomes(PowerState::Running).await?;
    guest.is_sound(guest.set.path(), &contents, &what).await?;
    guest.writes(&what).await?;
    assert_eq!(guest.names().await?.len() - names.len(), usize::from(ended.is_ok()), "{what}");
    assert_eq!(guest.value().await?, value, "{what}");
    let held = ["freeze 1 after", "switch_heads 1 before", "switch_heads 1 after"].contains(&point);
    assert!(ended.is_err() || !held, "{what}: what was not quiet until the cut is no production checkpoint");
    guest.lab.sh("until agent pid > /dev/null 2>&1; do usleep 20000; done").await?;
    let again = guest.begin(PRODUCTION).await?;
    assert_eq!(guest.end_of(again).await?, Ok(()), "{what}: the new agent");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_dies_at_each_step_and_its_guest_goes_on() -> Tested {
    let guest = Steps::new(GuestSet::new()?, vec![("STILLPOINT_LEASE".to_owned(), "3".to_owned())]).await?;
    guest.write(1).await?;
    for point in [
        "prepare 1 before",
        "prepare 1 after",
        "freeze 1 before",
        "freeze 1 after",
        "switch_heads 1 before",
        "switch_heads 1 after",
        "thaw 1 after",
        "descriptions.write 1 before",
    ] {
        agent_dies(&guest, point).await?;
    }
    Ok(())
}

/// There is no space left from this point on. Whatever became of it, all is well when there is space again.
async fn fills(guest: &mut Steps, small: &SmallFs, (act, point): (Act, &str), value: u32) -> Tested {
    let what = format!("{act:?}, no space left at {point}");
    guest.write(value).await?;
    let (names, contents) = (guest.names().await?, guest.contents().await?);
    let ended = struck(guest, (act, point), async |_| Ok(small.fill()?)).await?;
    small.give_back()?;
    if act == Act::Save && ended.is_ok() {
        guest.becomes(PowerState::Saved).await?;
        guest.start().await?;
    }
    guest.becomes(PowerState::Running).await?;
    if matches!(act, Act::Apply(_)) && ended.is_ok() {
        guest.lab = guest.service.lab().await?;
    } else {
        assert_eq!(guest.value().await?, format!("{value} {value}"), "{what}");
    }
    guest.writes(&what).await?;
    guest.is_sound(small.path(), &contents, &what).await?;
    assert_kept(guest, &names, (act, ended.is_ok()), &what).await
}

/// A guest whose disk, and a service whose catalogue and memory states, lie on this file system.
async fn on(small: &SmallFs, mut set: GuestSet) -> Tested<Steps> {
    let (disk, state) = (small.path().join("data.qcow2"), small.path().join("state"));
    std::fs::copy(&set.data_disk, &disk)?;
    std::fs::create_dir(&state)?;
    std::os::unix::fs::symlink(&state, set.path().join("s"))?;
    set.data_disk = disk;
    let environment = [("STILLPOINT_KEEP_FREE", "2"), ("STILLPOINT_LAYER_ROOM", "4")];
    Steps::new(set, environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_fills_up_at_each_step_and_all_is_well_when_there_is_space_again() -> Tested {
    let set = GuestSet::new()?;
    let small = SmallFs::new(&set.path().join("small"), 1400)?;
    let mut guest = on(&small, set).await?;
    guest.write(1).await?;
    let first = guest.checkpoint().await?;
    for (number, struck) in (2..).zip([
        (PRODUCTION, "create_overlay 1 before"),
        (PRODUCTION, "create_overlay 1 after"),
        (PRODUCTION, "freeze 1 after"),
        (PRODUCTION, "switch_heads 1 after"),
        (PRODUCTION, "descriptions.write 1 before"),
        (STANDARD, "memory.begin 1 after"),
        (STANDARD, "start_capture 1 after"),
        (STANDARD, "memory.seal 1 before"),
        (Act::DeleteParentOfNow, "merge 1 before"),
        (Act::DeleteParentOfNow, "merge 1 after"),
        (Act::DeleteParentOfNow, "finish_merge 1 after"),
        (Act::Apply(first), "create_overlay 1 before"),
        (Act::Apply(first), "launch 1 after"),
        (Act::Apply(first), "load_memory 1 after"),
        (Act::MergeUp, "stream 1 before"),
        (Act::MergeUp, "stream 1 after"),
        (Act::Export(first), "flatten 1 before"),
        (Act::Export(first), "flatten 1 after"),
        (Act::Save, "memory.begin 1 after"),
        (Act::Save, "memory.seal 1 before"),
    ]) {
        guest.prepare(struck.0).await?;
        if struck.0 == Act::DeleteParentOfNow {
            guest.write(100).await?;
        }
        fills(&mut guest, &small, struck, number).await?;
    }
    Ok(())
}
