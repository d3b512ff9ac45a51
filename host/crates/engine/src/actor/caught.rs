//! Panics as values.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

/// A defect: what a panic said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Panicked(String);

/// The answer of a future, or what it said when it panicked. What it was at is left as the panic left it: whoever calls
/// this begins again from what is durable.
pub(super) async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    Caught(Box::pin(future)).await
}

struct Caught<F>(Pin<Box<F>>);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(Panicked(words(panic.as_ref())))),
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_in_its_own_words() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let panicked = caught(async {
            tokio::task::yield_now().await;
            panic!("seven of {}", 9)
        });
        assert_eq!(panicked.await, Err::<(), _>(Panicked("seven of 9".to_owned())));
    }
}
