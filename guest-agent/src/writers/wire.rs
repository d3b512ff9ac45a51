//! Between the words of the writers' socket and our own. Writers are not trusted with sizes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use stillpoint_common::{SessionId, WriterComponent, WriterError};
use stillpoint_proto::{
    convert::writer as convert,
    writer::v1::{self as pb, answer, event::Kind},
};

use super::registration::{Ask, Budgets, Done, Event, Failure, Registration, Restored};

const MAX_NAME: usize = 100;
const MAX_TEXT: usize = 512;
const MAX_COMPONENTS: usize = 64;
const MAX_FILES: usize = 64;
const MAX_KEYS: usize = 64;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 4096;
const BUDGET: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// What of a message makes no sense.
type Wrong = String;

pub(super) fn registration(told: pb::Registration) -> Result<Registration, Wrong> {
    let name = told.name.trim();
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(format!("registration.name: 1 to {MAX_NAME} characters, none of them a control character"));
    }
    let id: uuid::Uuid = told.writer_id.parse().map_err(|_| "registration.writer_id: not a UUID".to_owned())?;
    Ok(Registration {
        name: name.to_owned(),
        id: id.to_string(),
        level: convert::level(told.level()),
        version: text(&told.version, "registration.version")?,
        components: components(&told.components)?,
        budgets: budgets(told.budgets.unwrap_or_default())?,
        backup_types: told.backup_types().map(convert::backup_type).collect(),
        process: None,
    })
}

fn budgets(told: pb::Budgets) -> Result<Budgets, Wrong> {
    let usual = Budgets::default();
    let read = |name: &str, value: Option<prost_types::Duration>, usual: Duration| match value {
        None => Ok(usual),
        Some(value) => Duration::try_from(value)
            .ok()
            .filter(|value| BUDGET.contains(value))
            .ok_or_else(|| format!("registration.budgets.{name}: between 1 millisecond and 1 hour")),
    };
    Ok(Budgets {
        identify: read("identify", told.identify, usual.identify)?,
        prepare: read("prepare", told.prepare, usual.prepare)?,
        freeze: read("freeze", told.freeze, usual.freeze)?,
        hold: told.hold.map(|hold| read("hold", Some(hold), Duration::ZERO)).transpose()?,
        thaw: read("thaw", told.thaw, usual.thaw)?,
        finish: read("finish", told.finish, usual.finish)?,
    })
}

fn text(told: &str, field: &str) -> Result<String, Wrong> {
    if told.len() > MAX_TEXT { Err(format!("{field}: longer than {MAX_TEXT} bytes")) } else { Ok(told.to_owned()) }
}

fn components(told: &[pb::Component]) -> Result<Vec<WriterComponent>, Wrong> {
    if told.len() > MAX_COMPONENTS || told.iter().any(|component| component.files.len() > MAX_FILES) {
        return Err(format!("components: at most {MAX_COMPONENTS} with {MAX_FILES} files each"));
    }
    let read = |component: &pb::Component| {
        Ok(WriterComponent {
            name: text(&component.name, "component.name")?,
            files: component.files.iter().map(|file| text(file, "component.files")).collect::<Result<_, _>>()?,
            version: text(&component.version, "component.version")?,
        })
    };
    told.iter().map(read).collect()
}

fn check(metadata: &HashMap<String, String>) -> Result<(), Wrong> {
    let fits = |(key, value): (&String, &String)| key.len() <= MAX_KEY && value.len() <= MAX_VALUE;
    if metadata.len() <= MAX_KEYS && metadata.iter().all(fits) {
        return Ok(());
    }
    Err(format!("metadata: at most {MAX_KEYS} keys of {MAX_KEY} bytes with values of {MAX_VALUE} bytes"))
}

