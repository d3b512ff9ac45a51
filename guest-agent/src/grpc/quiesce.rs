//! Drives one quiesce session: the machine of [`crate::session`] between the host's stream and the freezer.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use stillpoint_common::{SessionId, WriterOutcome, WriterRequest};
use stillpoint_proto::guest::v1::{self as pb, quiesce_request::Step, quiesce_response};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::convert;
use crate::{
    coordinator::{Coordinator, Turn},
    freezer::{
        FreezeOrder, FreezerGone, ThawReport,
        select::{Plan, Scope},
    },
    session::{Act, Event, State, on},
    work::{self, Done, Work},
    writers::conductor::{Orders, Voice, Writers},
};

const SHORTEST_LEASE: Duration = Duration::from_millis(100);
const LONGEST_LEASE: Duration = Duration::from_secs(60);
const MAX_EXCLUDES: usize = 256;
/// How long writers may prepare if the host does not say.
const WRITERS_PREPARE: Duration = Duration::from_secs(40);

/// What Start asked for.
#[derive(Debug)]
struct Wanted {
    session: SessionId,
    scope: Scope,
    lease: Duration,
    budget: Duration,
    writers: WriterRequest,
    writers_prepare: Duration,
}

pub(super) struct Driver {
    coordinator: Coordinator,
    turn: Turn,
    send: mpsc::Sender<Result<pb::QuiesceResponse, Status>>,
    state: State,
    wanted: Option<Wanted>,
    /// From the beginning to the end of the session.
    writers: Option<Writers>,
    cancel: Arc<AtomicBool>,
    work: Option<Work>,
    lapse: Option<oneshot::Receiver<ThawReport>>,
}

/// What the driver waits for.
enum Input {
    Message(Result<Option<pb::QuiesceRequest>, Status>),
    Done(Result<Done, FreezerGone>),
    Lapsed(ThawReport),
    Gone,
}

impl Driver {
    pub(super) fn new(
        coordinator: Coordinator,
        turn: Turn,
        send: mpsc::Sender<Result<pb::QuiesceResponse, Status>>,
    ) -> Self {
        let (state, cancel) = (State::Opened, Arc::default());
        Self { coordinator, turn, send, state, wanted: None, writers: None, cancel, work: None, lapse: None }
    }

    /// Runs the session to its end. Nothing is held when this returns.
    pub(super) async fn run(mut self, mut messages: Streaming<pb::QuiesceRequest>) {
        while !self.is_over() {
            let input = self.next_input(&mut messages).await;
            let (event, answer) = match self.take(input) {
                Ok(taken) => taken,
                Err(status) => {
                    debug!(%status, "session refused");
                    let _ = self.send.try_send(Err(status));
                    (Event::Gone, None)
                }
            };
            self.step(event, answer).await;
        }
    }

    /// A freezer that has failed answers nothing more, and the guardian sees to what it held.
    fn is_over(&self) -> bool {
        self.state == State::Ended || (self.state == State::Abandoned && self.work.is_none())
    }

    /// Messages are read only while one of them could be in turn: a host that floods us waits.
    async fn next_input(&mut self, messages: &mut Streaming<pb::QuiesceRequest>) -> Input {
        let freezing = matches!(self.state, State::Freezing | State::Cancelling);
        let listening = self.state != State::Abandoned && (self.work.is_none() || freezing);
        tokio::select! {
            biased;
            () = self.send.closed(), if self.state != State::Abandoned => Input::Gone,
            () = self.turn.host_replaced(), if self.state != State::Abandoned => Input::Gone,
            done = wait(&mut self.work) => Input::Done(done),
            report = lapse(&mut self.lapse) => Input::Lapsed(report),
            message = messages.message(), if listening => Input::Message(message),
        }
    }

    /// What the input means for the machine, and what to tell the host of it.
    fn take(&mut self, input: Input) -> Result<(Event, Option<pb::QuiesceResponse>), Status> {
        Ok(match input {
            Input::Gone | Input::Message(Err(_) | Ok(None)) => (Event::Gone, None),
            Input::Message(Ok(Some(message))) => (self.message(message)?, None),
            Input::Lapsed(report) => (Event::Lapsed, Some(convert::lapsed(&report))),
            Input::Done(done) => match done.map_err(|gone| Status::internal(gone.to_string()))? {
                Done::Prepared(plan, told) => (Event::Prepared, Some(prepared(&plan, &told))),
                Done::Thawed(report, told) => (Event::Thawed, Some(convert::thawed(&report, &told))),
                Done::Refused(refusal, told) => (Event::Refused, Some(convert::refused(&refusal, &told))),
                Done::Frozen(report, told) => {
                    let answer = convert::frozen(&report, &told);
                    self.lapse = Some(report.lapse);
                    (Event::Frozen, Some(answer))
                }
                Done::Settled(told) => {
                    let settled = pb::Settled { writers: convert::writers(&told) };
                    (Event::Settled, Some(convert::answer(quiesce_response::Step::Settled(settled))))
                }
                Done::Completed(told) => {
                    let completed = pb::Completed { writers: convert::writers(&told) };
                    (Event::Settled, Some(convert::answer(quiesce_response::Step::Completed(completed))))
                }
            },
        })
    }

