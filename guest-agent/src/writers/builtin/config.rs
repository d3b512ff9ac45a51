//! The settings of built-in writers and of who may register: one small file, a setting on each line.
//!
//! ```text
//! # /etc/stillpoint/writers.conf: what is not set is as shown
//! scripts.folder  = /etc/stillpoint/writers.d     # each program in it is a writer; "off": none
//! scripts.timeout = 30                            # seconds that a program may take
//! hooks.folder    = /etc/qemu/fsfreeze-hook.d     # hooks of qemu-ga; "off": none
//! hooks.timeout   = 30                            # seconds, for all of them together
//! postgresql.sockets = /run/postgresql            # folders with sockets of PostgreSQL; "off": none
//! postgresql.user    = postgres                   # a superuser of it that `peer` admits
//! mariadb.sockets = /run/mysqld /var/lib/mysql     # folders with sockets, NAME.sock, of MariaDB; "off": none
//! mariadb.user    = root                          # a user of it with all rights that `unix_socket` admits
//! redis.sockets   = /run/redis /run/valkey        # folders with sockets, NAME.sock, of Redis or Valkey; "off": none
//! redis.ports     = 6379                          # ports of this machine on which it may listen; "off": none
//! redis.user      =                               # as whom it is spoken to; nothing: its default user
//! redis.password-file =                           # a file with that user's password, for root alone; nothing: none
//! sqlite.databases =                              # files of SQLite, with * and ? for parts of a name; nothing: none
//! sqlite.timeout  = 5                             # seconds that they may be busy, all together
//! units.freeze    =                               # units of systemd, or cgroups (/…), that stand still; nothing: none
//! units.stop      =                               # units that are stopped before, and started after
//! units.timeout   = 10                            # seconds that each of these may take
//! units.systemctl = /usr/bin/systemctl            # how systemd is asked
//! units.cgroups   = /sys/fs/cgroup                # where cgroups of version 2 are mounted
//! qemu-ga.port    =                               # where qemu-ga's protocol is answered too; nothing: on its usual port,
//!                                                 # if qemu-ga itself is not installed; "off": nowhere
//! qemu-ga.lease   = 10                            # seconds that a freeze by it lasts at most: 1 to 60
//! allow.users     =                               # user ids beside root that may register writers
//! ```

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use super::patterns::Pattern;

/// A folder of programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Where they are.
    pub folder: PathBuf,
    /// How long one call may take.
    pub timeout: Duration,
}

/// Servers that are found by their sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// Where the sockets are.
    pub folders: Vec<PathBuf>,
    /// As whom the server is spoken to.
    pub user: String,
}

/// Servers that are found by their sockets and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Where the sockets are.
    pub folders: Vec<PathBuf>,
    /// Ports of this machine.
    pub ports: Vec<u16>,
    /// As whom the server is spoken to; none: as its default user.
    pub user: Option<String>,
    /// Where the user's password is; none: it needs none.
    pub password_file: Option<PathBuf>,
}

/// Databases in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Databases {
    /// Where they are; nothing is looked for anywhere else.
    pub patterns: Vec<Pattern>,
    /// How long they may be busy, all together.
    pub timeout: Duration,
}

/// Units of systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSettings {
    /// Those that stand still while they are held; a name that begins with a slash is that of a cgroup.
    pub freeze: Vec<String>,
    /// Those that are stopped before, and started after.
    pub stop: Vec<String>,
    /// How long they may take.
    pub timeout: Duration,
    /// How systemd is asked.
    pub systemctl: PathBuf,
    /// Where cgroups of version 2 are mounted.
    pub cgroups: PathBuf,
}

/// Where qemu-ga's protocol is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuGa {
    /// On which port.
    pub port: QgaPort,
    /// The longest freeze.
    pub lease: Duration,
}

/// A port for qemu-ga's protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QgaPort {
    /// None.
    Off,
    /// The usual one, if the guest has it and no qemu-ga.
    Usual,
    /// This device.
    At(PathBuf),
}

/// What is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our own scripts; none: not wanted.
    pub scripts: Option<Programs>,
    /// Hooks of qemu-ga; none: not wanted.
    pub hooks: Option<Programs>,
    /// Servers of PostgreSQL; no folders: not wanted.
    pub postgres: Sockets,
    /// Servers of MariaDB; no folders: not wanted.
    pub mariadb: Sockets,
    /// Servers of Redis and Valkey; no folders and no ports: not wanted.
    pub redis: Listeners,
    /// Databases of SQLite; no patterns: none.
    pub sqlite: Databases,
    /// Units of systemd; no names: none.
    pub units: UnitSettings,
    /// Hosts that speak as to qemu-ga.
    pub qemu_ga: QemuGa,
    /// User ids that may register writers.
    pub users: Vec<u32>,
}

