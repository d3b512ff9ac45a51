//! Image files that belong to no VM.

use stillpoint_proto::v1::{self as pb, images_client::ImagesClient, merge_image_response::Event};

use super::{Client, ClientError};
use crate::view::{ImageMergePlan, ImageMergeProgress, ImageMerged};

/// A merge of images, as it goes.
pub struct ImageMergeStream {
    client: Client,
    stream: tonic::Streaming<pb::MergeImageResponse>,
}

/// What a merge of images tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageMergeEvent {
    /// What will be done.
    Plan(ImageMergePlan),
    /// How far it is.
    Progress(ImageMergeProgress),
    /// All is done.
    Merged(ImageMerged),
}

impl Client {
    /// Begins to merge an image into one that it lies on, or says what that would do. Dropping the stream stops it.
    ///
    /// # Errors
    /// The service refused or cannot be reached.
    pub async fn merge_image(
        &self,
        child: &str,
        into: &str,
        dry_run: bool,
        remove_merged: bool,
    ) -> Result<ImageMergeStream, ClientError> {
        let request = pb::MergeImageRequest { child: child.to_owned(), into: into.to_owned(), dry_run, remove_merged };
        let answer = ImagesClient::new(self.channel.clone()).merge_image(request).await;
        Ok(ImageMergeStream { client: self.clone(), stream: self.answered(answer)? })
    }
}

impl ImageMergeStream {
    /// What is told next; `None` at the end.
    ///
    /// # Errors
    /// The merge failed, or the service cannot be reached any more.
    pub async fn next(&mut self) -> Result<Option<ImageMergeEvent>, ClientError> {
        loop {
            let message = self.stream.message().await;
            let message = message.map_err(|status| ClientError::from_status(&self.client.socket, &status))?;
            let Some(message) = message else { return Ok(None) };
            match message.event {
                Some(Event::Plan(plan)) => return Ok(Some(ImageMergeEvent::Plan(plan.into()))),
                Some(Event::Progress(progress)) => return Ok(Some(ImageMergeEvent::Progress(progress.into()))),
                Some(Event::Merged(merged)) => return Ok(Some(ImageMergeEvent::Merged(merged.into()))),
                // Something that a later service tells.
                None => {}
            }
        }
    }
}
