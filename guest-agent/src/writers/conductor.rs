//! Leads the writers through one session: asks whom the course names, waits for no longer than they may take, and sees
//! to it that nobody stays held when the session ends before its time.
//!
//! It is a task of its own, spoken to through [`Writers`]. When those go, in whatever state the session is, writers are
//! told Abort if they had not been settled, and BackupShutdown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use stillpoint_common::{SessionId, WriterEvent, WriterOutcome, WriterRequest};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    course::{Course, Key, Round, Step, Trouble},
    registration::{Ask, Done, Event, Failure, Registration},
    registry::{Line, Registry},
};

/// How long the end of a session waits for writers to undo what they had begun.
const FAREWELL: Duration = Duration::from_millis(1500);

/// What the host asked of writers.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The session.
    pub session: SessionId,
    /// Window, policy, type of backup.
    pub request: WriterRequest,
    /// How long they may prepare, all together.
    pub prepare: Duration,
    /// How long file systems may be held after them: a part of the window.
    pub lease: Duration,
}

/// How a step went.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// What became of each writer.
    pub writers: Vec<WriterOutcome>,
    /// The session may go on.
    pub go_on: bool,
    /// Every writer was held, or left out.
    pub held: bool,
    /// The host did not want it any more.
    pub given_up: bool,
    /// Who stands in the way, in words; else empty.
    pub message: String,
}

enum Command {
    Take(Step, oneshot::Sender<Report>),
    Abort,
}

/// Speaks to the conductor of one session.
#[derive(Debug, Clone)]
pub struct Voice {
    commands: mpsc::Sender<Command>,
}

impl Voice {
    /// Takes a step, and says how it went. A step that was not possible has been undone when this answers. Dropping the
    /// future does not take the step back.
    pub async fn step(&self, step: Step) -> Report {
        let lost = Report { message: "the session of the writers is over".to_owned(), ..Report::default() };
        let (answer, answered) = oneshot::channel();
        match self.commands.try_send(Command::Take(step, answer)) {
            Ok(()) => answered.await.unwrap_or(lost),
            Err(_) => lost,
        }
    }

    /// Lets writers undo what they have begun, without waiting for it.
    pub fn abort(&self) {
        let _ = self.commands.try_send(Command::Abort);
    }
}

