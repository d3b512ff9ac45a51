//! Quiesce sessions as the guest keeps them: the lease ends in the guest, whatever becomes of the host.

use std::time::Duration;

use stillpoint_common::{
    FileSystemOutcome, FileSystemResult, Frozen, InstanceId, Prepared, QuiesceRequest, SessionId, Thawed, VmId,
    WriterOutcome, WriterPolicy, WriterResult,
};
use stillpoint_engine::ports::{QuiesceError, RunState};
use tokio::time::Instant;

use crate::{AgentScript, FreezeScript, GuestScript, ScriptedWriter, ThawScript, WriterScript, state::State};

/// A hold on a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) from: Instant,
    /// When the guest lets go by itself.
    pub(crate) until: Instant,
    /// When it has let go.
    pub(crate) to: Option<Instant>,
}

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) vm: VmId,
    pub(crate) instance: InstanceId,
    lease: Duration,
    policy: WriterPolicy,
    /// What has become of its writers.
    writers: Vec<WriterOutcome>,
    pub(crate) hold: Option<Hold>,
    outcome: Option<Thawed>,
    /// It came with the memory that was loaded: the next to speak to the agent ends it.
    loaded: bool,
}

impl Session {
    pub(crate) fn is_held(&self) -> bool {
        self.hold.is_some_and(|hold| hold.to.is_none())
    }

    fn let_go(&mut self, at: Instant, outcome: Thawed) {
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.to.is_none()) {
            hold.to = Some(at);
            self.outcome = Some(outcome);
        }
    }

    /// Asks every writer that is not left out; what one of them does is in its script.
    fn ask_writers(
        &mut self,
        script: &GuestScript,
        done: WriterResult,
        what: impl Fn(&ScriptedWriter) -> WriterScript,
    ) -> Result<(), QuiesceError> {
        let policy = self.policy;
        for outcome in self.writers.iter_mut().filter(|outcome| outcome.result != WriterResult::LeftOut) {
            let Some(writer) = script.writers.iter().find(|writer| writer.name == outcome.name) else { continue };
            match (answer_of(what(writer), &writer.name), policy) {
                (Ok(()), _) => outcome.result = done,
                (Err(error), WriterPolicy::Required) => return Err(error),
                (Err(error), WriterPolicy::LeaveOut) => {
                    outcome.result = WriterResult::LeftOut;
                    outcome.detail = error.to_string();
                }
            }
        }
        Ok(())
    }
}

/// What comes back from a guest.
#[derive(Debug)]
pub(crate) enum Reply<T> {
    Answer(T),
    /// Nothing; the caller waits in vain.
    Silence,
}

impl State {
    pub(crate) fn is_held(&self, instance: InstanceId) -> bool {
        self.sessions.values().any(|session| session.instance == instance && session.is_held())
    }

    pub(crate) fn end_leases(&mut self) {
        let now = Instant::now();
        for session in self.sessions.values_mut() {
            if let Some(hold) = session.hold.filter(|hold| hold.until <= now) {
                session.let_go(hold.until, Thawed::Lapsed);
            }
        }
    }

    /// Ends what an instance's guest had held: it is gone, or its agent is.
    pub(crate) fn end_holds(&mut self, instance: InstanceId) {
        let sessions = self.sessions.values_mut().filter(|session| session.instance == instance);
        sessions.for_each(|session| session.let_go(Instant::now(), Thawed::Lapsed));
    }

    /// How long an instance's guest may still be held, if it is.
    pub(crate) fn hold_left(&self, instance: InstanceId) -> Option<Duration> {
        let mut held = self.sessions.values().filter(|session| session.instance == instance && session.is_held());
        held.find_map(|session| session.hold).map(|hold| hold.until.saturating_duration_since(Instant::now()))
    }

