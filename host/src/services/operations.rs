//! `google.longrunning.Operations` and `OperationsExtra`

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use stillpoint_common::OperationState;
use stillpoint_engine::Engine;
use stillpoint_proto::{
    convert::{names, request},
    longrunning::{self, operations_server},
    v1::{self as pb, operations_extra_server},
};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{refuse, respond};

pub(crate) struct Operations {
    engine: Engine,
}

type Answer<T> = Result<Response<T>, Status>;

impl Operations {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn answer(&self, name: &str) -> Answer<longrunning::Operation> {
        let id = names::parse_operation(name, "name").map_err(refuse)?;
        let operation = self.engine.operation(id).await.map_err(refuse)?;
        Ok(Response::new(respond::operation(&self.engine, &operation).await))
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    async fn list_operations(
        &self,
        asked: Request<longrunning::ListOperationsRequest>,
    ) -> Answer<longrunning::ListOperationsResponse> {
        let asked = request::list_operations(asked.get_ref()).map_err(refuse)?;
        let all = self.engine.operations().await.map_err(refuse)?;
        let wanted = all.into_iter().filter(|operation| asked.filter.admits(operation));
        let (page, next_page_token) =
            asked.page.cut(wanted, |operation| operation.id.to_string(), |key, after| key < after);
        let mut operations = Vec::with_capacity(page.len());
        for operation in &page {
            operations.push(respond::operation(&self.engine, operation).await);
        }
        Ok(Response::new(longrunning::ListOperationsResponse { operations, next_page_token }))
    }

    async fn get_operation(&self, asked: Request<longrunning::GetOperationRequest>) -> Answer<longrunning::Operation> {
        self.answer(&asked.get_ref().name).await
    }

    async fn cancel_operation(&self, asked: Request<longrunning::CancelOperationRequest>) -> Answer<()> {
        let id = names::parse_operation(&asked.get_ref().name, "name").map_err(refuse)?;
        self.engine.cancel_operation(id).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn wait_operation(
        &self,
        asked: Request<longrunning::WaitOperationRequest>,
    ) -> Answer<longrunning::Operation> {
        let wait = request::wait_operation(asked.get_ref()).map_err(refuse)?;
        let mut watching = self.engine.watch_operation(wait.operation).await.map_err(refuse)?;
        let ended = watching.wait_for(|operation| operation.state != OperationState::Running);
        let _ = tokio::time::timeout(wait.within, ended).await;
        self.answer(&asked.get_ref().name).await
    }
}

#[tonic::async_trait]
impl operations_extra_server::OperationsExtra for Operations {
    type WatchOperationStream = Pin<Box<dyn Stream<Item = Result<longrunning::Operation, Status>> + Send>>;

    async fn watch_operation(&self, asked: Request<pb::WatchOperationRequest>) -> Answer<Self::WatchOperationStream> {
        let id = names::parse_operation(&asked.get_ref().name, "name").map_err(refuse)?;
        let watching = self.engine.watch_operation(id).await.map_err(refuse)?;
        let engine = self.engine.clone();
        // The first state that is not Running is the last.
        let states = WatchStream::new(watching).scan(false, |ended, operation| {
            let before = std::mem::replace(ended, operation.state != OperationState::Running);
            std::future::ready((!before).then_some(operation))
        });
        let messages = states.then(move |operation| {
            let engine = engine.clone();
            async move { Ok(respond::operation(&engine, &operation).await) }
        });
        Ok(Response::new(Box::pin(messages)))
    }
}
