//! Ways to this node and to its peers: places at relays, direct connections in place of relayed ones, and what others found when
//! they tried its addresses.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::swarm::ConnectionId;
use libp2p::{PeerId, autonat, relay};

use super::super::behaviour::BehaviourEvent;
use super::super::board::NetEvent;
use super::super::peer;
use super::super::reach::News;
use super::super::tcp;
use super::Hub;
use crate::runtime::Runtime;

impl<R: Runtime> Hub<R> {
    /// A connection more to a peer.
    pub(super) fn on_way(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let kind = (endpoint.is_relayed(), endpoint.is_dialer());
        if self.state.ways.on_established(Instant::now(), peer, id, kind) == News::Direct
            && let Some(peer) = self.state.peers.get_mut(&peer)
        {
            peer.address = peer::address(endpoint);
            let (node, address) = (peer.node, peer.address.to_string());
            self.tell(NetEvent::Direct { node, address });
        }
        // Who was dialled can be dialled. Where the operator announces addresses, others are none of anybody's business.
        if let ConnectedPoint::Listener { local_addr, .. } = endpoint
            && !endpoint.is_relayed()
            && self.state.ways.tells_where_it_listens()
            && self.swarm.listeners().any(|address| address == local_addr)
        {
            self.state.ways.on_tried(local_addr, true);
            self.swarm.add_external_address(local_addr.clone());
        }
    }

    /// What libp2p tells about ways.
    pub(super) fn on_ways(&mut self, event: BehaviourEvent) {
        let ways = &mut self.state.ways;
        match event {
            BehaviourEvent::Through(relay::client::Event::ReservationReqAccepted { relay_peer_id, .. }) => {
                ways.on_place(&relay_peer_id);
            }
            BehaviourEvent::Tried(autonat::v2::client::Event { tested_addr, result, .. }) => {
                tracing::debug!(%tested_addr, ?result, "a peer tried an address of this node");
                // An address through a relay says nothing about direct ways.
                if tcp::is_dialable(&tested_addr) {
                    ways.on_tried(&tested_addr, result.is_ok());
                }
            }
            BehaviourEvent::Relay(event) => match event {
                relay::Event::ReservationReqAccepted { src_peer_id, .. } => ways.on_guest(src_peer_id, true),
                relay::Event::ReservationClosed { src_peer_id } | relay::Event::ReservationTimedOut { src_peer_id } => {
                    ways.on_guest(src_peer_id, false);
                }
                relay::Event::CircuitReqAccepted { .. } => ways.on_circuit(true),
                relay::Event::CircuitClosed { .. } => ways.on_circuit(false),
                _ => {}
            },
            BehaviourEvent::Punch(event) => tracing::debug!(?event, "a direct way was looked for"),
            _ => {}
        }
    }

    /// Takes and gives back places, and closes connections that are not needed any more.
    pub(super) fn mind_ways(&mut self, now: Instant) {
        let Self { swarm, state, .. } = self;
        if let Some((relay, address)) = state.ways.due(now) {
            match swarm.listen_on(address) {
                Ok(listener) => state.ways.on_asked(relay, listener),
                Err(error) => tracing::debug!(%error, "a relay's address cannot be used"),
            }
        }
        for listener in state.ways.idle() {
            swarm.remove_listener(listener);
        }
        let me = *swarm.local_peer_id();
        for id in state.ways.spare(now, &me) {
            swarm.close_connection(id);
        }
    }
}