pub(super) fn answer(told: Option<answer::Result>) -> Result<Result<Done, Failure>, Wrong> {
    match told.ok_or("answer.result: missing")? {
        answer::Result::Done(done) => {
            check(&done.metadata)?;
            let named = components(&done.components)?;
            let components = (!named.is_empty()).then_some(named);
            Ok(Ok(Done { components, metadata: done.metadata.into_iter().collect() }))
        }
        answer::Result::Failure(failure) => {
            let error = convert::error(failure.error()).unwrap_or(WriterError::NonRetryable);
            let message = failure.message.chars().filter(|char| !char.is_control()).take(MAX_TEXT).collect();
            Ok(Err(Failure { error, message }))
        }
    }
}

pub(super) fn on_wire(result: Result<Done, Failure>) -> answer::Result {
    match result {
        Ok(done) => answer::Result::Done(pb::Done {
            components: done.components.iter().flatten().map(convert::component).collect(),
            metadata: done.metadata.into_iter().collect(),
        }),
        Err(failure) => answer::Result::Failure(pb::Failure {
            error: pb::WriterError::from(failure.error).into(),
            message: failure.message,
        }),
    }
}

pub(super) fn registration_on_wire(registration: &Registration) -> pb::Registration {
    let Budgets { identify, prepare, freeze, hold, thaw, finish } = registration.budgets;
    pb::Registration {
        name: registration.name.clone(),
        writer_id: registration.id.clone(),
        level: pb::WriterLevel::from(registration.level).into(),
        version: registration.version.clone(),
        components: registration.components.iter().map(convert::component).collect(),
        budgets: Some(pb::Budgets {
            identify: duration(identify),
            prepare: duration(prepare),
            freeze: duration(freeze),
            hold: hold.and_then(duration),
            thaw: duration(thaw),
            finish: duration(finish),
        }),
        backup_types: registration.backup_types.iter().map(|one| pb::BackupType::from(*one).into()).collect(),
    }
}

fn duration(value: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(value).ok()
}

pub(super) fn event(sequence: u64, event: &Event) -> pb::Event {
    let kind = match &event.ask {
        Ask::Identify => Kind::Identify(pb::Identify {}),
        Ask::PrepareBackup(backup) => {
            Kind::PrepareBackup(pb::PrepareBackup { backup_type: pb::BackupType::from(*backup).into() })
        }
        Ask::PrepareSnapshot => Kind::PrepareSnapshot(pb::PrepareSnapshot {}),
        Ask::Freeze { window } => Kind::Freeze(pb::Freeze { window: duration(*window) }),
        Ask::Thaw => Kind::Thaw(pb::Thaw {}),
        Ask::PostSnapshot => Kind::PostSnapshot(pb::PostSnapshot {}),
        Ask::BackupComplete(backup) => {
            Kind::BackupComplete(pb::BackupComplete { backup_type: pb::BackupType::from(*backup).into() })
        }
        Ask::BackupShutdown => Kind::BackupShutdown(pb::BackupShutdown {}),
        Ask::Abort => Kind::Abort(pb::Abort {}),
        Ask::PreRestore(from) => Kind::PreRestore(pb::PreRestore { restored: Some(restored(from)) }),
        Ask::PostRestore(from) => Kind::PostRestore(pb::PostRestore { restored: Some(restored(from)) }),
    };
    let session_id = event.session.map(|session| session.to_string()).unwrap_or_default();
    pb::Event { sequence, session_id, budget: duration(event.budget), kind: Some(kind) }
}

fn restored(from: &Restored) -> pb::Restored {
    pb::Restored {
        checkpoint_id: from.checkpoint.clone(),
        with_memory: from.with_memory,
        was_held: from.was_held,
        metadata: from.metadata.clone().into_iter().collect(),
    }
}

