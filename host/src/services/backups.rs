//! `Backups`

use std::pin::Pin;

use futures_util::Stream;
use stillpoint_engine::{ChangedFrom, ChangedPart, ChangedReader, ChangedRequest, Engine, PointView};
use stillpoint_proto::{
    convert::{
        backup::reference_point,
        request::{self, CopyOf, CreateReferencePoint, ListChangedRanges},
    },
    v1::{self as pb, backups_server},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::refuse;

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
        let reader = self.engine.changed(ChangedRequest { vm, disk, from, to, bytes }).await.map_err(refuse)?;
        let (answer, answers) = mpsc::channel(UNREAD);
        tokio::spawn(read(reader, answer));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
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
async fn read(mut reader: ChangedReader, answer: Answer) {
    loop {
        let part = tokio::select! {
            part = reader.next() => part,
            () = answer.closed() => return,
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
