//! What backups ask for.

use stillpoint_common::{CheckpointId, DiskName, VmId};
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, backups_client::BackupsClient},
};

use super::{Client, ClientError};
use crate::view::{ByteRange, ChangedRanges};

impl Client {
    /// The ranges in which a disk differs between two checkpoints of its VM; without `from` those that hold data.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn changed_ranges(
        &self,
        vm: &VmId,
        disk: &DiskName,
        from: Option<CheckpointId>,
        to: CheckpointId,
    ) -> Result<ChangedRanges, ClientError> {
        let request = pb::ListChangedRangesRequest {
            to: names::checkpoint(vm, to),
            from: from.map(|from| names::checkpoint(vm, from)).unwrap_or_default(),
            disk: disk.to_string(),
            offset_bytes: 0,
            length_bytes: 0,
        };
        let answer = BackupsClient::new(self.channel.clone()).list_changed_ranges(request).await;
        let mut stream = self.answered(answer)?;
        let mut changed = ChangedRanges::default();
        loop {
            let message = stream.message().await;
            let message = message.map_err(|status| ClientError::from_status(&self.socket, &status))?;
            let Some(message) = message else { return Ok(changed) };
            (changed.from_bytes, changed.to_bytes) = (message.from_size_bytes, message.to_size_bytes);
            let ranges = message.ranges.into_iter().map(ByteRange::from);
            changed.ranges.extend(ranges.inspect(|range| changed.changed_bytes += range.length));
        }
    }
}
