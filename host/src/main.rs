//! `stillpointd`

use std::io::IsTerminal as _;

use clap::Parser as _;
use stillpoint_host::{
    options::Options,
    pages::{SERVE_PAGES, ServePages, serve_pages},
    serve,
};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("STILLPOINT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    if std::env::args_os().nth(1).is_some_and(|first| first == SERVE_PAGES) {
        return serve_pages(ServePages::parse_from(std::env::args_os().skip(1)));
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}