    /// The guest whose memory was loaded is held as it was.
    pub(crate) fn hold_again(&mut self, instance: InstanceId, vm: VmId, left: Duration) {
        let from = Instant::now();
        let hold = Some(Hold { from, until: from + left, to: None });
        let (policy, writers) = (WriterPolicy::default(), Vec::new());
        let session = Session { vm, instance, lease: left, policy, writers, hold, outcome: None, loaded: true };
        self.sessions.insert(SessionId::generate(), session);
    }

    /// A new host speaks to the agent, which lets go of what it held for another.
    pub(crate) fn greet(&mut self, instance: InstanceId) {
        let sessions = self.sessions.values_mut().filter(|session| session.instance == instance && session.loaded);
        sessions.for_each(|session| session.let_go(Instant::now(), Thawed::Lapsed));
    }

    pub(crate) fn host_is_lost(&mut self) {
        let scripts = &self.scripts;
        let notices = |vm: &VmId| scripts.get(vm).is_some_and(|script| script.thaws_when_host_is_lost);
        let sessions = self.sessions.values_mut().filter(|session| notices(&session.vm));
        sessions.for_each(|session| session.let_go(Instant::now(), Thawed::Lapsed));
    }

    /// The script of a guest whose agent can be asked now.
    pub(crate) fn agent(&self, instance: InstanceId) -> Result<Reply<(VmId, GuestScript)>, QuiesceError> {
        let unreachable = |why: &str| QuiesceError::Unreachable { why: why.to_owned() };
        let Some(found) = self.instances.get(&instance) else { return Err(unreachable("the VM's process has ended")) };
        match found.run {
            RunState::Running => {}
            RunState::Paused | RunState::Panicked | RunState::Critical(_) => return Ok(Reply::Silence),
            RunState::Gone | RunState::AwaitingMemory | RunState::ShutDown => {
                return Err(unreachable("the guest does not run"));
            }
        }
        let script = self.script(&found.spec.vm);
        match script.agent {
            AgentScript::Answers => Ok(Reply::Answer((found.spec.vm.clone(), script))),
            AgentScript::Hangs => Ok(Reply::Silence),
            AgentScript::Absent => Err(unreachable("nothing has opened the channel")),
            AgentScript::Incompatible => {
                let why = "it speaks another protocol".to_owned();
                Err(QuiesceError::Incompatible { version: "0.0.1".to_owned(), why })
            }
        }
    }

    pub(crate) fn prepare(
        &mut self,
        instance: InstanceId,
        request: &QuiesceRequest,
    ) -> Result<Reply<Prepared>, QuiesceError> {
        let Reply::Answer((vm, script)) = self.agent(instance)? else { return Ok(Reply::Silence) };
        self.end_holds(instance);
        self.asked_of_writers.entry(vm.clone()).or_default().push(request.writers.clone());
        let mut session = Session {
            vm,
            instance,
            lease: request.lease,
            policy: request.writers.policy,
            writers: writers(&script, WriterResult::Stable),
            hold: None,
            outcome: None,
            loaded: false,
        };
        session.ask_writers(&script, WriterResult::Stable, |writer| writer.prepare)?;
        let writers = session.writers.clone();
        self.sessions.insert(request.session, session);
        Ok(Reply::Answer(Prepared { file_systems: file_systems(&script, FileSystemResult::Selected), writers }))
    }

