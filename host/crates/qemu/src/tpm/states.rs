//! The folders with what TPMs keep.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use stillpoint_common::TpmState;
use stillpoint_engine::ports::{TpmError, TpmStates};
use tokio::task::spawn_blocking;

use super::is_there;
use crate::config::QemuConfig;

/// The file that swtpm keeps in its folder when the TPM has no power.
const FILE: &str = "tpm2-00.permall";

/// Keeps the state of TPMs in folders for swtpm, readable for the service alone.
#[derive(Debug, Clone)]
pub struct QemuTpmStates {
    swtpm: PathBuf,
}

impl QemuTpmStates {
    /// For TPMs that this swtpm will run.
    #[must_use]
    pub fn new(config: &QemuConfig) -> Self {
        Self { swtpm: config.swtpm.clone() }
    }
}

#[async_trait]
impl TpmStates for QemuTpmStates {
    async fn put(&self, folder: &Path, state: &TpmState) -> Result<(), TpmError> {
        if !is_there(&self.swtpm) {
            return Err(TpmError::NoEmulator { program: self.swtpm.clone() });
        }
        let state = state.clone();
        on_files(folder, "writing", move |folder| put(folder, &state)).await
    }

    async fn take(&self, folder: &Path) -> Result<TpmState, TpmError> {
        let kept = on_files(folder, "reading", |folder| Ok(take(folder)));
        let kept = kept.await?.and_then(|bytes| TpmState::new(bytes).map_err(io::Error::other));
        kept.map_err(|error| TpmError::Unusable { folder: folder.to_owned(), message: error.to_string() })
    }

    async fn remove(&self, folder: &Path) -> Result<(), TpmError> {
        on_files(folder, "removing", |folder| match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
        .await
    }
}

/// Under its name the folder is whole: it is made beside it and renamed.
fn put(folder: &Path, state: &TpmState) -> io::Result<()> {
    let above = folder.parent().unwrap_or(folder);
    DirBuilder::new().recursive(true).mode(0o700).create(above)?;
    let mut new = folder.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    for old in [&new, folder] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    DirBuilder::new().mode(0o700).create(&new)?;
    if !state.bytes().is_empty() {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new.join(FILE))?;
        file.write_all(state.bytes())?;
        file.sync_all()?;
    }
    File::open(&new)?.sync_all()?;
    fs::rename(&new, folder)?;
    File::open(above)?.sync_all()
}

/// A TPM that has never had power has no file.
fn take(folder: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(folder.join(FILE)) {
        Ok(file) => file.take(TpmState::MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map(drop)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::read_dir(folder).map(drop)?,
        Err(error) => return Err(error),
    }
    Ok(bytes)
}

async fn on_files<T: Send + 'static>(
    folder: &Path,
    doing: &str,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, TpmError> {
    let path = folder.to_owned();
    let done = spawn_blocking(move || work(&path)).await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
    done.map_err(|source| {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return TpmError::NoSpace { folder: folder.to_owned() };
        }
        TpmError::Io { what: format!("{doing} {}", folder.display()), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(swtpm: &str) -> QemuTpmStates {
        QemuTpmStates { swtpm: swtpm.into() }
    }

    #[tokio::test]
    async fn a_folder_has_what_was_put_there_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, states) = (dir.path().join("checkpoints").join("web.tpm"), states("sh"));
        states.put(&folder, &TpmState::default()).await.unwrap();
        assert_eq!(states.take(&folder).await.unwrap(), TpmState::default());
        fs::write(folder.join("tpm2-00.volatilestate"), b"of another run").unwrap();
        let state = TpmState::new(b"keys".to_vec()).unwrap();
        for _ in 0..2 {
            states.put(&folder, &state).await.unwrap();
            assert_eq!(states.take(&folder).await.unwrap(), state);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        }
        for _ in 0..2 {
            states.remove(&folder).await.unwrap();
        }
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_missing_or_no_state_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let gone = states("sh").take(&dir.path().join("gone")).await.unwrap_err();
        assert!(matches!(&gone, TpmError::Unusable { folder, .. } if folder.ends_with("gone")), "{gone}");
        fs::write(dir.path().join(FILE), vec![0; TpmState::MOST_BYTES + 1]).unwrap();
        let large = states("sh").take(dir.path()).await.unwrap_err();
        assert!(large.to_string().contains("more than"), "{large}");
        let none = states("no-such-swtpm").put(&dir.path().join("new"), &TpmState::default()).await.unwrap_err();
        assert!(matches!(none, TpmError::NoEmulator { .. }), "{none}");
    }
}
