//! Operations as clients see them.

use stillpoint_common::{Failure, Operation, OperationId};
use tokio::sync::watch;

use super::Engine;
use crate::{actor::Message, job::Job};

impl Engine {
    /// One operation.
    ///
    /// # Errors
    /// `OPERATION_NOT_FOUND`.
    pub async fn operation(&self, id: OperationId) -> Result<Operation, Failure> {
        match self.hub.find(id) {
            Some(operation) => Ok(operation),
            None => Ok(self.world.catalogue.job(id).await?.operation),
        }
    }

    /// All operations that are remembered, newest first.
    ///
    /// # Errors
    /// If the catalogue cannot be read.
    pub async fn operations(&self) -> Result<Vec<Operation>, Failure> {
        let jobs = self.world.catalogue.jobs().await?;
        let now = |job: Job| self.hub.find(job.operation.id).unwrap_or(job.operation);
        Ok(jobs.into_iter().rev().map(now).collect())
    }

    /// Watches an operation. The last value it will show is the end of the operation.
    ///
    /// # Errors
    /// `OPERATION_NOT_FOUND`.
    pub async fn watch_operation(&self, id: OperationId) -> Result<watch::Receiver<Operation>, Failure> {
        match self.hub.watch(id) {
            Some(watching) => Ok(watching),
            None => Ok(watch::channel(self.operation(id).await?).1),
        }
    }

    /// Asks for an operation to be given up. Past its commit point it goes on to its end.
    ///
    /// # Errors
    /// `OPERATION_NOT_FOUND`.
    pub async fn cancel_operation(&self, id: OperationId) -> Result<(), Failure> {
        let operation = self.operation(id).await?;
        let actor = self.actors.lock().await.get(&operation.vm).cloned();
        if let Some(actor) = actor {
            let _ = actor.send(Message::Cancel { operation: id }).await;
        }
        Ok(())
    }
}
