//! The link to one instance.

use std::{path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use stillpoint_common::{
    Beat, ClockSet, FileSystemOutcome, GuestDescription, KeyValues, Prepared, QuiesceRequest, Restore, ToldValues,
    WriterOutcome,
};
use stillpoint_engine::ports::{PowerAction, QuiesceError};
use stillpoint_proto::guest::v1::{self as pb, guest_agent_client::GuestAgentClient, watch_response::Event};
use stillpoint_transport::dial;
use tokio::time::{Instant, sleep};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};

use crate::{Limits, PROTOCOL_VERSION, clock, convert, failure, session::QuiesceSession};

/// The longest message that an agent may send.
const MAX_MESSAGE: usize = 1024 * 1024;

/// Speaks to the agent of one instance. It keeps one connection, and begins another when that one is lost; then the
/// agent lets go of whatever was held over the old one.
#[derive(Debug, Clone)]
pub struct GuestLink {
    client: GuestAgentClient<Channel>,
    limits: Limits,
}

/// Between two calls to an agent whose connection ended.
const PAUSE: Duration = Duration::from_millis(50);

impl GuestLink {
    /// A link over this socket of QEMU's. Nothing is connected until the first call. Must be called inside a runtime.
    #[must_use]
    pub fn new(socket: PathBuf, limits: Limits) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { dial(&socket, Instant::now() + limits.connect).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent").connect_with_connector_lazy(connect);
        let client = GuestAgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Self { client, limits }
    }

    /// What the agent says of its guest. Whatever an earlier connection held has been let go when this returns.
    ///
    /// # Errors
    /// If there is no agent, or one that does not speak our protocol.
    pub async fn hello(&self) -> Result<GuestDescription, QuiesceError> {
        let until = Instant::now() + self.limits.connect;
        loop {
            let since = Instant::now();
            match self.greet().await {
                Err(error) if self.broke(&error, since) && since < until => sleep(PAUSE).await,
                answered => return answered,
            }
        }
    }

    /// Whether a call failed at once because the connection had ended: an agent that is being restarted is reached by
    /// one of the next calls. Not being reached at all takes longer.
    fn broke(&self, error: &QuiesceError, since: Instant) -> bool {
        matches!(error, QuiesceError::Unreachable { .. }) && since.elapsed() < self.limits.connect / 2
    }

    async fn greet(&self) -> Result<GuestDescription, QuiesceError> {
        let request =
            pb::HelloRequest { host_version: env!("CARGO_PKG_VERSION").to_owned(), protocol_version: PROTOCOL_VERSION };
        let limit = self.limits.connect + self.limits.ask;
        let answer = failure::within("hello", limit, self.client.clone().hello(request)).await;
        let answer = answer.map_err(nobody_there)?.into_inner();
        if !(answer.oldest_protocol_version..=answer.protocol_version).contains(&PROTOCOL_VERSION) {
            return Err(QuiesceError::Incompatible {
                version: convert::clean(&answer.agent_version),
                why: format!(
                    "it speaks the protocols {} to {}, this host speaks {PROTOCOL_VERSION}",
                    answer.oldest_protocol_version, answer.protocol_version
                ),
            });
        }
        convert::description(answer)
    }

    /// Opens a quiesce session. Nothing is held yet.
    ///
    /// # Errors
    /// As [`Self::hello`], or if the agent does not get ready.
    pub async fn prepare(&self, request: &QuiesceRequest) -> Result<(QuiesceSession, Prepared), QuiesceError> {
        let until = Instant::now() + self.limits.connect;
        loop {
            self.hello().await?;
            let since = Instant::now();
            match QuiesceSession::open(self.client.clone(), self.limits, request).await {
                // Nothing was held yet.
                Err(error) if self.broke(&error, since) && since < until => sleep(PAUSE).await,
                opened => return opened,
            }
        }
    }

    /// Sets the guest's clock to the host's time.
    ///
    /// # Errors
    /// If the agent does not answer, or may not set it.
    pub async fn set_clock(&self) -> Result<ClockSet, QuiesceError> {
        self.hello().await?;
        clock::set(self.client.clone(), &self.limits).await
    }

