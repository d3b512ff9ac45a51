//! For whoever writes a writer in Rust: implement [`Writer`], and call [`run`].
//!
//! ```no_run
//! use stillpoint_agent::writers::registration::{Ask, Done, Event, Failure, Registration};
//! use stillpoint_agent::writers::sdk::{Writer, run};
//! use stillpoint_common::WriterLevel;
//!
//! struct Shop;
//!
//! impl Writer for Shop {
//!     async fn on(&mut self, event: &Event) -> Result<Done, Failure> {
//!         match event.ask {
//!             Ask::Freeze { .. } => println!("no more orders"),
//!             Ask::Thaw | Ask::Abort => println!("orders again"),
//!             _ => {}
//!         }
//!         Ok(Done::default())
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let who = Registration::new("Shop", "3e0b8a44-6a54-4f7e-9d0c-0f3b9a6f1c11", WriterLevel::FrontEnd);
//! run(stillpoint_agent::writers::SOCKET.as_ref(), who, Shop).await?;
//! # Ok(()) }
//! ```

use std::future::Future;

use super::registration::{Done, Event, Failure};

/// An application that takes part in quiescing.
pub trait Writer: Send {
    /// Does what is asked. One question comes after the other.
    ///
    /// After a Freeze was answered well, the application leaves its files alone until Thaw or Abort. An Abort may come
    /// at any time, more than once, and without a Freeze before it.
    ///
    /// # Errors
    /// What the requester is told; at Thaw: the application was not quiet all the time.
    fn on(&mut self, event: &Event) -> impl Future<Output = Result<Done, Failure>> + Send;
}

mod client;

pub use client::{AttachError, run};
