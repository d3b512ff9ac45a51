//! Reading disks of backup sessions.

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
        let mut stream = DiskStream { client: self.clone(), stream: self.answered(answer)?, size: 0 };
        stream.message().await?;
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

    /// The next part, in order; `None` at the end.
    ///
    /// # Errors
    /// The service could not go on, or cannot be reached.
    pub async fn next(&mut self) -> Result<Option<DiskPart>, ClientError> {
        let part = |message: pb::ReadDiskResponse| match message.data.is_empty() {
            true => DiskPart::Zeros(message.offset_bytes, message.zero_bytes),
            false => DiskPart::Data(message.offset_bytes, message.data),
        };
        Ok(self.message().await?.map(part))
    }
}
