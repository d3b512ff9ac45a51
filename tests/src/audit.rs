//! Whether the files of a VM are what its catalogue says: nothing missing, nothing left over, every layer whole.

use std::{collections::BTreeSet, fs, io, path::Path, path::PathBuf, time::Duration};

use stillpoint_cli::client::{Client, ClientError, VmChange};
use stillpoint_common::{PowerState, VmId};
use stillpoint_memory::state::SavedMemory;
use tokio::process::Command;

use crate::bare::qemu_img;

type Audited<T> = Result<T, Box<dyn std::error::Error>>;

/// How long a VM may be at work on what a fault has left.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// How long files that nothing needs may stay.
const COLLECTED_LIMIT: Duration = Duration::from_secs(15);

/// Waits until nothing is at work on the VM: neither its recovery, nor what was asked for, nor a merge.
///
/// # Errors
/// If the service cannot be asked, or something is at work for too long.
pub async fn quiet(client: &Client, vm: &VmId) -> Audited<()> {
    let idle = async {
        loop {
            // A change that changes nothing is taken only when the VM's own recovery is over. It makes merges stop for a
            // moment, so that it comes when none is at work.
            let same = VmChange { checkpoint_policy: client.vm(vm).await?.checkpoint_policy, ..VmChange::default() };
            if client.list_operations(Some(vm), true, 1).await?.is_empty() {
                match client.update_vm(vm, &same).await {
                    Ok(_) if client.list_operations(Some(vm), true, 1).await?.is_empty() => return Ok(()),
                    Ok(_) => {}
                    Err(busy) if busy.reason() == Some("VM_BUSY") => {}
                    Err(other) => return Err::<(), ClientError>(other),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    Ok(tokio::time::timeout(QUIET_LIMIT, idle).await.map_err(|_| format!("VM {vm} is not quiet"))??)
}

/// Asserts that the images in `folder` are exactly the layers that the VM and its checkpoints read through, and that
/// qemu-img finds nothing wrong with any. A VM that runs stands still meanwhile, so that its layers are complete.
///
/// # Errors
/// If the service or qemu-img cannot be asked.
///
/// # Panics
/// If it is not so.
pub async fn assert_layers_sound(client: &Client, vm: &VmId, folder: &Path, what: &str) -> Audited<()> {
    let running = client.vm(vm).await?.state == Some(PowerState::Running);
    if running {
        client.wait(&client.pause_vm(vm).await?.id).await?;
    }
    let (needed, found) = collected(client, vm, folder).await?;
    assert_eq!(found, needed, "{what}: files that are there, files that are needed");
    for layer in &needed {
        let check = Command::new(qemu_img()).args(["check", "-q", "-U", "-f", "qcow2"]).arg(layer).output().await?;
        let said = String::from_utf8_lossy(&check.stderr).into_owned() + &String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{what}: {}: {said}", layer.display());
    }
    if running {
        client.wait(&client.resume_vm(vm).await?.id).await?;
    }
    Ok(())
}

/// The files that are needed and those that are there, as soon as they are the same: what a failure has left is collected
/// a moment later, by itself.
async fn collected(client: &Client, vm: &VmId, folder: &Path) -> Audited<(BTreeSet<PathBuf>, BTreeSet<PathBuf>)> {
    let until = tokio::time::Instant::now() + COLLECTED_LIMIT;
    loop {
        let (needed, found) = (layers(client, vm).await?, images(folder)?);
        if needed == found || tokio::time::Instant::now() >= until {
            return Ok((needed, found));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All files that the VM's disks and its checkpoints read through.
///
/// # Errors
/// If the service or qemu-img cannot be asked, or a file is missing.
pub async fn layers(client: &Client, vm: &VmId) -> Audited<BTreeSet<PathBuf>> {
    let heads = client.vm(vm).await?.disks.into_iter().map(|disk| disk.head_path);
    let checkpoints = client.list_checkpoints(vm).await?.into_iter().flat_map(|checkpoint| checkpoint.disks);
    let mut layers = BTreeSet::new();
    for top in heads.chain(checkpoints.map(|disk| disk.path)) {
        layers.extend(chain(Path::new(&top)).await?);
    }
    Ok(layers)
}

async fn chain(top: &Path) -> Audited<Vec<PathBuf>> {
    let mut info = Command::new(qemu_img());
    let info = info.args(["info", "-U", "--backing-chain", "--output=json"]).arg(top).output().await?;
    if !info.status.success() {
        return Err(String::from_utf8_lossy(&info.stderr).into_owned().into());
    }
    let chain: serde_json::Value = serde_json::from_slice(&info.stdout)?;
    let names = chain.as_array().into_iter().flatten().filter_map(|layer| layer["filename"].as_str());
    Ok(names.map(PathBuf::from).collect())
}

/// Everything in the folder that is an image or was to become one.
fn images(folder: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let files = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(files.filter(|path| path.is_file() && path.display().to_string().contains(".qcow2")).collect())
}

/// Asserts that there is a memory state for each checkpoint that has memory, and one for a VM that is saved, all of them
/// whole, and nothing else.
///
/// # Errors
/// If the service cannot be asked.
///
/// # Panics
/// If it is not so.
pub async fn assert_memory_sound(client: &Client, vm: &VmId, what: &str) -> Audited<()> {
    let machine = client.vm(vm).await?;
    let location = PathBuf::from(machine.checkpoint_location);
    // Descriptions lie there, too.
    let files = fs::read_dir(&location).into_iter().flatten().flatten();
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found: BTreeSet<String> = names.filter(|name| !name.ends_with(".json")).collect();
    let with_memory = client.list_checkpoints(vm).await?.into_iter().filter(|checkpoint| checkpoint.memory_bytes > 0);
    let mut needed: BTreeSet<String> = with_memory.map(|checkpoint| format!("{}.memory", checkpoint.id)).collect();
    if machine.saved.is_some() {
        let own = found.iter().find(|name| name.ends_with(".memory") && !needed.contains(*name)).cloned();
        needed.insert(own.ok_or_else(|| format!("{what}: nothing is kept of a VM that is saved"))?);
    }
    for manifest in needed.clone() {
        let mut saved = SavedMemory::open(&location.join(manifest))?.ok_or("a state of an older format")?;
        saved.check()?;
        needed.extend(saved.packs().map(|pack| format!("{pack}.pages")));
    }
    assert_eq!(found, needed, "{what}: memory states that are there, memory states that are needed");
    Ok(())
}
