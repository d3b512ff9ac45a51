//! Where the runtime files of an instance are. Host service and adapters agree on it here.

use std::path::{Path, PathBuf};

use stillpoint_common::InstanceId;

/// The folder for runtime files of all instances: `/run/stillpoint/vm`, say. Paths below stay short, since the path of
/// a unix socket may have 107 bytes at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeLayout {
    root: PathBuf,
}

impl RuntimeLayout {
    /// Below this folder.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of one instance.
    #[must_use]
    pub fn instance(&self, instance: InstanceId) -> PathBuf {
        self.root.join(instance.to_string())
    }

    /// Control socket of an instance, for the service alone.
    #[must_use]
    pub fn control_socket(&self, instance: InstanceId) -> PathBuf {
        self.instance(instance).join("qmp")
    }

    /// Second control socket, for a person with a debugger.
    #[must_use]
    pub fn debug_socket(&self, instance: InstanceId) -> PathBuf {
        self.instance(instance).join("qmp-debug")
    }

    /// Socket of the channel to the agent.
    #[must_use]
    pub fn agent_socket(&self, instance: InstanceId) -> PathBuf {
        self.instance(instance).join("agent")
    }

    /// Folder of the process of an instance's TPM.
    #[must_use]
    pub fn tpm(&self, instance: InstanceId) -> PathBuf {
        self.instance(instance).join("tpm")
    }

    /// Socket of an instance's TPM.
    #[must_use]
    pub fn tpm_socket(&self, instance: InstanceId) -> PathBuf {
        self.tpm(instance).join("socket")
    }

    /// Folder of the process that serves pages to an instance that takes its memory in.
    #[must_use]
    pub fn pages(&self, instance: InstanceId) -> PathBuf {
        self.instance(instance).join("pages")
    }

    /// What the hypervisor's process printed.
    #[must_use]
    pub fn log(&self, instance: InstanceId) -> PathBuf {
        self.instance(instance).join("log")
    }
}
