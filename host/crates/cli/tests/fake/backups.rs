//! What has changed: the second half of the first MiB, told in two messages; something else if there is a copy already.

use std::pin::Pin;

use stillpoint_common::{Failure, Reason};
use stillpoint_proto::{
    convert::request,
    v1::{self as pb, backups_server::Backups},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::services::{Answer, Service, refused};

const MIB: u64 = 1 << 20;

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
        let from_size_bytes = if asked.from.is_some() { 8 * MIB } else { 0 };
        let range = |offset_bytes, length_bytes| pb::ByteRange { offset_bytes, length_bytes };
        let told = |ranges, complete_to_bytes| {
            Ok(pb::ListChangedRangesResponse { from_size_bytes, to_size_bytes: 16 * MIB, ranges, complete_to_bytes })
        };
        let messages = [told(vec![range(MIB / 2, MIB / 2)], MIB), told(vec![range(8 * MIB, 8 * MIB)], 16 * MIB)];
        let told = if asked.from.is_some() { 2 } else { 1 };
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.into_iter().take(told)))))
    }
}
