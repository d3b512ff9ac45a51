//! What each command does: ask the service, and make an answer of what it says.

mod backup;
mod backup_base;
mod backup_run;
mod check;
mod checkpoint;
mod confirm;
mod delete;
mod disk;
mod events;
mod guest;
mod hardware;
mod hazards;
mod image;
mod integrity;
mod memory;
mod operation;
mod restore;
mod select;
mod services;
mod session;
mod settings;
mod show;
mod transfer;
mod values;
mod vm;
mod vm_file;
mod work;

use crate::{
    CliError,
    args::{Cli, Command, ImageCommand},
    client::Client,
    output::{Answer, Output},
};

/// What a command works with.
pub(crate) struct Context {
    client: Client,
    output: Output,
}

/// Does what was typed.
pub(crate) async fn run(cli: &Cli) -> Result<Answer, CliError> {
    if let Command::Completions { shell } = cli.command {
        return completions(shell);
    }
    if let Command::Memory(command) = &cli.command {
        return memory::run(command);
    }
    if let Command::Check(args) = &cli.command {
        return check::run(cli, args).await;
    }
    if let Command::Image(ImageCommand::Merge(asked)) = &cli.command
        && !asked.dry_run
    {
        confirm::can_ask(asked.consent)?;
    }
    if let Command::Checkpoint(command) = &cli.command {
        checkpoint::check(command)?;
    }
    let context = Context { client: Client::connect(&cli.socket).await?, output: Output { json: cli.json } };
    match &cli.command {
        Command::Vm(command) => vm::run(&context, command).await,
        Command::Checkpoint(command) => checkpoint::run(&context, command).await,
        Command::Writer(command) => guest::writers(&context, command).await,
        Command::Events(asked) => events::run(&context, asked).await,
        Command::Operation(command) => operation::run(&context, command).await,
        Command::Guest(command) => guest::guest(&context, command).await,
        Command::Export(command) => transfer::export(&context, command).await,
        Command::Backup(command) => backup::run(&context, command).await,
        Command::Image(command) => image::run(&context, command).await,
        Command::Host(command) => guest::host(&context, command).await,
        Command::Memory(command) => memory::run(command),
        Command::Check(args) => check::run(cli, args).await,
        Command::Completions { shell } => completions(*shell),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<Answer, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "stillpoint", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Answer::new(script.clone(), &serde_json::json!({"shell": shell.to_string(), "script": script}))
}
