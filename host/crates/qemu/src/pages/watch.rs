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
use tokio::time::{Instant, error::Elapsed, sleep, timeout};

use super::{LOST, Stand, stand};
use crate::{
    process::ProcessIdentity,
    qmp::commands::{Migration, QueryMigrate},
    registry::Shared,
};

/// How long QEMU may take to say whether it has all pages.
const ANSWER: Duration = Duration::from_secs(5);
/// How long QEMU may take to end, or to be done, when what served its pages has ended: who kills both kills one of them
/// first, and of a QEMU that is gone nothing more is lost than it has lost by itself.
const SETTLE: Duration = Duration::from_secs(1);
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
            Stand::Ended(why) => match fate(&shared, instance, &process).await {
                Fate::Gone => return,
                Fate::HasAll if note_whole(&folder) => {}
                Fate::HasAll => sleep(ANSWER).await,
                Fate::Lost => {
                    drop(shared);
                    return lose(&folder, instance, &process, &why).await;
                }
            },
        }
    }
}

/// What becomes of a QEMU when what served its pages has ended and has not said that these were all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Gone,
    HasAll,
    Lost,
}

async fn fate(shared: &Arc<Shared>, instance: InstanceId, process: &ProcessIdentity) -> Fate {
    // One that does not answer waits for a page itself: where a device of its reads the guest's memory, all of it does.
    settles(process, || timeout(ANSWER, has_all(Arc::clone(shared), instance))).await
}

/// Waits for one of the two better ends.
async fn settles<A: Future<Output = Result<Option<bool>, Elapsed>>>(
    process: &ProcessIdentity,
    has_all: impl Fn() -> A,
) -> Fate {
    let deadline = Instant::now() + SETTLE;
    loop {
        if let Ok(Some(true)) = has_all().await {
            return Fate::HasAll;
        }
        if !process.is_alive() {
            return Fate::Gone;
        }
        if Instant::now() >= deadline {
            return Fate::Lost;
        }
        sleep(LOOK).await;
    }
}

/// Whether QEMU has all pages, although what served them has not said so.
async fn has_all(shared: Arc<Shared>, instance: InstanceId) -> Option<bool> {
    let attached = shared.attach(instance).await.ok()?;
    let migration = attached.run(&QueryMigrate {}).await.ok()?;
    Some(all_in(&migration))
}

/// QEMU says so until it saves a memory, and none is saved before it is noted here that all of it is in.
fn all_in(migration: &Migration) -> bool {
    migration.status.as_deref() == Some("completed")
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

/// Why is written down first: whoever finds QEMU gone finds it. Returns when QEMU is gone.
async fn lose(folder: &Path, instance: InstanceId, process: &ProcessIdentity, why: &str) {
    tracing::error!(%instance, why, "the VM cannot take in the rest of its memory: it is ended");
    if let Err(error) = fs::write(folder.join(LOST), why) {
        tracing::error!(%instance, %error, "it could not be written down why the VM is ended");
    }
    while process.is_alive() {
        if let Err(error) = process.kill() {
            tracing::error!(%instance, %error, "the VM could not be ended; it is tried again");
        }
        if !process.ended(ANSWER).await {
            tracing::error!(%instance, "the VM does not end; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs::File, path::PathBuf};

    use serde_json::json;

    use super::*;
    use crate::process::start;

    #[test]
    fn only_a_load_that_is_done_has_brought_all_pages() {
        let told = |value| all_in(&serde_json::from_value::<Migration>(value).unwrap());
        assert!(told(json!({"status": "completed"})));
        for other in ["none", "setup", "active", "postcopy-active", "postcopy-paused", "failed", "cancelled", "new"] {
            assert!(!told(json!({"status": other})), "{other}");
        }
        assert!(!told(json!({})));
    }

    /// Stands for a QEMU that lives for so many seconds.
    async fn sleeper(folder: &Path, seconds: &str) -> ProcessIdentity {
        let log = File::create(folder.join("log")).unwrap();
        let mut child = start(folder, &PathBuf::from("sleep"), &[OsString::from(seconds)], &log).unwrap();
        tokio::spawn(async move { child.wait().await });
        loop {
            match ProcessIdentity::read(folder) {
                Some(process) => return process,
                None => sleep(LOOK).await,
            }
        }
    }

    #[tokio::test]
    async fn a_qemu_that_ends_or_is_done_in_a_moment_has_not_lost_its_memory() {
        let folder = tempfile::tempdir().unwrap();
        let brief = sleeper(folder.path(), "0.4").await;
        assert_eq!(settles(&brief, async || Ok(None)).await, Fate::Gone);
        let folder = tempfile::tempdir().unwrap();
        let stays = sleeper(folder.path(), "60").await;
        let begun = Instant::now();
        assert_eq!(settles(&stays, async || Ok(Some(begun.elapsed() > SETTLE / 2))).await, Fate::HasAll);
        assert_eq!(settles(&stays, async || Ok(Some(false))).await, Fate::Lost);
        lose(folder.path(), InstanceId::generate(), &stays, "it is bad").await;
        assert!(!stays.is_alive());
        assert_eq!(fs::read_to_string(folder.path().join(LOST)).unwrap(), "it is bad");
    }
}
