//! The engine's port: a link for each instance, and the session that is open on it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use stillpoint_common::{
    Beat, ClockSet, Frozen, GuestDescription, InstanceId, KeyValues, Prepared, QuiesceRequest, Restore, SessionId,
    Thawed, ToldValues, WriterOutcome,
};
use stillpoint_engine::ports::{GuestQuiesce, PowerAction, QuiesceError};
use tracing::debug;

use crate::{GuestLink, Limits, QuiesceSession};

type Locate = dyn Fn(InstanceId) -> Option<PathBuf> + Send + Sync;

/// The agents of all instances.
///
/// A session is in its slot between two calls and in the hands of one during it. So a call that is dropped in the
/// middle drops the session with it, which is a thaw in the guest.
pub struct GuestLinks {
    locate: Box<Locate>,
    limits: Limits,
    /// Protects the map only; nothing waits while it is held.
    links: Mutex<HashMap<InstanceId, Slot>>,
}

struct Slot {
    link: GuestLink,
    session: Option<QuiesceSession>,
    /// The last session that could not be opened: nothing was ever held in it.
    unopened: Option<SessionId>,
}

impl std::fmt::Debug for GuestLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestLinks").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl GuestLinks {
    /// Links over the sockets that `locate` names; none for an instance that is not there.
    pub fn new(limits: Limits, locate: impl Fn(InstanceId) -> Option<PathBuf> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { locate: Box::new(locate), limits, links: Mutex::default() })
    }

    /// The link to an instance.
    ///
    /// # Errors
    /// If there is no such instance.
    pub fn link(&self, instance: InstanceId) -> Result<GuestLink, QuiesceError> {
        if let Some(slot) = self.links().get(&instance) {
            return Ok(slot.link.clone());
        }
        let no_channel = || QuiesceError::Unreachable { why: "the VM has no channel to its guest".to_owned() };
        let link = GuestLink::new((self.locate)(instance).ok_or_else(no_channel)?, self.limits);
        let slot = Slot { link: link.clone(), session: None, unopened: None };
        Ok(self.links().entry(instance).or_insert(slot).link.clone())
    }

    fn links(&self) -> MutexGuard<'_, HashMap<InstanceId, Slot>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session out of its slot, if it is this one.
    fn take(&self, instance: InstanceId, wanted: SessionId) -> Option<QuiesceSession> {
        self.links().get_mut(&instance)?.session.take_if(|session| session.id() == wanted)
    }

    fn never_opened(&self, instance: InstanceId, session: SessionId) -> bool {
        self.links().get(&instance).is_some_and(|slot| slot.unopened == Some(session))
    }

    fn put(&self, instance: InstanceId, session: QuiesceSession) {
        if let Some(slot) = self.links().get_mut(&instance) {
            slot.session = Some(session);
        }
    }
}

#[async_trait]
impl GuestQuiesce for GuestLinks {
    async fn describe(&self, instance: InstanceId) -> Result<GuestDescription, QuiesceError> {
        self.link(instance)?.hello().await
    }

    async fn prepare(&self, instance: InstanceId, request: &QuiesceRequest) -> Result<Prepared, QuiesceError> {
        let link = self.link(instance)?;
        let old = self.links().get_mut(&instance).and_then(|slot| slot.session.take());
        drop(old);
        let opened = link.prepare(request).await;
        if let Some(slot) = self.links().get_mut(&instance) {
            slot.unopened = opened.is_err().then_some(request.session);
        }
        let (session, prepared) = opened?;
        self.put(instance, session);
        Ok(prepared)
    }

    async fn freeze(&self, instance: InstanceId, session: SessionId) -> Result<Frozen, QuiesceError> {
        let mut session = self.take(instance, session).ok_or_else(over)?;
        let frozen = session.freeze().await?;
        self.put(instance, session);
        Ok(frozen)
    }

    async fn thaw(&self, instance: InstanceId, session: SessionId) -> Result<Thawed, QuiesceError> {
        if self.never_opened(instance, session) {
            return Ok(Thawed::Lapsed);
        }
        let Some(mut session) = self.take(instance, session) else {
            // An earlier life of this service may have held the guest: a new connection ends that.
            self.link(instance)?.hello().await?;
            return Ok(Thawed::Lapsed);
        };
        let thawed = session.thaw().await?;
        self.put(instance, session);
        Ok(thawed)
    }

    async fn settle(&self, instance: InstanceId, session: SessionId) -> Result<Vec<WriterOutcome>, QuiesceError> {
        let mut session = self.take(instance, session).ok_or_else(over)?;
        let settled = session.settle().await?;
        self.put(instance, session);
        Ok(settled)
    }

    async fn complete(&self, instance: InstanceId, session: SessionId) -> Result<Vec<WriterOutcome>, QuiesceError> {
        let mut session = self.take(instance, session).ok_or_else(over)?;
        let completed = session.complete().await?;
        self.put(instance, session);
        Ok(completed)
    }

    async fn finish(&self, instance: InstanceId, session: SessionId) -> Result<(), QuiesceError> {
        match self.take(instance, session) {
            Some(mut session) => session.thaw().await.map(|thawed| debug!(%instance, ?thawed, "session finished")),
            None => self.thaw(instance, session).await.map(drop),
        }
    }

    async fn set_clock(&self, instance: InstanceId) -> Result<ClockSet, QuiesceError> {
        self.link(instance)?.set_clock().await
    }

    async fn restored(&self, instance: InstanceId, restore: &Restore) -> Result<(), QuiesceError> {
        self.link(instance)?.restored(restore).await
    }

    async fn power(&self, instance: InstanceId, action: PowerAction) -> Result<(), QuiesceError> {
        self.link(instance)?.power(action).await
    }

    async fn beat(&self, instance: InstanceId) -> Result<Beat, QuiesceError> {
        self.link(instance)?.beat().await
    }

    async fn set_values(&self, instance: InstanceId, values: &KeyValues) -> Result<(), QuiesceError> {
        self.link(instance)?.set_values(values).await
    }

    async fn values(&self, instance: InstanceId) -> Result<ToldValues, QuiesceError> {
        self.link(instance)?.values().await
    }

    async fn forget(&self, instance: InstanceId) {
        self.links().remove(&instance);
    }
}

fn over() -> QuiesceError {
    QuiesceError::Lapsed { why: "this service has no such session open".to_owned() }
}
