//! Forgetting: the log keeps so many events, the newest.

use std::{collections::VecDeque, sync::Arc};

use stillpoint_common::{EventToken, Failure};

use super::PAGE;
use crate::{
    catalogue::{Catalogue, Changes},
    context::World,
    error::StepError,
};

/// Events that one transaction forgets.
const AT_ONCE: usize = 100;

/// Reads what there is, tells it to the readers to come, and forgets what is too much from now on.
///
/// # Errors
/// If the store cannot be read.
pub(crate) async fn keep(world: Arc<World>) -> Result<(), Failure> {
    let mut kept = Kept::default();
    kept.read(&world.catalogue).await?;
    world.catalogue.tell_news(kept.tokens.back().map_or(0, |token| token.revision));
    let mut news = world.catalogue.news();
    // Only a look at the world: whoever holds it keeps the store open.
    let world = Arc::downgrade(&world);
    tokio::spawn(async move {
        loop {
            let Some(world) = world.upgrade() else { return };
            if let Err(failure) = kept.keep(&world).await {
                tracing::warn!(%failure, "old events could not be forgotten yet");
            }
            drop(world);
            if news.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// The tokens of all events, oldest first.
#[derive(Debug, Default)]
struct Kept {
    tokens: VecDeque<EventToken>,
}

impl Kept {
    async fn read(&mut self, catalogue: &Catalogue) -> Result<(), Failure> {
        loop {
            let after = self.tokens.back().copied().unwrap_or_default();
            let more = catalogue.event_tokens(after, PAGE).await?;
            let read = more.len();
            self.tokens.extend(more);
            if read < PAGE {
                return Ok(());
            }
        }
    }

    async fn keep(&mut self, world: &World) -> Result<(), Failure> {
        self.read(&world.catalogue).await?;
        while let Some(surplus) = self.surplus(world.config.remembered_events) {
            let changes = surplus.iter().fold(Changes::default(), |changes, token| changes.forget_event(*token));
            world.catalogue.commit(changes).await.map_err(StepError::from)?;
            self.tokens.drain(..surplus.len());
        }
        Ok(())
    }

    /// The oldest, once there are enough too many that it is worth a transaction.
    fn surplus(&self, limit: usize) -> Option<Vec<EventToken>> {
        let too_many = self.tokens.len().saturating_sub(limit);
        (too_many >= AT_ONCE).then(|| self.tokens.iter().take(AT_ONCE).copied().collect())
    }
}
