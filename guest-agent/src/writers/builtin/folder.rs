//! Our own scripts: each program in the folder is a writer, called as the file is.
//!
//! The program is called with the event as its only argument: `identify`, `prepare-backup`, `prepare-snapshot`,
//! `freeze`, `thaw`, `post-snapshot`, `backup-complete`, `backup-shutdown`, `abort`, `pre-restore`, `post-restore`. An
//! event that it does not care for it answers by exiting with 0, like everything that is done. 75 (`EX_TEMPFAIL`) says
//! that it may work next time, anything else that it would not; the last line on standard error says why. Lines
//! `KEY=VALUE` on standard output are kept with the checkpoint, except those of `identify`, which describe the writer:
//! `level=front-end|back-end|system`, `version=…`, `component=NAME`, `file=PATH` (of the component before it).
//!
//! In its environment are `STILLPOINT_SESSION`, `STILLPOINT_BUDGET_MS`, at `freeze` `STILLPOINT_WINDOW_MS`, at
//! `prepare-backup` and `backup-complete` `STILLPOINT_BACKUP_TYPE` (`FULL`, `COPY`, …), and at a restore
//! `STILLPOINT_CHECKPOINT`, `STILLPOINT_WITH_MEMORY` and `STILLPOINT_WAS_HELD` (`yes`, `no`); what was kept comes back on
//! standard input. A program that takes longer than it may is killed, with all that it has started, and told `abort`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    time::Duration,
};

use stillpoint_common::{BackupType, WriterComponent, WriterError, WriterLevel};
use tokio::task::JoinHandle;

use super::{
    config::Programs,
    mark::Mark,
    process::{Call, Ended, run},
    programs,
};
use crate::writers::{
    local,
    registration::{Ask, Budgets, Done, Event, Failure, Registration},
    registry::Registry,
    sdk::Writer,
};

