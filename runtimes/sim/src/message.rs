//! A message on its way: sealed once, opened once, and shared by all who get it.

use std::cell::RefCell;

use neuroshard_proto::{Envelope, Message, NetworkId, Reject, Verified, codec};

use crate::draw::Draw;
use crate::keys::Keys;

/// A message, or bytes that are none, on the way to one node or to many.
#[derive(Debug)]
pub(crate) struct Body {
    /// What a receiver gets when it opens the frame.
    pub(crate) opened: Result<Verified, Reject>,
    /// Length of the frame.
    pub(crate) bytes: u32,
    /// Who has it already, a bit each, if it is passed on from node to node.
    passed: Option<RefCell<Vec<u64>>>,
}

impl Body {
    /// The frame of an envelope, opened.
    pub(crate) fn new(envelope: &Envelope) -> Self {
        Self::of_frame(&codec::encode(envelope))
    }

    /// Any bytes, opened.
    pub(crate) fn of_frame(frame: &[u8]) -> Self {
        Self { opened: Verified::open(frame), bytes: frame.len() as u32, passed: None }
    }

    /// A message that a host signs.
    pub(crate) fn signed(keys: &Keys, host: u32, network: NetworkId, message: &Message) -> Self {
        Self::new(&Envelope::seal(network, message, |digest| keys.sign(host, digest)))
    }

    /// Makes it one that nodes pass on: each gets it once.
    #[must_use]
    pub(crate) fn passed_on(self, nodes: u32) -> Self {
        Self { passed: Some(RefCell::new(vec![0; nodes.div_ceil(64) as usize])), ..self }
    }

    /// Whether nodes pass it on.
    pub(crate) const fn is_passed_on(&self) -> bool {
        self.passed.is_some()
    }

    /// Notes that a node has it; answers whether that is news.
    pub(crate) fn reaches(&self, node: u32) -> bool {
        let Some(passed) = &self.passed else { return true };
        let mut passed = passed.borrow_mut();
        let (word, bit) = (&mut passed[node as usize / 64], 1 << (node % 64));
        let news = *word & bit == 0;
        *word |= bit;
        news
    }

    /// The same message with some of its bytes changed.
    pub(crate) fn corrupted(&self, draw: Draw) -> Option<Self> {
        let mut frame = self.opened.as_ref().ok()?.frame();
        let len = frame.len() as u64;
        match draw.of(0).below(4) {
            0 => frame.truncate(draw.of(1).below(len) as usize),
            _ => {
                for place in 0..draw.of(2).between(1, 4) {
                    let draw = draw.of(3 + place);
                    frame[draw.of(0).below(len) as usize] ^= draw.of(1).between(1, 255) as u8;
                }
            }
        }
        Some(Self::of_frame(&frame))
    }

    /// Name of its kind.
    pub(crate) fn kind(&self) -> &'static str {
        self.opened.as_ref().map_or("refused", |verified| verified.message().kind().name())
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::{Hash, Heartbeat, Step, Time};

    use super::*;

    fn body() -> Body {
        let keys = Keys::new(1, 0..2);
        let heartbeat = Heartbeat {
            node: keys.name(1),
            time: Time::from_ms(5),
            quorum: None,
            queue_depth: 0,
            free_bytes: 0,
            step: Step(0),
        };
        Body::signed(&keys, 1, NetworkId(Hash::default()), &Message::Heartbeat(heartbeat))
    }

    #[test]
    fn no_change_of_bytes_goes_unnoticed() {
        let body = body();
        assert_eq!(body.kind(), "Heartbeat");
        let draw = Draw::new(1, "corruption");
        let equal = body.opened.as_ref().unwrap();
        for place in 0..300 {
            let changed = body.corrupted(draw.of(place)).unwrap();
            assert!(changed.opened.is_err() || changed.opened.as_ref() == Ok(equal), "two changes may undo each other");
        }
    }

    #[test]
    fn a_message_that_is_passed_on_reaches_each_node_once() {
        let body = body().passed_on(100);
        assert!(body.reaches(99) && !body.reaches(99) && body.reaches(0));
    }
}
