//! Image files that belong to no VM.

use serde::Serialize;
use stillpoint_proto::v1 as pb;

/// What a merge of images will do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImageMergePlan {
    /// The images that are merged, the first one first.
    pub images: Vec<String>,
    /// What they are merged into.
    pub into: String,
    /// Bytes that are moved at most.
    pub move_bytes: u64,
    /// Bytes by which the images grow at most, together.
    pub needed_bytes: u64,
}

/// How far a merge of images is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageMergeProgress {
    /// The image that is being merged.
    pub image: String,
    /// Bytes of it that have moved.
    pub done_bytes: u64,
    /// Bytes to move of it; 0: not known.
    pub total_bytes: u64,
}

/// What a merge of images has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImageMerged {
    /// Images that were removed.
    pub removed: Vec<String>,
    /// Images that are still there and read as the one that took them.
    pub left: Vec<String>,
}

impl From<pb::ImageMergePlan> for ImageMergePlan {
    fn from(pb::ImageMergePlan { images, into, move_bytes, needed_bytes }: pb::ImageMergePlan) -> Self {
        Self { images, into, move_bytes, needed_bytes }
    }
}

impl From<pb::ImageMergeProgress> for ImageMergeProgress {
    fn from(pb::ImageMergeProgress { image, done_bytes, total_bytes }: pb::ImageMergeProgress) -> Self {
        Self { image, done_bytes, total_bytes }
    }
}

impl From<pb::ImageMerged> for ImageMerged {
    fn from(pb::ImageMerged { removed, left }: pb::ImageMerged) -> Self {
        Self { removed, left }
    }
}
