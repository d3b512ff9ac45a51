//! Looks after a QEMU that takes its memory in, until it has all of it.
//!
//! If the rest cannot be had, QEMU is ended: its guest would wait for ever. What it has done since it ran is lost with it;
//! the state that it came from is not.

use std::{
    fs,
    path::Path,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use stillpoint_common::InstanceId;
use stillpoint_engine::{
    ports::HypervisorEventKind,
    served::{Served, ServedEnd},
};
use tokio::time::{sleep, timeout};

use super::{LOST, Stand, stand};
use crate::{observe::takes_in, process::ProcessIdentity, qmp::commands::QueryMigrate, registry::Shared};

/// How long QEMU may take to say whether it has all pages.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Looks after an instance until it has all of its memory, or has no process, or the service ends. Once is enough.
pub(crate) fn watch(shared: &Arc<Shared>, instance: InstanceId, process: ProcessIdentity) {
    if shared.taking_in().insert(instance) {
        tokio::spawn(watched(Arc::downgrade(shared), instance, process));
    }
}

/// Boxed, since it attaches, which may start it.
fn watched(
    shared: Weak<Shared>,
    instance: InstanceId,
    process: ProcessIdentity,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        look_after(shared.clone(), instance, process).await;
        if let Some(shared) = shared.upgrade() {
            shared.taking_in().remove(&instance);
        }
    })
}

async fn look_after(shared: Weak<Shared>, instance: InstanceId, process: ProcessIdentity) {
    loop {
        sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        if !process.is_alive() {
            return;
        }
        let folder = shared.layout.pages(instance);
        match stand(&folder) {
            Stand::None => return,
            Stand::Serving(_) => {}
            Stand::Whole => return shared.tell(instance, HypervisorEventKind::MemoryIsIn),
            // One that does not answer waits for a page itself: where a device of its reads the guest's memory, all of it does.
            Stand::Ended(why) => match timeout(ANSWER, has_all(&shared, instance)).await {
                Ok(Some(true)) if note_whole(&folder) => {}
                Ok(Some(true)) => sleep(ANSWER).await,
                Ok(Some(false) | None) | Err(_) => return lose(&folder, instance, &process, &why),
            },
        }
    }
}

/// Whether QEMU has all pages, although what served them has not said so.
async fn has_all(shared: &Arc<Shared>, instance: InstanceId) -> Option<bool> {
    let attached = shared.attach(instance).await.ok()?;
    let migration = attached.run(&QueryMigrate {}).await.ok()?;
    Some(!takes_in(&migration) && migration.status.as_deref() != Some("failed"))
}

/// False if it has to be tried again: the file system is full, say.
fn note_whole(folder: &Path) -> bool {
    let told = Served { end: Some(ServedEnd::Whole), ..Served::heard(folder).unwrap_or_default() };
    let noted = told.tell(folder);
    if let Err(error) = &noted {
        tracing::warn!(folder = %folder.display(), %error, "it could not be noted that a VM has all of its memory");
    }
    noted.is_ok()
}

/// Why is written down first: whoever finds QEMU gone finds it.
fn lose(folder: &Path, instance: InstanceId, process: &ProcessIdentity, why: &str) {
    tracing::error!(%instance, why, "the VM cannot take in the rest of its memory: it is ended");
    if let Err(error) = fs::write(folder.join(LOST), why) {
        tracing::error!(%instance, %error, "it could not be written down why the VM is ended");
    }
    if let Err(error) = process.kill() {
        tracing::error!(%instance, %error, "the VM could not be ended");
    }
}
