//! Paths of files as the settings name them: absolute, with `*` and `?` for parts of a name.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// The most names of folders that are looked at for one pattern.
const MOST_NAMES: usize = 10_000;

/// One path of the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(PathBuf);

impl Pattern {
    /// Reads it.
    ///
    /// # Errors
    /// It is not absolute, or leads upwards.
    pub fn parse(word: &str) -> Result<Self, String> {
        let path = PathBuf::from(word);
        if !path.is_absolute() {
            return Err(format!("`{word}` is not an absolute path, and not \"off\""));
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("`{word}` leads upwards"));
        }
        Ok(Self(path))
    }

    /// It names one file, and not what there happens to be.
    pub(super) fn is_plain(&self) -> bool {
        !has_wildcard(self.0.as_os_str())
    }

    /// What there is of this pattern, in order. A name that begins with a dot is found only by one that does.
    pub(super) fn expand(&self) -> Vec<PathBuf> {
        let mut left = MOST_NAMES;
        let mut found = vec![PathBuf::new()];
        for part in self.0.components() {
            if has_wildcard(part.as_os_str()) {
                found = found.iter().flat_map(|folder| matches_in(folder, part.as_os_str(), &mut left)).collect();
            } else {
                found.iter_mut().for_each(|path| path.push(part));
            }
        }
        found.retain(|path| path.symlink_metadata().is_ok());
        found
    }
}

fn has_wildcard(name: &OsStr) -> bool {
    name.as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?'))
}

fn matches_in(folder: &Path, pattern: &OsStr, left: &mut usize) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let looked_at = entries.take(*left).map(|entry| entry.file_name()).collect::<Vec<_>>();
    *left = left.saturating_sub(looked_at.len());
    let fits = |name: &&std::ffi::OsString| {
        let hidden = name.as_bytes().starts_with(b".") && !pattern.as_bytes().starts_with(b".");
        !hidden && fits(pattern.as_bytes(), name.as_bytes())
    };
    let mut found: Vec<PathBuf> = looked_at.iter().filter(fits).map(|name| folder.join(name)).collect();
    found.sort();
    found
}

/// Whether the name is as the pattern says. Looks at each pair of bytes once for each `*` at most.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where the last `*` was, and what it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(from) {
            Some(b'*') => {
                star = Some((from, at));
                from += 1;
            }
            Some(b'?') => (at, from) = (at + 1, from + 1),
            Some(byte) if *byte == name[at] => (at, from) = (at + 1, from + 1),
            Some(_) | None => match &mut star {
                Some((place, taken)) => {
                    *taken += 1;
                    (at, from) = (*taken, *place + 1);
                }
                None => return false,
            },
        }
    }
    pattern[from..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_as_its_pattern_says() {
        for (pattern, name, wanted) in [
            ("*.db", "a.db", true),
            ("*.db", "a.db-wal", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("*", "", true),
            ("", "a", false),
            ("a*aab", "aaaaab", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern} {name}");
        }
        assert!(!fits("*a".repeat(40).as_bytes(), "a".repeat(5000).replace("aa", "ab").as_bytes()));
    }

    #[test]
    fn a_pattern_finds_what_is_there_in_folders_of_any_name() {
        let place = tempfile::tempdir().unwrap();
        for file in ["one/x.db", "one/y.txt", "two/x.db", ".hidden/x.db", "two/.x.db"] {
            let path = place.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| {
            let pattern = Pattern::parse(&place.path().join(pattern).display().to_string()).unwrap();
            let found = pattern.expand();
            found.iter().map(|path| path.strip_prefix(place.path()).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(found("*/*.db"), ["one/x.db", "two/x.db"]);
        assert_eq!(found("two/.*.db"), ["two/.x.db"]);
        assert_eq!(found("one/x.db"), ["one/x.db"]);
        assert_eq!(found("three/x.db"), Vec::<String>::new());
    }

    #[test]
    fn only_an_absolute_path_is_one() {
        assert_eq!(Pattern::parse("x/*.db").unwrap_err(), "`x/*.db` is not an absolute path, and not \"off\"");
        assert_eq!(Pattern::parse("/x/../y").unwrap_err(), "`/x/../y` leads upwards");
        assert!(Pattern::parse("/x/y").unwrap().is_plain() && !Pattern::parse("/x*/y").unwrap().is_plain());
    }
}
