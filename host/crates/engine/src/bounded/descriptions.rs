//! The calls for description files.

use std::{io, path::Path, time::Duration};

use async_trait::async_trait;

use super::{Bounded, named, within};
use crate::ports::{DescriptionError, Descriptions, FoundDescription};

type Answer<T = ()> = Result<T, DescriptionError>;

fn late(what: &'static str, path: &Path) -> impl FnOnce(Duration) -> DescriptionError {
    let what = format!("{what} {}", path.display());
    move |waited| {
        let source = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {waited:?}"));
        DescriptionError::Io { what, source }
    }
}

#[async_trait]
impl Descriptions for Bounded<dyn Descriptions> {
    async fn write(&self, location: &Path, name: &str, content: &[u8]) -> Answer {
        let call = named("descriptions.write", self.port.write(location, name, content));
        within(self.limits.act, late("writing a description in", location), call).await
    }

    async fn remove(&self, location: &Path, name: &str) -> Answer {
        within(
            self.limits.act,
            late("removing a description in", location),
            named("descriptions.remove", self.port.remove(location, name)),
        )
        .await
    }

    async fn names(&self, folder: &Path) -> Answer<Vec<String>> {
        within(self.limits.act, late("listing", folder), named("descriptions.names", self.port.names(folder))).await
    }

    async fn find(&self, folder: &Path, ending: &str) -> Answer<Vec<FoundDescription>> {
        within(
            self.limits.act,
            late("reading the descriptions in", folder),
            named("descriptions.find", self.port.find(folder, ending)),
        )
        .await
    }
}