/// The kind of all scripts.
const KIND: &str = "2a7f4f0e-6f0b-4b8e-8f6a-1d1c5a3b7c01";
/// How often the folder is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Keeps a writer registered for each program in the folder, as they come and go. Runs for ever.
pub(super) async fn keep(registry: Registry, settings: Programs, runtime: PathBuf) {
    let mut known: BTreeMap<PathBuf, JoinHandle<()>> = BTreeMap::new();
    loop {
        let found = programs(&settings.folder);
        known.retain(|program, task| {
            let stays = found.contains(program) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for program in found {
            if let Entry::Vacant(place) = known.entry(program) {
                let script = Script::new(place.key().clone(), &settings, &runtime);
                place.insert(attach(&registry, script, settings.timeout).await);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn attach(registry: &Registry, mut script: Script, timeout: Duration) -> JoinHandle<()> {
    if script.mark.is_set() {
        // What comes of it is in the script's own log: there is no session to tell.
        let _ = script.on(&Event { session: None, budget: timeout, ask: Ask::Abort }).await;
    }
    let mut who = Registration::new(script.name.clone(), KIND, WriterLevel::FrontEnd);
    who.budgets =
        Budgets { identify: timeout, prepare: timeout, freeze: timeout, hold: None, thaw: timeout, finish: timeout };
    if let Ended::With { status: 0, output, .. } = script.call("identify", timeout, Vec::new(), String::new()).await {
        let told = Described::read(&output);
        (who.level, who.version, who.components) = (told.level, told.version, told.components);
    }
    local::attach(registry, who, script)
}

struct Script {
    name: String,
    program: PathBuf,
    timeout: Duration,
    mark: Mark,
}

impl Script {
    fn new(program: PathBuf, settings: &Programs, runtime: &std::path::Path) -> Self {
        let name = program.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let mark = Mark::new(runtime, &name);
        Self { name, program, timeout: settings.timeout, mark }
    }

    async fn call(&self, event: &str, budget: Duration, environment: Vec<(String, String)>, input: String) -> Ended {
        let limit = budget.min(self.timeout);
        run(Call { program: &self.program, arguments: &[event], environment, input, limit }).await
    }
}

impl Writer for Script {
    async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
        let name = argument(&event.ask);
        if matches!(event.ask, Ask::Freeze { .. }) {
            self.mark.set();
        }
        let ended = self.call(name, event.budget, environment(event), input(&event.ask)).await;
        if matches!(event.ask, Ask::Thaw | Ask::Abort) {
            self.mark.clear();
        }
        let output = understood(ended, event.budget.min(self.timeout))?;
        if event.ask == Ask::Identify {
            return Ok(Done { components: Some(Described::read(&output).components), ..Done::default() });
        }
        let lines = output.lines().filter_map(|line| line.split_once('='));
        let metadata = lines.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect();
        Ok(Done { components: None, metadata })
    }
}

/// What an end of a program means.
pub(super) fn understood(ended: Ended, limit: Duration) -> Result<String, Failure> {
    const TEMPORARY: i32 = 75;
    match ended {
        Ended::With { status: 0, output, .. } => Ok(output),
        Ended::With { status, complaint, .. } => {
            let error = if status == TEMPORARY { WriterError::Retryable } else { WriterError::NonRetryable };
            let message = if complaint.is_empty() { format!("it ended with {status}") } else { complaint };
            Err(Failure { error, message })
        }
        Ended::TimedOut => Err(Failure::timed_out(format!("it did not end within {limit:?} and was killed"))),
        Ended::NotStarted(why) => Err(Failure::non_retryable(format!("it cannot be run: {why}"))),
    }
}

const fn argument(ask: &Ask) -> &'static str {
    match ask {
        Ask::Identify => "identify",
        Ask::PrepareBackup(_) => "prepare-backup",
        Ask::PrepareSnapshot => "prepare-snapshot",
        Ask::Freeze { .. } => "freeze",
        Ask::Thaw => "thaw",
        Ask::PostSnapshot => "post-snapshot",
        Ask::BackupComplete(_) => "backup-complete",
        Ask::BackupShutdown => "backup-shutdown",
        Ask::Abort => "abort",
        Ask::PreRestore(_) => "pre-restore",
        Ask::PostRestore(_) => "post-restore",
    }
}

fn environment(event: &Event) -> Vec<(String, String)> {
    let mut all = vec![("BUDGET_MS", event.budget.as_millis().to_string())];
    all.extend(event.session.map(|session| ("SESSION", session.to_string())));
    match &event.ask {
        Ask::Freeze { window } => all.push(("WINDOW_MS", window.as_millis().to_string())),
        Ask::PrepareBackup(backup) | Ask::BackupComplete(backup) => {
            all.push(("BACKUP_TYPE", type_name(*backup).to_owned()))
        }
        Ask::PreRestore(from) | Ask::PostRestore(from) => {
            let word = |yes: bool| if yes { "yes".to_owned() } else { "no".to_owned() };
            all.push(("CHECKPOINT", from.checkpoint.clone()));
            all.push(("WITH_MEMORY", word(from.with_memory)));
            all.push(("WAS_HELD", word(from.was_held)));
        }
        Ask::Identify | Ask::PrepareSnapshot | Ask::Thaw | Ask::PostSnapshot | Ask::BackupShutdown | Ask::Abort => {}
    }
    all.into_iter().map(|(key, value)| (format!("STILLPOINT_{key}"), value)).collect()
}

const fn type_name(backup: BackupType) -> &'static str {
    match backup {
        BackupType::Full => "FULL",
        BackupType::Copy => "COPY",
        BackupType::Incremental => "INCREMENTAL",
        BackupType::Differential => "DIFFERENTIAL",
        BackupType::Log => "LOG",
    }
}

fn input(ask: &Ask) -> String {
    match ask {
        Ask::PreRestore(from) | Ask::PostRestore(from) => {
            from.metadata.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
        }
        Ask::Identify
        | Ask::PrepareBackup(_)
        | Ask::PrepareSnapshot
        | Ask::Freeze { .. }
        | Ask::Thaw
        | Ask::PostSnapshot
        | Ask::BackupComplete(_)
        | Ask::BackupShutdown
        | Ask::Abort => String::new(),
    }
}

/// What `identify` printed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    level: WriterLevel,
    version: String,
    components: Vec<WriterComponent>,
}

impl Described {
    fn read(output: &str) -> Self {
        let mut told = Self::default();
        for (key, value) in output.lines().filter_map(|line| line.split_once('=')) {
            let value = value.trim();
            match key.trim() {
                "level" if value == "back-end" => told.level = WriterLevel::BackEnd,
                "level" if value == "system" => told.level = WriterLevel::System,
                "version" => value.clone_into(&mut told.version),
                "component" => told.components.push(WriterComponent { name: value.to_owned(), ..Default::default() }),
                "file" => told
                    .components
                    .iter_mut()
                    .next_back()
                    .into_iter()
                    .for_each(|last| last.files.push(value.to_owned())),
                _ => {}
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_describes_itself() {
        let told = Described::read("level=back-end\nversion=7\ncomponent=shop\nfile=/a\nfile=/b\nnoise\n");
        assert_eq!((told.level, told.version.as_str()), (WriterLevel::BackEnd, "7"));
        assert_eq!(told.components[0].files, ["/a", "/b"]);
        assert_eq!(Described::read("file=/a"), Described::default());
    }

    #[test]
    fn an_end_says_whether_to_try_again() {
        let ended = |status| Ended::With { status, output: "a=b".into(), complaint: "why".into() };
        assert_eq!(understood(ended(0), Duration::ZERO).as_deref(), Ok("a=b"));
        assert_eq!(understood(ended(75), Duration::ZERO).unwrap_err(), Failure::retryable("why"));
        assert_eq!(understood(ended(1), Duration::ZERO).unwrap_err(), Failure::non_retryable("why"));
        assert_eq!(understood(Ended::TimedOut, Duration::ZERO).unwrap_err().error, WriterError::TimedOut);
    }
}
