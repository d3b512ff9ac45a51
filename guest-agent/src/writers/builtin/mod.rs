//! Writers that the agent brings along: found by themselves, settled in one small file.
//!
//! - [`folder`]: each program in our own folder is a writer; what it is told and may answer stands there.
//! - [`hooks`]: the hook folder of qemu-ga, as it is.
//! - [`sqlite`]: databases in files, by the locks that SQLite keeps to; [`patterns`] are their names in the settings.
//! - [`units`]: units of systemd that stand still or are stopped.
//! - [`servers`]: what is common to servers that are found by where they listen; [`postgres`]: PostgreSQL; [`mariadb`]:
//!   MariaDB; [`redis`]: Redis and Valkey.
//!
//! What one of these has begun is marked in the agent's runtime folder, which lives in memory: an agent that was
//! killed while they were held undoes it when it starts again.

pub mod config;
pub mod folder;
pub mod hooks;
mod mariadb;
mod mark;
pub mod patterns;
mod postgres;
mod process;
mod redis;
mod servers;
mod sqlite;
mod units;

use std::path::{Path, PathBuf};

use tracing::info;

use self::config::Config;
use super::registry::Registry;

/// Where the settings are, unless it is told otherwise.
pub const CONFIG: &str = "/etc/stillpoint/writers.conf";

/// Starts every built-in writer that there is something for, and goes on looking. `runtime` is a folder that no freeze
/// can reach.
pub fn start(registry: &Registry, config: &Config, runtime: &Path) {
    if let Some(scripts) = &config.scripts {
        drop(tokio::spawn(folder::keep(registry.clone(), scripts.clone(), runtime.to_owned())));
    }
    if let Some(hooks) = &config.hooks {
        drop(tokio::spawn(hooks::keep(registry.clone(), hooks.clone(), runtime.to_owned())));
    }
    drop(tokio::spawn(servers::keep(registry.clone(), postgres::Servers(config.postgres.clone()))));
    drop(tokio::spawn(servers::keep(registry.clone(), mariadb::Servers(config.mariadb.clone()))));
    let servers = redis::Servers::new(config.redis.clone(), runtime.to_owned());
    drop(tokio::spawn(servers::keep(registry.clone(), servers)));
    drop(tokio::spawn(sqlite::keep(registry.clone(), config.sqlite.clone())));
    let (units, place) = (config.units.clone(), runtime.to_owned());
    let unit_registry = registry.clone();
    drop(tokio::spawn(async move { units::keep(unit_registry, units, &place).await }));
    info!(scripts = ?config.scripts, hooks = ?config.hooks, "built-in writers");
}

/// Programs of a folder that may be run, by name. A folder that is not there has none.
fn programs(folder: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let runs = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let facts = std::fs::metadata(path);
        !is_leftover(&name) && facts.is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
    };
    let mut found: Vec<PathBuf> = entries.filter(runs).collect();
    found.sort();
    found
}

/// What editors and package managers leave behind; qemu-ga passes the same by.
fn is_leftover(name: &str) -> bool {
    const ENDS: [&str; 9] = ["~", ".bak", ".orig", ".rpmnew", ".rpmorig", ".rpmsave", ".sample", ".swp", ".tmp"];
    name.starts_with('.') || name.contains(".dpkg-") || ENDS.iter().any(|end| name.ends_with(end))
}
