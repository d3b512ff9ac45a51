//! Reading disks of backup sessions.

use std::ops::Range;

use stillpoint_common::{BackupId, DiskName, VmId};
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, backups_client::BackupsClient},
};
use tonic::Streaming;

use super::{Client, ClientError};

/// A disk that is being read. Dropping it ends that.
#[derive(Debug)]
pub struct DiskStream {
    client: Client,
    stream: Streaming<pb::ReadDiskResponse>,
    size: u64,
    /// What is still to come.
    left: Range<u64>,
}

/// A part of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskPart {
    /// These bytes begin there.
    Data(u64, Vec<u8>),
    /// So many bytes from there on read as zeros.
    Zeros(u64, u64),
}

impl Client {
    /// Reads a disk of a session from an offset on; with length 0 up to its end.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn read_disk(
        &self,
        vm: &VmId,
        id: BackupId,
        disk: &DiskName,
        offset: u64,
        length: u64,
    ) -> Result<DiskStream, ClientError> {
        let request = pb::ReadDiskRequest {
            backup: names::backup(vm, id),
            disk: disk.to_string(),
            offset_bytes: offset,
            length_bytes: length,
        };
        let answer = BackupsClient::new(self.channel.clone()).read_disk(request).await;
        let mut stream = DiskStream { client: self.clone(), stream: self.answered(answer)?, size: 0, left: 0..0 };
        if stream.message().await?.is_none() {
            return Err(ClientError::cut_off("it ended before it began"));
        }
        let end = if length == 0 { stream.size } else { offset.saturating_add(length).min(stream.size) };
        stream.left = offset..end;
        Ok(stream)
    }

    /// Serves a disk of a session to programs of the service's host that speak NBD; answers the URI.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn open_disk(&self, vm: &VmId, id: BackupId, disk: &DiskName) -> Result<String, ClientError> {
        let request = pb::OpenDiskRequest { backup: names::backup(vm, id), disk: disk.to_string() };
        let answer = BackupsClient::new(self.channel.clone()).open_disk(request).await;
        Ok(self.answered(answer)?.uri)
    }
}

impl DiskStream {
    /// Size of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    async fn message(&mut self) -> Result<Option<pb::ReadDiskResponse>, ClientError> {
        let message = self.stream.message().await;
        let message = message.map_err(|status| ClientError::from_status(&self.client.socket, &status))?;
        message.iter().for_each(|message| self.size = message.disk_size_bytes);
        Ok(message)
    }

    /// The next part, in order and without gaps; `None` when all that was asked for has come.
    ///
    /// # Errors
    /// The service could not go on, or cannot be reached; or its answer has a gap, or ends too early: what was read is not the
    /// disk then.
    pub async fn next(&mut self) -> Result<Option<DiskPart>, ClientError> {
        let message = self.message().await?;
        let length = message.as_ref().map(|message| (message.data.len() as u64).max(message.zero_bytes));
        let begins = message.as_ref().map_or(self.left.start, |message| message.offset_bytes);
        let room = self.left.end.saturating_sub(self.left.start);
        if begins != self.left.start || length.map_or(room != 0, |length| length > room) {
            let why = format!("it has a gap, or ended before byte {} of the disk", self.left.end);
            return Err(ClientError::cut_off(why));
        }
        self.left.start += length.unwrap_or_default();
        Ok(message.map(|message| match message.data.is_empty() {
            true => DiskPart::Zeros(message.offset_bytes, message.zero_bytes),
            false => DiskPart::Data(message.offset_bytes, message.data),
        }))
    }
}
