//! What has changed: the second half of the first MiB, told in two messages; something else if there is a copy already.

use std::pin::Pin;

use stillpoint_common::{Failure, Reason, ReferencePointId, VmId};
use stillpoint_proto::{
    convert::{
        names,
        request::{self, CopyOf},
    },
    v1::{self as pb, backups_server::Backups},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::services::{Answer, Service, refused};

const MIB: u64 = 1 << 20;

/// The one point that VM `web` has; what has changed on its disk `scratch` is not known any more.
fn point(vm: &VmId) -> pb::ReferencePoint {
    let id: ReferencePointId = super::POINT.parse().unwrap();
    let disk = |disk: &str, lost: &str| pb::ReferencePointDisk {
        disk: disk.to_owned(),
        size_bytes: 8 * MIB,
        lost: lost.to_owned(),
    };
    pb::ReferencePoint {
        name: names::reference_point(vm, id),
        checkpoint: names::checkpoint(vm, super::CLEAN.parse().unwrap()),
        display_name: "clean install".into(),
        create_time: None,
        consistency: pb::Consistency::FileSystem.into(),
        backup_type: stillpoint_proto::writer::v1::BackupType::Full.into(),
        disks: vec![disk("data", ""), disk("scratch", "a layer was exchanged")],
    }
}

#[tonic::async_trait]
impl Backups for Service {
    type ListChangedRangesStream = Pin<Box<dyn Stream<Item = Result<pb::ListChangedRangesResponse, Status>> + Send>>;

    async fn list_changed_ranges(
        &self,
        asked: Request<pb::ListChangedRangesRequest>,
    ) -> Answer<Self::ListChangedRangesStream> {
        let asked = request::list_changed_ranges(asked.get_ref()).map_err(refused)?;
        if asked.disk.as_str() == "other" {
            let message = "disk other was another image then: all of it has to be read";
            return Err(refused(Failure::new(Reason::ChangesUnknown, message).at("from")));
        }
        let since = asked.from != CopyOf::Nothing;
        let from_size_bytes = if since { 8 * MIB } else { 0 };
        let range = |offset_bytes, length_bytes| pb::ByteRange { offset_bytes, length_bytes };
        let told = |ranges, complete_to_bytes| {
            Ok(pb::ListChangedRangesResponse { from_size_bytes, to_size_bytes: 16 * MIB, ranges, complete_to_bytes })
        };
        let messages = [told(vec![range(MIB / 2, MIB / 2)], MIB), told(vec![range(8 * MIB, 8 * MIB)], 16 * MIB)];
        let told = if since { 2 } else { 1 };
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.into_iter().take(told)))))
    }
    async fn create_reference_point(
        &self,
        asked: Request<pb::CreateReferencePointRequest>,
    ) -> Answer<pb::ReferencePoint> {
        let asked = request::create_reference_point(asked.get_ref()).map_err(refused)?;
        assert!(asked.request_id.is_some(), "a request that is sent again is done once");
        self.asked.note(format!("point of {}", asked.checkpoint));
        Ok(Response::new(point(&asked.vm)))
    }

    async fn list_reference_points(
        &self,
        asked: Request<pb::ListReferencePointsRequest>,
    ) -> Answer<pb::ListReferencePointsResponse> {
        let vm = request::list_reference_points(asked.get_ref()).map_err(refused)?;
        let reference_points = (vm.as_str() == "web").then(|| point(&vm)).into_iter().collect();
        Ok(Response::new(pb::ListReferencePointsResponse { reference_points }))
    }

    async fn delete_reference_point(&self, asked: Request<pb::DeleteReferencePointRequest>) -> Answer<()> {
        let (vm, point) = request::delete_reference_point(asked.get_ref()).map_err(refused)?;
        self.asked.note(format!("forget {vm} {point}"));
        Ok(Response::new(()))
    }
}
