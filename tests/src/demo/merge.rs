//! Part four: deleting checkpoints merges their layers while the guest writes.

use std::path::PathBuf;

use super::{Told, error::DemoError, files, stage::Stage, teller::duration};
use crate::lab::LabChannel;

pub(super) async fn play(stage: &mut Stage<'_>) -> Told {
    stage.teller.part("Deleting checkpoints merges them away, under a guest that writes");
    let lab = stage.guest().await?;
    lab.sh("stillpoint-lab fill /data/first 32 1").await?;
    stage.does(&["checkpoint", "create", "web", "--name", "large"]).await?;
    lab.sh("stillpoint-lab fill /data/second 32 2").await?;
    lab.start("counter busy /data/busy 2").await?;
    let before = lab.gap("busy").await?;
    let layers = layers(stage)?;
    stage
        .teller
        .say(&format!("64 MiB lie in two of the VM's {} layers, and a program writes without a pause.", layers.len()));
    lab.ask("busy", "reset").await?;
    for checkpoint in stage.client.list_checkpoints(&stage.vm).await? {
        stage.does(&["checkpoint", "delete", "web", &checkpoint.display_name, "--yes"]).await?;
    }
    one_file(stage, layers.len()).await?;
    writer_went_on(stage, &lab, before.count).await?;
    for (file, seed) in [("first", 1), ("second", 2)] {
        let check = lab.sh(&format!("stillpoint-lab check /data/{file} 32 {seed}")).await?;
        stage.teller.same(&format!("the {file} large file, byte for byte"), check, "intact")?;
    }
    stage.teller.same("the report still says", lab.sh("cat /data/report").await?, "saved")?;
    stage.does(&["checkpoint", "tree", "web"]).await.map(drop)
}

fn layers(stage: &Stage<'_>) -> Result<Vec<PathBuf>, DemoError> {
    Ok(stage.files()?.into_iter().filter(|path| path.extension().is_some_and(|it| it == "qcow2")).collect())
}

async fn one_file(stage: &mut Stage<'_>, before: usize) -> Told {
    // The VM's own description lies there, too.
    let is_data = |path: &PathBuf| path.extension().is_none_or(|ending| ending != "json");
    let files: Vec<PathBuf> = stage.files()?.into_iter().filter(is_data).collect();
    stage.teller.same(
        &format!("of {before} layers and the memory states one file is left, the one we began with"),
        files::listed(&files),
        "disk.qcow2",
    )?;
    let depths: Vec<_> = stage.vm().await?.disks.iter().map(|disk| disk.depth).collect();
    stage.teller.holds("the guest reads and writes it directly", depths == [1], "1 layer", format!("{depths:?}"))
}

async fn writer_went_on(stage: &mut Stage<'_>, lab: &LabChannel, before: u64) -> Told {
    let gap = lab.gap("busy").await?;
    stage.teller.same("writes that failed meanwhile", gap.errors, 0)?;
    let claim = format!(
        "the program went on: {} durable writes, the longest took {}",
        gap.count - before,
        duration(gap.longest)
    );
    stage.teller.holds(&claim, gap.count > before, "more than before", gap.count)
}
