//! The calls to agents.

use std::time::Duration;

use async_trait::async_trait;
use stillpoint_common::{
    Beat, ClockSet, Frozen, GuestDescription, InstanceId, KeyValues, Prepared, QuiesceRequest, Restore, SessionId,
    Thawed, ToldValues, WriterOutcome,
};
use tokio::time::timeout;

use super::{Bounded, named, within};
use crate::ports::{GuestQuiesce, PowerAction, QuiesceError};

type Answer<T = ()> = Result<T, QuiesceError>;

fn late(call: &'static str) -> impl FnOnce(Duration) -> QuiesceError {
    move |waited| QuiesceError::Unanswered { call, waited }
}

#[async_trait]
impl GuestQuiesce for Bounded<dyn GuestQuiesce> {
    async fn describe(&self, instance: InstanceId) -> Answer<GuestDescription> {
        within(self.limits.look, late("describe"), named("describe", self.port.describe(instance))).await
    }

    async fn prepare(&self, instance: InstanceId, request: &QuiesceRequest) -> Answer<Prepared> {
        within(self.limits.act, late("prepare"), named("prepare", self.port.prepare(instance, request))).await
    }

    async fn freeze(&self, instance: InstanceId, session: SessionId) -> Answer<Frozen> {
        within(self.limits.act, late("freeze"), named("freeze", self.port.freeze(instance, session))).await
    }

    async fn thaw(&self, instance: InstanceId, session: SessionId) -> Answer<Thawed> {
        within(self.limits.look, late("thaw"), named("thaw", self.port.thaw(instance, session))).await
    }

    async fn settle(&self, instance: InstanceId, session: SessionId) -> Answer<Vec<WriterOutcome>> {
        within(self.limits.act, late("settle"), named("settle", self.port.settle(instance, session))).await
    }

    async fn complete(&self, instance: InstanceId, session: SessionId) -> Answer<Vec<WriterOutcome>> {
        within(self.limits.act, late("complete"), named("complete", self.port.complete(instance, session))).await
    }

    async fn finish(&self, instance: InstanceId, session: SessionId) -> Answer {
        within(self.limits.act, late("finish"), named("finish", self.port.finish(instance, session))).await
    }

    async fn set_clock(&self, instance: InstanceId) -> Answer<ClockSet> {
        within(self.limits.look, late("set_clock"), named("set_clock", self.port.set_clock(instance))).await
    }

    async fn restored(&self, instance: InstanceId, restore: &Restore) -> Answer {
        within(self.limits.look, late("restored"), named("restored", self.port.restored(instance, restore))).await
    }

    async fn power(&self, instance: InstanceId, action: PowerAction) -> Answer {
        within(self.limits.look, late("power"), named("power", self.port.power(instance, action))).await
    }

    async fn beat(&self, instance: InstanceId) -> Answer<Beat> {
        within(self.limits.look, late("beat"), named("beat", self.port.beat(instance))).await
    }

    async fn set_values(&self, instance: InstanceId, values: &KeyValues) -> Answer {
        within(self.limits.look, late("set_values"), named("set_values", self.port.set_values(instance, values))).await
    }

    async fn values(&self, instance: InstanceId) -> Answer<ToldValues> {
        within(self.limits.look, late("values"), named("values", self.port.values(instance))).await
    }

    async fn forget(&self, instance: InstanceId) {
        if timeout(self.limits.look, named("forget", self.port.forget(instance))).await.is_err() {
            tracing::warn!(%instance, "the connection to a guest that is gone does not end");
        }
    }
}
