//! Exports to folders, imports from them, and reading disks over NBD.
//!
//! ```text
//!  stage:   <parent>/.<name>.<operation>.partial/     disks and memory are written here
//!  seal:    … + manifest.json, all synced, renamed to <parent>/<name>/
//! ```
//!
//! Until the rename nothing exists under the target's name; a folder without `manifest.json` is not an export.

mod copy;
mod folder;
mod nbd;
mod source;

pub use folder::FolderExports;
pub use nbd::{NbdDisk, NbdError};
