//! Stillpoint's wire: generated code of every `.proto` file, and the only place where wire becomes domain.
//!
//! The `.proto` files document each message and call; nothing is said twice here.

pub mod convert;

mod generated {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::too_many_lines,
        clippy::wildcard_enum_match_arm,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]

    pub mod google {
        pub mod rpc {
            tonic::include_proto!("google.rpc");
        }
        pub mod longrunning {
            tonic::include_proto!("google.longrunning");
        }
    }
    pub mod stillpoint {
        pub mod v1 {
            tonic::include_proto!("stillpoint.v1");
        }
        pub mod guest {
            pub mod v1 {
                tonic::include_proto!("stillpoint.guest.v1");
            }
        }
        pub mod writer {
            pub mod v1 {
                tonic::include_proto!("stillpoint.writer.v1");
            }
        }
    }
}

/// Clients ↔ host.
pub mod v1 {
    pub use crate::generated::stillpoint::v1::*;
}

/// Host ↔ agent.
pub mod guest {
    /// `stillpoint.guest.v1`
    pub mod v1 {
        pub use crate::generated::stillpoint::guest::v1::*;
    }
}

/// Writer ↔ agent, and the words for writers.
pub mod writer {
    /// `stillpoint.writer.v1`
    pub mod v1 {
        pub use crate::generated::stillpoint::writer::v1::*;
    }
}

/// The public long-running-operations interface.
pub mod longrunning {
    pub use crate::generated::google::longrunning::*;
}

/// The public status message.
pub mod rpc {
    pub use crate::generated::google::rpc::*;
}

/// Descriptors of every file, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
