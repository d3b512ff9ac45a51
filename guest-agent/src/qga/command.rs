//! The words of qemu-ga's protocol: what is asked, and how it is answered.

use serde_json::{Map, Value, json};

/// A command that is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Sync,
    SyncDelimited,
    Ping,
    Info,
    FreezeStatus,
    Freeze,
    FreezeList,
    Thaw,
    GetTime,
    SetTime,
    HostName,
    OsInfo,
}

impl Command {
    pub(super) const ALL: [Self; 12] = [
        Self::Sync,
        Self::SyncDelimited,
        Self::Ping,
        Self::Info,
        Self::FreezeStatus,
        Self::Freeze,
        Self::FreezeList,
        Self::Thaw,
        Self::GetTime,
        Self::SetTime,
        Self::HostName,
        Self::OsInfo,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Sync => "guest-sync",
            Self::SyncDelimited => "guest-sync-delimited",
            Self::Ping => "guest-ping",
            Self::Info => "guest-info",
            Self::FreezeStatus => "guest-fsfreeze-status",
            Self::Freeze => "guest-fsfreeze-freeze",
            Self::FreezeList => "guest-fsfreeze-freeze-list",
            Self::Thaw => "guest-fsfreeze-thaw",
            Self::GetTime => "guest-get-time",
            Self::SetTime => "guest-set-time",
            Self::HostName => "guest-get-host-name",
            Self::OsInfo => "guest-get-osinfo",
        }
    }

    /// It is answered while the guest is frozen too.
    pub(super) const fn is_for_the_frozen(self) -> bool {
        match self {
            Self::Sync | Self::SyncDelimited | Self::Ping | Self::Info | Self::FreezeStatus | Self::Thaw => true,
            Self::Freeze | Self::FreezeList | Self::GetTime | Self::SetTime | Self::HostName | Self::OsInfo => false,
        }
    }
}

/// Something that was asked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) arguments: Map<String, Value>,
    /// Comes back with the answer, whatever it is.
    pub(super) id: Option<Value>,
}

/// A request that is not done.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refused {
    class: &'static str,
    why: String,
}

impl Refused {
    pub(super) fn because(why: impl Into<String>) -> Self {
        Self { class: "GenericError", why: why.into() }
    }

    fn unknown(why: String) -> Self {
        Self { class: "CommandNotFound", why }
    }
}

/// Reads a request. On failure also the id, if it could be read that far.
pub(super) fn read(bytes: &[u8], is_frozen: bool) -> Result<Request, (Refused, Option<Value>)> {
    let told: Value =
        serde_json::from_slice(bytes).map_err(|error| (Refused::because(format!("no JSON: {error}")), None))?;
    let Value::Object(mut told) = told else { return Err((Refused::because("a request is an object"), None)) };
    let id = told.remove("id");
    let refused = |refused| (refused, id.clone());
    let arguments = match told.remove("arguments") {
        None => Map::new(),
        Some(Value::Object(arguments)) => arguments,
        Some(_) => return Err(refused(Refused::because("`arguments` is not an object"))),
    };
    let name = match told.remove("execute") {
        Some(Value::String(name)) => name,
        Some(_) | None => return Err(refused(Refused::because("`execute` does not name a command"))),
    };
    if let Some(other) = told.keys().next() {
        return Err(refused(Refused::because(format!("`{other}` is not a part of a request"))));
    }
    let Some(command) = Command::ALL.into_iter().find(|command| command.name() == name) else {
        return Err(refused(Refused::unknown(format!("The command {name} has not been found"))));
    };
    if is_frozen && !command.is_for_the_frozen() {
        let why = format!("Command {name} has been disabled: the guest is frozen");
        return Err(refused(Refused::unknown(why)));
    }
    Ok(Request { command, arguments, id })
}

