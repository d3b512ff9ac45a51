//! One quiesce session, seen from the host.

use std::time::Duration;

use stillpoint_common::{Frozen, Prepared, QuiesceRequest, SessionId, Thawed, WriterOutcome};
use stillpoint_engine::ports::QuiesceError;
use stillpoint_proto::{
    guest::v1::{self as pb, guest_agent_client::GuestAgentClient, quiesce_request, quiesce_response::Step},
    writer::v1::{BackupType, WriterPolicy},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{Limits, convert, failure};

/// A session in a guest. Dropping it closes the stream, which is a thaw.
#[derive(Debug)]
pub struct QuiesceSession {
    id: SessionId,
    limits: Limits,
    /// How long the agent itself may freeze.
    budget: Duration,
    /// How long its writers may be held.
    window: Duration,
    steps: mpsc::Sender<pb::QuiesceRequest>,
    answers: Streaming<pb::QuiesceResponse>,
    thawed: Option<Thawed>,
}

impl QuiesceSession {
    /// Opens a session; nothing is held yet. A dropped future leaves no session.
    pub(crate) async fn open(
        mut client: GuestAgentClient<Channel>,
        limits: Limits,
        request: &QuiesceRequest,
    ) -> Result<(Self, Prepared), QuiesceError> {
        let (steps, stream) = mpsc::channel(4);
        let budget = request.lease / 2;
        let start = start(request, budget, limits.writers_prepare());
        send(&steps, quiesce_request::Step::Start(start))?;
        let answers =
            failure::within("prepare", limits.ask, client.quiesce(ReceiverStream::new(stream))).await?.into_inner();
        let (id, window) = (request.session, request.writers.window);
        let mut session = Self { id, limits, budget, window, steps, answers, thawed: None };
        match session.answer("prepare", limits.prepare).await? {
            Step::Prepared(prepared) => {
                let prepared = convert::prepared(&prepared)?;
                if prepared.writers.is_empty() {
                    // File systems alone are frozen within their budget: an agent that hangs is not waited for longer.
                    session.window = Duration::ZERO;
                }
                Ok((session, prepared))
            }
            Step::Refused(refused) => Err(convert::refusal(&refused, limits.prepare)),
            other @ (Step::Frozen(_) | Step::Thawed(_) | Step::Lapsed(_) | Step::Settled(_) | Step::Completed(_)) => {
                Err(unexpected(&other))
            }
        }
    }

    /// Which session it is.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Holds the guest. After an error, drop the session: nothing is held, or will not be for longer than the lease.
    ///
    /// # Errors
    /// Why it is not held.
    pub async fn freeze(&mut self) -> Result<Frozen, QuiesceError> {
        send(&self.steps, quiesce_request::Step::Freeze(pb::Freeze {}))?;
        // Writers have what the window leaves them beside the lease, of which the budget is half.
        let limit = self.limits.write_out + self.window.max(self.budget);
        match self.answer("freeze", limit).await? {
            Step::Frozen(frozen) => convert::frozen(&frozen),
            Step::Refused(refused) => Err(convert::refusal(&refused, self.budget)),
            Step::Lapsed(lapsed) => Err(QuiesceError::Lapsed { why: convert::clean(&lapsed.message) }),
            other @ (Step::Prepared(_) | Step::Thawed(_) | Step::Settled(_) | Step::Completed(_)) => {
                Err(unexpected(&other))
            }
        }
    }

    /// Lets the guest go on. Asked again, it answers the same again.
    ///
    /// # Errors
    /// If the agent does not say how the hold ended: then it counts as lapsed.
    pub async fn thaw(&mut self) -> Result<Thawed, QuiesceError> {
        if let Some(thawed) = self.thawed {
            return Ok(thawed);
        }
        send(&self.steps, quiesce_request::Step::Thaw(pb::Thaw {}))?;
        let mut lapsed = false;
        loop {
            match self.answer("thaw", self.limits.thaw).await? {
                // Said before our thaw came: its own answer follows.
                Step::Lapsed(_) if !lapsed => lapsed = true,
                Step::Thawed(told) => {
                    let thawed = if lapsed { Thawed::Lapsed } else { convert::thawed(&told) };
                    self.thawed = Some(thawed);
                    // Who it was is worth knowing; that it was not held is so in either form.
                    return convert::writers_held(&told).map(|()| thawed);
                }
                other @ (Step::Prepared(_)
                | Step::Frozen(_)
                | Step::Refused(_)
                | Step::Lapsed(_)
                | Step::Settled(_)
                | Step::Completed(_)) => return Err(unexpected(&other)),
            }
        }
    }

    /// Lets writers clean up, and answers what each wants to be kept.
    ///
    /// # Errors
    /// If one fails that may not be left out, or the agent does not answer.
    pub async fn settle(&mut self) -> Result<Vec<WriterOutcome>, QuiesceError> {
        send(&self.steps, quiesce_request::Step::Settle(pb::Settle {}))?;
        match self.answer("settle", self.limits.settle).await? {
            Step::Settled(settled) => {
                convert::none_refused(&settled.writers)?;
                convert::writers(&settled.writers)
            }
            other @ (Step::Prepared(_)
            | Step::Frozen(_)
            | Step::Refused(_)
            | Step::Thawed(_)
            | Step::Lapsed(_)
            | Step::Completed(_)) => Err(unexpected(&other)),
        }
    }

    /// Tells writers that the data is safe.
    ///
    /// # Errors
    /// If the agent does not answer.
    pub async fn complete(&mut self) -> Result<Vec<WriterOutcome>, QuiesceError> {
        send(&self.steps, quiesce_request::Step::Complete(pb::Complete {}))?;
        match self.answer("complete", self.limits.settle).await? {
            Step::Completed(completed) => convert::writers(&completed.writers),
            other @ (Step::Prepared(_)
            | Step::Frozen(_)
            | Step::Refused(_)
            | Step::Thawed(_)
            | Step::Lapsed(_)
            | Step::Settled(_)) => Err(unexpected(&other)),
        }
    }

    async fn answer(&mut self, call: &'static str, limit: Duration) -> Result<Step, QuiesceError> {
        match failure::within(call, limit, self.answers.message()).await {
            Ok(Some(pb::QuiesceResponse { step: Some(step) })) => Ok(step),
            Ok(Some(pb::QuiesceResponse { step: None })) => {
                Err(QuiesceError::Failed { message: format!("{call}: an answer without content") })
            }
            Ok(None) => Err(QuiesceError::Lapsed { why: "the agent ended it".to_owned() }),
            Err(QuiesceError::Unreachable { why }) => Err(QuiesceError::Lapsed { why }),
            Err(error) => Err(error),
        }
    }
}

fn start(request: &QuiesceRequest, budget: Duration, writers_prepare: Duration) -> pb::Start {
    // A lease that the wire cannot carry is one that the agent refuses.
    let on_wire = |duration: Duration| prost_types::Duration::try_from(duration).ok();
    pb::Start {
        session_id: request.session.to_string(),
        lease: on_wire(request.lease),
        freeze_budget: on_wire(budget),
        options: Some(pb::QuiesceOptions {
            exclude_mount_points: Vec::new(),
            writer_window: on_wire(request.writers.window.max(request.lease)),
            writer_prepare_budget: on_wire(writers_prepare),
            writer_policy: WriterPolicy::from(request.writers.policy).into(),
            backup_type: BackupType::from(request.writers.backup_type).into(),
        }),
    }
}

/// One answer is awaited for each step, so there is always room, unless the stream is gone.
fn send(steps: &mpsc::Sender<pb::QuiesceRequest>, step: quiesce_request::Step) -> Result<(), QuiesceError> {
    let request = pb::QuiesceRequest { step: Some(step) };
    steps.try_send(request).map_err(|_| QuiesceError::Lapsed { why: "the stream to the agent is closed".to_owned() })
}

fn unexpected(step: &Step) -> QuiesceError {
    let said = match step {
        Step::Prepared(_) => "prepared",
        Step::Frozen(_) => "frozen",
        Step::Refused(_) => "refused",
        Step::Thawed(_) => "thawed",
        Step::Lapsed(_) => "lapsed",
        Step::Settled(_) => "settled",
        Step::Completed(_) => "completed",
    };
    QuiesceError::Failed { message: format!("it said {said} out of turn") }
}
