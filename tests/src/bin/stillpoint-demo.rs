//! The program behind `cargo demo`: plays the story of checkpoints with a real guest, and proves each sentence of it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    Box::pin(stillpoint_tests::demo::run()).await
}