impl Request {
    /// A number that must be there.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Refused> {
        match self.arguments.get(name) {
            None => Ok(None),
            Some(value) => {
                value.as_i64().map(Some).ok_or_else(|| Refused::because(format!("`{name}` is not a number")))
            }
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Refused> {
        let wrong = || Refused::because(format!("`{name}` is not a list of texts"));
        match self.arguments.get(name) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<_>>>().map(Some).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }
}

/// The answer as it goes to the host. One to `guest-sync-delimited` has a 0xFF before it, so that a host finds its beginning.
pub(super) fn answer(command: Option<Command>, id: Option<Value>, result: Result<Value, Refused>) -> Vec<u8> {
    let mut told = match result {
        Ok(value) => json!({ "return": value }),
        Err(Refused { class, why }) => json!({ "error": { "class": class, "desc": why } }),
    };
    if let (Some(id), Some(object)) = (id, told.as_object_mut()) {
        object.insert("id".to_owned(), id);
    }
    let mut bytes = if command == Some(Command::SyncDelimited) { vec![0xFF] } else { Vec::new() };
    bytes.extend(told.to_string().into_bytes());
    bytes.push(b'\n');
    bytes
}

/// What `guest-info` tells.
pub(super) fn info(is_frozen: bool) -> Value {
    let told = |command: Command| {
        let enabled = !is_frozen || command.is_for_the_frozen();
        json!({ "name": command.name(), "enabled": enabled, "success-response": true })
    };
    let version = concat!("stillpoint-agent ", env!("CARGO_PKG_VERSION"));
    json!({ "version": version, "supported_commands": Command::ALL.map(told) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request, String> {
        super::read(text.as_bytes(), false).map_err(|(refused, _)| refused.why)
    }

    #[test]
    fn a_request_is_read_and_what_is_none_is_said() {
        let request = read(r#"{"execute":"guest-sync","arguments":{"id":7},"id":"x"}"#).unwrap();
        assert_eq!(
            (request.command, request.number("id"), request.id.clone()),
            (Command::Sync, Ok(Some(7)), Some("x".into()))
        );
        assert_eq!(read(r#"{"execute":"guest-exec"}"#).unwrap_err(), "The command guest-exec has not been found");
        assert_eq!(read(r#"{"execute":7}"#).unwrap_err(), "`execute` does not name a command");
        assert_eq!(read(r#"{"execute":"guest-ping","arguments":[]}"#).unwrap_err(), "`arguments` is not an object");
        assert_eq!(read(r#"{"execute":"guest-ping","more":1}"#).unwrap_err(), "`more` is not a part of a request");
        assert!(read("{\"a\" 1}").unwrap_err().starts_with("no JSON: "));
        let list = read(r#"{"execute":"guest-fsfreeze-freeze-list","arguments":{"mountpoints":["/a",1]}}"#).unwrap();
        assert!(list.texts("mountpoints").is_err() && list.texts("none").unwrap().is_none());
    }

    #[test]
    fn a_frozen_guest_answers_little() {
        let frozen = |command: Command| {
            let text = format!("{{\"execute\":\"{}\"}}", command.name());
            super::super::command::read(text.as_bytes(), true).map_err(|(refused, _)| refused.class)
        };
        assert_eq!(frozen(Command::Freeze), Err("CommandNotFound"));
        assert!(frozen(Command::Thaw).is_ok() && frozen(Command::FreezeStatus).is_ok());
        let told = info(true);
        let of = |name: &str| {
            let all = told["supported_commands"].as_array().unwrap();
            all.iter().find(|command| command["name"] == name).unwrap()["enabled"].clone()
        };
        assert_eq!((of("guest-fsfreeze-thaw"), of("guest-set-time")), (true.into(), false.into()));
    }

    #[test]
    fn an_answer_is_one_line_and_begins_where_it_can_be_found() {
        assert_eq!(answer(Some(Command::Ping), None, Ok(json!({}))), b"{\"return\":{}}\n");
        assert_eq!(answer(Some(Command::SyncDelimited), None, Ok(json!(5))), b"\xFF{\"return\":5}\n");
        let refused = answer(None, Some(json!(1)), Err(Refused::because("no")));
        let refused: Value = serde_json::from_slice(&refused).unwrap();
        assert_eq!(refused, json!({ "error": { "class": "GenericError", "desc": "no" }, "id": 1 }));
    }
}
