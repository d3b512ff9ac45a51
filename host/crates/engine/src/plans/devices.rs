//! Files whose file system has come back under another device number.
//!
//! A file is known by device and inode. Inodes stay; device numbers may change when the host restarts. So a file that
//! lies under its path with its inode, on another device, is the same file, and its record follows. A file with another
//! inode is another file: that is for the plan that meets it to refuse.

use stillpoint_common::{FileIdentity, Layer};

use crate::{catalogue::Changes, context::Cx, error::StepError, truth};

/// Lets the records of a VM's layers follow their files to other device numbers.
pub(super) async fn follow_devices(cx: &Cx) -> Result<(), StepError> {
    let forest = cx.catalogue().forest(&cx.vm).await?;
    // What cannot be seen is for the plan that meets it to refuse.
    for (layer, seen) in truth::see(cx.ports(), forest.iter()).await {
        if let Some(identity) = seen.ok().and_then(|seen| moved(layer.identity, seen.identity)) {
            tracing::info!(vm = %cx.vm, path = %layer.file.path.display(), "its file system has another device number");
            let here = Layer { identity, ..layer.clone() };
            let changes = Changes::default().delete_layer(&cx.vm, layer).set_layer(&cx.vm, &here);
            cx.catalogue().commit(changes).await?;
        }
    }
    Ok(())
}

/// The new identity of a file that is the same on another device.
fn moved(known: FileIdentity, found: FileIdentity) -> Option<FileIdentity> {
    is_the_same_elsewhere(known, found).then_some(found)
}

/// It is the same file, whose device has another number now.
pub(super) const fn is_the_same_elsewhere(known: FileIdentity, found: FileIdentity) -> bool {
    known.inode == found.inode && known.device != found.device
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_device_number_may_change() {
        let file = |device, inode| FileIdentity { device, inode };
        assert_eq!(moved(file(1, 7), file(1, 7)), None);
        assert_eq!(moved(file(1, 7), file(2, 7)), Some(file(2, 7)));
        assert_eq!(moved(file(1, 7), file(1, 8)), None, "replaced");
        assert_eq!(moved(file(1, 7), file(2, 8)), None, "replaced, and on another device");
    }
}
