//! What is true of QEMU on this host, before any VM runs.

use std::process::Stdio;

use stillpoint_common::{Accelerator, AcceleratorChoice};
use stillpoint_engine::ports::HypervisorError;
use tokio::process::Command;

use crate::QemuHypervisor;

impl QemuHypervisor {
    /// Version of the installed QEMU: `10.0.2`.
    ///
    /// # Errors
    /// If it cannot be run.
    pub async fn installed_version(&self) -> Result<String, HypervisorError> {
        let config = &self.shared.config;
        let what = format!("running {} --version", config.qemu.display());
        let mut command = Command::new(&config.qemu);
        command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        let waited = config.deadlines.command;
        let ran = tokio::time::timeout(waited, command.output()).await;
        let late = |_| HypervisorError::Unanswered { command: "--version".to_owned(), waited };
        let output = ran.map_err(late)?.map_err(|source| HypervisorError::Io { what: what.clone(), source })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1);
        version.map(str::to_owned).ok_or_else(|| HypervisorError::LaunchFailed { message: format!("{what}: {text:?}") })
    }

    /// What VMs run on that leave the choice to the host. The first call makes the trial, which may take seconds.
    pub async fn automatic_accelerator(&self) -> Accelerator {
        let chosen = self.shared.accelerator.choose(AcceleratorChoice::Auto, &self.shared).await;
        chosen.unwrap_or_else(|error| Accelerator::Tcg(error.to_string()))
    }
}
