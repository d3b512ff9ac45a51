//! The tests' view of a real guest: files to boot it from, a channel into it that is not the product's, a QEMU
//! without the product around it, and proofs that are read from the disk itself.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use stillpoint_tests::{bare::BareQemu, guest_image::GuestSet};
//!
//! let set = GuestSet::new()?;
//! let guest = BareQemu::boot(&set, Default::default()).await?;
//! let lab = guest.lab().await?;
//! assert_eq!(lab.sh("echo hello > /data/file && cat /data/file").await?, "hello");
//! # Ok(())
//! # }
//! ```

pub mod audit;
pub mod bare;
pub mod compare;
pub mod demo;
pub mod ext4;
pub mod guest_image;
pub mod lab;
pub mod model;
pub mod programs;
pub mod qga;
pub mod qmp;
pub mod server_guest;
pub mod service;
pub mod sim_host;
pub mod small_fs;
pub mod steps;
pub mod sweep;
pub mod trial;
