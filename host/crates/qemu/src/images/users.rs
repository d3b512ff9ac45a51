//! Who has image files open, as `/proc` says.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use stillpoint_common::FileIdentity;
use stillpoint_engine::ports::FileUser;

use super::files::identity;

/// Processes other than this one and its children that can write to these files or hold a lock on them. A process that
/// cannot be looked into, or ends meanwhile, is passed over.
pub(super) fn of(paths: &[PathBuf]) -> Vec<FileUser> {
    let wanted = |path: &PathBuf| Some((identity(&fs::metadata(path).ok()?), path.clone()));
    let wanted: BTreeMap<FileIdentityKey, PathBuf> =
        paths.iter().filter_map(wanted).map(|(file, path)| (key(file), path)).collect();
    let ourselves = std::process::id();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = numbers.filter(|pid| *pid != ourselves && parent(*pid) != Some(ourselves));
    others.flat_map(|pid| files_of(pid, &wanted)).collect()
}

type FileIdentityKey = (u64, u64);

const fn key(file: FileIdentity) -> FileIdentityKey {
    (file.device, file.inode)
}

/// Each wanted file of a process once, as something that writes if one of its descriptors can.
fn files_of(pid: u32, wanted: &BTreeMap<FileIdentityKey, PathBuf>) -> Vec<FileUser> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let mut found: BTreeMap<&PathBuf, bool> = BTreeMap::new();
    for entry in fs::read_dir(folder.join("fd")).into_iter().flatten().flatten() {
        let path = fs::metadata(entry.path()).ok().and_then(|metadata| wanted.get(&key(identity(&metadata))));
        let Some(path) = path else { continue };
        let (writes, locks) = how(&folder.join("fdinfo").join(entry.file_name()));
        if writes || locks {
            *found.entry(path).or_default() |= writes;
        }
    }
    let program = fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
    let user =
        |(path, writes): (&PathBuf, bool)| FileUser { path: path.clone(), pid, program: program.clone(), writes };
    found.into_iter().map(user).collect()
}

/// Whether a descriptor can write, and whether a lock is held through it.
fn how(info: &Path) -> (bool, bool) {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or_default();
    (flags & 0o3 != 0, text.lines().any(|line| line.starts_with("lock:")))
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything: what follows its last parenthesis does not.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_can_write_is_found_and_one_that_reads_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        fs::write(&path, b"x").unwrap();
        assert_eq!(of(std::slice::from_ref(&path)), []);
        // A child of a child: not one of our own tools.
        let hold = |redirect: &str| {
            let script = format!("sh -c 'echo $$; exec sleep 60 {redirect} \"$0\"' \"$0\" & wait");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).arg(&path).stdout(Stdio::piped()).spawn().unwrap()
        };
        for (redirect, expected) in [("3>>", true), ("3<", false)] {
            let mut shell = hold(redirect);
            let mut line = String::new();
            let mut output = std::io::BufReader::new(shell.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut output, &mut line).unwrap();
            let pid: u32 = line.trim().parse().unwrap();
            let opened = || fs::read_link(format!("/proc/{pid}/fd/3")).is_ok_and(|to| to == path);
            while !opened() {
                std::thread::yield_now();
            }
            let users = of(std::slice::from_ref(&path));
            Command::new("kill").arg(pid.to_string()).status().unwrap();
            shell.wait().unwrap();
            assert_eq!(users.iter().any(|user| user.pid == pid && user.writes), expected, "{redirect}: {users:?}");
        }
    }
}