    /// Says that the guest was brought back to a checkpoint.
    ///
    /// # Errors
    /// If the agent does not answer, or does not know the call.
    pub async fn restored(&self, restore: &Restore) -> Result<(), QuiesceError> {
        let limit = self.limits.connect + self.limits.ask;
        match failure::within("restored", limit, self.client.clone().restored(convert::restore(restore))).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.older(error).await),
        }
    }

    /// Asks the guest's system to end. Returns when it has agreed.
    ///
    /// # Errors
    /// If it does not.
    pub async fn power(&self, action: PowerAction) -> Result<(), QuiesceError> {
        let action = match action {
            PowerAction::PowerOff => pb::ShutdownAction::PowerOff,
            PowerAction::Reboot => pb::ShutdownAction::Reboot,
        };
        let limit = self.limits.connect + self.limits.ask;
        let request = pb::ShutdownRequest { action: action.into() };
        failure::within("shutdown", limit, self.client.clone().shutdown(request)).await.map(drop)
    }

    /// A sign of life of the agent.
    ///
    /// # Errors
    /// If there is no agent, or one that does not know the call.
    pub async fn beat(&self) -> Result<Beat, QuiesceError> {
        let limit = self.limits.connect + self.limits.ask;
        match failure::within("beat", limit, self.client.clone().beat(pb::BeatRequest {})).await {
            Ok(answer) => Ok(convert::beat(answer.into_inner())),
            Err(error) => Err(self.older(nobody_there(error)).await),
        }
    }

    /// An agent that does not know a call is older, if its hello fits; otherwise it speaks another protocol.
    async fn older(&self, error: QuiesceError) -> QuiesceError {
        let QuiesceError::Incompatible { version, why } = error else { return error };
        match self.hello().await {
            Ok(known) if known.agent_version.is_empty() => QuiesceError::Unknown { version, why },
            Ok(known) => QuiesceError::Unknown { version: known.agent_version, why },
            Err(error) => error,
        }
    }

    /// Gives the guest its host's values.
    ///
    /// # Errors
    /// If the agent does not answer, does not know the call, or cannot keep them.
    pub async fn set_values(&self, values: &KeyValues) -> Result<(), QuiesceError> {
        let value = |(key, value): (&str, &str)| pb::Value { key: key.to_owned(), value: value.to_owned() };
        let request = pb::SetValuesRequest { revision: values.revision(), values: values.iter().map(value).collect() };
        let limit = self.limits.connect + self.limits.ask;
        match failure::within("set_values", limit, self.client.clone().set_values(request)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.older(error).await),
        }
    }

    /// What the guest tells its host.
    ///
    /// # Errors
    /// If the agent does not answer, or does not know the call.
    pub async fn values(&self) -> Result<ToldValues, QuiesceError> {
        let limit = self.limits.connect + self.limits.ask;
        match failure::within("values", limit, self.client.clone().get_values(pb::GetValuesRequest {})).await {
            Ok(answer) => Ok(convert::told_values(&answer.into_inner())),
            Err(error) => Err(self.older(error).await),
        }
    }

    /// Listens to the agent's heartbeat.
    ///
    /// # Errors
    /// If there is no agent.
    pub async fn watch(&self, interval: Duration) -> Result<GuestWatch, QuiesceError> {
        let request = pb::WatchRequest { interval: prost_types::Duration::try_from(interval).ok() };
        let limit = self.limits.connect + self.limits.ask;
        let events = failure::within("watch", limit, self.client.clone().watch(request)).await?.into_inner();
        Ok(GuestWatch { events, patience: interval * 2 + self.limits.ask })
    }
}

/// An agent that does not even say hello is none: it ended without a word, and left its end of the channel open.
fn nobody_there(error: QuiesceError) -> QuiesceError {
    if let QuiesceError::Unanswered { waited, .. } = error {
        return QuiesceError::Unreachable { why: format!("it was greeted and said nothing within {waited:?}") };
    }
    error
}

/// What an agent tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// It lives.
    Heartbeat {
        /// Time since the guest booted.
        uptime: Duration,
        /// A quiesce session is open.
        held: bool,
    },
    /// What a freeze would deal with: at the start, and when it has changed.
    Inventory {
        /// The file systems.
        file_systems: Vec<FileSystemOutcome>,
        /// The writers.
        writers: Vec<WriterOutcome>,
    },
}

/// The agent's heartbeat.
#[derive(Debug)]
pub struct GuestWatch {
    events: Streaming<pb::WatchResponse>,
    patience: Duration,
}

impl GuestWatch {
    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// If the connection is lost, or two beats are missing.
    pub async fn next(&mut self) -> Result<GuestEvent, QuiesceError> {
        match failure::within("watch", self.patience, self.events.message()).await? {
            None => Err(QuiesceError::Unreachable { why: "the agent ended the watch".to_owned() }),
            Some(pb::WatchResponse { event: None }) => {
                Err(QuiesceError::Failed { message: "watch: an event without content".to_owned() })
            }
            Some(pb::WatchResponse { event: Some(Event::Heartbeat(beat)) }) => {
                Ok(GuestEvent::Heartbeat { uptime: convert::duration(beat.uptime), held: beat.held })
            }
            Some(pb::WatchResponse { event: Some(Event::Inventory(inventory)) }) => Ok(GuestEvent::Inventory {
                file_systems: convert::file_systems(&inventory.file_systems)?,
                writers: convert::writers(&inventory.writers)?,
            }),
        }
    }
}
