//! The calls.

use std::{pin::Pin, time::Duration};

use stillpoint_common::KeyValues;
use stillpoint_proto::guest::v1::{self as pb, guest_agent_server::GuestAgent};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tracing::info;

use super::{convert, quiesce};
use crate::{
    OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, clock::Clocks, coordinator::Coordinator, freezer::kernel, power, roles,
    system::SystemNames,
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers that wait for the host to take them, at most.
const UNREAD: usize = 8;

pub(super) struct Service {
    coordinator: Coordinator,
}

impl Service {
    pub(super) const fn new(coordinator: Coordinator) -> Self {
        Self { coordinator }
    }
}

#[tonic::async_trait]
impl GuestAgent for Service {
    type WatchStream = Answers<pb::WatchResponse>;
    type QuiesceStream = Answers<pb::QuiesceResponse>;

    async fn hello(&self, request: Request<pb::HelloRequest>) -> Result<Response<pb::HelloResponse>, Status> {
        info!(host = request.get_ref().host_version, "hello");
        let names = SystemNames::read();
        Ok(Response::new(pb::HelloResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            oldest_protocol_version: OLDEST_PROTOCOL_VERSION,
            hostname: names.hostname,
            kernel: names.kernel,
            boot_id: names.boot_id,
            file_systems: convert::file_systems(&self.coordinator.plan().outcomes()),
            writers: convert::writers(&self.coordinator.writers.list()),
            services: convert::services(&roles::observed()),
        }))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let interval = match request.into_inner().interval {
            None => Duration::from_secs(10),
            given => convert::positive(given)
                .filter(|interval| (Duration::from_secs(1)..=Duration::from_secs(300)).contains(interval))
                .ok_or_else(|| Status::invalid_argument("interval: between 1 second and 5 minutes"))?,
        };
        let (send, events) = mpsc::channel(UNREAD);
        tokio::spawn(beat(self.coordinator.clone(), interval, send));
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn quiesce(
        &self,
        request: Request<Streaming<pb::QuiesceRequest>>,
    ) -> Result<Response<Self::QuiesceStream>, Status> {
        let turn = self.coordinator.begin().await.ok_or_else(|| Status::aborted("another quiesce session is open"))?;
        let (send, answers) = mpsc::channel(UNREAD);
        // On its own task: a call that is cancelled ends the session in order.
        let driver = quiesce::Driver::new(self.coordinator.clone(), turn, send);
        tokio::spawn(driver.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn set_clock(&self, request: Request<pb::SetClockRequest>) -> Result<Response<pb::SetClockResponse>, Status> {
        let clocks = Clocks::read();
        let mut response = pb::SetClockResponse {
            boot_time: Some(convert::duration(clocks.boot)),
            time: Some(convert::timestamp(clocks.time)),
            was_off_by: None,
            changed: false,
        };
        if let Some(reference) = &request.get_ref().reference {
            let reference = convert::reference(reference)
                .ok_or_else(|| Status::invalid_argument("reference: a time between 2020 and 2200 is needed"))?;
            let compared = reference.compare(clocks);
            if compared.wrong {
                reference
                    .set()
                    .map_err(|error| Status::permission_denied(format!("the clock cannot be set: {error}")))?;
                info!(off_by_ms = compared.off_by_ns / 1_000_000, "clock set");
            }
            response.was_off_by = Some(convert::signed_duration(compared.off_by_ns));
            response.changed = compared.wrong;
        }
        Ok(Response::new(response))
    }

    async fn restored(&self, request: Request<pb::RestoredRequest>) -> Result<Response<pb::RestoredResponse>, Status> {
        let restore = convert::restore(request.into_inner()).map_err(Status::invalid_argument)?;
        self.coordinator.restores.begin(&self.coordinator.writers, restore);
        Ok(Response::new(pb::RestoredResponse {}))
    }

    async fn shutdown(&self, request: Request<pb::ShutdownRequest>) -> Result<Response<pb::ShutdownResponse>, Status> {
        let ending = match request.get_ref().action() {
            pb::ShutdownAction::PowerOff => power::Ending::PowerOff,
            pb::ShutdownAction::Reboot => power::Ending::Reboot,
            pb::ShutdownAction::Unspecified => return Err(Status::invalid_argument("action: unknown")),
        };
        if self.coordinator.is_busy() {
            return Err(Status::aborted("a quiesce session is open"));
        }
        power::begin(ending).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(pb::ShutdownResponse {}))
    }

    async fn beat(&self, _: Request<pb::BeatRequest>) -> Result<Response<pb::BeatResponse>, Status> {
        Ok(Response::new(pb::BeatResponse {
            uptime: Some(convert::duration(kernel::boot_time())),
            held: self.coordinator.is_busy(),
            values_revision: self.coordinator.values.revision(),
        }))
    }

    async fn set_values(
        &self,
        request: Request<pb::SetValuesRequest>,
    ) -> Result<Response<pb::SetValuesResponse>, Status> {
        let pb::SetValuesRequest { revision, values } = request.into_inner();
        let mut told = KeyValues::default();
        let set = values.iter().try_for_each(|value| told.set(&value.key, &value.value));
        set.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let kept = self.coordinator.values.keep_hosts(&revision, &told);
        kept.map_err(|error| Status::internal(error.to_string()))?;
        info!(values = values.len(), "the host has set its values");
        Ok(Response::new(pb::SetValuesResponse {}))
    }

    async fn get_values(&self, _: Request<pb::GetValuesRequest>) -> Result<Response<pb::GetValuesResponse>, Status> {
        let told = self.coordinator.values.told();
        let (values, intrinsic) = (convert::values(&told.set), convert::values(&told.intrinsic));
        Ok(Response::new(pb::GetValuesResponse { values, intrinsic }))
    }
}

/// Beats until the host takes no more.
async fn beat(coordinator: Coordinator, every: Duration, send: mpsc::Sender<Result<pb::WatchResponse, Status>>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut known = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = send.closed() => return,
        }
        let inventory = pb::Inventory {
            file_systems: convert::file_systems(&coordinator.plan().outcomes()),
            writers: convert::writers(&coordinator.writers.list()),
        };
        let heartbeat =
            pb::Heartbeat { uptime: Some(convert::duration(kernel::boot_time())), held: coordinator.is_busy() };
        let mut events = vec![pb::watch_response::Event::Heartbeat(heartbeat)];
        if known.as_ref() != Some(&inventory) {
            known = Some(inventory.clone());
            events.insert(0, pb::watch_response::Event::Inventory(inventory));
        }
        for event in events {
            if send.send(Ok(pb::WatchResponse { event: Some(event) })).await.is_err() {
                return;
            }
        }
    }
}
