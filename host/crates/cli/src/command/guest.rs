//! `stillpoint guest|writer|host …`

use super::{Context, integrity, services, show, values};
use crate::{
    CliError,
    args::{GuestCommand, HostCommand, WriterCommand},
    output::Answer,
};

pub(super) async fn guest(context: &Context, command: &GuestCommand) -> Result<Answer, CliError> {
    match command {
        GuestCommand::Show { vm } => {
            let guest = context.client.guest(vm).await?;
            Answer::new(show::guest(&guest), &guest)
        }
        GuestCommand::Services { vm } => services::list(context, vm).await,
        GuestCommand::List { vm } => values::list(context, vm).await,
        GuestCommand::Get { vm, key } => values::get(context, vm, key).await,
        GuestCommand::Set { vm, values } => values::set(context, vm, values).await,
        GuestCommand::Unset { vm, keys } => values::unset(context, vm, keys).await,
    }
}

pub(super) async fn writers(context: &Context, command: &WriterCommand) -> Result<Answer, CliError> {
    let WriterCommand::List { vm } = command;
    let writers = context.client.writers(vm).await?;
    if writers.is_empty() {
        return Answer::new(format!("The guest of {vm} has no writers."), &writers);
    }
    Answer::new(writers.iter().map(show::writer).collect::<Vec<_>>().join("\n\n"), &writers)
}

pub(super) async fn host(context: &Context, command: &HostCommand) -> Result<Answer, CliError> {
    match command {
        HostCommand::Show => {
            let host = context.client.host().await?;
            Answer::new(show::host(&host), &host)
        }
        HostCommand::Check { vm } => integrity::check(context, vm.as_ref()).await,
        HostCommand::Rebuild { folders } => integrity::rebuild(context, folders).await,
    }
}
