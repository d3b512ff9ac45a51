//! What the guest says of itself.

use std::fs;

/// Names of the guest's system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemNames {
    /// Its host name.
    pub hostname: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Changes with every boot.
    pub boot_id: String,
}

impl SystemNames {
    /// Asks the kernel.
    #[must_use]
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            hostname: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            boot_id: boot_id.trim().to_owned(),
        }
    }
}
