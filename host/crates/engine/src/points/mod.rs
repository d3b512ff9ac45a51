//! Reference points: what is known of a disk at an instant of which no layer is kept.
//!
//! ```text
//!  a checkpoint's layer ── the point begins there, and nothing has changed
//!        │  merged with, or taken away under, another layer
//!        ▼
//!  the layer that reads nearest to it, and the blocks in which the two may differ
//! ```
//! Whatever changes what a layer reads as, or lets one go, moves the points on it in the same transaction. Told is what lies
//! between that layer and a checkpoint, and those blocks.
//!
//! A layer that somebody writes to is no place for a point: what is written would not be told from what was there. So a
//! layer with a point on it does not become the one that Now writes to: see [`kept_apart`].

mod follow;
mod track;

pub(crate) use self::{
    follow::{after_merge, after_removal, held_above},
    track::{Tracked, kept_apart, lost_above},
};
