//! Finds and opens the virtio-serial port that the host gave us by name.

use std::fs::File;
use std::path::PathBuf;

/// The port's name on both sides.
pub(crate) const NAME: &str = "org.stillpoint.lab.0";

/// Opens the port for reading and writing. A port has one opener at a time: a second one gets "busy".
pub(crate) fn open() -> Result<File, String> {
    let path = find().ok_or_else(|| format!("this machine has no port {NAME}"))?;
    File::options().read(true).write(true).open(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// There is no udev in the test guest: the kernel's own list tells which device has the name.
fn find() -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    let named = ports
        .flatten()
        .find(|port| std::fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == NAME))?;
    Some(PathBuf::from("/dev").join(named.file_name()))
}
