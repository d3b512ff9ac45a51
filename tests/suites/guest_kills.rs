//! The service dies at each step of its work on a real guest, by fail points that are compiled in for tests only. One
//! guest lives through all of it.
//!
//! After each: the VM runs and can write, every acknowledged write and every older checkpoint is there with what it held,
//! what was promised is true, qemu-img finds nothing wrong with any layer, and no file is left over or missing.

use stillpoint_common::{CheckpointPolicy, PowerState};
use stillpoint_tests::{
    audit::quiet,
    guest_image::GuestSet,
    steps::{Act, REACHED, Steps},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Does it, dies at this point, starts again, and asserts what must hold. Answers whether the operation was done.
async fn dies(guest: &mut Steps, act: Act, point: &str) -> Tested<bool> {
    let what = format!("{act:?}, dead at {point}");
    let (value, names, contents) = (guest.value().await?, guest.names().await?, guest.contents().await?);
    guest.dies_at(point)?;
    let operation = guest.begin(act).await?;
    let reached = guest.service.ended(REACHED).await;
    guest.goes_on()?;
    reached.map_err(|error| format!("{what}: {error}"))?;
    if act == Act::Create(CheckpointPolicy::ProductionOnly) {
        // A hold on its file systems ends in the guest, without the service. A pause of the VM does not.
        guest.writes(&what).await?;
    }
    guest.service.start_again().await?;
    quiet(&guest.client, &guest.vm).await?;
    let ended = guest.end_of(operation).await?;
    println!("{what}: {}", ended.as_ref().map_or_else(String::as_str, |()| "done"));
    let done = ended.is_ok();
    let state = if done && act == Act::Save { PowerState::Saved } else { PowerState::Running };
    assert_eq!(guest.client.vm(&guest.vm).await?.state, Some(state), "{what}");
    guest.is_sound(guest.set.path(), &contents, &what).await?;
    if state == PowerState::Saved {
        guest.start().await?;
    }
    if done && matches!(act, Act::Apply(_) | Act::Revert) {
        guest.lab = guest.service.lab().await?;
    } else {
        guest.writes(&what).await?;
        assert_eq!(guest.value().await?, value, "{what}");
    }
    let after = guest.names().await?;
    let (new, gone) = (after.difference(&names).count(), names.difference(&after).count());
    match act {
        Act::Create(_) => assert_eq!((new, gone), (usize::from(done), 0), "{what}"),
        Act::DeleteParentOfNow | Act::MergeUp => assert_eq!((new, gone), (0, usize::from(done)), "{what}"),
        Act::Apply(_) | Act::Revert | Act::Export(_) | Act::Save => assert_eq!((new, gone), (0, 0), "{what}"),
    }
    if matches!(act, Act::Export(_)) {
        assert_eq!(guest.export_folder().exists(), done, "{what}");
    }
    Ok(done)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_dies_at_each_step_of_checkpoints_and_merges() -> Tested {
    let mut guest = Steps::new(GuestSet::new()?, Vec::new()).await?;
    guest.write(1).await?;
    guest.checkpoint().await?;
    guest.write(2).await?;
    let production = Act::Create(CheckpointPolicy::ProductionOnly);
    for point in ["create_overlay 1 after", "prepare 1 after", "freeze 1 after", "switch_heads 1 after", "thaw 1 after"]
    {
        dies(&mut guest, production, point).await?;
    }
    let standard = Act::Create(CheckpointPolicy::Standard);
    for point in ["prepare_capture 1 after", "pause 1 after", "start_capture 1 after", "memory.seal 1 after"] {
        dies(&mut guest, standard, point).await?;
    }
    for point in ["merge 1 after", "pause 1 after", "finish_merge 1 after", "resume 1 before", "remove 1 before"] {
        guest.write(3).await?;
        guest.prepare(Act::DeleteParentOfNow).await?;
        guest.write(4).await?;
        dies(&mut guest, Act::DeleteParentOfNow, point).await?;
    }
    for point in ["stream 1 before", "stream 1 after", "remove 1 before"] {
        guest.write(5).await?;
        guest.prepare(Act::MergeUp).await?;
        guest.write(6).await?;
        dies(&mut guest, Act::MergeUp, point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_dies_at_each_step_of_an_apply_a_revert_an_export_and_a_save() -> Tested {
    let mut guest = Steps::new(GuestSet::new()?, Vec::new()).await?;
    guest.write(1).await?;
    let first = guest.checkpoint().await?;
    for point in ["launch 1 after", "load_memory 1 after", "retire 1 before", "retire 1 after", "resume 1 before"] {
        guest.write(2).await?;
        let done = dies(&mut guest, Act::Apply(first), point).await?;
        assert_eq!(guest.value().await?, if done { "1 1" } else { "2 2" }, "{point}");
    }
    for (act, point) in [
        (Act::Revert, "load_memory 1 after"),
        (Act::Export(first), "flatten 1 after"),
        // It is complete under its name: done, although nobody had written that down.
        (Act::Export(first), "exports.seal 1 after"),
    ] {
        guest.write(3).await?;
        let done = dies(&mut guest, act, point).await?;
        assert_eq!(guest.value().await?, if done && act == Act::Revert { "1 1" } else { "3 3" }, "{act:?}, {point}");
    }
    for point in ["save_memory 1 before", "save_memory 1 after", "memory.seal 1 after", "retire 1 before"] {
        guest.write(4).await?;
        dies(&mut guest, Act::Save, point).await?;
    }
    Ok(())
}