impl Default for Config {
    fn default() -> Self {
        let timeout = Duration::from_secs(30);
        let folders = vec!["/run/redis".into(), "/run/valkey".into()];
        Self {
            scripts: Some(Programs { folder: "/etc/stillpoint/writers.d".into(), timeout }),
            hooks: Some(Programs { folder: "/etc/qemu/fsfreeze-hook.d".into(), timeout }),
            postgres: Sockets { folders: vec!["/run/postgresql".into()], user: "postgres".into() },
            mariadb: Sockets { folders: vec!["/run/mysqld".into(), "/var/lib/mysql".into()], user: "root".into() },
            redis: Listeners { folders, ports: vec![6379], ..Listeners::default() },
            sqlite: Databases { patterns: Vec::new(), timeout: Duration::from_secs(5) },
            units: UnitSettings {
                freeze: Vec::new(),
                stop: Vec::new(),
                timeout: Duration::from_secs(10),
                systemctl: "/usr/bin/systemctl".into(),
                cgroups: "/sys/fs/cgroup".into(),
            },
            qemu_ga: QemuGa { port: QgaPort::Usual, lease: Duration::from_secs(10) },
            users: Vec::new(),
        }
    }
}

/// A line that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ConfigError {
    /// Which, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl Config {
    /// No built-in writer at all.
    #[must_use]
    pub fn nothing() -> Self {
        let none = || Sockets { folders: Vec::new(), user: String::new() };
        let (postgres, mariadb) = (none(), none());
        Self { scripts: None, hooks: None, postgres, mariadb, redis: Listeners::default(), ..Self::default() }
    }

    /// Reads the settings from the text of the file.
    ///
    /// # Errors
    /// The first line that is not understood: a setting that is silently passed over is worse than none.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let (mut config, mut set) = (Self::default(), BTreeSet::new());
        for (at, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                let key = config.set(line).map_err(|problem| ConfigError { line: at + 1, problem })?;
                if !set.insert(key) {
                    return Err(ConfigError { line: at + 1, problem: format!("`{key}` is set twice") });
                }
            }
        }
        Ok(config)
    }

    /// Answers what was set.
    fn set<'a>(&mut self, line: &'a str) -> Result<&'a str, String> {
        let (key, value) = line.split_once('=').ok_or("a setting has the form KEY = VALUE")?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "scripts.folder" => set_folder(&mut self.scripts, value),
            "scripts.timeout" => set_timeout(&mut self.scripts, value),
            "hooks.folder" => set_folder(&mut self.hooks, value),
            "hooks.timeout" => set_timeout(&mut self.hooks, value),
            "postgresql.sockets" => set_list(&mut self.postgres.folders, value, absolute),
            "postgresql.user" => set_user(&mut self.postgres, value),
            "mariadb.sockets" => set_list(&mut self.mariadb.folders, value, absolute),
            "mariadb.user" => set_user(&mut self.mariadb, value),
            "redis.sockets" => set_list(&mut self.redis.folders, value, absolute),
            "redis.ports" => set_list(&mut self.redis.ports, value, port),
            "redis.user" => {
                self.redis.user = Some(value.to_owned()).filter(|user| !user.is_empty());
                Ok(())
            }
            "redis.password-file" if value.is_empty() => {
                self.redis.password_file = None;
                Ok(())
            }
            "redis.password-file" => absolute(value).map(|path| self.redis.password_file = Some(path)),
            "sqlite.databases" => set_list(&mut self.sqlite.patterns, value, Pattern::parse),
            "sqlite.timeout" => seconds(value).map(|timeout| self.sqlite.timeout = timeout),
            "units.freeze" => set_list(&mut self.units.freeze, value, |word| unit(word, true)),
            "units.stop" => set_list(&mut self.units.stop, value, |word| unit(word, false)),
            "units.timeout" => seconds(value).map(|timeout| self.units.timeout = timeout),
            "units.systemctl" => absolute(value).map(|path| self.units.systemctl = path),
            "units.cgroups" => absolute(value).map(|path| self.units.cgroups = path),
            "qemu-ga.port" => {
                self.qemu_ga.port = match value {
                    "" => QgaPort::Usual,
                    "off" => QgaPort::Off,
                    path => QgaPort::At(absolute(path)?),
                };
                Ok(())
            }
            "qemu-ga.lease" => {
                let lease = seconds(value).ok().filter(|lease| *lease <= Duration::from_secs(60));
                lease.map(|lease| self.qemu_ga.lease = lease).ok_or_else(|| "between 1 and 60".to_owned())
            }
            "allow.users" => {
                let number = |word: &str| word.parse().map_err(|_| format!("`{word}` is not a user id"));
                self.users = value.split_whitespace().map(number).collect::<Result<_, _>>()?;
                Ok(())
            }
            _ => Err(format!("`{key}` is not a setting")),
        }
        .map(|()| key)
    }
}