    pub(crate) fn freeze(&mut self, instance: InstanceId, id: SessionId) -> Result<Reply<Frozen>, QuiesceError> {
        let Reply::Answer((_, script)) = self.agent(instance)? else { return Ok(Reply::Silence) };
        let over = |why: &str| QuiesceError::Lapsed { why: why.to_owned() };
        let session = self.sessions.get_mut(&id).filter(|session| session.instance == instance);
        let session = session.ok_or_else(|| over("the agent knows no such session"))?;
        if session.outcome.is_some() {
            return Err(over("its hold has ended"));
        }
        session.ask_writers(&script, WriterResult::Held, |writer| writer.freeze)?;
        let held = session.writers.clone();
        let from = Instant::now();
        let until = match script.freeze {
            FreezeScript::Refused => return Err(refused(&script)),
            FreezeScript::Nothing => return Err(QuiesceError::NothingToFreeze),
            FreezeScript::Holds | FreezeScript::Hangs => from + session.lease,
            FreezeScript::LapsesAfter(time) => from + time.min(session.lease),
        };
        session.hold.get_or_insert(Hold { from, until, to: None });
        if script.freeze == FreezeScript::Hangs {
            return Ok(Reply::Silence);
        }
        Ok(Reply::Answer(Frozen { file_systems: file_systems(&script, FileSystemResult::Frozen), writers: held }))
    }

    /// Only a session whose hold was thawed can be settled, and the data of no other is ever safe.
    pub(crate) fn settle_writers(
        &mut self,
        instance: InstanceId,
        id: SessionId,
        cleans_up: bool,
    ) -> Result<Reply<Vec<WriterOutcome>>, QuiesceError> {
        let Reply::Answer((_, script)) = self.agent(instance)? else { return Ok(Reply::Silence) };
        let over = || QuiesceError::Lapsed { why: "the agent knows no such session".to_owned() };
        let mut session =
            self.sessions.get(&id).filter(|session| session.instance == instance).cloned().ok_or_else(over)?;
        if session.outcome != Some(Thawed::HeldThroughout) {
            return Err(over());
        }
        if cleans_up {
            session.ask_writers(&script, WriterResult::Held, |writer| writer.settle)?;
        }
        let outcomes = session.writers.clone();
        self.sessions.insert(id, session);
        Ok(Reply::Answer(outcomes))
    }

    pub(crate) fn thaw(&mut self, instance: InstanceId, id: SessionId) -> Result<Reply<Thawed>, QuiesceError> {
        let Reply::Answer((_, script)) = self.agent(instance)? else { return Ok(Reply::Silence) };
        match script.thaw {
            ThawScript::Answers => {}
            ThawScript::Hangs => return Ok(Reply::Silence),
            ThawScript::Fails => return Err(QuiesceError::Failed { message: "thaw failed".to_owned() }),
        }
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(Reply::Answer(Thawed::Lapsed)) };
        session.let_go(Instant::now(), Thawed::HeldThroughout);
        Ok(Reply::Answer(*session.outcome.get_or_insert(Thawed::Lapsed)))
    }

    /// Lets go of a session whose freeze was given up by the host.
    pub(crate) fn give_up(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.let_go(Instant::now(), Thawed::Lapsed);
        }
    }
}

fn answer_of(script: WriterScript, writer: &str) -> Result<(), QuiesceError> {
    let writer = writer.to_owned();
    match script {
        WriterScript::Holds => Ok(()),
        WriterScript::Refuses => Err(QuiesceError::WriterRefused { writer, detail: "not now".to_owned() }),
        WriterScript::Hangs => Err(QuiesceError::WriterTimedOut { writer }),
    }
}

fn refused(script: &GuestScript) -> QuiesceError {
    let mount_point = script.file_systems.first().cloned().unwrap_or_default();
    QuiesceError::FileSystemRefused { mount_point, detail: "operation not supported".to_owned() }
}

pub(crate) fn file_systems(script: &GuestScript, result: FileSystemResult) -> Vec<FileSystemOutcome> {
    let outcome = |mount_point: &String| FileSystemOutcome {
        mount_point: mount_point.clone(),
        source: "/dev/vda1".to_owned(),
        fs_type: "ext4".to_owned(),
        result,
        detail: String::new(),
        took: Duration::ZERO,
    };
    script.file_systems.iter().map(outcome).collect()
}

pub(crate) fn writers(script: &GuestScript, result: WriterResult) -> Vec<WriterOutcome> {
    script.writers.iter().map(|writer| WriterOutcome::new(&writer.name, result)).collect()
}
