//! `stillpoint backup read-disk|open-disk`

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use stillpoint_common::DiskName;

use super::{Context, session};
use crate::{
    CliError,
    args::BackupRef,
    client::DiskPart,
    output::{Answer, text},
};

/// Copies a disk to a raw image. On failure the part that was written stays.
pub(super) async fn read(context: &Context, asked: &BackupRef, disk: &DiskName, to: &Path) -> Result<Answer, CliError> {
    let id = session::id(context, asked).await?;
    let failed = |error: io::Error| CliError::Io { what: to.display().to_string(), source: error };
    let mut parts = context.client.read_disk(&asked.vm, id, disk, 0, 0).await?;
    let file = File::create_new(to).map_err(failed)?;
    file.set_len(parts.size()).map_err(failed)?;
    let mut bytes = 0;
    while let Some(part) = parts.next().await? {
        match part {
            DiskPart::Zeros(..) => {}
            DiskPart::Data(offset, data) => {
                file.write_all_at(&data, offset).map_err(failed)?;
                bytes += data.len() as u64;
            }
        }
    }
    file.sync_all().map_err(failed)?;
    let size = parts.size();
    let said = format!("{} of {} were read", text::bytes(bytes), text::bytes(size));
    Answer::new(said, &serde_json::json!({ "size_bytes": size, "data_bytes": bytes }))
}

pub(super) async fn open(context: &Context, asked: &BackupRef, disk: &DiskName) -> Result<Answer, CliError> {
    let id = session::id(context, asked).await?;
    let uri = context.client.open_disk(&asked.vm, id, disk).await?;
    Answer::new(uri.clone(), &serde_json::json!({ "uri": uri }))
}
