//! Hooks of qemu-ga, as they are: every program in its folder is called with `freeze` before the file systems are held,
//! and with `thaw` when they are not any more, in the order of their names. Together they are one writer of the system.
//!
//! Unlike qemu-ga, which holds on without looking at what its hooks say, a hook that fails or takes too long refuses the
//! freeze; and whatever has been called with `freeze` is called with `thaw`, also when the host is gone or the agent was
//! killed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use stillpoint_common::WriterLevel;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    config::Programs,
    folder::understood,
    mark::Mark,
    process::{Call, run},
    programs,
};
use crate::writers::{
    local,
    registration::{Ask, Budgets, Done, Event, Failure, Registration},
    registry::Registry,
    sdk::Writer,
};

const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c02";
/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps the writer registered for as long as there are hooks. Runs for ever.
pub(super) async fn keep(registry: Registry, settings: Programs, runtime: PathBuf) {
    let mut writer: Option<JoinHandle<()>> = None;
    let mark = Mark::new(&runtime, "hooks");
    if mark.is_set() {
        let limit = Instant::now() + settings.timeout;
        // What a hook says to this nobody can do anything about.
        let _ = call_all(&settings.folder, "thaw", limit, |_| true).await;
        mark.clear();
    }
    loop {
        match (programs(&settings.folder).is_empty(), &writer) {
            (false, None) => writer = Some(attach(&registry, &settings, &runtime)),
            (true, Some(task)) => {
                task.abort();
                writer = None;
            }
            (true, None) | (false, Some(_)) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn attach(registry: &Registry, settings: &Programs, runtime: &Path) -> JoinHandle<()> {
    let mut who = Registration::new("qemu-ga hooks", KIND, WriterLevel::System);
    who.budgets = Budgets { freeze: settings.timeout, thaw: settings.timeout, ..Budgets::default() };
    let mark = Mark::new(runtime, "hooks");
    local::attach(registry, who, Hooks { settings: settings.clone(), mark, frozen: Vec::new() })
}

struct Hooks {
    settings: Programs,
    mark: Mark,
    /// Those that were called with `freeze` and not with `thaw` since.
    frozen: Vec<PathBuf>,
}

impl Writer for Hooks {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let until = Instant::now() + event.budget.min(self.settings.timeout);
        match event.ask {
            Ask::Freeze { .. } => {
                self.mark.set();
                let frozen = &mut self.frozen;
                call_all(&self.settings.folder, "freeze", until, |hook| {
                    frozen.push(hook.to_owned());
                    true
                })
                .await?;
            }
            Ask::Thaw | Ask::Abort => {
                let frozen = std::mem::take(&mut self.frozen);
                let done =
                    call_all(&self.settings.folder, "thaw", until, |hook| frozen.iter().any(|one| one == hook)).await;
                self.mark.clear();
                done?;
            }
            Ask::Identify
            | Ask::PrepareBackup(_)
            | Ask::PrepareSnapshot
            | Ask::PostSnapshot
            | Ask::BackupComplete(_)
            | Ask::BackupShutdown
            | Ask::PreRestore(_)
            | Ask::PostRestore(_) => {}
        }
        Ok(Done::default())
    }
}

/// Calls each hook that `wanted` wants, and answers the first failure. A freeze stops there, a thaw goes on.
async fn call_all(
    folder: &Path,
    argument: &str,
    until: Instant,
    mut wanted: impl FnMut(&Path) -> bool,
) -> Result<(), Failure> {
    let mut first = Ok(());
    for program in programs(folder) {
        if !wanted(&program) {
            continue;
        }
        let limit = until.saturating_duration_since(Instant::now());
        let call =
            Call { program: &program, arguments: &[argument], environment: Vec::new(), input: String::new(), limit };
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Err(failure) = understood(run(call).await, limit) {
            first = first.and(Err(Failure { message: format!("hook {name}: {}", failure.message), ..failure }));
            if argument == "freeze" {
                break;
            }
        }
    }
    first
}
