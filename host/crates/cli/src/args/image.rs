//! `stillpoint image …`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Consent;

/// What can be done with image files that belong to no VM.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Merge an image, and all that lie between, into one that it lies on. No VM and no other program may use them.
    ///
    /// The image reads the same before, during and after, whatever comes in between; the same command again goes on. The
    /// service does it, which knows the images of its VMs: those are merged by deleting checkpoints.
    Merge(MergeImage),
}

/// `stillpoint image merge`
#[derive(Debug, Args)]
pub struct MergeImage {
    /// The image that takes the data: the backing file of CHILD, or one further down.
    #[arg(long, value_name = "ANCESTOR")]
    pub into: PathBuf,
    /// The image to merge.
    #[arg(value_name = "CHILD")]
    pub child: PathBuf,
    /// Only say what would be merged: images, bytes to move, space that is needed.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove CHILD, and what lies between it and ANCESTOR, when all is merged.
    #[arg(long)]
    pub remove_merged: bool,
    /// Whether to ask.
    #[command(flatten)]
    pub consent: Consent,
}
