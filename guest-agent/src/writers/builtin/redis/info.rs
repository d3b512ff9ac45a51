//! What a server says of itself, and what follows from it. Nothing here waits.

use std::collections::BTreeMap;

/// The oldest version that can hold writes alone, for a time, and end that before its time (`CLIENT PAUSE … WRITE`).
const OLDEST: (u32, u32) = (6, 2);

/// The answer to `INFO`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Info(BTreeMap<String, String>);

/// How a server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// In an append-only file: everything that was answered can be made durable.
    Aof,
    /// In snapshots, now and then.
    Rdb,
    /// Not at all: it is a cache, and begins empty.
    Nothing,
}

impl Info {
    pub(super) fn read(text: &str) -> Self {
        let facts = text.lines().filter_map(|line| line.split_once(':'));
        Self(facts.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect())
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(super) fn is(&self, key: &str, value: &str) -> bool {
        self.text(key) == value
    }

    /// What people call the server: by its port, or by its socket's name if it has no port.
    pub(super) fn name(&self, socket: Option<&str>) -> String {
        let product = if self.0.contains_key("valkey_version") { "Valkey" } else { "Redis" };
        let port = self.text("tcp_port");
        let place = if port.is_empty() || port == "0" { socket.unwrap_or(port) } else { port };
        format!("{product} {place}")
    }

    pub(super) fn version(&self) -> &str {
        [self.text("valkey_version"), self.text("redis_version")]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or("")
    }

    /// Why it cannot have a writer; none: it can. Valkey says in `redis_version` which Redis it is like.
    pub(super) fn unfit(&self) -> Option<String> {
        if self.is("redis_mode", "sentinel") {
            return Some("a sentinel has no data".to_owned());
        }
        let mut numbers = self.text("redis_version").split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => None,
            (Some(Ok(_)), Some(Ok(_))) => Some(format!("Redis {} cannot hold writes: 6.2 can", self.version())),
            _ => Some("it does not tell its version".to_owned()),
        }
    }

    /// `saves`: snapshots are wanted.
    pub(super) fn persistence(&self, saves: bool) -> Persistence {
        match (self.is("aof_enabled", "1"), saves) {
            (true, _) => Persistence::Aof,
            (false, true) => Persistence::Rdb,
            (false, false) => Persistence::Nothing,
        }
    }

    /// A rewrite of the append-only file is going on or about to. Until the first one is over there is no such file.
    pub(super) fn rewrites(&self) -> bool {
        self.is("aof_rewrite_in_progress", "1") || self.is("aof_rewrite_scheduled", "1")
    }

    /// Answered, but not yet written to the file: with `appendfsync everysec` the server does not wait for a disk that is
    /// busy with what came before.
    pub(super) fn unwritten(&self) -> bool {
        !matches!(self.text("aof_buffer_length"), "" | "0")
    }

    /// What the last write to the append-only file failed of, if it did.
    pub(super) fn broken(&self) -> bool {
        self.is("aof_last_write_status", "err")
    }

    /// What changes with every write, and with the process.
    pub(super) fn position(&self) -> Position {
        let [run, size, unwritten] =
            ["run_id", "aof_current_size", "aof_buffer_length"].map(|key| self.text(key).to_owned());
        Position { run, size, unwritten, rewrites: self.rewrites() }
    }
}

/// Where a server's append-only file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    run: String,
    size: String,
    unwritten: String,
    rewrites: bool,
}

impl Position {
    /// Nothing was written between this and `later`. The end of a rewrite changes the size without a write.
    pub(super) fn is_still(&self, later: &Self) -> bool {
        let size = self.rewrites || self.size == later.size;
        self.run == later.run && size && self.unwritten == later.unwritten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "# Server\r\nredis_version:7.2.4\r\nrun_id:a\r\ntcp_port:6379\r\naof_enabled:1\r\n\
                        aof_current_size:10\r\naof_buffer_length:0\r\n";

    #[test]
    fn how_the_data_is_kept_is_seen_from_what_the_server_says() {
        let aof = Info::read(SAID);
        assert_eq!(
            (aof.persistence(false), aof.rewrites(), aof.unwritten(), aof.broken()),
            (Persistence::Aof, false, false, false)
        );
        let worse = Info::read(
            "aof_enabled:1\r\naof_buffer_length:7\r\naof_rewrite_scheduled:1\r\naof_last_write_status:err\r\n",
        );
        assert!(worse.rewrites() && worse.unwritten() && worse.broken());
        let off = Info::read("aof_enabled:0\r\n");
        assert_eq!((off.persistence(true), off.persistence(false)), (Persistence::Rdb, Persistence::Nothing));
    }

    #[test]
    fn servers_are_named_by_their_port_and_those_that_cannot_be_held_are_left_alone() {
        assert_eq!(Info::read(SAID).name(Some("ledger")), "Redis 6379");
        assert_eq!(Info::read("tcp_port:0").name(Some("ledger")), "Redis ledger");
        let valkey = Info::read("redis_version:7.2.4\nvalkey_version:8.1.0\ntcp_port:6380");
        assert_eq!((valkey.name(None).as_str(), valkey.version(), valkey.unfit()), ("Valkey 6380", "8.1.0", None));
        for old in ["redis_version:6.0.16", "redis_version:5.0.14", "redis_mode:sentinel\nredis_version:7.0.1", "a:b"] {
            assert!(Info::read(old).unfit().is_some(), "{old}");
        }
        assert!(
            ["6.2.0", "7.0.15", "10.0.1"]
                .iter()
                .all(|new| Info::read(&format!("redis_version:{new}")).unfit().is_none())
        );
    }

    #[test]
    fn a_write_or_another_process_is_seen_from_the_position() {
        let held = Info::read(SAID).position();
        let later = |from: &str, to: &str| Info::read(&SAID.replace(from, to)).position();
        assert!(held.is_still(&held));
        assert!(!held.is_still(&later("size:10", "size:11")));
        assert!(!held.is_still(&later("length:0", "length:5")));
        assert!(!held.is_still(&later("run_id:a", "run_id:b")));
        let rewriting = Info::read(&format!("{SAID}aof_rewrite_in_progress:1\r\n")).position();
        assert!(rewriting.is_still(&later("size:10", "size:4")));
    }
}
