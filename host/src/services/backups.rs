//! `Backups`

use std::pin::Pin;

use futures_util::Stream;
use stillpoint_engine::{
    BackupLease, ChangedFrom, ChangedPart, ChangedReader, ChangedRequest, Engine, NewBackup, PointView,
};
use stillpoint_proto::{
    convert::{
        backup::{backup, reference_point},
        request::{self, CopyOf, CreateReferencePoint, ListChangedRanges},
    },
    v1::{self as pb, backups_server},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{peer, read_disk, refuse};

/// Answers that wait for the client to take them, at most: no more is read until it does.
const UNREAD: usize = 2;

pub(crate) struct Backups {
    engine: Engine,
}

impl Backups {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::ListChangedRangesResponse, Status>> + Send>>;
type Answer = mpsc::Sender<Result<pb::ListChangedRangesResponse, Status>>;

#[tonic::async_trait]
impl backups_server::Backups for Backups {
    type ListChangedRangesStream = Answers;

    async fn list_changed_ranges(
        &self,
        asked: Request<pb::ListChangedRangesRequest>,
    ) -> Result<Response<Answers>, Status> {
        let ListChangedRanges { vm, to, from, disk, bytes } =
            request::list_changed_ranges(asked.get_ref()).map_err(refuse)?;
        let from = match from {
            CopyOf::Nothing => ChangedFrom::Nothing,
            CopyOf::Checkpoint(id) => ChangedFrom::Checkpoint(id),
            CopyOf::Point(id) => ChangedFrom::Point(id),
        };
        let lease = self.engine.lease_of(&vm, to).await.map_err(refuse)?;
        let reader = self.engine.changed(ChangedRequest { vm, disk, from, to, bytes }).await.map_err(refuse)?;
        let (answer, answers) = mpsc::channel(UNREAD);
        tokio::spawn(read(reader, lease, answer));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn start_backup(&self, asked: Request<pb::StartBackupRequest>) -> Result<Response<pb::Backup>, Status> {
        let creator = peer::uid(&asked);
        let request::StartBackup { vm, backup_type, asked, lease, from_point, request_id } =
            request::start_backup(asked.get_ref()).map_err(refuse)?;
        let new = NewBackup { backup_type, asked, lease, from_point, creator };
        let begun = self.engine.start_backup(&vm, new, request_id.map(|id| id.to_string())).await.map_err(refuse)?;
        Ok(Response::new(backup(&begun)))
    }

    async fn get_backup(&self, asked: Request<pb::GetBackupRequest>) -> Result<Response<pb::Backup>, Status> {
        let (vm, id) = request::get_backup(asked.get_ref()).map_err(refuse)?;
        let found = self.engine.backup(&vm, id).await.map_err(refuse)?;
        Ok(Response::new(backup(&found)))
    }

    async fn list_backups(
        &self,
        asked: Request<pb::ListBackupsRequest>,
    ) -> Result<Response<pb::ListBackupsResponse>, Status> {
        let vm = request::list_backups(asked.get_ref()).map_err(refuse)?;
        let backups = self.engine.backups(&vm).await.map_err(refuse)?;
        Ok(Response::new(pb::ListBackupsResponse { backups: backups.iter().map(backup).collect() }))
    }

    async fn renew_backup(&self, asked: Request<pb::RenewBackupRequest>) -> Result<Response<pb::Backup>, Status> {
        let (vm, id) = request::renew_backup(asked.get_ref()).map_err(refuse)?;
        let renewed = self.engine.renew_backup(&vm, id).await.map_err(refuse)?;
        Ok(Response::new(backup(&renewed)))
    }

    async fn complete_backup(&self, asked: Request<pb::CompleteBackupRequest>) -> Result<Response<pb::Backup>, Status> {
        let (vm, id, replace) = request::complete_backup(asked.get_ref()).map_err(refuse)?;
        let completed = self.engine.complete_backup(&vm, id, replace).await.map_err(refuse)?;
        Ok(Response::new(backup(&completed)))
    }

    async fn abort_backup(&self, asked: Request<pb::AbortBackupRequest>) -> Result<Response<pb::Backup>, Status> {
        let (vm, id) = request::abort_backup(asked.get_ref()).map_err(refuse)?;
        let aborted = self.engine.abort_backup(&vm, id).await.map_err(refuse)?;
        Ok(Response::new(backup(&aborted)))
    }

    type ReadDiskStream = ReceiverStream<read_disk::Answer>;

    async fn read_disk(&self, asked: Request<pb::ReadDiskRequest>) -> Result<Response<Self::ReadDiskStream>, Status> {
        let asked = request::read_disk(asked.get_ref()).map_err(refuse)?;
        let answers = read_disk::begin(&self.engine, asked).await.map_err(refuse)?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn open_disk(&self, asked: Request<pb::OpenDiskRequest>) -> Result<Response<pb::OpenDiskResponse>, Status> {
        let (vm, id, disk) = request::open_disk(asked.get_ref()).map_err(refuse)?;
        let socket = self.engine.open_disk(&vm, id, &disk).await.map_err(refuse)?.display().to_string();
        let uri = format!("nbd+unix:///?socket={socket}");
        Ok(Response::new(pb::OpenDiskResponse { socket, uri }))
    }

    async fn create_reference_point(
        &self,
        asked: Request<pb::CreateReferencePointRequest>,
    ) -> Result<Response<pb::ReferencePoint>, Status> {
        let asked = request::create_reference_point(asked.get_ref()).map_err(refuse)?;
        let CreateReferencePoint { vm, checkpoint, request_id } = asked;
        let request_id = request_id.map(|id| id.to_string());
        let made = self.engine.create_reference_point(&vm, checkpoint, request_id).await.map_err(refuse)?;
        Ok(Response::new(shown(&made)))
    }

    async fn list_reference_points(
        &self,
        asked: Request<pb::ListReferencePointsRequest>,
    ) -> Result<Response<pb::ListReferencePointsResponse>, Status> {
        let vm = request::list_reference_points(asked.get_ref()).map_err(refuse)?;
        let points = self.engine.reference_points(&vm).await.map_err(refuse)?;
        let reference_points = points.iter().map(shown).collect();
        Ok(Response::new(pb::ListReferencePointsResponse { reference_points }))
    }

    async fn delete_reference_point(
        &self,
        asked: Request<pb::DeleteReferencePointRequest>,
    ) -> Result<Response<()>, Status> {
        let (vm, point) = request::delete_reference_point(asked.get_ref()).map_err(refuse)?;
        self.engine.delete_reference_point(&vm, point).await.map_err(refuse)?;
        Ok(Response::new(()))
    }
}

fn shown(view: &PointView) -> pb::ReferencePoint {
    reference_point(&view.point, &view.lost)
}

/// Reads until all is answered, or the client has hung up.
async fn read(mut reader: ChangedReader, mut lease: Option<BackupLease>, answer: Answer) {
    loop {
        let part = tokio::select! {
            part = reader.next() => part,
            () = answer.closed() => return,
        };
        let part = match &mut lease {
            Some(lease) => lease.renew().await.and(part),
            None => part,
        };
        let Some(part) = part.transpose() else { return };
        let failed = part.is_err();
        let told = part.map(|part| response(&reader, part)).map_err(refuse);
        if answer.send(told).await.is_err() || failed {
            return;
        }
    }
}

fn response(reader: &ChangedReader, part: ChangedPart) -> pb::ListChangedRangesResponse {
    let range = |bytes: std::ops::Range<u64>| pb::ByteRange {
        offset_bytes: bytes.start,
        length_bytes: bytes.end - bytes.start,
    };
    pb::ListChangedRangesResponse {
        from_size_bytes: reader.from_size(),
        to_size_bytes: reader.to_size(),
        ranges: part.ranges.into_iter().map(range).collect(),
        complete_to_bytes: part.complete_to,
    }
}
