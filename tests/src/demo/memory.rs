//! Part one: memory and disk come back as they were, and the clock does not.

use std::time::Duration;

use jiff::Timestamp;
use stillpoint_common::{Consistency, Kind, PowerState};

use super::{
    Told,
    error::DemoError,
    stage::{Stage, phase_ms, word},
    teller::{duration, milliseconds},
};
use crate::lab::LabChannel;

const NAME: &str = "before the change";
/// What a clock that was set may be off by, beside the error of measuring.
const CLOCK_LIMIT: Duration = Duration::from_millis(100);

pub(super) async fn play(stage: &mut Stage<'_>) -> Told {
    stage.teller.part("A standard checkpoint: the running machine, memory and all");
    let lab = stage.guest().await?;
    lab.start("value cat Tom").await?;
    lab.sh("echo Tom > /data/cat && sync").await?;
    stage
        .teller
        .say("A program in the guest remembers the name Tom, in memory only. A file on its disk says Tom, too.");
    take(stage).await?;

    lab.ask("cat", "set Felix").await?;
    lab.sh("echo Felix > /data/cat && sync").await?;
    let (value, file) = (lab.ask("cat", "get").await?, lab.sh("cat /data/cat").await?);
    stage.teller.same("both are changed; the program and the file say", format!("{value} {file}"), "Felix Felix")?;
    tokio::time::sleep(Duration::from_secs(2)).await; // so that a clock which is not set is seen to be wrong
    revert(stage).await
}

async fn take(stage: &mut Stage<'_>) -> Told {
    stage.does(&["checkpoint", "create", "web", "--name", NAME, "--policy", "standard"]).await?;
    let made = stage.checkpoint(NAME).await?;
    let is = (made.kind, made.consistency);
    let standard = is == (Some(Kind::Standard), Some(Consistency::Memory));
    stage.teller.holds("it keeps the machine's memory with its disks", standard, "STANDARD, MEMORY", word(is))?;
    let paused = phase_ms(&made, "pause");
    let claim = format!(
        "for that the guest stood still {} and no longer; memory was written while it ran on",
        milliseconds(paused)
    );
    stage.teller.holds(&claim, paused > 0.0 && paused < 1000.0, "a pause below one second", paused)
}

async fn revert(stage: &mut Stage<'_>) -> Told {
    let generation = stage.vm().await?.generation_id;
    stage.does(&["checkpoint", "revert", "web", "--discard-now", "--yes"]).await?;
    let lab = stage.guest().await?;
    let vm = stage.vm().await?;
    stage.teller.holds(
        "the guest runs on, without a boot",
        vm.state == Some(PowerState::Running),
        "Running",
        word(vm.state),
    )?;
    stage.teller.same("the program remembers again", lab.ask("cat", "get").await?, "Tom")?;
    stage.teller.same("the file says again", lab.sh("cat /data/cat").await?, "Tom")?;
    clock(stage, &lab).await?;
    let changed = vm.generation_id != generation;
    stage.teller.holds("the machine has a new generation id", changed, "another one", vm.generation_id)?;
    let told = lab.sh("dmesg | grep -c 'reseeded due to virtual machine fork' || true").await?;
    stage.teller.holds(
        "and the guest's kernel has noticed: its random numbers are new",
        told.trim() != "0",
        "a line in dmesg",
        "none",
    )?;
    stage.does(&["checkpoint", "tree", "web"]).await.map(drop)
}

async fn clock(stage: &mut Stage<'_>, lab: &LabChannel) -> Told {
    let made = stage.checkpoint(NAME).await?.create_time.unwrap_or_default();
    let passed = u64::try_from(Timestamp::now().duration_since(made).as_secs()).unwrap_or(0);
    let (off, error) = clock_off(lab).await?;
    let claim = format!(
        "its clock is right, to {} ms (measured to ±{}), although {passed} s passed since the checkpoint",
        off.as_millis(),
        duration(error)
    );
    stage.teller.holds(
        &claim,
        off <= CLOCK_LIMIT + error,
        format!("at most {CLOCK_LIMIT:?} off"),
        format!("{off:?} off"),
    )
}

/// How far the guest's clock is from the host's, and how well we know: the best of five askings.
async fn clock_off(lab: &LabChannel) -> Result<(Duration, Duration), DemoError> {
    let now = || Duration::from_micros(Timestamp::now().as_microsecond().unsigned_abs());
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let before = now();
        let guest = lab.clock().await?.since_1970;
        let error = now().saturating_sub(before) / 2;
        if error < best.1 {
            best = (guest.abs_diff(before + error), error);
        }
    }
    Ok(best)
}
