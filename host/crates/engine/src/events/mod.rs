//! The event log: what has happened, in the order in which it was written down.
//!
//! An event is written in the same transaction as what it tells, and its token is made from that transaction's
//! revision: tokens grow, whoever has read up to one misses nothing that comes later. Readers read from the store, each
//! at its own pace, and are only woken by the others: a slow one costs nothing but its own delay. The log keeps so many
//! events, the newest; who asks for what it has forgotten is told so.

pub(crate) mod ended;
mod keeper;

use std::collections::VecDeque;

use stillpoint_common::{Event, EventToken, Failure, Reason, VmId};
use tokio::sync::watch;

pub(crate) use self::keeper::keep;
use crate::catalogue::Catalogue;

/// Events that are read at once.
const PAGE: usize = 256;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsFrom {
    /// With the oldest that is remembered.
    Oldest,
    /// With the next that comes.
    Now,
    /// With the one after this.
    After(EventToken),
}

/// Reads the log, from a place on.
pub struct EventReader {
    catalogue: Catalogue,
    news: watch::Receiver<u64>,
    position: EventToken,
    vm: Option<VmId>,
    follow: bool,
    page: VecDeque<(EventToken, Event)>,
}

impl EventReader {
    /// Begins to read. With `follow` it waits for what comes, without it ends with what is there.
    ///
    /// `FIELD_INVALID` for a token that this log has not given yet.
    pub(crate) async fn begin(
        catalogue: Catalogue,
        from: EventsFrom,
        vm: Option<VmId>,
        follow: bool,
    ) -> Result<Self, Failure> {
        let news = catalogue.news();
        let newest = *news.borrow();
        let position = match from {
            EventsFrom::Oldest => catalogue.forgotten_events().await?,
            EventsFrom::Now => EventToken { revision: newest, place: u32::MAX },
            EventsFrom::After(token) if token.revision > newest => {
                let problem = format!("{token} was not given by this catalogue: its newest event is {newest}-0 or so");
                return Err(Failure::field("after", problem));
            }
            EventsFrom::After(token) => token,
        };
        Ok(Self { catalogue, news, position, vm, follow, page: VecDeque::new() })
    }

    /// The next event; `None` at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// `EVENTS_FORGOTTEN` if the log has forgotten what comes next.
    pub async fn next(&mut self) -> Result<Option<(EventToken, Event)>, Failure> {
        loop {
            while let Some((token, event)) = self.page.pop_front() {
                self.position = token;
                if self.vm.is_none() || self.vm == event.vm {
                    return Ok(Some((token, event)));
                }
            }
            self.news.borrow_and_update();
            self.page = self.catalogue.events(self.position, PAGE).await?.into();
            // Looked at after reading: what was forgotten meanwhile may be missing on the page.
            let forgotten = self.catalogue.forgotten_events().await?;
            if forgotten > self.position {
                self.page.clear();
                return Err(self.too_late(forgotten));
            }
            if self.page.is_empty() && (!self.follow || self.news.changed().await.is_err()) {
                return Ok(None);
            }
        }
    }

    fn too_late(&self, forgotten: EventToken) -> Failure {
        let position = self.position;
        let message =
            format!("events after {position} have been forgotten; what is remembered begins after {forgotten}");
        Failure::new(Reason::EventsForgotten, message)
    }
}