fn set_folder(programs: &mut Option<Programs>, value: &str) -> Result<(), String> {
    if value == "off" {
        *programs = None;
        return Ok(());
    }
    let folder = absolute(value)?;
    if let Some(programs) = programs {
        programs.folder = folder;
    }
    Ok(())
}

fn set_list<T>(list: &mut Vec<T>, value: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<(), String> {
    *list = if value == "off" { Vec::new() } else { value.split_whitespace().map(one).collect::<Result<_, _>>()? };
    Ok(())
}

fn set_user(sockets: &mut Sockets, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("the name of a user".to_owned());
    }
    value.clone_into(&mut sockets.user);
    Ok(())
}

fn port(word: &str) -> Result<u16, String> {
    let port = word.parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| format!("`{word}` is not a port, and not \"off\""))
}

/// The full name of a unit: a short one would be another one's if it were completed otherwise. Or a cgroup.
fn unit(word: &str, or_cgroup: bool) -> Result<String, String> {
    let is_cgroup = word.starts_with('/') && !word.split('/').any(|part| part == "..");
    let is_unit = !word.starts_with(['/', '-', '.']) && !word.contains('/') && word.contains('.');
    if is_unit || (is_cgroup && or_cgroup) {
        return Ok(word.to_owned());
    }
    Err(format!("`{word}` is not the full name of a unit, such as app.service"))
}

fn absolute(value: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err(format!("`{value}` is not an absolute path, and not \"off\"")) }
}

fn set_timeout(programs: &mut Option<Programs>, value: &str) -> Result<(), String> {
    let timeout = seconds(value)?;
    programs.iter_mut().for_each(|programs| programs.timeout = timeout);
    Ok(())
}

fn seconds(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds| (1..=3600).contains(seconds)).ok_or("between 1 and 3600")?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_as_it_is_by_itself() {
        assert_eq!(Config::parse("# nothing\n\n"), Ok(Config::default()));
        let set = Config::parse("scripts.timeout = 5\nhooks.folder=off # no\nallow.users = 26 1000").unwrap();
        assert_eq!(set.scripts.map(|scripts| scripts.timeout), Some(Duration::from_secs(5)));
        assert_eq!((set.hooks, set.users), (None, vec![26, 1000]));
        let set =
            Config::parse("redis.sockets = off\nredis.ports = 1 2\nredis.user = s\nredis.password-file = /p").unwrap();
        let redis = Listeners {
            folders: Vec::new(),
            ports: vec![1, 2],
            user: Some("s".into()),
            password_file: Some("/p".into()),
        };
        assert_eq!(set.redis, redis);
        let set = Config::parse("mariadb.sockets = /x\nmariadb.user = backup").unwrap().mariadb;
        assert_eq!(set, Sockets { folders: vec!["/x".into()], user: "backup".into() });
        for (value, port) in [("", QgaPort::Usual), ("off", QgaPort::Off), ("/dev/x", QgaPort::At("/dev/x".into()))] {
            let set = Config::parse(&format!("qemu-ga.port = {value}\nqemu-ga.lease = 60")).unwrap().qemu_ga;
            assert_eq!(set, QemuGa { port, lease: Duration::from_secs(60) });
        }
        let set = Config::parse("sqlite.databases = /x/*.db /y.db\nsqlite.timeout = 2").unwrap().sqlite;
        let patterns = ["/x/*.db", "/y.db"].map(|path| Pattern::parse(path).unwrap()).to_vec();
        assert_eq!(set, Databases { patterns, timeout: Duration::from_secs(2) });
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let wrong = |text: &str| Config::parse(text).unwrap_err().to_string();
        assert_eq!(wrong("\nscript.folder = /x"), "line 2: `script.folder` is not a setting");
        assert_eq!(wrong("hooks.folder = x"), "line 1: `x` is not an absolute path, and not \"off\"");
        assert_eq!(wrong("hooks.timeout = 0"), "line 1: between 1 and 3600");
        assert_eq!(wrong("allow.users = postgres"), "line 1: `postgres` is not a user id");
        assert_eq!(wrong("scripts.folder = off\n\nscripts.folder = /x"), "line 3: `scripts.folder` is set twice");
        assert_eq!(wrong("redis.ports = six"), "line 1: `six` is not a port, and not \"off\"");
        assert_eq!(wrong("mariadb.user ="), "line 1: the name of a user");
        assert_eq!(wrong("sqlite.databases = x"), "line 1: `x` is not an absolute path, and not \"off\"");
        assert_eq!(
            wrong("units.stop = a.service /x"),
            "line 1: `/x` is not the full name of a unit, such as app.service"
        );
        for word in ["app", "-x.service", "/a/../b", "a/b.service"] {
            assert!(wrong(&format!("units.freeze = {word}")).contains(word));
        }
        assert_eq!(wrong("qemu-ga.lease = 61"), "line 1: between 1 and 60");
        assert_eq!(wrong("nothing"), "line 1: a setting has the form KEY = VALUE");
    }
}
