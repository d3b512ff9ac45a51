//! Operations, and waiting for their end.

use std::time::Duration;

use stillpoint_common::{OperationId, VmId};
use stillpoint_proto::{
    convert::names,
    longrunning::{self, operations_client::OperationsClient},
    v1::{self as pb, operations_extra_client::OperationsExtraClient},
};

use super::{Client, ClientError};
use crate::view::Operation;

/// How long a service that went away while an operation was watched may take to come back, in tries and time between.
const TRIES: u32 = 60;
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

impl Client {
    /// One operation.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn operation(&self, id: OperationId) -> Result<Operation, ClientError> {
        let request = longrunning::GetOperationRequest { name: names::operation(id) };
        let answer = OperationsClient::new(self.channel.clone()).get_operation(request).await;
        Ok(self.answered(answer)?.try_into()?)
    }

    /// The newest operations first, at most `limit`; of one VM, or only those at work, if so wanted.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn list_operations(
        &self,
        vm: Option<&VmId>,
        at_work_only: bool,
        limit: usize,
    ) -> Result<Vec<Operation>, ClientError> {
        let terms = [vm.map(|vm| format!("vm = \"{vm}\"")), at_work_only.then(|| "done = false".to_owned())];
        let filter = terms.into_iter().flatten().collect::<Vec<_>>().join(" AND ");
        let (mut operations, mut page_token) = (Vec::new(), String::new());
        loop {
            let missing = i32::try_from(limit - operations.len()).unwrap_or(i32::MAX);
            let (name, filter) = ("operations".to_owned(), filter.clone());
            let request = longrunning::ListOperationsRequest { name, filter, page_size: missing, page_token };
            let answer = OperationsClient::new(self.channel.clone()).list_operations(request).await;
            let page = self.answered(answer)?;
            for operation in page.operations.into_iter().take(limit - operations.len()) {
                operations.push(Operation::try_from(operation)?);
            }
            if page.next_page_token.is_empty() || operations.len() >= limit {
                return Ok(operations);
            }
            page_token = page.next_page_token;
        }
    }

    /// Asks for an operation to be given up.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn cancel_operation(&self, id: OperationId) -> Result<(), ClientError> {
        let request = longrunning::CancelOperationRequest { name: names::operation(id) };
        let answer = OperationsClient::new(self.channel.clone()).cancel_operation(request).await;
        self.answered(answer)
    }

    /// Waits for the end of an operation. One that failed is an error.
    ///
    /// # Errors
    /// The operation failed, or it cannot be watched any more.
    pub async fn wait(&self, id: &OperationId) -> Result<Operation, ClientError> {
        let ended = self.watch(*id, |_| ()).await?;
        match ended.refusal() {
            Some(refusal) => Err(ClientError::Refused(refusal.clone())),
            None => Ok(ended),
        }
    }

    /// Watches an operation until it ends, and answers how it ended, well or badly. Each state on the way is `seen`.
    ///
    /// An operation survives a restart of the service, and so does this: it waits for the service to come back.
    ///
    /// # Errors
    /// There is no such operation, or the service went away and did not come back within half a minute.
    pub async fn watch(&self, id: OperationId, mut seen: impl FnMut(&Operation)) -> Result<Operation, ClientError> {
        let mut tries = 0;
        loop {
            match self.watch_once(id, &mut seen, &mut tries).await {
                Err(ClientError::Unreachable { .. }) if tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(BETWEEN_TRIES).await;
                }
                ended => return ended,
            }
        }
    }

    /// As [`Client::watch`], over one stream. A stream that ends too early is as good as a service that went away.
    async fn watch_once(
        &self,
        id: OperationId,
        seen: &mut impl FnMut(&Operation),
        tries: &mut u32,
    ) -> Result<Operation, ClientError> {
        let request = pb::WatchOperationRequest { name: names::operation(id) };
        let stream = OperationsExtraClient::new(self.channel.clone()).watch_operation(request).await;
        let mut stream = self.answered(stream)?;
        loop {
            let message = stream.message().await;
            let message = message.map_err(|status| ClientError::from_status(&self.socket, &status))?;
            let Some(message) = message else {
                let why = "the stream ended before the operation did".to_owned();
                return Err(ClientError::Unreachable { socket: self.socket.clone(), why });
            };
            *tries = 0;
            let operation = Operation::try_from(message)?;
            seen(&operation);
            if operation.done {
                return Ok(operation);
            }
        }
    }

    /// The operation that a person calls by its id or the beginning of it.
    ///
    /// # Errors
    /// None or several are called so, or the service refused or cannot be reached.
    pub async fn find_operation(&self, called: &str) -> Result<Operation, ClientError> {
        let id = called.strip_prefix("operations/").unwrap_or(called);
        match id.parse::<OperationId>() {
            Ok(id) => self.operation(id).await,
            Err(_) => {
                let operations = self.list_operations(None, false, 1000).await?;
                Ok(super::resolve::resolve_operation(id, operations)?)
            }
        }
    }
}
