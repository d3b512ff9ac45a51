//! The client of the service, over its unix socket.
//!
//! Calls take the words of the domain and answer [`view`]s. Every request that can carry a request id does, so that one
//! which is sent again is done once. Every wait has a deadline, except the one for the end of an operation, which is the
//! caller's to bound.

mod backups;
mod checkpoints;
mod delete;
mod disks;
mod error;
mod events;
mod guests;
mod images;
mod integrity;
mod operations;
mod resolve;
mod sessions;
mod transfers;
mod vms;

pub use checkpoints::{ApplyAs, CheckpointChange, CheckpointToCreate, Machine, Now};
pub use disks::{DiskPart, DiskStream};
pub use error::ClientError;
pub use events::{EventStream, EventsFrom};
pub use images::{ImageMergeEvent, ImageMergeStream};
pub use resolve::resolve;
pub use sessions::NewBackup;
pub use transfers::{VerifyEvent, VerifyStream, VmToImport};
pub use vms::{VmChange, VmToCreate};

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use stillpoint_common::VmId;
use stillpoint_proto::{
    convert::names,
    v1::{self as pb, guests_client::GuestsClient, host_service_client::HostServiceClient},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use uuid::Uuid;

use crate::view;

/// Where the service listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/stillpoint/api.sock";

/// How long the answer of one call may take. Creating a VM looks at its image files, nothing takes longer.
const CALL: Duration = Duration::from_secs(60);
/// How often a peer that says nothing is asked whether it is still there, and how long its answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A connection to the service. Cheap to clone; connects again by itself if the service was restarted.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    channel: Channel,
}

impl Client {
    /// Connects to the service.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if nothing answers on the socket.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, ClientError> {
        let socket = socket.as_ref().to_path_buf();
        let unreachable = |why: String| ClientError::Unreachable { socket: socket.clone(), why };
        let endpoint = Endpoint::from_static("http://stillpoint")
            .timeout(CALL)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| unreachable(error::root_cause(&error)))?;
        Ok(Self { socket, channel })
    }

    /// What the service found on its host.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn host(&self) -> Result<view::Host, ClientError> {
        let mut client = HostServiceClient::new(self.channel.clone());
        let answer = client.get_host(pb::GetHostRequest {}).await;
        Ok(self.answered(answer)?.into())
    }

    /// What the agent of a running VM says of its guest.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn guest(&self, vm: &VmId) -> Result<view::Guest, ClientError> {
        let mut client = GuestsClient::new(self.channel.clone());
        let answer = client.get_guest(pb::GetGuestRequest { name: names::guest(vm) }).await;
        Ok(self.answered(answer)?.into())
    }

    /// The writers that are registered in a running VM.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn writers(&self, vm: &VmId) -> Result<Vec<view::Writer>, ClientError> {
        let mut client = GuestsClient::new(self.channel.clone());
        let answer = client.list_writers(pb::ListWritersRequest { parent: names::guest(vm) }).await;
        Ok(self.answered(answer)?.writers.into_iter().map(view::Writer::from).collect())
    }

    fn answered<T>(&self, answer: Result<tonic::Response<T>, tonic::Status>) -> Result<T, ClientError> {
        answer.map(tonic::Response::into_inner).map_err(|status| ClientError::from_status(&self.socket, &status))
    }
}

fn request_id() -> String {
    Uuid::new_v4().to_string()
}
