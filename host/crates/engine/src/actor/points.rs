//! Reference points are made and given up.

use std::collections::BTreeMap;

use stillpoint_common::{CheckpointId, Failure, Layer, Reason, ReferencePoint, ReferencePointId};

use super::VmActor;
use crate::{admission::ready, catalogue::Changes, changed::Blocks, error::StepError, points::Tracked};

impl VmActor {
    /// Makes a reference point of a checkpoint. The same request again answers the one that it has made.
    pub(super) async fn keep_point(
        &mut self,
        checkpoint: CheckpointId,
        request_id: Option<String>,
    ) -> Result<ReferencePoint, Failure> {
        self.idle_vm().await?;
        let known = self.world.catalogue.points(&self.vm).await?;
        let made = |point: &&ReferencePoint| point.request_id.is_some() && point.request_id == request_id;
        if let Some(made) = known.iter().find(made) {
            return match made.checkpoint == checkpoint {
                true => Ok(made.clone()),
                false => Err(Failure::new(Reason::RequestIdReused, format!("it made reference point {}", made.id))),
            };
        }
        self.room_for_point(0).await?;
        let (point, changes) = self.new_point(checkpoint, request_id).await?;
        self.write(changes).await?;
        Ok(point)
    }

    /// Whether one more may be made when so many are given up.
    pub(super) async fn room_for_point(&self, given_up: usize) -> Result<(), Failure> {
        let most = self.world.config.max_reference_points;
        let known = self.world.catalogue.points(&self.vm).await?.len();
        let message = || format!("VM {} has {most} reference points, the most a VM may have", self.vm);
        let full = || Failure::new(Reason::ReferencePointLimit, message());
        (known.saturating_sub(given_up) < most).then_some(()).ok_or_else(full)
    }

    /// A reference point of a checkpoint, and what is to be written for it.
    pub(super) async fn new_point(
        &self,
        checkpoint: CheckpointId,
        request_id: Option<String>,
    ) -> Result<(ReferencePoint, Changes), Failure> {
        let checkpoint = self.world.catalogue.checkpoint(&self.vm, checkpoint).await?;
        ready(&checkpoint)?;
        let forest = self.world.catalogue.forest(&self.vm).await?;
        let id = ReferencePointId::generate();
        let (mut disks, mut changes) = (BTreeMap::new(), Changes::default());
        for (disk, layer) in &checkpoint.disks {
            let torn = || Failure::new(Reason::CatalogueDamaged, format!("a layer of disk {disk} is not known"));
            let layer: &Layer = forest.get(*layer).ok_or_else(torn)?;
            let facts = self.world.ports.images.stat(&layer.file.path, layer.file.format).await;
            let size = facts.map_err(StepError::from)?.virtual_size;
            let (disk, layer) = (disk.clone(), layer.file.id);
            disks.insert(disk.clone(), size);
            let tracked = Tracked { point: id, disk, size, layer, changed: Blocks::default(), lost: None };
            changes = changes.set_tracked(&self.vm, &tracked);
        }
        let point = ReferencePoint {
            id,
            vm: self.vm.clone(),
            checkpoint: checkpoint.id,
            name: checkpoint.name,
            created: checkpoint.created,
            consistency: checkpoint.consistency,
            backup_type: checkpoint.backup_type,
            disks,
            request_id,
        };
        let changes = changes.set_point(&point);
        Ok((point, changes))
    }

    /// Gives a reference point up. What was kept apart for it alone is merged then.
    pub(super) async fn forget_point(&mut self, id: ReferencePointId) -> Result<(), Failure> {
        self.idle_vm().await?;
        let point = self.world.catalogue.point(&self.vm, id).await?;
        self.schedule.reset();
        self.owed = true;
        self.write(Changes::default().delete_point(&point)).await
    }
}
