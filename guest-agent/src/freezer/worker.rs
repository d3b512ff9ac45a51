//! The thread that freezes and thaws, one command after the other.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use stillpoint_common::Thawed;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    Command, FreezeOrder, FrozenReport, Refusal, RefusalReason, ThawReport, hold::Hold, kernel, plan, select::Scope,
};
use crate::guardian::Guardian;

/// What the worker holds.
struct Present {
    hold: Hold,
    since: Duration,
    lease: Duration,
    lapse: oneshot::Sender<ThawReport>,
}

impl Present {
    fn left(&self) -> Duration {
        (self.since + self.lease).saturating_sub(kernel::boot_time())
    }
}

pub(super) struct Worker {
    guardian: Guardian,
    present: Option<Present>,
    last: ThawReport,
}

impl Worker {
    pub(super) fn new(guardian: Guardian) -> Self {
        Self { guardian, present: None, last: ThawReport::nothing_held() }
    }

    /// Obeys until nobody can ask any more; then lets go.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let command = match &self.present {
                Some(present) => commands.recv_timeout(present.left()),
                None => commands.recv().map_err(RecvTimeoutError::from),
            };
            match command {
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => self.lapse(),
                Err(RecvTimeoutError::Disconnected) => return self.let_go(drop),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::WriteOut(scope, answer) => drop(answer.send(write_out(&scope))),
            Command::Freeze(order, answer) => {
                let result = self.freeze(&order);
                // Nobody waits any more: nobody would thaw.
                if answer.send(result).is_err() {
                    self.let_go(drop);
                }
            }
            Command::Thaw(answer) => self.let_go(|report| drop(answer.send(report))),
        }
    }

    fn lapse(&mut self) {
        let Some(Present { hold, since, lapse, .. }) = self.present.take() else { return };
        let mut report = hold.thaw(since);
        report.outcome = Some(Thawed::Lapsed);
        "the lease ended".clone_into(&mut report.message);
        warn!("the lease ended before the thaw");
        self.last = report.clone();
        let _ = lapse.send(report);
        self.disarm();
    }

    /// Thaws, answers, and only then sees to the guardian: the guest comes first, the host second.
    fn let_go(&mut self, answer: impl FnOnce(ThawReport)) {
        let Some(Present { hold, since, .. }) = self.present.take() else { return answer(self.last.clone()) };
        #[cfg(feature = "fault-injection")]
        crate::fault::before_thaw();
        self.last = hold.thaw(since);
        info!(outcome = ?self.last.outcome, held = ?self.last.held, "thawed");
        answer(self.last.clone());
        self.disarm();
    }

    fn disarm(&mut self) {
        match self.guardian.disarm() {
            Ok(false) => {}
            Ok(true) => warn!("the guardian had to thaw"),
            Err(error) => warn!(%error, "the guardian cannot be disarmed"),
        }
    }

    fn freeze(&mut self, order: &FreezeOrder) -> Result<FrozenReport, Refusal> {
        if self.present.is_some() {
            return Err(refusal(RefusalReason::Agent, "the guest is held already", Vec::new()));
        }
        self.last = ThawReport::nothing_held();
        let hold = Hold::open(plan(&order.scope)).map_err(|file_systems| {
            refusal(RefusalReason::FileSystem, "a file system cannot be opened", file_systems)
        })?;
        if hold.is_empty() {
            return Err(refusal(RefusalReason::NothingToFreeze, "there is no file system to freeze", hold.outcomes()));
        }
        let began = kernel::boot_time();
        hold.write_out();
        let sync = kernel::boot_time().saturating_sub(began);
        let hurry = kernel::hurries();
        let since = kernel::boot_time();
        if let Err(error) = self.guardian.arm(&hold.fds(), order.lease, hurry) {
            warn!(%error, "no guardian, no freeze");
            return Err(refusal(RefusalReason::Agent, error.to_string(), hold.outcomes()));
        }
        let hold = self.freeze_all(hold, order, since, hurry)?;
        let file_systems = hold.outcomes();
        let freeze = kernel::boot_time().saturating_sub(since);
        let (tell, lapse) = oneshot::channel();
        self.present = Some(Present { hold, since, lease: order.lease, lapse: tell });
        info!(file_systems = file_systems.len(), ?sync, ?freeze, "frozen");
        Ok(FrozenReport { file_systems, sync, freeze, lapse })
    }

    fn freeze_all(
        &mut self,
        mut hold: Hold,
        order: &FreezeOrder,
        since: Duration,
        hurry: Option<bool>,
    ) -> Result<Hold, Refusal> {
        let until = since + order.budget.min(order.lease);
        if hurry == Some(false) {
            kernel::set_hurry(true);
        }
        let done = hold.freeze(|| {
            if order.is_cancelled() {
                Some(RefusalReason::Cancelled)
            } else {
                (kernel::boot_time() >= until).then_some(RefusalReason::TooSlow)
            }
        });
        if hurry == Some(false) {
            kernel::set_hurry(false);
        }
        if let Err(reason) = done {
            let file_systems = hold.outcomes();
            warn!(?reason, "freeze given up");
            hold.thaw(since);
            self.disarm();
            return Err(refusal(reason, explain(reason), file_systems));
        }
        Ok(hold)
    }
}

fn write_out(scope: &Scope) -> super::Plan {
    let planned = plan(scope);
    if let Ok(hold) = Hold::open(planned.clone()) {
        hold.write_out();
    }
    planned
}

fn refusal(
    reason: RefusalReason,
    message: impl Into<String>,
    file_systems: Vec<stillpoint_common::FileSystemOutcome>,
) -> Refusal {
    Refusal { reason, message: message.into(), file_systems }
}

const fn explain(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::FileSystem => "a file system cannot be frozen",
        RefusalReason::NothingToFreeze => "no file system of the guest can be frozen",
        RefusalReason::TooSlow => "freezing took longer than it may",
        RefusalReason::Writer => "a writer cannot be held",
        RefusalReason::Cancelled => "the host took it back",
        RefusalReason::Agent => "the agent failed",
    }
}