/// The writers of one session.
#[derive(Debug)]
pub struct Writers {
    /// Asks for steps. Clones must be gone before the session can end.
    pub voice: Voice,
    given_up: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Writers {
    /// Begins a session with the writers that are registered now.
    #[must_use]
    pub fn begin(registry: Registry, orders: Orders) -> Self {
        let (commands, queue) = mpsc::channel(8);
        let given_up = watch::Sender::new(false);
        let (mut lines, mut members) = (BTreeMap::new(), Vec::new());
        for found in registry.find_all() {
            lines.insert(found.key, (found.line, Arc::clone(&found.registration)));
            members.push((found.key, found.registration, found.facts));
        }
        let course = Course::new(members, orders.request.policy);
        let conductor = Conductor { registry, course, lines, orders, given_up: given_up.subscribe(), frozen: None };
        Self { voice: Voice { commands }, given_up, task: tokio::spawn(conductor.run(queue)) }
    }

    /// Whatever step is being taken is not wanted any more.
    pub fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    /// Ends the session. Writers that could be reached have been told when this returns.
    pub async fn end(self) {
        let Self { voice, given_up, task } = self;
        given_up.send_replace(true);
        drop(voice);
        if timeout(FAREWELL * 2, task).await.is_err() {
            warn!("the session of the writers does not end");
        }
    }
}

struct Conductor {
    registry: Registry,
    course: Course,
    lines: BTreeMap<Key, (Line, Arc<Registration>)>,
    orders: Orders,
    given_up: watch::Receiver<bool>,
    /// When the first writer was asked to be quiet.
    frozen: Option<Instant>,
}

impl Conductor {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Take(step, answer) => {
                    let report = self.take(step).await;
                    // A report that nobody takes is that of a session which is about to end.
                    let _ = answer.send(report);
                }
                Command::Abort => self.farewell(Step::Abort).await,
            }
        }
        self.farewell(Step::Abort).await;
        self.farewell(Step::Shutdown).await;
    }

    async fn take(&mut self, step: Step) -> Report {
        let until = self.deadline(step);
        for round in step.rounds() {
            self.ask_all(*round, until, is_for_the_host(step)).await;
            self.undo_strays().await;
            if is_for_the_host(step) && (!self.course.may_go_on() || *self.given_up.borrow()) {
                self.farewell(Step::Abort).await;
                break;
            }
        }
        self.report()
    }

    fn report(&self) -> Report {
        let blamed = self.course.in_the_way();
        let message = if blamed.is_empty() { String::new() } else { format!("not held: {}", blamed.join(", ")) };
        let given_up = *self.given_up.borrow();
        Report {
            writers: self.course.outcomes(),
            go_on: self.course.may_go_on() && !given_up,
            held: self.course.held_throughout(),
            given_up,
            message: if given_up { "the host took it back".to_owned() } else { message },
        }
    }

    /// The file systems' lease is a part of the window: what is left of it is for the writers to become quiet. So the
    /// window cannot end before the lease has.
    fn deadline(&mut self, step: Step) -> Instant {
        let now = Instant::now();
        match step {
            Step::Prepare => now + self.orders.prepare,
            Step::Freeze => {
                self.frozen = Some(now);
                now + self.orders.request.window.saturating_sub(self.orders.lease)
            }
            // Their own budgets are all that counts.
            Step::Thaw | Step::Settle | Step::Complete | Step::Abort | Step::Shutdown => {
                now + self.orders.request.window
            }
        }
    }

    /// Asks everyone whom the round names, all at once, and notes every answer.
    async fn ask_all(&mut self, round: Round, until: Instant, may_be_given_up: bool) {
        for (key, _) in self.lines.iter().filter(|(_, (line, _))| line.is_gone()) {
            self.course.vanished(*key);
        }
        let asked = Instant::now();
        let mut answers = JoinSet::new();
        for (key, budget) in self.course.asks(round) {
            let Some((line, writer)) = self.lines.get(&key) else { continue };
            let budget = budget.min(until.saturating_duration_since(asked));
            let event = Event { session: Some(self.orders.session), budget, ask: self.ask(round.event, writer) };
            match line.ask(event) {
                Ok(answer) => drop(answers.spawn(async move { (key, answered(answer, budget).await) })),
                Err(trouble) => self.course.answered(key, round.event, asked, asked, Err(trouble)),
            }
        }
        let mut given_up = self.given_up.clone();
        loop {
            tokio::select! {
                answer = answers.join_next() => match answer {
                    None => break,
                    Some(Err(_)) => {}
                    Some(Ok((key, result))) => self.course.answered(key, round.event, asked, Instant::now(), result),
                },
                _ = given_up.wait_for(|given_up| *given_up), if may_be_given_up => break,
            }
        }
        for key in self.lines.keys() {
            self.course.facts(*key).into_iter().for_each(|facts| self.registry.note(*key, facts));
        }
    }

    fn ask(&self, event: WriterEvent, writer: &Registration) -> Ask {
        let backup = self.orders.request.backup_type.for_writer(&writer.backup_types);
        match event {
            WriterEvent::PrepareBackup => Ask::PrepareBackup(backup),
            WriterEvent::PrepareSnapshot => Ask::PrepareSnapshot,
            WriterEvent::Freeze => {
                let spent = self.frozen.map(|since| since.elapsed()).unwrap_or_default();
                Ask::Freeze { window: self.orders.request.window.saturating_sub(spent) }
            }
            WriterEvent::Thaw => Ask::Thaw,
            WriterEvent::PostSnapshot => Ask::PostSnapshot,
            WriterEvent::BackupComplete => Ask::BackupComplete(backup),
            WriterEvent::BackupShutdown => Ask::BackupShutdown,
            WriterEvent::Abort => Ask::Abort,
            // A restore has no session: nobody is asked this here.
            WriterEvent::Identify | WriterEvent::PreRestore | WriterEvent::PostRestore => Ask::Identify,
        }
    }

    /// A writer that was left out because it did not answer may still become quiet: it is told to undo that, now.
    async fn undo_strays(&mut self) {
        let asked = Instant::now();
        for (key, budget) in self.course.strays() {
            let Some((line, _)) = self.lines.get(&key) else { continue };
            let event = Event { session: Some(self.orders.session), budget, ask: Ask::Abort };
            let told = line.ask(event).map(|_| Done::default());
            self.course.answered(key, WriterEvent::Abort, asked, asked, told);
        }
    }

    /// Tells everyone whom the step names, and does not wait for long.
    async fn farewell(&mut self, step: Step) {
        let until = Instant::now() + FAREWELL;
        for round in step.rounds() {
            self.ask_all(*round, until, false).await;
        }
        if step == Step::Abort && self.frozen.take().is_some() {
            info!("writers were told to undo what they had begun");
        }
    }
}

/// Steps that a host which is gone has no use for.
const fn is_for_the_host(step: Step) -> bool {
    match step {
        Step::Prepare | Step::Freeze | Step::Settle => true,
        Step::Thaw | Step::Complete | Step::Abort | Step::Shutdown => false,
    }
}

async fn answered(answer: oneshot::Receiver<Result<Done, Failure>>, budget: Duration) -> Result<Done, Trouble> {
    match timeout_at(Instant::now() + budget, answer).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(failure))) => Err(Trouble::Refused(failure)),
        Ok(Err(_)) => Err(Trouble::Vanished),
        Err(_) => Err(Trouble::TimedOut(budget)),
    }
}

#[cfg(test)]
mod tests;
