//! What has changed: the second half of the first MiB, told in two messages; something else if there is a copy already.

use std::pin::Pin;

use stillpoint_common::{AskedConsistency, Failure, Reason, ReferencePointId, VmId};
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

/// The one session that VM `web` has.
fn session(vm: &VmId, state: pb::BackupState) -> pb::Backup {
    pb::Backup {
        name: names::backup(vm, super::SESSION.parse().unwrap()),
        state: state.into(),
        operation: names::operation("019d0000-0000-7000-8000-000000000003".parse().unwrap()),
        checkpoint: names::checkpoint(vm, super::CLEAN.parse().unwrap()),
        backup_type: stillpoint_proto::writer::v1::BackupType::Full.into(),
        ..pb::Backup::default()
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
        let first = told(vec![range(MIB / 2, MIB / 2)], if since { MIB } else { 16 * MIB });
        let messages = [first, told(vec![range(8 * MIB, 8 * MIB)], 16 * MIB)];
        // Of the disk `short` the end is never told.
        let told = if since && asked.disk.as_str() != "short" { 2 } else { 1 };
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.into_iter().take(told)))))
    }

    async fn start_backup(&self, asked: Request<pb::StartBackupRequest>) -> Answer<pb::Backup> {
        let asked = request::start_backup(asked.get_ref()).map_err(refused)?;
        assert!(asked.request_id.is_some(), "a request that is sent again is done once");
        let AskedConsistency { wanted, least } = asked.asked;
        let (of, lease) = (asked.backup_type, asked.lease.as_secs());
        self.asked.note(format!("backup of {}: {of:?}, {wanted}, at least {least}, {lease} s", asked.vm));
        Ok(Response::new(session(&asked.vm, pb::BackupState::Starting)))
    }

    async fn get_backup(&self, asked: Request<pb::GetBackupRequest>) -> Answer<pb::Backup> {
        let (vm, _) = request::get_backup(asked.get_ref()).map_err(refused)?;
        Ok(Response::new(session(&vm, pb::BackupState::Open)))
    }

    async fn list_backups(&self, asked: Request<pb::ListBackupsRequest>) -> Answer<pb::ListBackupsResponse> {
        let vm = request::list_backups(asked.get_ref()).map_err(refused)?;
        let backups = (vm.as_str() == "web").then(|| session(&vm, pb::BackupState::Open)).into_iter().collect();
        Ok(Response::new(pb::ListBackupsResponse { backups }))
    }

    async fn renew_backup(&self, asked: Request<pb::RenewBackupRequest>) -> Answer<pb::Backup> {
        let (vm, backup) = request::renew_backup(asked.get_ref()).map_err(refused)?;
        self.asked.note(format!("renew {vm} {backup}"));
        Ok(Response::new(session(&vm, pb::BackupState::Open)))
    }

    async fn complete_backup(&self, asked: Request<pb::CompleteBackupRequest>) -> Answer<pb::Backup> {
        let (vm, backup, replace) = request::complete_backup(asked.get_ref()).map_err(refused)?;
        self.asked.note(format!("complete {vm} {backup}, replace {replace}"));
        let completed = session(&vm, pb::BackupState::Completed);
        Ok(Response::new(pb::Backup {
            reference_point: names::reference_point(&vm, super::POINT.parse().unwrap()),
            writers_told: pb::WritersTold::NotTold.into(),
            detail: "the agent was restarted".to_owned(),
            ..completed
        }))
    }

    async fn abort_backup(&self, asked: Request<pb::AbortBackupRequest>) -> Answer<pb::Backup> {
        let (vm, backup) = request::abort_backup(asked.get_ref()).map_err(refused)?;
        self.asked.note(format!("abort {vm} {backup}"));
        Ok(Response::new(session(&vm, pb::BackupState::Aborted)))
    }

    type ReadDiskStream = Pin<Box<dyn Stream<Item = Result<pb::ReadDiskResponse, Status>> + Send>>;

    /// Two MiB: zeros, and then sevens. Of the disk `short` the end is never told.
    async fn read_disk(&self, asked: Request<pb::ReadDiskRequest>) -> Answer<Self::ReadDiskStream> {
        let asked = request::read_disk(asked.get_ref()).map_err(refused)?;
        let told = |offset_bytes, data, zero_bytes| {
            Ok(pb::ReadDiskResponse { disk_size_bytes: 2 * MIB, offset_bytes, data, zero_bytes })
        };
        let told = [told(0, vec![], 0), told(0, vec![], MIB), told(MIB, vec![7; 1 << 20], 0)];
        let whole = asked.disk.as_str() != "short";
        Ok(Response::new(Box::pin(tokio_stream::iter(told.into_iter().take(if whole { 3 } else { 2 })))))
    }

    async fn open_disk(&self, asked: Request<pb::OpenDiskRequest>) -> Answer<pb::OpenDiskResponse> {
        let (_, _, disk) = request::open_disk(asked.get_ref()).map_err(refused)?;
        Ok(Response::new(pb::OpenDiskResponse { socket: format!("/run/{disk}"), uri: format!("nbd+unix:///{disk}") }))
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
