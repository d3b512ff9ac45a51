//! The calls for the state of TPMs.

use std::{io, path::Path, time::Duration};

use async_trait::async_trait;
use stillpoint_common::TpmState;

use super::{Bounded, named, within};
use crate::ports::{TpmError, TpmStates};

fn late(what: &'static str) -> impl FnOnce(Duration) -> TpmError {
    move |waited| TpmError::Io {
        what: format!("{what} the state of the TPM"),
        source: io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {waited:?}")),
    }
}

#[async_trait]
impl TpmStates for Bounded<dyn TpmStates> {
    async fn put(&self, folder: &Path, state: &TpmState) -> Result<(), TpmError> {
        within(self.limits.act, late("writing"), named("tpm.put", self.port.put(folder, state))).await
    }

    async fn take(&self, folder: &Path) -> Result<TpmState, TpmError> {
        within(self.limits.look, late("reading"), named("tpm.take", self.port.take(folder))).await
    }

    async fn remove(&self, folder: &Path) -> Result<(), TpmError> {
        within(self.limits.act, late("removing"), named("tpm.remove", self.port.remove(folder))).await
    }
}
