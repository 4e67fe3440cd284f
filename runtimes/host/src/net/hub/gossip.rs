//! Gossip: what comes is verified before it goes on, and counts against the quota of whoever brought it.

use std::sync::PoisonError;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::gossipsub::{self, MessageAcceptance, MessageId};
use neuroshard_proto::Reject;

use super::super::board::Dropped;
use super::super::control::Heard;
use super::super::quota::Misconduct;
use super::super::verify::Looked;
use super::Hub;
use crate::runtime::Runtime;

/// Gossiped messages that are being verified.
const VERDICTS_MAX: usize = 256;
/// How often gossip may report that a peer does not read, in seconds of its life.
const UNREAD_MAX: u32 = 20;

/// What became of a gossiped message.
pub(super) struct Verdict {
    id: MessageId,
    source: PeerId,
    bytes: usize,
    looked: Option<Looked>,
}

impl<R: Runtime> Hub<R> {
    pub(super) fn on_verdict(&mut self, Verdict { id, source, bytes, looked }: Verdict) {
        let Some(Looked { result, took }) = looked else { return };
        if let Some(peer) = self.state.peers.get(&source) {
            let mut quota = peer.quota.lock().unwrap_or_else(PoisonError::into_inner);
            quota.on_verified(Instant::now(), took);
        }
        let result = result.and_then(|message| match message.network() {
            theirs if theirs != self.ear.network => Err(Reject::OtherNetwork { theirs }),
            _ => Ok(message),
        });
        let acceptance = match result {
            Ok(message) => {
                let heard = self.ear.room.take(bytes).map(|held| Heard::Message(message, held));
                match heard.and_then(|heard| self.ear.heard.try_send(heard).ok()) {
                    Some(()) => self.board.on_message_in(),
                    // It is good all the same, and others may have the time for it.
                    None => self.board.on_drop(Dropped::Busy),
                }
                MessageAcceptance::Accept
            }
            Err(reject) => {
                self.board.on_drop(Dropped::Rejected);
                self.on_misconduct(source, Misconduct::Rejected(reject));
                MessageAcceptance::Reject
            }
        };
        self.report(&id, &source, acceptance);
    }

    fn report(&mut self, id: &MessageId, source: &PeerId, acceptance: MessageAcceptance) {
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.report_message_validation_result(id, source, acceptance);
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source: source, message_id: id, message } => {
                let (now, bytes) = (Instant::now(), message.data.len());
                let over = self.state.peers.get(&source).is_none_or(|peer| {
                    let mut quota = peer.quota.lock().unwrap_or_else(PoisonError::into_inner);
                    let over = !quota.wait(now).is_zero();
                    quota.on_message(now, bytes);
                    over
                });
                let busy = self.state.verdicts.len() >= VERDICTS_MAX;
                if over || busy {
                    self.board.on_drop(if over { Dropped::OverQuota } else { Dropped::Busy });
                    self.report(&id, &source, MessageAcceptance::Ignore);
                    if over {
                        self.on_misconduct(source, Misconduct::Flood);
                    }
                    return;
                }
                let verifier = self.ear.verifier.clone();
                let look = async move {
                    let looked = verifier.open(message.data).await;
                    Verdict { id, source, bytes, looked }
                };
                self.state.verdicts.push(Box::pin(look));
            }
            gossipsub::Event::SlowPeer { peer_id, .. } => {
                self.board.on_drop(Dropped::QueueFull);
                let Some(peer) = self.state.peers.get_mut(&peer_id) else { return };
                peer.unread += 1;
                if peer.unread > UNREAD_MAX {
                    self.on_misconduct(peer_id, Misconduct::Unread);
                }
            }
            gossipsub::Event::Subscribed { .. }
            | gossipsub::Event::Unsubscribed { .. }
            | gossipsub::Event::GossipsubNotSupported { .. } => {}
        }
    }
}