    fn message(&mut self, message: pb::QuiesceRequest) -> Result<Event, Status> {
        match message.step.ok_or_else(|| Status::invalid_argument("step: missing"))? {
            Step::Start(start) => {
                self.wanted = Some(self.wanted(start)?);
                Ok(Event::Start)
            }
            Step::Freeze(pb::Freeze {}) => Ok(Event::Freeze),
            Step::Thaw(pb::Thaw {}) => Ok(Event::Thaw),
            Step::Settle(pb::Settle {}) => Ok(Event::Settle),
            Step::Complete(pb::Complete {}) => Ok(Event::Complete),
        }
    }

    fn wanted(&self, start: pb::Start) -> Result<Wanted, Status> {
        let session: SessionId =
            start.session_id.parse().map_err(|_| Status::invalid_argument("session_id: not a UUID"))?;
        let lease = convert::positive(start.lease)
            .filter(|lease| (SHORTEST_LEASE..=LONGEST_LEASE).contains(lease))
            .ok_or_else(|| Status::invalid_argument("lease: between 100 milliseconds and 60 seconds"))?;
        let budget = match start.freeze_budget {
            None => lease,
            given => convert::positive(given)
                .filter(|budget| *budget <= lease)
                .ok_or_else(|| Status::invalid_argument("freeze_budget: at most the lease"))?,
        };
        let options = start.options.unwrap_or_default();
        let writers = convert::writer_request(&options, lease).map_err(Status::invalid_argument)?;
        let writers_prepare = convert::positive(options.writer_prepare_budget).unwrap_or(WRITERS_PREPARE);
        let exclude = options.exclude_mount_points;
        if exclude.len() > MAX_EXCLUDES {
            return Err(Status::invalid_argument("options.exclude_mount_points: too many"));
        }
        debug!(%session, ?lease, "session");
        let scope = self.coordinator.scope(exclude.into_iter().map(PathBuf::from).collect());
        Ok(Wanted { session, scope, lease, budget, writers, writers_prepare })
    }

    async fn step(&mut self, event: Event, answer: Option<pb::QuiesceResponse>) {
        let (next, acts) = on(self.state, event);
        debug!(?event, ?next, "session");
        self.state = next;
        for act in acts {
            match act {
                Act::Prepare => self.begin_prepare(),
                Act::Freeze => self.begin_freeze(),
                Act::Cancel => {
                    self.cancel.store(true, Ordering::Release);
                    self.writers.iter().for_each(Writers::give_up);
                }
                Act::Thaw => self.begin(|turn, writers| Box::pin(work::thaw(turn.freezer.clone(), writers))),
                Act::Release => self.writers.iter().for_each(|writers| writers.voice.abort()),
                Act::Settle => self.begin(|_, writers| Box::pin(work::settle(writers))),
                Act::Complete => self.begin(|_, writers| Box::pin(work::complete(writers))),
                Act::Answer => {
                    if let Some(answer) = &answer {
                        // A host that takes nothing is seen to be gone by its lease at the latest.
                        let _ = self.send.try_send(Ok(answer.clone()));
                    }
                }
                Act::OutOfTurn => {
                    let _ = self.send.try_send(Err(Status::failed_precondition("the message is out of turn")));
                }
                Act::End => self.end().await,
            }
        }
    }

    fn begin(&mut self, work: impl FnOnce(&Turn, Voice) -> Work) {
        let Some(writers) = &self.writers else { return };
        self.work = Some(work(&self.turn, writers.voice.clone()));
    }

    fn begin_prepare(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let orders = Orders {
            session: wanted.session,
            request: wanted.writers.clone(),
            prepare: wanted.writers_prepare,
            lease: wanted.lease,
        };
        let scope = wanted.scope.clone();
        self.writers = Some(Writers::begin(self.coordinator.writers.clone(), orders));
        self.begin(|turn, writers| Box::pin(work::prepare(turn.freezer.clone(), writers, scope)));
    }

    fn begin_freeze(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let order = FreezeOrder {
            scope: wanted.scope.clone(),
            lease: wanted.lease,
            budget: wanted.budget,
            cancel: Arc::clone(&self.cancel),
        };
        self.begin(|turn, writers| Box::pin(work::freeze(turn.freezer.clone(), writers, order)));
    }

    async fn end(&mut self) {
        self.work = None;
        self.lapse = None;
        match self.turn.freezer.thaw().await {
            Ok(report) => debug!(outcome = ?report.outcome, "session ended"),
            Err(gone) => warn!(%gone, "the guardian has to thaw"),
        }
        if let Some(writers) = self.writers.take() {
            writers.end().await;
        }
    }
}

async fn wait(work: &mut Option<Work>) -> Result<Done, FreezerGone> {
    match work {
        Some(running) => {
            let done = running.await;
            *work = None;
            done
        }
        None => std::future::pending().await,
    }
}

async fn lapse(lapse: &mut Option<oneshot::Receiver<ThawReport>>) -> ThawReport {
    if let Some(receiver) = lapse {
        let said = receiver.await;
        *lapse = None;
        if let Ok(report) = said {
            return report;
        }
    }
    // It was thawed in order: there is nothing to lapse any more.
    std::future::pending().await
}

fn prepared(plan: &Plan, told: &[WriterOutcome]) -> pb::QuiesceResponse {
    let file_systems = convert::file_systems(&plan.outcomes());
    let prepared = pb::Prepared { file_systems, writers: convert::writers(told) };
    convert::answer(quiesce_response::Step::Prepared(prepared))
}
