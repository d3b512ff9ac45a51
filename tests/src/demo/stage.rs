//! The service, the VM and its guest, and how the story reaches them.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;
use stillpoint_cli::{
    client::Client,
    view::{Checkpoint, Vm},
};
use stillpoint_common::{AcceleratorChoice, PowerState, VmId};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Told,
    error::DemoError,
    files,
    teller::{Teller, duration},
};
use crate::{
    guest_image::GuestSet,
    lab::LabChannel,
    service::{Service, guest_spec},
};

/// How long one command may take on a busy machine.
const COMMAND: Duration = Duration::from_secs(180);
/// How long the agent may take to be heard of.
const AGENT: Duration = Duration::from_secs(30);

/// What the story plays on: one VM, called `web`.
pub(super) struct Stage<'a> {
    pub(super) teller: &'a mut Teller,
    pub(super) set: &'a GuestSet,
    pub(super) service: Service,
    pub(super) client: Client,
    pub(super) vm: VmId,
    /// The VM's own folder: its disk, and everything its checkpoints need.
    pub(super) folder: PathBuf,
}

/// What a command printed.
pub(super) struct Said {
    /// On standard error: progress, warnings, errors.
    pub(super) notes: String,
    code: i32,
}

impl<'a> Stage<'a> {
    /// A stage with nothing on it but a disk and the description of a VM.
    pub(super) async fn new(teller: &'a mut Teller, set: &'a GuestSet, service: Service) -> Result<Self, DemoError> {
        let folder = set.path().join("web");
        fs::create_dir(&folder)?;
        let mut spec = guest_spec(set, 512);
        spec.accelerator = AcceleratorChoice::Auto;
        for disk in &mut spec.disks {
            disk.path = set.another_disk("web/disk.qcow2")?.display().to_string();
        }
        let vm = json!({ "name": "vms/web", "spec": spec, "checkpoint_location": folder.join("checkpoints") });
        fs::write(set.path().join("web.json"), vm.to_string())?;
        let client = service.client().await?;
        let vm = "web".parse().map_err(std::io::Error::other)?;
        Ok(Self { teller, set, service, client, vm, folder })
    }

    /// Defines the VM and starts it.
    pub(super) async fn open(&mut self) -> Told {
        let host = self.client.host().await?;
        let qemu = format!("stillpointd {} runs, with QEMU {}.", host.service_version, host.qemu_version);
        self.teller.say(&qemu);
        let description = self.set.path().join("web.json").display().to_string();
        self.does(&["vm", "create", "--from", &description]).await?;
        self.boots().await?;
        let accelerator = self.vm().await?.accelerator;
        let accelerator = accelerator.split(" (").next().unwrap_or_default(); // the rest says why not another one
        self.teller.say(&format!("Its CPUs run on {accelerator}."));
        Ok(())
    }

    /// Starts the VM and waits for its guest and the agent in it.
    pub(super) async fn boots(&mut self) -> Result<LabChannel, DemoError> {
        self.does(&["vm", "start", "web"]).await?;
        let begun = Instant::now();
        let lab = self.guest().await?;
        self.agent_answers().await?;
        let took = duration(begun.elapsed());
        self.teller.say(&format!("The guest has booted and its agent answers ({took})."));
        Ok(lab)
    }

    /// Shuts the VM down and ends the service: nothing of the story runs after it.
    pub(super) async fn close(&mut self) -> Told {
        self.teller.part("Everything is put away");
        self.does(&["vm", "stop", "web"]).await?;
        let state = self.vm().await?.state;
        self.teller.holds(
            "the guest was asked and has shut down",
            state == Some(PowerState::Off),
            "Off",
            word(state),
        )?;
        self.service.terminate().await?;
        self.teller.holds("nothing we started runs any more", self.service.qemu_pids().is_empty(), "no QEMU", "one")
    }

    /// Types a command that must succeed.
    pub(super) async fn does(&mut self, words: &[&str]) -> Result<Said, DemoError> {
        let said = self.types(words).await?;
        if said.code == 0 {
            return Ok(said);
        }
        let claim = format!("`stillpoint {}` succeeds", words.join(" "));
        Err(DemoError::NotSo { claim, expected: "exit code 0".into(), seen: format!("exit code {}", said.code) })
    }

    /// Types a command that must be refused.
    pub(super) async fn is_refused(&mut self, words: &[&str]) -> Result<Said, DemoError> {
        let said = self.types(words).await?;
        self.teller.same("it is refused, with exit code", said.code, 1)?;
        Ok(said)
    }

    async fn types(&mut self, words: &[&str]) -> Result<Said, DemoError> {
        let command = format!("stillpoint {}", words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
        self.teller.typed(&command);
        let ended = timeout(COMMAND, self.service.stillpoint(words)).await;
        let (answer, notes, code) = ended.map_err(|_| DemoError::CommandTooLong { command, waited: COMMAND })??;
        self.teller.printed(&notes);
        self.teller.printed(&answer);
        Ok(Said { notes, code })
    }

    /// The channel into the guest, once it has booted or gone on.
    pub(super) async fn guest(&self) -> Result<LabChannel, DemoError> {
        Ok(self.service.lab().await?)
    }

    /// Waits until the service has heard of the agent.
    pub(super) async fn agent_answers(&self) -> Told {
        let end = Instant::now() + AGENT;
        loop {
            match self.client.guest(&self.vm).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error.into()),
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The VM as it is now.
    pub(super) async fn vm(&self) -> Result<Vm, DemoError> {
        Ok(self.client.vm(&self.vm).await?)
    }

    /// A checkpoint by its name.
    pub(super) async fn checkpoint(&self, name: &str) -> Result<Checkpoint, DemoError> {
        Ok(self.client.find_checkpoint(&self.vm, name).await?)
    }

    /// Files in the VM's folder, relative to it.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, DemoError> {
        Ok(files::below(&self.folder)?)
    }
}

/// How long a phase of the making of a checkpoint took; 0 if there was none.
pub(super) fn phase_ms(checkpoint: &Checkpoint, name: &str) -> f64 {
    checkpoint.phases.iter().find(|phase| phase.name == name).map_or(0.0, |phase| phase.took_ms)
}

/// A word of the domain, as the product writes it.
pub(super) fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}
