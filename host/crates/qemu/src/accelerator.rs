//! Whether hardware acceleration works: found by running a virtual CPU, not by looking for a device node.
//!
//! A node may open, make VMs, and then fail in the first instructions. So a tiny machine, with the firmware and CPU
//! model of a real one, boots a sector that goes through real, protected and long mode with paging and then ends its
//! QEMU with an exit code that nothing else gives.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
};

use stillpoint_common::{Accelerator, AcceleratorChoice};
use stillpoint_engine::ports::HypervisorError;
use tokio::{process::Command, sync::OnceCell};

use crate::{attached::words, config::QemuConfig, registry::Shared};

/// `isa-debug-exit` makes `(value << 1) | 1` of the value the sector writes.
const SUCCESS: i32 = 0x21;
/// The BIOS reads no disk that is smaller.
const DISK_SIZE: u64 = 1 << 20;

/// Assembled from `accelerator/trial.S`, up to its boot signature.
const SECTOR: [u8; 156] = *include_bytes!("accelerator/trial.bin");

/// The trial, made once in the life of the service, when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct AcceleratorTrial(OnceCell<Result<(), String>>);

impl AcceleratorTrial {
    /// What a VM that asks for this runs on, and why.
    pub(crate) async fn choose(
        &self,
        choice: AcceleratorChoice,
        shared: &Shared,
    ) -> Result<Accelerator, HypervisorError> {
        if choice == AcceleratorChoice::Tcg {
            return Ok(Accelerator::Tcg("the definition asks for it".to_owned()));
        }
        let verdict = self.0.get_or_init(|| trial(&shared.config, shared.layout.root())).await;
        match (choice, verdict) {
            (_, Ok(())) => Ok(Accelerator::Kvm),
            (AcceleratorChoice::Kvm, Err(why)) => Err(HypervisorError::AcceleratorMissing { why: why.clone() }),
            (AcceleratorChoice::Auto | AcceleratorChoice::Tcg, Err(why)) => Ok(Accelerator::Tcg(why.clone())),
        }
    }
}

async fn trial(config: &QemuConfig, folder: &Path) -> Result<(), String> {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm cannot be opened: {error}"));
    }
    let verdict = run("kvm", "host", config, folder).await;
    tracing::info!(works = verdict.is_ok(), "tried hardware acceleration");
    verdict
}

/// Boots the sector. `Err` says what was seen instead of its exit code.
async fn run(accelerator: &str, cpu: &str, config: &QemuConfig, folder: &Path) -> Result<(), String> {
    let broken = |error: io::Error| format!("the trial could not be made: {error}");
    let disk = TrialDisk::create(folder).map_err(broken)?;
    let mut command = Command::new(&config.qemu);
    command.args(&config.prefix_arguments).args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "16"]);
    command.args(["-machine", &config.machine, "-accel", accelerator, "-cpu", cpu]);
    command.arg("-blockdev").arg(disk.node()?);
    command.args(["-device", "virtio-blk-pci,drive=trial,bootindex=0"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let waited = config.deadlines.trial;
    let ran = tokio::time::timeout(waited, command.output()).await;
    let output = ran.map_err(|_| format!("a virtual CPU did not run within {waited:?}"))?.map_err(broken)?;
    if output.status.code() == Some(SUCCESS) {
        return Ok(());
    }
    let said = words(&output.stderr).unwrap_or_else(|| output.status.to_string());
    Err(format!("a virtual CPU did not run: {said}"))
}

/// A disk with the sector, removed when dropped.
struct TrialDisk(PathBuf);

impl TrialDisk {
    fn create(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join(format!("trial-{}.img", uuid::Uuid::new_v4().simple()));
        let disk = Self(path);
        let mut sector = vec![0; 512];
        sector[..SECTOR.len()].copy_from_slice(&SECTOR);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        std::fs::write(&disk.0, sector)?;
        std::fs::OpenOptions::new().write(true).open(&disk.0)?.set_len(DISK_SIZE)?;
        Ok(disk)
    }

    fn node(&self) -> Result<String, String> {
        let file = serde_json::json!({"driver": "file", "filename": crate::nodes::text(&self.0)?});
        Ok(serde_json::json!({"driver": "raw", "node-name": "trial", "read-only": true, "file": file}).to_string())
    }
}

impl Drop for TrialDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn real_qemu_runs_the_sector_in_emulation() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = QemuConfig::from_environment();
        config.deadlines.trial = std::time::Duration::from_secs(60);
        assert_eq!(run("tcg", "max", &config, folder.path()).await, Ok(()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn real_qemu_a_machine_that_runs_nothing_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = QemuConfig::from_environment();
        let why = run("tcg", "no-such-cpu", &config, folder.path()).await.unwrap_err();
        assert!(why.contains("no-such-cpu"), "{why}");
        config.prefix_arguments.push("-S".to_owned());
        config.deadlines.trial = std::time::Duration::from_millis(300);
        let why = run("tcg", "max", &config, folder.path()).await.unwrap_err();
        assert!(why.contains("did not run within"), "{why}");
    }
}
