//! One quiesce session, seen from the host.

use std::time::Duration;

use stillpoint_common::{Frozen, Prepared, QuiesceRequest, SessionId, Thawed};
use stillpoint_engine::ports::QuiesceError;
use stillpoint_proto::guest::v1::{
    self as pb, guest_agent_client::GuestAgentClient, quiesce_request, quiesce_response::Step,
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
        let start = start(request, budget);
        send(&steps, quiesce_request::Step::Start(start))?;
        let answers =
            failure::within("prepare", limits.ask, client.quiesce(ReceiverStream::new(stream))).await?.into_inner();
        let mut session = Self { id: request.session, limits, budget, steps, answers, thawed: None };
        match session.answer("prepare", limits.prepare).await? {
            Step::Prepared(prepared) => Ok((session, convert::prepared(&prepared)?)),
            other @ (Step::Frozen(_) | Step::Refused(_) | Step::Thawed(_) | Step::Lapsed(_)) => Err(unexpected(&other)),
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
        match self.answer("freeze", self.limits.write_out + self.budget).await? {
            Step::Frozen(frozen) => convert::frozen(&frozen),
            Step::Refused(refused) => Err(convert::refusal(&refused, self.budget)),
            Step::Lapsed(lapsed) => Err(QuiesceError::Lapsed { why: convert::clean(&lapsed.message) }),
            other @ (Step::Prepared(_) | Step::Thawed(_)) => Err(unexpected(&other)),
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
                Step::Thawed(thawed) => {
                    let thawed = if lapsed { Thawed::Lapsed } else { convert::thawed(&thawed) };
                    self.thawed = Some(thawed);
                    return Ok(thawed);
                }
                other @ (Step::Prepared(_) | Step::Frozen(_) | Step::Refused(_) | Step::Lapsed(_)) => {
                    return Err(unexpected(&other));
                }
            }
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

fn start(request: &QuiesceRequest, budget: Duration) -> pb::Start {
    // A lease that the wire cannot carry is one that the agent refuses.
    let on_wire = |duration: Duration| prost_types::Duration::try_from(duration).ok();
    pb::Start {
        session_id: request.session.to_string(),
        lease: on_wire(request.lease),
        freeze_budget: on_wire(budget),
        options: None,
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
    };
    QuiesceError::Failed { message: format!("it said {said} out of turn") }
}
