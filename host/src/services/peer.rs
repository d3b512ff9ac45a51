//! Who is calling.

use tonic::{Request, transport::server::UdsConnectInfo};

/// The user at the other end of the unix socket, as the kernel says; `None` if the call came another way.
pub(super) fn uid<T>(request: &Request<T>) -> Option<u32> {
    request.extensions().get::<UdsConnectInfo>()?.peer_cred.map(|peer| peer.uid())
}
