//! `Images`

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use futures_util::Stream;
use stillpoint_common::{Failure, Progress};
use stillpoint_engine::{Engine, ImageMerge, ImageProgress, ports::Stop};
use stillpoint_proto::{
    convert::request::{self, MergeImage},
    v1::{self as pb, images_server, merge_image_response::Event},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::refuse;

/// Answers that wait for the client to take them, at most. Progress that finds no room is not sent.
const UNREAD: usize = 16;

pub(crate) struct Images {
    engine: Engine,
}

impl Images {
    pub(crate) fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::MergeImageResponse, Status>> + Send>>;
type Answer = mpsc::Sender<Result<pb::MergeImageResponse, Status>>;

#[tonic::async_trait]
impl images_server::Images for Images {
    type MergeImageStream = Answers;

    async fn merge_image(&self, asked: Request<pb::MergeImageRequest>) -> Result<Response<Answers>, Status> {
        let asked = request::merge_image(asked.get_ref()).map_err(refuse)?;
        let plan = self.engine.plan_image_merge(&asked.child, &asked.into).await.map_err(refuse)?;
        let (answer, answers) = mpsc::channel(UNREAD);
        // Nobody has taken anything yet: there is room for it.
        let _ = answer.try_send(Ok(response(Event::Plan(described(&plan)))));
        if !asked.dry_run {
            tokio::spawn(merge(self.engine.clone(), plan, asked, answer));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Merges until it is done or the client has hung up: then it stops, and is in nobody's way.
async fn merge(engine: Engine, plan: ImageMerge, asked: MergeImage, answer: Answer) {
    let (stop, progress) = (Stop::new(), progress(&answer));
    let work = engine.merge_images(&plan, asked.remove_merged, &stop, &progress);
    tokio::pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        () = answer.closed() => {
            stop.ask();
            work.await
        }
    };
    tracing::info!(child = %asked.child.display(), into = %asked.into.display(), ?done, "images merged");
    let _ = answer.send(last(done, &plan)).await;
}

fn last(done: Result<Option<Vec<PathBuf>>, Failure>, plan: &ImageMerge) -> Result<pb::MergeImageResponse, Status> {
    let removed = done.map_err(refuse)?.ok_or_else(|| Status::cancelled("the caller hung up"))?;
    let left: Vec<PathBuf> = plan.merged().into_iter().filter(|path| !removed.contains(path)).collect();
    Ok(response(Event::Merged(pb::ImageMerged { removed: texts(&removed), left: texts(&left) })))
}

fn progress(answer: &Answer) -> ImageProgress {
    let answer = answer.clone();
    Arc::new(move |image: &Path, Progress { done, total }| {
        let progress = pb::ImageMergeProgress { image: text(image), done_bytes: done, total_bytes: total };
        let _ = answer.try_send(Ok(response(Event::Progress(progress))));
    })
}

fn described(plan: &ImageMerge) -> pb::ImageMergePlan {
    pb::ImageMergePlan {
        images: texts(&plan.merged()),
        into: text(plan.target()),
        move_bytes: plan.move_bytes,
        needed_bytes: plan.needed_bytes,
    }
}

const fn response(event: Event) -> pb::MergeImageResponse {
    pb::MergeImageResponse { event: Some(event) }
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| text(path)).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
