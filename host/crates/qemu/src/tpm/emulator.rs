//! The process of a TPM.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::Path,
    time::Duration,
};

use stillpoint_common::InstanceId;
use stillpoint_engine::{
    layout::RuntimeLayout,
    ports::{HypervisorError, TpmError},
};
use tokio::{
    process::Child,
    time::{Instant, sleep},
};

use super::is_there;
use crate::{attached::last_words, config::QemuConfig, process};

/// The link to the state folder. swtpm cannot be told of a folder with a comma in its path.
const STATE: &str = "state";

/// Starts the TPM of an instance, whose runtime folder is there. Returns when QEMU can connect to it. On failure, and if
/// the future is dropped, [`end`] ends what was begun.
pub(crate) async fn start(
    config: &QemuConfig,
    layout: &RuntimeLayout,
    instance: InstanceId,
    state: &Path,
) -> Result<(), HypervisorError> {
    if !is_there(&config.swtpm) {
        return Err(HypervisorError::Tpm(TpmError::NoEmulator { program: config.swtpm.clone() }));
    }
    if !state.is_dir() {
        let (folder, message) = (state.to_owned(), "there is no such folder".to_owned());
        return Err(HypervisorError::Tpm(TpmError::Unusable { folder, message }));
    }
    let (folder, socket, log) = (layout.tpm(instance), layout.tpm_socket(instance), layout.log(instance));
    let begun = begin(config, &folder, &socket, &log, state);
    let io = |source| HypervisorError::Io { what: "starting the TPM of the VM".to_owned(), source };
    let mut child = begun.map_err(io)?;
    let until = Instant::now() + config.deadlines.start;
    // It listens right after the socket is there, long before QEMU comes to it. A connection to try it would end it.
    while !socket.exists() {
        if let Some(status) = child.try_wait().map_err(io)? {
            let message = format!("the TPM did not start: {}", last_words(&log).unwrap_or(status.to_string()));
            return Err(HypervisorError::LaunchFailed { message });
        }
        if Instant::now() > until {
            let waited = config.deadlines.start;
            return Err(HypervisorError::Unanswered { command: "the start of its TPM".to_owned(), waited });
        }
        sleep(Duration::from_millis(5)).await;
    }
    tokio::spawn(async move { child.wait().await });
    Ok(())
}

fn begin(config: &QemuConfig, folder: &Path, socket: &Path, log: &Path, state: &Path) -> io::Result<Child> {
    DirBuilder::new().mode(0o700).create(folder)?;
    symlink(state, folder.join(STATE))?;
    let log = File::options().append(true).create(true).open(log)?;
    process::start(folder, &config.swtpm, &arguments(&folder.join(STATE), socket), &log)
}

fn arguments(state: &Path, socket: &Path) -> Vec<OsString> {
    let mut line: Vec<OsString> = ["socket", "--tpm2", "--terminate", "--tpmstate"].map(Into::into).into();
    let mut add = |before: &str, path: &Path, after: &str| {
        let mut word = OsString::from(before);
        word.push(path);
        word.push(after);
        line.push(word);
    };
    add("dir=", state, ",mode=0600");
    add("--ctrl=type=unixio,path=", socket, ",mode=0600");
    line
}

/// Waits until the TPM that belongs to this runtime folder has ended, after its QEMU has; one that does not end is killed.
/// None there is fine.
pub(crate) async fn end(folder: &Path) -> io::Result<()> {
    process::end(folder, "the TPM").await
}
