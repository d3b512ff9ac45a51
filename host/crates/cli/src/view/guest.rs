//! The system in a VM, and the host.

use std::collections::BTreeMap;

use serde::Serialize;
use stillpoint_common::{WriterComponent, WriterError, WriterLevel};
use stillpoint_proto::{
    convert::{policy, writer},
    v1 as pb,
};

use super::{ObservedService, read_took};

/// The system in a VM.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Guest {
    /// `vms/{vm}/guest`
    pub name: String,
    /// Version of the agent.
    pub agent_version: String,
    /// The guest's own host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Its file systems, and whether a production checkpoint would hold each.
    pub file_systems: Vec<FileSystem>,
    /// Its registered writers.
    pub writers: Vec<Writer>,
    /// Services that the agent has seen among its processes.
    pub services: Vec<ObservedService>,
}

/// A file system of a guest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileSystem {
    /// Where it is mounted in the guest.
    pub mount_point: String,
    /// What it is mounted from.
    pub source: String,
    /// `ext4`, `xfs`, …
    pub fs_type: String,
    /// `SELECTED`, `HELD`, `LEFT_OUT`, `FAILED`, `TIMED_OUT`.
    pub result: Option<&'static str>,
    /// Why, where it was left out or failed.
    pub detail: String,
    /// How long its freeze took.
    pub took_ms: f64,
}

/// A writer of a guest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Writer {
    /// Its name.
    pub writer: String,
    /// `SELECTED`, `HELD`, `LEFT_OUT`, `FAILED`, `TIMED_OUT`.
    pub result: Option<&'static str>,
    /// Why, where it refused or failed.
    pub detail: String,
    /// The kind of writer.
    pub id: String,
    /// This registration of it.
    pub instance: String,
    /// Its level.
    pub level: WriterLevel,
    /// Version of the application.
    pub version: String,
    /// Where it stands, in the words and with the number of `vssadmin`.
    pub state: String,
    /// The number.
    pub state_number: u8,
    /// What went wrong last.
    pub last_error: Option<WriterError>,
    /// What to do about that.
    pub retry: Option<String>,
    /// What it looks after.
    pub components: Vec<WriterComponent>,
    /// What it gave to be kept with the checkpoint.
    pub metadata: BTreeMap<String, String>,
    /// How long its freeze took.
    pub took_ms: f64,
}

/// The host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// Version of the service.
    pub service_version: String,
    /// Version of QEMU; empty if it could not be run.
    pub qemu_version: String,
    /// What VMs with accelerator AUTO run on.
    pub accelerator: String,
    /// Folder of the catalogue.
    pub state_folder: String,
    /// VMs defined.
    pub vms: u32,
    /// What stands in the way, in words.
    pub problems: Vec<String>,
}

impl From<pb::Guest> for Guest {
    fn from(guest: pb::Guest) -> Self {
        Self {
            name: guest.name,
            agent_version: guest.agent_version,
            hostname: guest.hostname,
            kernel: guest.kernel,
            file_systems: guest.file_systems.into_iter().map(FileSystem::from).collect(),
            writers: guest.writers.into_iter().map(Writer::from).collect(),
            services: guest.services.into_iter().map(ObservedService::from).collect(),
        }
    }
}

impl From<pb::FileSystemOutcome> for FileSystem {
    fn from(outcome: pb::FileSystemOutcome) -> Self {
        Self {
            mount_point: outcome.mount_point,
            source: outcome.source,
            fs_type: outcome.fs_type,
            result: policy::read_outcome(outcome.result),
            detail: outcome.detail,
            took_ms: read_took(outcome.took.as_ref()),
        }
    }
}

impl From<pb::WriterOutcome> for Writer {
    fn from(outcome: pb::WriterOutcome) -> Self {
        let took = outcome.took.and_then(|took| took.try_into().ok()).unwrap_or_default();
        let facts = writer::read_facts(&outcome.facts.unwrap_or_default(), took, str::to_owned);
        Self {
            writer: outcome.writer,
            result: policy::read_outcome(outcome.result),
            detail: outcome.detail,
            id: facts.id,
            instance: facts.instance,
            level: facts.level,
            version: facts.version,
            state: facts.state.to_string(),
            state_number: facts.state.number(),
            last_error: facts.last_error,
            retry: facts.last_error.map(|error| error.retry().to_string()),
            components: facts.components,
            metadata: facts.metadata,
            took_ms: read_took(outcome.took.as_ref()),
        }
    }
}

impl From<pb::Host> for Host {
    fn from(host: pb::Host) -> Self {
        let pb::Host { service_version, qemu_version, accelerator, state_folder, vms, problems } = host;
        Self { service_version, qemu_version, accelerator, state_folder, vms, problems }
    }
}
