//! QEMU's events in the engine's words.

use serde_json::Value;
use stillpoint_engine::ports::HypervisorEventKind;

use crate::{launch::AGENT, nodes::disk_of, qmp::Event};

/// What an event means to the engine; `None` if nothing.
pub(crate) fn translate(event: &Event) -> Option<HypervisorEventKind> {
    let member = |name: &str| event.data.get(name).and_then(Value::as_str);
    match event.name.as_str() {
        "SHUTDOWN" if event.data.get("guest") == Some(&Value::Bool(true)) => Some(HypervisorEventKind::ShutDown),
        "RESET" if event.data.get("guest") == Some(&Value::Bool(true)) => Some(HypervisorEventKind::Reset),
        "GUEST_PANICKED" => Some(HypervisorEventKind::Panicked),
        "BLOCK_IO_ERROR" if member("action") == Some("stop") => {
            let path = member("qom-path").or_else(|| member("device"));
            Some(HypervisorEventKind::Critical(path.and_then(disk_of)))
        }
        "VSERPORT_CHANGE" if member("id") == Some(AGENT) => {
            event.data.get("open").and_then(Value::as_bool).map(HypervisorEventKind::AgentChannel)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_said_in_the_engines_words() {
        let said = |name: &str, data: Value| translate(&Event { name: name.to_owned(), data });
        let disk = Some("system".parse().unwrap());
        let path = "/machine/peripheral/disk-system/virtio-backend";
        assert_eq!(
            said("SHUTDOWN", json!({"guest": true, "reason": "guest-shutdown"})),
            Some(HypervisorEventKind::ShutDown)
        );
        assert_eq!(said("SHUTDOWN", json!({"guest": false, "reason": "host-qmp-quit"})), None);
        assert_eq!(said("RESET", json!({"guest": true})), Some(HypervisorEventKind::Reset));
        assert_eq!(
            said("BLOCK_IO_ERROR", json!({"device": "", "qom-path": path, "action": "stop"})),
            Some(HypervisorEventKind::Critical(disk))
        );
        assert_eq!(
            said("BLOCK_IO_ERROR", json!({"device": path, "action": "stop"})),
            Some(HypervisorEventKind::Critical(Some("system".parse().unwrap())))
        );
        assert_eq!(said("BLOCK_IO_ERROR", json!({"qom-path": path, "action": "report"})), None);
        assert_eq!(
            said("VSERPORT_CHANGE", json!({"id": "agent", "open": true})),
            Some(HypervisorEventKind::AgentChannel(true))
        );
        assert_eq!(said("VSERPORT_CHANGE", json!({"id": "other", "open": true})), None);
        assert_eq!(said("GUEST_PANICKED", json!({"action": "pause"})), Some(HypervisorEventKind::Panicked));
        assert_eq!(said("NEVER_SEEN", Value::Null), None);
    }
}
