//! The port to guests' agents.

use std::time::Duration;

use async_trait::async_trait;
use stillpoint_common::{
    Beat, ClockSet, FileSystemResult, Frozen, GuestDescription, InstanceId, KeyValues, Prepared, QuiesceRequest,
    Restore, SessionId, Thawed, ToldValues, WriterOutcome, WriterResult,
};
use stillpoint_engine::ports::{GuestQuiesce, PowerAction, QuiesceError};

use crate::{
    Call, GuestScript, PowerScript,
    process::Process,
    sessions::{Reply, file_systems, writers},
    state::State,
};

/// How long this adapter waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct SimGuest {
    process: Process,
}

impl SimGuest {
    pub(super) fn new(process: Process) -> Self {
        Self { process }
    }

    /// Asks the agent; waits in vain for a silent one.
    async fn ask<T: Send>(
        &self,
        call: Call,
        act: impl FnOnce(&mut State) -> Result<Reply<T>, QuiesceError> + Send,
        give_up: impl FnOnce(&mut State) + Send,
    ) -> Result<T, QuiesceError> {
        let point = self.process.enter(call).await?;
        let result = match self.process.act(act) {
            Ok(Reply::Answer(answer)) => Ok(answer),
            Ok(Reply::Silence) => {
                self.process.pass(PATIENCE).await;
                self.process.act(give_up);
                Err(QuiesceError::Unanswered { call: call.name(), waited: PATIENCE })
            }
            Err(error) => Err(error),
        };
        point.leave(result).await
    }
}

fn nothing(_: &mut State) {}

/// An agent from before there were beats and values.
fn older(script: &GuestScript) -> Result<(), QuiesceError> {
    match script.older {
        false => Ok(()),
        true => Err(QuiesceError::Unknown { version: "0.0.9".to_owned(), why: "it is older".to_owned() }),
    }
}

#[async_trait]
impl GuestQuiesce for SimGuest {
    async fn describe(&self, instance: InstanceId) -> Result<GuestDescription, QuiesceError> {
        let describe = |state: &mut State| {
            let Reply::Answer((vm, script)) = state.agent(instance)? else { return Ok(Reply::Silence) };
            state.greet(instance);
            Ok(Reply::Answer(GuestDescription {
                agent_version: "0.1.0".to_owned(),
                hostname: vm.to_string(),
                kernel: "6.12.0-sim".to_owned(),
                file_systems: file_systems(&script, FileSystemResult::Selected),
                writers: writers(&script, WriterResult::Stable),
                services: script.services.clone(),
            }))
        };
        self.ask(Call::Describe, describe, nothing).await
    }

    async fn prepare(&self, instance: InstanceId, request: &QuiesceRequest) -> Result<Prepared, QuiesceError> {
        self.ask(Call::Prepare, |state| state.prepare(instance, request), nothing).await
    }

    async fn freeze(&self, instance: InstanceId, session: SessionId) -> Result<Frozen, QuiesceError> {
        let freeze = |state: &mut State| state.freeze(instance, session);
        self.ask(Call::Freeze, freeze, |state| state.give_up(session)).await
    }

    async fn thaw(&self, instance: InstanceId, session: SessionId) -> Result<Thawed, QuiesceError> {
        self.ask(Call::Thaw, |state| state.thaw(instance, session), nothing).await
    }

    async fn settle(&self, instance: InstanceId, session: SessionId) -> Result<Vec<WriterOutcome>, QuiesceError> {
        let settle = |state: &mut State| state.settle_writers(instance, session, true);
        self.ask(Call::Settle, settle, nothing).await
    }

    async fn complete(&self, instance: InstanceId, session: SessionId) -> Result<Vec<WriterOutcome>, QuiesceError> {
        let complete = |state: &mut State| state.settle_writers(instance, session, false);
        self.ask(Call::Complete, complete, nothing).await
    }

    async fn finish(&self, instance: InstanceId, session: SessionId) -> Result<(), QuiesceError> {
        let finish = |state: &mut State| {
            Ok(match state.thaw(instance, session)? {
                Reply::Answer(_) => Reply::Answer(()),
                Reply::Silence => Reply::Silence,
            })
        };
        self.ask(Call::Finish, finish, nothing).await
    }

