//! Loads devices into an instance that awaits its memory, and lets the pages follow while the VM runs.
//!
//! To QEMU it is the end of a live migration whose source is a process of ours: "postcopy". A page that the guest wants
//! and that is not there yet makes its thread wait until it has come, which needs userfaultfd.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::json;
use stillpoint_common::{InstanceId, MemoryState};
use stillpoint_engine::ports::{Capture, HypervisorError, Loaded, ProgressSink, RunState};
use tokio::time::{Instant, sleep};

use super::{EASY, OF_LOADING, QUICK};
use crate::{
    attached::{Attached, last_words, refused},
    observe::{capture, run_state, takes_in},
    pages::{self, Stand},
    qmp::commands::{GetFd, MigrateIncoming, MigrateSetCapabilities, QueryMigrate, QueryStatus},
    registry::Shared,
};

/// The name QEMU knows the descriptor by.
const SOURCE: &str = "pages";

/// Returns when the VM can run. It is looked after from then on.
pub(crate) async fn load_by_page(
    shared: &Arc<Shared>,
    instance: InstanceId,
    memory: &MemoryState,
    within: Duration,
) -> Result<Loaded, HypervisorError> {
    let at = shared.attach(instance).await?;
    let Some(server) = &shared.config.page_server else {
        return Ok(Loaded::NotByPage("this service has nothing that serves pages".to_owned()));
    };
    // QEMU tries on the spot whether userfaultfd does all that is needed.
    match by_page(&at, true).await {
        Err(HypervisorError::Refused { message, .. }) => return Ok(Loaded::NotByPage(impossible(&message))),
        other => other?,
    };
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let failed = |errno: rustix::io::Errno| HypervisorError::Io {
        what: "opening a way for the memory".to_owned(),
        source: errno.into(),
    };
    let (ours, theirs) = pair.map_err(failed)?;
    let folder = shared.layout.pages(instance);
    if let Err(why) = pages::start(server, &folder, memory, ours).await {
        by_page(&at, false).await?;
        return Ok(Loaded::NotByPage(why));
    }
    let loaded = can_run(&at, &folder, theirs, within).await;
    match (loaded, pages::stand(&folder)) {
        (Ok(()), _) => {
            pages::watch(shared, instance, at.process.clone());
            Ok(Loaded::WhileItRuns)
        }
        // What serves the pages knows better what is wrong with them.
        (Err(_), Stand::Ended(why)) => Err(refused("migrate-incoming", why)),
        (Err(HypervisorError::Gone), _) => {
            let message = last_words(&at.log).unwrap_or_else(|| "QEMU ended without a word".to_owned());
            Err(refused("migrate-incoming", message))
        }
        (Err(error), _) => Err(error),
    }
}

/// Tells QEMU whether its memory will come page by page.
async fn by_page(at: &Attached, state: bool) -> Result<(), HypervisorError> {
    let capabilities = OF_LOADING.map(|capability| json!({"capability": capability, "state": state})).to_vec();
    at.run(&MigrateSetCapabilities { capabilities }).await.map(drop)
}

fn impossible(message: &str) -> String {
    format!(
        "QEMU says {message:?} (to let it run before, it needs userfaultfd: root, or vm.unprivileged_userfaultfd=1)"
    )
}

async fn can_run(
    at: &Attached,
    folder: &std::path::Path,
    socket: OwnedFd,
    within: Duration,
) -> Result<(), HypervisorError> {
    let deadline = Instant::now() + within;
    at.run_with(&GetFd { fdname: SOURCE }, Some(socket), at.deadlines.command).await?;
    at.run(&MigrateIncoming { uri: &format!("fd:{SOURCE}") }).await?;
    while run_state(&at.run(&QueryStatus {}).await?.status) == RunState::AwaitingMemory {
        if let Capture::Failed(message) = capture(at.run(&QueryMigrate {}).await?) {
            return Err(refused("migrate-incoming", message));
        }
        if let Stand::Ended(why) = pages::stand(folder) {
            return Err(refused("migrate-incoming", why));
        }
        if Instant::now() >= deadline {
            return Err(HypervisorError::Unanswered { command: "migrate-incoming".to_owned(), waited: within });
        }
        sleep(QUICK).await;
    }
    Ok(())
}

/// Returns when all pages are in. Whoever looks after the instance ends it if they do not come.
pub(crate) async fn is_in(
    at: &Attached,
    folder: &std::path::Path,
    progress: &ProgressSink,
) -> Result<(), HypervisorError> {
    loop {
        match pages::stand(folder) {
            Stand::None => return Ok(()),
            Stand::Whole if !takes_in(&at.run(&QueryMigrate {}).await?) => return Ok(()),
            Stand::Whole => {}
            Stand::Serving(done) => progress(done),
            Stand::Ended(_) => drop(at.run(&QueryStatus {}).await?),
        }
        sleep(EASY).await;
    }
}
