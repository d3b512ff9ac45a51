//! Serves the host: one HTTP/2 connection a session, one session at a time.

mod convert;
mod quiesce;
mod service;

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use stillpoint_proto::guest::v1::guest_agent_server::GuestAgentServer;
use stillpoint_transport::{AgentLink, SessionStream};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::coordinator::Coordinator;
use service::Service;

/// The longest message that a host may send.
const MAX_MESSAGE: usize = 256 * 1024;
/// Calls at once, at most.
const MAX_CALLS: u32 = 16;

/// Serves one session after the other, until the port is lost.
pub async fn serve(link: &mut AgentLink, coordinator: Coordinator) {
    let mut connection = JoinSet::new();
    while let Some(session) = link.accept().await {
        connection.abort_all();
        // Whatever the old host held is gone before the new one is heard.
        coordinator.new_host().await;
        info!(session = ?session.nonce, "host connected");
        connection.spawn(serve_connection(session.stream, Service::new(coordinator.clone())));
    }
}

async fn serve_connection(stream: SessionStream, service: Service) {
    let service = GuestAgentServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    let end = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    debug!(?end, "connection ended");
}
