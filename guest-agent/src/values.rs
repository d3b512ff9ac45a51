//! Keys with values that this guest and its host tell each other.
//!
//! What the host tells is kept in `/run`, as long as the guest runs; the agent alone writes it. What the guest tells is kept
//! on its disk, by the command `stillpoint-agent values set`; the agent only reads it, so that it never waits for a file
//! system that it has frozen.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use stillpoint_common::{KeyValues, MAX_BYTES, ToldValues, ValueError};

use crate::system::SystemNames;

/// Folder of what the host tells.
pub const HOST_FOLDER: &str = "/run/stillpoint";
/// Folder of what the guest tells.
pub const GUEST_FOLDER: &str = "/var/lib/stillpoint";
const HOST_FILE: &str = "host-values.json";
const GUEST_FILE: &str = "guest-values.json";
/// JSON may take six bytes for one; a longer file is not ours.
const LARGEST_FILE: u64 = 8 * MAX_BYTES as u64;

/// Both sides' values. Clones share them.
#[derive(Debug, Clone)]
pub struct Values {
    host: PathBuf,
    guest: PathBuf,
    /// The state that the host has given last. Held for a copy, never while a file is written.
    revision: Arc<Mutex<String>>,
}

/// Why values cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ValuesError {
    /// A value is out of bounds.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The file is none of ours.
    #[error("{} cannot be understood: {why}", path.display())]
    Strange {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Values {
    /// In these folders.
    #[must_use]
    pub fn new(host_folder: &Path, guest_folder: &Path) -> Self {
        let (host, guest) = (host_folder.join(HOST_FILE), guest_folder.join(GUEST_FILE));
        Self { host, guest, revision: Arc::default() }
    }

    /// The state of the host's values that was given last; empty if none was.
    #[must_use]
    pub fn revision(&self) -> String {
        self.revision.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what the host tells. On failure what was told before stays.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_hosts(&self, revision: &str, values: &KeyValues) -> Result<(), ValuesError> {
        write(&self.host, values)?;
        revision.clone_into(&mut self.revision.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// What the host tells.
    ///
    /// # Errors
    /// The file cannot be read. One that is not there is no value.
    pub fn hosts(&self) -> Result<KeyValues, ValuesError> {
        read(&self.host)
    }

    /// What the guest tells.
    ///
    /// # Errors
    /// The file cannot be read. One that is not there is no value.
    pub fn guests(&self) -> Result<KeyValues, ValuesError> {
        read(&self.guest)
    }

    /// Sets something that the guest tells, or forgets it.
    ///
    /// # Errors
    /// It is out of bounds, or the file cannot be read or written; then what was told before stays.
    pub fn tell(&self, key: &str, value: Option<&str>) -> Result<(), ValuesError> {
        let mut values = self.guests()?;
        match value {
            Some(value) => values.set(key, value)?,
            None => drop(values.unset(key)),
        }
        write(&self.guest, &values)
    }

    /// All that is told to the host. A file that cannot be read is told as none.
    #[must_use]
    pub fn told(&self) -> ToldValues {
        let set = self.guests().unwrap_or_else(|error| {
            tracing::warn!(%error, "the values of this guest cannot be told");
            KeyValues::default()
        });
        ToldValues { set, intrinsic: intrinsic() }
    }
}

fn read(path: &Path) -> Result<KeyValues, ValuesError> {
    let failed = |source| ValuesError::Io { path: path.to_owned(), source };
    let strange = |why: String| ValuesError::Strange { path: path.to_owned(), why };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(KeyValues::default()),
        Err(error) => return Err(failed(error)),
        Ok(found) if found.len() > LARGEST_FILE => return Err(strange(format!("it has {} bytes", found.len()))),
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    let pairs: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|error| strange(error.to_string()))?;
    let mut values = KeyValues::default();
    pairs.iter().try_for_each(|(key, value)| values.set(key, value))?;
    Ok(values)
}

/// In one instant: a reader sees all of the old values, or all of the new ones.
fn write(path: &Path, values: &KeyValues) -> Result<(), ValuesError> {
    let failed = |source| ValuesError::Io { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(failed)?;
    let pairs: BTreeMap<&str, &str> = values.iter().collect();
    let text = serde_json::to_string_pretty(&pairs).map_err(|error| failed(error.into()))?;
    let new = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, text + "\n").and_then(|()| fs::rename(&new, path)).map_err(failed)
}

/// What is said of the guest by itself. The names are those that Hyper-V's guests use.
fn intrinsic() -> KeyValues {
    let names = SystemNames::read();
    let (os_name, os_version) = os_release(&fs::read_to_string("/etc/os-release").unwrap_or_default());
    let (v4, v6) = addresses();
    KeyValues::kept([
        ("FullyQualifiedDomainName", full_name(&names.hostname).as_str()),
        ("OSName", &os_name),
        ("OSVersion", &os_version),
        ("OSKernel", &names.kernel),
        ("ProcessorArchitecture", std::env::consts::ARCH),
        ("IntegrationServicesVersion", env!("CARGO_PKG_VERSION")),
        ("NetworkAddressIPv4", &v4),
        ("NetworkAddressIPv6", &v6),
    ])
}

/// The host name with the domain that the guest's own files give it. Nobody is asked over the network.
fn full_name(hostname: &str) -> String {
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let begins = |name: &&str| name.strip_prefix(hostname).is_some_and(|rest| rest.starts_with('.'));
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or_default());
    let full = lines.flat_map(|line| line.split_whitespace().skip(1)).find(begins);
    full.unwrap_or(hostname).to_owned()
}

/// Name and version of the system, as `/etc/os-release` has them.
fn os_release(text: &str) -> (String, String) {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
    };
    let name = value("NAME");
    (if name.is_empty() { "Linux".to_owned() } else { name }, value("VERSION_ID"))
}

/// Addresses of this guest, without those that lead back to it.
fn addresses() -> (String, String) {
    let trie = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let inet6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    (joined(local_v4(&trie)), joined(local_v6(&inet6)))
}

fn joined(mut addresses: Vec<IpAddr>) -> String {
    addresses.sort();
    addresses.dedup();
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(";")
}

/// `|-- 10.0.2.15` followed by `/32 host LOCAL`.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let lines: Vec<&str> = trie.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1] == "/32 host LOCAL");
    let address = |pair: &[&str]| pair[0].strip_prefix("|-- ")?.parse::<IpAddr>().ok();
    local.filter_map(address).filter(|address| !address.is_loopback()).collect()
}

