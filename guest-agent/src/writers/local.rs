//! Writers of the agent's own process.

use tokio::task::JoinHandle;
use tracing::warn;

use super::{
    registration::Registration,
    registry::{Question, Registry},
    sdk::Writer,
};

/// Registers a built-in writer. It answers on a task of its own, one question after the other, until that is aborted.
pub fn attach<W: Writer + 'static>(registry: &Registry, registration: Registration, mut writer: W) -> JoinHandle<()> {
    let attachment = registry.attach(registration);
    tokio::spawn(async move {
        let mut attachment = match attachment {
            Ok(attachment) => attachment,
            Err(error) => return warn!(%error, "a built-in writer is left out"),
        };
        while let Some(Question { event, answer }) = attachment.questions.recv().await {
            // Whoever has given up waiting has gone on without the answer.
            let _ = answer.send(writer.on(&event).await);
        }
    })
}
