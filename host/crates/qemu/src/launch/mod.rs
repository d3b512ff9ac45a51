//! Starts an instance, paused before its first instruction.
//!
//! ```text
//! folder + launched.json ─▶ TPM ─▶ sh (writes `process`) ─▶ setsid ─▶ QEMU -S ─▶ control socket greets ─▶ attached
//! ```
//! The service may die at any arrow: what is needed to find the process again is written before it.

mod arguments;

use std::{ffi::OsString, fs::File, io, os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use stillpoint_common::{Accelerator, Firmware};
use stillpoint_engine::ports::{HypervisorError, LaunchSpec, Launched};
use tokio::process::Child;

use arguments::Hardware;
pub(crate) use arguments::{AGENT, panic_action};

use crate::{
    attached::{Attached, last_words},
    process::{self, ProcessIdentity},
    qmp::commands::QueryKvm,
    registry::Shared,
    tpm,
};

/// What is kept of a launch beside the process.
#[derive(Serialize, Deserialize)]
struct Record {
    accelerator: Accelerator,
}

const RECORD: &str = "launched.json";

pub(crate) async fn launch(shared: &Arc<Shared>, spec: &LaunchSpec) -> Result<Launched, HypervisorError> {
    let folder = shared.layout.instance(spec.instance);
    match ProcessIdentity::find(&folder).map_err(|source| failed("looking for QEMU", source))? {
        Some(process) if process.is_alive() => {
            let attached = shared.attach(spec.instance).await?;
            return answer(&attached, &folder).await;
        }
        Some(ended) => shared.forget(spec.instance, &ended),
        None => {}
    }
    let code = &shared.config.uefi_code;
    if spec.definition.firmware != Firmware::Bios && !code.exists() {
        return Err(HypervisorError::NoFirmware { path: code.clone() });
    }
    let accelerator = shared.accelerator.choose(spec.definition.accelerator, shared).await?;
    let hardware = match accelerator {
        Accelerator::Kvm => Hardware::Kvm,
        Accelerator::Tcg(_) => Hardware::Tcg,
    };
    let line = arguments::arguments(&shared.config, &shared.layout, spec, hardware)
        .map_err(|message| HypervisorError::LaunchFailed { message })?;
    let ended = tpm::end(&shared.layout.tpm(spec.instance)).await;
    let prepared = ended.and_then(|()| prepare(&folder, &Record { accelerator }));
    prepared.map_err(|source| failed("preparing the runtime folder of the VM", source))?;
    let launched = start(shared, spec, &line, &folder).await;
    if launched.is_err() {
        // Its folder says how to find a TPM that does not end.
        if tpm::end(&shared.layout.tpm(spec.instance)).await.is_ok() {
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
    launched
}

/// Starts the TPM, if there is one, then QEMU, which connects to it. On failure no QEMU is left.
async fn start(
    shared: &Arc<Shared>,
    spec: &LaunchSpec,
    line: &[OsString],
    folder: &Path,
) -> Result<Launched, HypervisorError> {
    let log = File::options().append(true).create(true).open(shared.layout.log(spec.instance));
    let log = log.map_err(|source| failed("starting QEMU", source))?;
    if let Some(state) = &spec.tpm {
        tpm::start(&shared.config, &shared.layout, spec.instance, state).await?;
    }
    let child = process::start(folder, &shared.config.qemu, line, &log);
    let child = child.map_err(|source| failed("starting QEMU", source))?;
    begin(shared, spec, child, folder).await
}

/// Waits until the new process answers. If it does not, it is ended, and its own words are the error.
async fn begin(
    shared: &Arc<Shared>,
    spec: &LaunchSpec,
    mut child: Child,
    folder: &Path,
) -> Result<Launched, HypervisorError> {
    let started = async {
        let attached = shared.attach_within(spec.instance, shared.config.deadlines.start).await?;
        answer(&attached, folder).await
    };
    let log = shared.layout.log(spec.instance);
    let launched = tokio::select! {
        biased;
        status = child.wait() => {
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(HypervisorError::LaunchFailed { message: last_words(&log).unwrap_or(status) });
        }
        launched = started => launched,
    };
    match launched {
        Ok(launched) => {
            tokio::spawn(async move { child.wait().await });
            Ok(launched)
        }
        Err(error) => {
            let _ = child.kill().await;
            let message = last_words(&log).map_or_else(|| error.to_string(), |words| format!("{error}: {words}"));
            Err(HypervisorError::LaunchFailed { message })
        }
    }
}

async fn answer(attached: &Attached, folder: &Path) -> Result<Launched, HypervisorError> {
    let version = attached.version.to_string();
    let record = std::fs::read(folder.join(RECORD)).ok();
    let accelerator = match record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok()) {
        Some(record) => record.accelerator,
        None if attached.run(&QueryKvm {}).await?.enabled => Accelerator::Kvm,
        None => Accelerator::Tcg("the reason was not kept".to_owned()),
    };
    Ok(Launched { accelerator, version })
}

/// An empty folder for the service alone, with the record in it.
fn prepare(folder: &Path, record: &Record) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::write(folder.join(RECORD), serde_json::to_vec(record)?)
}

fn failed(what: &str, source: io::Error) -> HypervisorError {
    if source.kind() == io::ErrorKind::StorageFull {
        return HypervisorError::NoSpace { message: what.to_owned() };
    }
    HypervisorError::Io { what: what.to_owned(), source }
}
