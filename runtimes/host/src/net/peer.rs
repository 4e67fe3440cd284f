//! What the hub knows of one connected peer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use neuroshard_proto::NodeId;

use super::board::PeerStatus;
use super::control::Outlet;
use super::quota::{Conduct, Quota};

/// A peer that is connected.
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// The address of its first connection, and whether it made that.
    pub(super) address: Multiaddr,
    inbound: bool,
    since: Instant,
    pub(super) program: Option<String>,
    pub(super) ping: Option<Duration>,
    pub(super) pings_lost: u32,
    pub(super) unread: u32,
    pub(super) quota: Arc<Mutex<Quota>>,
    pub(super) conduct: Conduct,
    /// Once it is known to be of this network.
    pub(super) outlet: Option<Outlet>,
    /// As many as streams on which it asks for blobs, and one more.
    pub(super) asking: Arc<()>,
    /// Closed when its messages are to be read no further.
    pub(super) reading: Option<async_channel::Sender<()>>,
}

/// Where the other end of a connection is. Of one that came through a relay, that is all that is known.
pub(super) fn address(endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr.clone(),
        _ => endpoint.get_remote_address().clone(),
    }
}

impl Peer {
    pub(super) fn new(now: Instant, node: NodeId, endpoint: &ConnectedPoint, quota: Quota) -> Self {
        Self {
            node,
            address: address(endpoint),
            inbound: endpoint.is_listener(),
            since: now,
            program: None,
            ping: None,
            pings_lost: 0,
            unread: 0,
            quota: Arc::new(Mutex::new(quota)),
            conduct: Conduct::new(now),
            outlet: None,
            asking: Arc::new(()),
            reading: None,
        }
    }

    /// The peer as the operator sees it.
    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        PeerStatus {
            node: self.node.to_string(),
            address: self.address.to_string(),
            inbound: self.inbound,
            program: self.program.clone(),
            ping_us: self.ping.map(micros),
            connected_ms: micros(now.saturating_duration_since(self.since)) / 1000,
        }
    }
}
