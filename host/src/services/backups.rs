//! `Backups`

use std::pin::Pin;

use futures_util::Stream;
use stillpoint_engine::{ChangedPart, ChangedReader, ChangedRequest, Engine};
use stillpoint_proto::{
    convert::request::{self, ListChangedRanges},
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
        let reader = self.engine.changed(ChangedRequest { vm, disk, from, to, bytes }).await.map_err(refuse)?;
        let (answer, answers) = mpsc::channel(UNREAD);
        tokio::spawn(read(reader, answer));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
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
