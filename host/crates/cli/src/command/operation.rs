//! `stillpoint operation …`

use jiff::Timestamp;

use super::{Context, show, work};
use crate::{
    CliError,
    args::OperationCommand,
    output::{Answer, table, text},
    view::Operation,
};

pub(super) async fn run(context: &Context, command: &OperationCommand) -> Result<Answer, CliError> {
    let client = &context.client;
    match command {
        OperationCommand::List { vm, at_work, limit } => {
            list(&client.list_operations(vm.as_ref(), *at_work, *limit).await?)
        }
        OperationCommand::Show { operation } => {
            let operation = client.find_operation(operation).await?;
            Answer::new(show::operation(&operation), &operation)
        }
        OperationCommand::Watch { operation } => {
            let begun = client.find_operation(operation).await?;
            let ended = work::follow(context, begun, true).await?;
            Answer::new(format!("{} has ended well", ended.kind), &ended)
        }
        OperationCommand::Wait { operation, timeout } => {
            let begun = client.find_operation(operation).await?;
            let ended = work::wait(context, begun, *timeout).await?;
            Answer::new(format!("{} has ended well", ended.kind), &ended)
        }
        OperationCommand::Cancel { operation } => {
            let operation = client.find_operation(operation).await?;
            client.cancel_operation(operation.id).await?;
            let text = format!("{} is asked to stop; see `stillpoint operation show {}`", operation.kind, operation.id);
            Answer::new(text, &client.operation(operation.id).await?)
        }
    }
}

fn list(operations: &[Operation]) -> Result<Answer, CliError> {
    if operations.is_empty() {
        return Answer::new("There are no such operations.", &operations);
    }
    let ids: Vec<_> = operations.iter().map(|operation| operation.id.to_string()).collect();
    let (width, now) = (text::id_width(&ids), Timestamp::now());
    let row = |operation: &Operation| {
        [
            text::short(&operation.id, width),
            operation.kind.clone(),
            operation.vm.as_ref().map(ToString::to_string).unwrap_or_default(),
            show::operation_state(operation),
            text::age(operation.start_time, now),
        ]
    };
    Answer::new(table::table(["id", "kind", "vm", "state", "begun"], operations.iter().map(row)), &operations)
}
