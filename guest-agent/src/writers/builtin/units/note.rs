//! What stands still or was stopped, noted in memory before it is done: an agent that was killed, and its guardian with it,
//! is followed by one that undoes exactly this, and nothing that somebody else has done.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What is noted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// Cgroups that were told to stand still: names, and the inodes by which they are known.
    pub(super) frozen: Vec<(u64, String)>,
    /// Units that were stopped.
    pub(super) stopped: Vec<String>,
}

/// The file.
#[derive(Debug, Clone)]
pub(super) struct Note {
    path: PathBuf,
}

impl Note {
    pub(super) fn new(runtime: &Path) -> Self {
        Self { path: runtime.join("held-units") }
    }

    /// What an agent has left noted. A note that cannot be read is none.
    pub(super) fn read(&self) -> Noted {
        parse(&fs::read_to_string(&self.path).unwrap_or_default())
    }

    /// Notes it in place of what was noted. Nothing must be done that cannot be noted.
    pub(super) fn write(&self, noted: &Noted) -> io::Result<()> {
        if *noted == Noted::default() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        let new = self.path.with_extension("new");
        fs::write(&new, text(noted))?;
        fs::rename(&new, &self.path)
    }
}

fn text(noted: &Noted) -> String {
    let frozen = noted.frozen.iter().map(|(inode, name)| format!("frozen {inode} {name}\n"));
    frozen.chain(noted.stopped.iter().map(|name| format!("stopped {name}\n"))).collect()
}

fn parse(text: &str) -> Noted {
    let mut noted = Noted::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("frozen", rest)) => {
                let pair = rest.split_once(' ').and_then(|(inode, name)| Some((inode.parse().ok()?, name.to_owned())));
                noted.frozen.extend(pair);
            }
            Some(("stopped", name)) => noted.stopped.push(name.to_owned()),
            Some(_) | None => {}
        }
    }
    noted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_back_until_there_is_nothing() {
        let place = tempfile::tempdir().unwrap();
        let note = Note::new(place.path());
        assert_eq!(note.read(), Noted::default());
        let noted = Noted { frozen: vec![(7, "/a b/c.service".into())], stopped: vec!["d.service".into()] };
        note.write(&noted).unwrap();
        assert_eq!(note.read(), noted);
        for _ in 0..2 {
            note.write(&Noted::default()).unwrap();
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        }
        assert_eq!(parse("frozen x /a\nfrozen\nnoise"), Noted::default());
    }
}
