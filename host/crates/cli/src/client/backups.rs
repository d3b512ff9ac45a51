//! What backups ask for.

use stillpoint_common::{CheckpointId, DiskName, ReferencePointId, VmId};
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, backups_client::BackupsClient},
};

use super::{Client, ClientError, request_id, resolve::resolve_point};
use crate::view::{ByteRange, ChangedRanges, ReferencePoint};

impl Client {
    /// The ranges in which a disk differs between a checkpoint or reference point, by its resource name, and a checkpoint of
    /// its VM; if `from` is empty those that hold data.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn changed_ranges(
        &self,
        vm: &VmId,
        disk: &DiskName,
        from: String,
        to: CheckpointId,
    ) -> Result<ChangedRanges, ClientError> {
        let request = pb::ListChangedRangesRequest {
            to: names::checkpoint(vm, to),
            from,
            disk: disk.to_string(),
            offset_bytes: 0,
            length_bytes: 0,
        };
        let answer = BackupsClient::new(self.channel.clone()).list_changed_ranges(request).await;
        let mut stream = self.answered(answer)?;
        let (mut changed, mut complete_to) = (ChangedRanges::default(), None);
        loop {
            let message = stream.message().await;
            let message = message.map_err(|status| ClientError::from_status(&self.socket, &status))?;
            let Some(message) = message else { break };
            complete_to = Some(message.complete_to_bytes);
            (changed.from_bytes, changed.to_bytes) = (message.from_size_bytes, message.to_size_bytes);
            let ranges = message.ranges.into_iter().map(ByteRange::from);
            changed.ranges.extend(ranges.inspect(|range| changed.changed_bytes += range.length));
        }
        if complete_to != Some(changed.to_bytes) {
            // A copy that is made by it would lack what was not told.
            return Err(ClientError::cut_off(format!("it ended before byte {} of the disk", changed.to_bytes)));
        }
        Ok(changed)
    }

    /// Makes a reference point of a checkpoint.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn create_reference_point(
        &self,
        vm: &VmId,
        checkpoint: CheckpointId,
    ) -> Result<ReferencePoint, ClientError> {
        let (checkpoint, request_id) = (names::checkpoint(vm, checkpoint), request_id());
        let request = pb::CreateReferencePointRequest { checkpoint, request_id };
        let answer = BackupsClient::new(self.channel.clone()).create_reference_point(request).await;
        Ok(ReferencePoint::try_from(self.answered(answer)?)?)
    }

    /// The reference points of a VM, oldest first.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn reference_points(&self, vm: &VmId) -> Result<Vec<ReferencePoint>, ClientError> {
        let request = pb::ListReferencePointsRequest { parent: names::vm(vm) };
        let answer = BackupsClient::new(self.channel.clone()).list_reference_points(request).await;
        let points = self.answered(answer)?.reference_points.into_iter();
        Ok(points.map(ReferencePoint::try_from).collect::<Result<_, _>>()?)
    }

    /// The one reference point whose id begins so.
    ///
    /// # Errors
    /// There is none, or more than one; the service refused or cannot be reached.
    pub async fn find_reference_point(&self, vm: &VmId, called: &str) -> Result<ReferencePoint, ClientError> {
        Ok(resolve_point(vm, called, self.reference_points(vm).await?)?)
    }

    /// Gives a reference point up.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn delete_reference_point(&self, vm: &VmId, point: ReferencePointId) -> Result<(), ClientError> {
        let request = pb::DeleteReferencePointRequest { name: names::reference_point(vm, point) };
        let answer = BackupsClient::new(self.channel.clone()).delete_reference_point(request).await;
        self.answered(answer)
    }
}
