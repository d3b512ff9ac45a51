//! Part two: a production checkpoint is a clean disk, and nothing of memory.

use stillpoint_cli::view::Checkpoint;
use stillpoint_common::{Consistency, Kind, PowerState};

use super::{
    Told,
    error::DemoError,
    stage::{Stage, phase_ms, word},
    teller::{duration, milliseconds},
};
use crate::{
    ext4::Ext4State,
    lab::{LabChannel, ORDINARY},
};

const NAME: &str = "clean";

pub(super) async fn play(stage: &mut Stage<'_>) -> Told {
    stage.teller.part("A production checkpoint: saved data, as the guest's file systems agree it is");
    let lab = stage.guest().await?;
    stage.agent_answers().await?;
    lab.sh("echo saved > /data/report && sync").await?;
    lab.start("counter writer /data/count 5").await?;
    stage.teller.say("A report is saved on disk. A program counts into a file, one durable write after the other.");
    stage.teller.same("the other program still holds, unsaved", lab.ask("cat", "get").await?, "Tom")?;
    let before = lab.gap("writer").await?.count;
    lab.ask("writer", "reset").await?;
    let made = take(stage, &lab).await?;
    let counts = before..=lab.gap("writer").await?.count;
    at_rest(stage, &made).await?;

    lab.sh("echo spoilt > /data/report && sync").await?;
    stage.teller.say("Now the report is spoilt. We keep that state too, and go back.");
    stage.does(&["checkpoint", "create", "web", "--name", "spoilt"]).await?;
    apply(stage).await?;
    let lab = stage.boots().await?;
    boots_clean(stage, &lab).await?;
    let gone = lab.run_within("stillpoint-lab ask cat get", ORDINARY).await?.output;
    let is_gone = gone.contains("no workload `cat` is running");
    stage.teller.holds("what was only in memory is gone: no such program runs", is_gone, "no program", gone)?;
    stage.teller.same("what was saved is there: the report says", lab.sh("cat /data/report").await?, "saved")?;
    whole_count(stage, &lab, counts).await?;
    stage.does(&["checkpoint", "tree", "web"]).await.map(drop)
}

async fn take(stage: &mut Stage<'_>, lab: &LabChannel) -> Result<Checkpoint, DemoError> {
    stage.does(&["checkpoint", "create", "web", "--name", NAME]).await?;
    let made = stage.checkpoint(NAME).await?;
    let is = (made.kind, made.consistency);
    let production = is == (Some(Kind::Production), Some(Consistency::FileSystem));
    stage.teller.holds("the guest was asked, and is consistent", production, "PRODUCTION, FILE_SYSTEM", word(is))?;
    let held: Vec<_> = made.file_systems.iter().filter(|each| each.result == Some("HELD")).collect();
    let names =
        held.iter().map(|each| format!("{} ({})", each.mount_point, each.fs_type)).collect::<Vec<_>>().join(", ");
    let (froze, then) = (milliseconds(phase_ms(&made, "freeze")), milliseconds(phase_ms(&made, "held")));
    let claim = format!("{names} was held through the cut: frozen within {froze}, and then held for {then}");
    stage.teller.holds(&claim, !held.is_empty(), "a file system that was held", "none")?;
    let gap = lab.gap("writer").await?;
    let longest = duration(gap.longest);
    let claim = format!("no write of the counting program failed; the longest took {longest}, the freeze included");
    stage.teller.holds(&claim, gap.errors == 0, "no failed write", gap.errors)?;
    Ok(made)
}

/// Proven from the layer alone: the guest has no part in it.
async fn at_rest(stage: &mut Stage<'_>, made: &Checkpoint) -> Told {
    for disk in &made.disks {
        let state = Ext4State::of_layer(disk.path.as_ref(), "qcow2").await?;
        let claim = "the file system in the checkpoint needs no recovery (flag clear, journal empty)";
        stage.teller.holds(claim, state.at_rest(), "needs_recovery clear, journal start 0", format!("{state:?}"))?;
    }
    Ok(())
}

async fn apply(stage: &mut Stage<'_>) -> Told {
    stage.does(&["checkpoint", "apply", "web", NAME, "--discard-now", "--yes"]).await?;
    let state = stage.vm().await?.state;
    let off = state == Some(PowerState::Off) && stage.service.qemu_pids().is_empty();
    stage.teller.holds("the VM is off: there is no memory to go on from", off, "Off, no QEMU", word(state))
}

async fn boots_clean(stage: &mut Stage<'_>, lab: &LabChannel) -> Told {
    let told = lab.sh("dmesg | grep EXT4-fs || true").await?;
    let clean = told.contains("mounted filesystem") && !told.contains("recover");
    stage.teller.holds("its kernel mounted the disk without a recovery", clean, "mounted, and no recovery", told)
}

async fn whole_count(stage: &mut Stage<'_>, lab: &LabChannel, counts: std::ops::RangeInclusive<u64>) -> Told {
    let text = lab.sh("head -n 1 /data/count").await?;
    let seen = text.trim().parse().ok();
    let claim = format!(
        "the count on disk is whole: {}, between the last one before and the first one after",
        text.trim_start_matches('0')
    );
    let expected = format!("{} to {}", counts.start(), counts.end());
    stage.teller.holds(&claim, seen.is_some_and(|seen| counts.contains(&seen)), expected, text)
}