    async fn set_clock(&self, instance: InstanceId) -> Result<ClockSet, QuiesceError> {
        let set = |state: &mut State| {
            let Reply::Answer(_) = state.agent(instance)? else { return Ok(Reply::Silence) };
            state.greet(instance);
            let found = state.instances.get_mut(&instance);
            let behind = found.map(|found| std::mem::take(&mut found.clock_behind)).unwrap_or_default();
            let was_off_by_ms = i64::try_from(behind.as_millis()).map_or(i64::MIN, |behind| -behind);
            Ok(Reply::Answer(ClockSet { was_off_by_ms, uncertainty: Duration::from_millis(1) }))
        };
        self.ask(Call::SetClock, set, nothing).await
    }

    async fn restored(&self, instance: InstanceId, restore: &Restore) -> Result<(), QuiesceError> {
        let tell = |state: &mut State| {
            let Reply::Answer((vm, script)) = state.agent(instance)? else { return Ok(Reply::Silence) };
            older(&script)?;
            let told = state.restores.entry(vm).or_default();
            if !told.iter().any(|known| known.id == restore.id) {
                told.push(restore.clone());
            }
            Ok(Reply::Answer(()))
        };
        self.ask(Call::Restored, tell, nothing).await
    }

    async fn power(&self, instance: InstanceId, action: PowerAction) -> Result<(), QuiesceError> {
        let power = |state: &mut State| {
            let Reply::Answer((_, script)) = state.agent(instance)? else { return Ok(Reply::Silence) };
            match (script.power, action) {
                (PowerScript::Obeys, PowerAction::PowerOff) => state.shut_down(instance),
                (PowerScript::Obeys, PowerAction::Reboot) => state.reboot(instance),
                (PowerScript::Ignores, PowerAction::PowerOff | PowerAction::Reboot) => {}
                (PowerScript::Refuses, PowerAction::PowerOff | PowerAction::Reboot) => {
                    return Err(QuiesceError::Failed { message: "the guest refuses".to_owned() });
                }
            }
            Ok(Reply::Answer(()))
        };
        self.ask(Call::Power, power, nothing).await
    }

    async fn beat(&self, instance: InstanceId) -> Result<Beat, QuiesceError> {
        let beat = |state: &mut State| {
            let Reply::Answer((_, script)) = state.agent(instance)? else { return Ok(Reply::Silence) };
            older(&script)?;
            let held = state.hold_left(instance).is_some();
            let found = state.instances.get(&instance);
            let values_revision = found.and_then(|found| found.values.as_ref()).map(KeyValues::revision);
            let values_revision = values_revision.unwrap_or_default();
            Ok(Reply::Answer(Beat { uptime: Duration::from_secs(1), held, values_revision }))
        };
        self.ask(Call::Beat, beat, nothing).await
    }

    async fn set_values(&self, instance: InstanceId, values: &KeyValues) -> Result<(), QuiesceError> {
        let set = |state: &mut State| {
            let Reply::Answer((_, script)) = state.agent(instance)? else { return Ok(Reply::Silence) };
            older(&script)?;
            let found = state.instances.get_mut(&instance);
            found.into_iter().for_each(|found| found.values = Some(values.clone()));
            Ok(Reply::Answer(()))
        };
        self.ask(Call::SetValues, set, nothing).await
    }

    async fn values(&self, instance: InstanceId) -> Result<ToldValues, QuiesceError> {
        let values = |state: &mut State| {
            let Reply::Answer((vm, script)) = state.agent(instance)? else { return Ok(Reply::Silence) };
            older(&script)?;
            let intrinsic = KeyValues::kept([("FullyQualifiedDomainName", vm.as_str())]);
            Ok(Reply::Answer(ToldValues { set: script.values, intrinsic }))
        };
        self.ask(Call::Values, values, nothing).await
    }

    async fn forget(&self, _instance: InstanceId) {
        // Nothing is kept per instance; only the fault plan may strike here, and a failure cannot be told.
        let _: Result<(), QuiesceError> = self.process.call(Call::Forget, |_| Ok(())).await;
    }
}
