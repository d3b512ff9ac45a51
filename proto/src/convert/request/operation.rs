//! Requests of `Operations`.

use std::time::Duration;

use stillpoint_common::{Failure, Operation, OperationId, OperationState, VmId};

use crate::{
    convert::{
        names::{self, quoted},
        page::Page,
        time,
    },
    longrunning,
};

/// Which operations, and which page of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListOperations {
    /// Which.
    pub filter: OperationFilter,
    /// Which page.
    pub page: Page,
}

/// Which operations a client wants to see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OperationFilter {
    /// Those of this VM.
    pub vm: Option<VmId>,
    /// Those that are done, or those that are not.
    pub done: Option<bool>,
}

impl OperationFilter {
    /// Whether the client wants to see this one.
    #[must_use]
    pub fn admits(&self, operation: &Operation) -> bool {
        let done = operation.state != OperationState::Running;
        self.vm.as_ref().is_none_or(|vm| *vm == operation.vm) && self.done.is_none_or(|wanted| wanted == done)
    }
}

/// Reads a `ListOperationsRequest`.
///
/// # Errors
/// The first field that is wrong.
pub fn list_operations(request: &longrunning::ListOperationsRequest) -> Result<ListOperations, Failure> {
    if !matches!(request.name.as_str(), "" | "operations") {
        return Err(Failure::field("name", format!("must be \"operations\", not {:?}", quoted(&request.name))));
    }
    let page = Page::parse(request.page_size, &request.page_token, 50, 1000)?;
    Ok(ListOperations { filter: filter(&request.filter)?, page })
}

/// Reads a filter: `vm = "web"`, `done = false`, or both joined by AND.
///
/// # Errors
/// It is something else, or says the same thing twice.
pub fn filter(text: &str) -> Result<OperationFilter, Failure> {
    let mut filter = OperationFilter::default();
    for term in text.split(" AND ").map(str::trim).filter(|_| !text.trim().is_empty()) {
        let (key, value) = term.split_once('=').ok_or_else(|| not_a_filter(term))?;
        match (key.trim(), value.trim()) {
            ("vm", value) if filter.vm.is_none() => filter.vm = Some(vm(value)?),
            ("done", "true") if filter.done.is_none() => filter.done = Some(true),
            ("done", "false") if filter.done.is_none() => filter.done = Some(false),
            _ => return Err(not_a_filter(term)),
        }
    }
    Ok(filter)
}

fn vm(value: &str) -> Result<VmId, Failure> {
    let name = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let name = name.strip_prefix("vms/").unwrap_or(name);
    name.parse().map_err(|problem| Failure::field("filter", format!("the name of the VM {problem}")))
}

fn not_a_filter(term: &str) -> Failure {
    let expected = "must be vm = \"NAME\", done = true, done = false, or such joined by AND";
    Failure::field("filter", format!("{expected}; {:?} is not", quoted(term)))
}

/// How long to wait for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitOperation {
    /// For which operation.
    pub operation: OperationId,
    /// At most this long.
    pub within: Duration,
}

/// Reads a `WaitOperationRequest`: without a time-out it waits for 60 s.
///
/// # Errors
/// The first field that is wrong.
pub fn wait_operation(request: &longrunning::WaitOperationRequest) -> Result<WaitOperation, Failure> {
    let operation = names::parse_operation(&request.name, "name")?;
    let within = match &request.timeout {
        None => Duration::from_secs(60),
        Some(timeout) => {
            time::parse_duration(timeout).ok_or_else(|| Failure::field("timeout", "must not be negative"))?
        }
    };
    Ok(WaitOperation { operation, within })
}
