//! What backups ask for.

use std::collections::BTreeMap;

use stillpoint_common::{CheckpointId, DiskName, Failure, ReferencePoint, ReferencePointId, VmId};

use super::Engine;
use crate::{ChangedReader, ChangedRequest, actor::Message};

/// A reference point as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointView {
    /// What was kept.
    pub point: ReferencePoint,
    /// The disks of which it is not known any more what has changed since, and why.
    pub lost: BTreeMap<DiskName, String>,
}

impl Engine {
    /// Begins to read which parts of a disk differ between two points. Nothing waits for the reader, and it waits for
    /// nothing.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`, `CHECKPOINT_DELETING`, `REFERENCE_POINT_NOT_FOUND`, `DISK_NOT_FOUND`;
    /// `CHANGES_UNKNOWN` if the disk was another image then, or what has changed since the point is not known any more;
    /// `DISK_FILE_MISSING`, `DISK_CHANGED` if a layer between them is not what it should be.
    pub async fn changed(&self, asked: ChangedRequest) -> Result<ChangedReader, Failure> {
        self.world.catalogue.vm(&asked.vm).await?;
        ChangedReader::begin(self.world.clone(), asked).await
    }

    /// Makes a reference point of a checkpoint, which may go afterwards. The same `request_id` again answers the same point.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `CHECKPOINT_NOT_FOUND`, `CHECKPOINT_DELETING`, `REFERENCE_POINT_LIMIT`, `REQUEST_ID_REUSED`, `VM_BUSY`.
    pub async fn create_reference_point(
        &self,
        vm: &VmId,
        checkpoint: CheckpointId,
        request_id: Option<String>,
    ) -> Result<PointView, Failure> {
        let point = self.ask(vm, |reply| Message::KeepPoint { checkpoint, request_id, reply }).await??;
        Ok(PointView { point, lost: BTreeMap::new() })
    }

    /// A VM's reference points, oldest first.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`.
    pub async fn reference_points(&self, vm: &VmId) -> Result<Vec<PointView>, Failure> {
        self.world.catalogue.vm(vm).await?;
        let tracked = self.world.catalogue.tracked(vm).await?;
        let view = |point: ReferencePoint| {
            let of_point = tracked.iter().filter(|tracked| tracked.point == point.id);
            let lost = of_point.filter_map(|tracked| Some((tracked.disk.clone(), tracked.lost.clone()?))).collect();
            PointView { point, lost }
        };
        Ok(self.world.catalogue.points(vm).await?.into_iter().map(view).collect())
    }

    /// Gives a reference point up. No data is lost with it.
    ///
    /// # Errors
    /// `VM_NOT_FOUND`, `REFERENCE_POINT_NOT_FOUND`, `VM_BUSY`.
    pub async fn delete_reference_point(&self, vm: &VmId, point: ReferencePointId) -> Result<(), Failure> {
        self.ask(vm, |reply| Message::ForgetPoint { point, reply }).await?
    }
}