/// What an agent asks; none if this version of the library does not know it.
pub(super) fn read_event(told: &pb::Event) -> Option<Event> {
    let backup = |value: i32| convert::backup_type(pb::BackupType::try_from(value).unwrap_or_default());
    let read = |from: &Option<pb::Restored>| {
        let from = from.clone().unwrap_or_default();
        Arc::new(Restored {
            checkpoint: from.checkpoint_id,
            with_memory: from.with_memory,
            was_held: from.was_held,
            metadata: from.metadata.into_iter().collect(),
        })
    };
    let ask = match told.kind.as_ref()? {
        Kind::Identify(_) => Ask::Identify,
        Kind::PrepareBackup(asked) => Ask::PrepareBackup(backup(asked.backup_type)),
        Kind::PrepareSnapshot(_) => Ask::PrepareSnapshot,
        Kind::Freeze(asked) => Ask::Freeze { window: asked.window.and_then(|window| Duration::try_from(window).ok())? },
        Kind::Thaw(_) => Ask::Thaw,
        Kind::PostSnapshot(_) => Ask::PostSnapshot,
        Kind::BackupComplete(asked) => Ask::BackupComplete(backup(asked.backup_type)),
        Kind::BackupShutdown(_) => Ask::BackupShutdown,
        Kind::Abort(_) => Ask::Abort,
        Kind::PreRestore(asked) => Ask::PreRestore(read(&asked.restored)),
        Kind::PostRestore(asked) => Ask::PostRestore(read(&asked.restored)),
    };
    let session = told.session_id.parse::<SessionId>().ok();
    Some(Event { session, budget: told.budget.and_then(|budget| Duration::try_from(budget).ok())?, ask })
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillpoint_common::{BackupType, WriterLevel};

    #[test]
    fn every_question_arrives_as_it_was_asked() {
        let from = Arc::new(Restored {
            checkpoint: "c".into(),
            with_memory: true,
            was_held: true,
            metadata: [("a".to_owned(), "b".to_owned())].into(),
        });
        let asks = [
            Ask::Identify,
            Ask::PrepareBackup(BackupType::Log),
            Ask::PrepareSnapshot,
            Ask::Freeze { window: Duration::from_secs(9) },
            Ask::Thaw,
            Ask::PostSnapshot,
            Ask::BackupComplete(BackupType::Copy),
            Ask::BackupShutdown,
            Ask::Abort,
            Ask::PreRestore(Arc::clone(&from)),
            Ask::PostRestore(from),
        ];
        for ask in asks {
            let sent = Event { session: Some(SessionId::generate()), budget: Duration::from_millis(5), ask };
            assert_eq!(read_event(&event(1, &sent)), Some(sent));
        }
    }

    #[test]
    fn a_registration_arrives_as_it_was_sent_and_a_bad_one_is_refused_by_name() {
        let sent = Registration::new("db", uuid::Uuid::nil().to_string(), WriterLevel::BackEnd);
        assert_eq!(registration(registration_on_wire(&sent)), Ok(sent.clone()));
        let refused = |change: &dyn Fn(&mut pb::Registration)| {
            let mut told = registration_on_wire(&sent);
            change(&mut told);
            registration(told).unwrap_err()
        };
        assert!(refused(&|told| told.name = " ".into()).starts_with("registration.name"));
        assert!(refused(&|told| told.name = "a\nb".into()).starts_with("registration.name"));
        assert!(refused(&|told| told.writer_id = "x".into()).starts_with("registration.writer_id"));
        let too_long = duration(Duration::from_secs(3601));
        assert!(
            refused(&|told| told.budgets = Some(pb::Budgets { hold: too_long, ..Default::default() })).contains("hold")
        );
    }

    #[test]
    fn too_much_metadata_is_refused() {
        let done = |metadata| answer(Some(answer::Result::Done(pb::Done { metadata, components: vec![] })));
        assert!(done([("k".to_owned(), "v".repeat(MAX_VALUE))].into()).is_ok());
        assert!(done([("k".to_owned(), "v".repeat(MAX_VALUE + 1))].into()).is_err());
        assert!(done((0..=MAX_KEYS).map(|at| (at.to_string(), String::new())).collect()).is_err());
        assert!(answer(None).is_err());
    }
}
