//! Garbage: bytes that mean nothing, frames cut short, and its own messages with bytes changed.

use std::rc::Rc;

use neuroshard_proto::codec;

use super::{Conduct, View};
use crate::message::Body;

/// Most bytes of a frame of nothing.
const BYTES_MAX: u64 = 2000;

#[derive(Debug)]
pub(super) struct Garbage;

impl Conduct for Garbage {
    fn outgoing(&mut self, view: &View<'_>, to: u32, body: &Rc<Body>) -> Vec<Rc<Body>> {
        let changed = body.corrupted(view.draw.of(u64::from(to))).map(Rc::new);
        [Some(Rc::clone(body)), changed].into_iter().flatten().collect()
    }

    fn unbidden(&mut self, view: &View<'_>, to: u32) -> Vec<Rc<Body>> {
        let draw = view.draw.of(u64::from(to));
        let mut bytes: Vec<u8> = (0..draw.of(0).below(BYTES_MAX)).map(|n| draw.of(1).of(n).bits() as u8).collect();
        if draw.of(2).happens(500_000) {
            // A well-formed beginning gets further.
            let head = codec::encode(&(view.network, neuroshard_proto::WIRE_VERSION, draw.of(3).below(12) as u16));
            bytes.splice(0..0, head);
        }
        vec![Rc::new(Body::of_frame(&bytes))]
    }
}