/// `fe80000000000000505400fffe123456 02 40 20 80 eth0`
fn local_v6(table: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next().filter(|digits| digits.len() == 32)?;
        Some(IpAddr::from(u128::from_str_radix(digits, 16).ok()?.to_be_bytes()))
    };
    table.lines().filter_map(address).filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_kept_in_files_and_a_strange_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let values = Values::new(&folder.path().join("run"), &folder.path().join("lib"));
        assert_eq!((values.hosts().unwrap(), values.revision()), (KeyValues::default(), String::new()));
        let host = KeyValues::kept([("role", "web \"front\"")]);
        values.keep_hosts("1-a", &host).unwrap();
        assert_eq!((values.hosts().unwrap(), values.revision().as_str()), (host, "1-a"));
        values.tell("state", Some("ready\nnow")).unwrap();
        values.tell("gone", Some("x")).unwrap();
        values.tell("gone", None).unwrap();
        assert_eq!(values.told().set.iter().collect::<Vec<_>>(), [("state", "ready\nnow")]);
        assert!(matches!(values.tell("", Some("x")), Err(ValuesError::Value(ValueError::NoKey))));
        let file = folder.path().join("lib/guest-values.json");
        for odd in ["no json", "[1]", "{\"a\": 1}", "{\"a\\u0007\": \"b\"}"] {
            fs::write(&file, odd).unwrap();
            assert!(values.guests().is_err() && values.told().set == KeyValues::default(), "{odd}");
        }
        fs::write(&file, vec![b' '; 1 << 20]).unwrap();
        assert!(values.guests().unwrap_err().to_string().contains("1048576 bytes"));
    }

    #[test]
    fn the_system_and_its_addresses_are_read_from_its_own_files() {
        assert_eq!(
            os_release("ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\n"),
            ("Debian GNU/Linux".into(), "12".into())
        );
        assert_eq!(os_release(""), ("Linux".into(), String::new()));
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(joined(local_v4(trie)), "10.0.2.15");
        let table =
            "00000000000000000000000000000001 01 80 10 80 lo\nfe80000000000000505400fffe123456 02 40 20 80 eth0\n";
        assert_eq!(joined(local_v6(table)), "fe80::5054:ff:fe12:3456");
        let told = intrinsic();
        for key in ["FullyQualifiedDomainName", "OSName", "OSKernel", "IntegrationServicesVersion"] {
            assert!(told.get(key).is_some_and(|value| !value.is_empty()), "{key}: {told:?}");
        }
    }
}
