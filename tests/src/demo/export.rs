//! Part five: an exported checkpoint is a machine of its own, for any QEMU.

use std::path::Path;

use tokio::process::Command;

use super::{Told, error::DemoError, stage::Stage, teller::duration};
use crate::bare::{BareOptions, BareQemu, qemu_img};

pub(super) async fn play(stage: &mut Stage<'_>) -> Told {
    stage.teller.part("An exported checkpoint boots as a VM of its own");
    let lab = stage.guest().await?;
    stage.does(&["checkpoint", "create", "web", "--name", "for the archive"]).await?;
    lab.sh("echo 'written after it' > /data/report && sync").await?;
    let folder = stage.set.path().join("archive");
    stage.does(&["checkpoint", "export", "web", "for the archive", &folder.display().to_string()]).await?;
    let image = exported_image(&folder)?;
    checked(stage, &image).await?;

    let begun = tokio::time::Instant::now();
    let options = BareOptions { name: "archive".into(), ..BareOptions::default() };
    let mut plain = BareQemu::boot_from(stage.set, &image, options).await?;
    let copy = plain.lab().await?;
    stage.teller.say(&format!("A plain QEMU, without Stillpoint, has booted from it ({}).", duration(begun.elapsed())));
    stage.teller.same("there the report says", copy.sh("cat /data/report").await?, "saved")?;
    let check = copy.sh("stillpoint-lab check /data/first 32 1").await?;
    stage.teller.same("and the large file is, byte for byte", check, "intact")?;
    plain.kill().await?;
    stage.teller.same(
        "web itself went on meanwhile: there it says",
        lab.sh("cat /data/report").await?,
        "written after it",
    )
}

fn exported_image(folder: &Path) -> Result<std::path::PathBuf, DemoError> {
    let files = super::files::below(folder)?;
    let image = files.iter().find(|path| path.extension().is_some_and(|it| it == "qcow2"));
    image.map(|path| folder.join(path)).ok_or_else(|| DemoError::NotSo {
        claim: "the export holds a disk image".into(),
        expected: "a .qcow2 file".into(),
        seen: super::files::listed(&files),
    })
}

async fn checked(stage: &mut Stage<'_>, image: &Path) -> Told {
    let info = Command::new(qemu_img()).args(["info", "--output=json"]).arg(image).output().await?;
    let info = String::from_utf8_lossy(&info.stdout).into_owned();
    let alone = info.contains("virtual-size") && !info.contains("backing-filename");
    stage.teller.holds("its disk is one image that needs no other", alone, "no backing file", info)?;
    let check = Command::new(qemu_img()).args(["check", "-q", "-f", "qcow2"]).arg(image).output().await?;
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    stage.teller.holds("qemu-img check finds no fault in it", check.status.success(), "exit code 0", said)
}
