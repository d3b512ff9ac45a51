//! A real guest with a disk of real servers (`/servers`, started by `server`), under the product.

use std::time::Duration;

use stillpoint_cli::{
    client::Client,
    view::{Checkpoint, Disk},
};
use stillpoint_common::{CheckpointPolicy, Consistency, DiskFormat, VmId};

use crate::{
    guest_image::GuestSet,
    lab::{Answer, LabChannel},
    service::{Service, guest_spec},
};

type Tested<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The emulated CPU is slow, and what a server does at its first start is much.
const LONG: Duration = Duration::from_secs(120);

/// A writer that notes what a load has been told, from `/run/acknowledged`: when the servers are held and the file systems are
/// not yet, and when those are let go and the servers are not yet.
pub const NOTES: &str = r#"#!/bin/sh
case $1 in
identify) echo level=system ;;
freeze) echo "before=$(tail -n1 /run/acknowledged)" ;;
thaw) echo "after=$(tail -n1 /run/acknowledged)" ;;
esac
"#;

/// The guest.
pub struct ServerGuest {
    service: Service,
    /// As a user has it.
    pub client: Client,
    /// Its machine.
    pub vm: VmId,
    /// The way in that is not the product's.
    pub lab: LabChannel,
    _set: GuestSet,
}

impl ServerGuest {
    /// Boots it, with so many MiB of memory.
    ///
    /// # Errors
    /// If its files were not made, or it does not come up.
    pub async fn boot(memory: u64) -> Tested<Self> {
        let set = GuestSet::new()?;
        let service = Service::start(set.path()).await?;
        let client = service.client().await?;
        let mut spec = guest_spec(&set, memory);
        let path = set.servers_disk()?.display().to_string();
        spec.disks.push(Disk { name: "servers".into(), path, format: DiskFormat::Qcow2 });
        let (vm, lab) = service.boot_as("db", spec).await?;
        Ok(Self { service, client, vm, lab, _set: set })
    }

    /// Runs a command that may take long.
    ///
    /// # Errors
    /// If it does not end well; with what it said.
    pub async fn long(&self, command: &str) -> Tested<String> {
        let Answer { status, output } = self.lab.run_within(command, LONG).await?;
        if status == 0 { Ok(output) } else { Err(format!("`{command}` ended with {status}: {output}").into()) }
    }

    /// Puts this script where the agent takes it for a writer, under each of these names.
    ///
    /// # Errors
    /// If the guest does not do it.
    pub async fn script(&self, names: &[&str], text: &str) -> Tested {
        self.lab.sh("mkdir -p /etc/stillpoint/writers.d").await?;
        for name in names {
            let path = format!("/etc/stillpoint/writers.d/{name}");
            self.lab
                .sh(&format!("cat > /tmp/new <<'END'\n{text}END\nchmod 755 /tmp/new && mv /tmp/new {path}"))
                .await?;
        }
        Ok(())
    }

    /// Waits until these writers are registered.
    ///
    /// # Errors
    /// If they are not within a minute.
    pub async fn writers(&self, wanted: &[&str]) -> Tested {
        for _ in 0..600 {
            let found = self.client.writers(&self.vm).await.unwrap_or_default();
            if wanted.iter().all(|name| found.iter().any(|writer| writer.writer == *name)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("not registered: {wanted:?}").into())
    }

    /// A production checkpoint, or none.
    ///
    /// # Errors
    /// If there is none, or it is not of the applications.
    pub async fn checkpoint(&self, name: &str) -> Tested<Checkpoint> {
        let asked = self.client.create_checkpoint(&self.vm, name, Some(CheckpointPolicy::ProductionOnly)).await?;
        let made = self.client.wait(&asked.id).await?;
        let made = made.checkpoint_response().ok_or("no checkpoint")?.clone();
        if made.consistency != Some(Consistency::Application) {
            return Err(format!("it is {:?}", made.consistency).into());
        }
        Ok(made)
    }

    /// Goes back to the checkpoint, and boots from it.
    ///
    /// # Errors
    /// If that is not possible.
    pub async fn boot_from(&mut self, made: &Checkpoint) -> Tested {
        self.client.wait(&self.client.apply_checkpoint(&self.vm, made.id).await?.id).await?;
        self.client.wait(&self.client.start_vm(&self.vm).await?.id).await?;
        self.lab = self.service.lab().await?;
        Ok(())
    }
}

/// What a writer that was held gave to be kept.
///
/// # Errors
/// If it was not held, or gave nothing of this name.
pub fn kept<'a>(made: &'a Checkpoint, writer: &str, key: &str) -> Tested<&'a str> {
    let found = made.writers.iter().find(|found| found.writer == writer);
    let found = found.ok_or_else(|| format!("{writer} is not named"))?;
    if found.result != Some("HELD") {
        return Err(format!("{writer} is {:?}: {}", found.result, found.detail).into());
    }
    Ok(found.metadata.get(key).ok_or_else(|| format!("{writer} kept no {key}"))?)
}
