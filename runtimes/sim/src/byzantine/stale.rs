//! Stale replay: keeps what it sent and heard, and sends old messages again long after.

use std::collections::VecDeque;
use std::rc::Rc;

use super::{Conduct, View};
use crate::message::Body;

/// Messages that it keeps.
const KEPT_MAX: usize = 64;
/// Old messages that a neighbour gets at once.
const REPLAYED: u64 = 4;

#[derive(Debug, Default)]
pub(super) struct Stale {
    kept: VecDeque<Rc<Body>>,
    heard: u64,
}

impl Stale {
    /// Keeps every seventh message: over time, old and new ones.
    fn keep(&mut self, body: &Rc<Body>) {
        self.heard += 1;
        if body.opened.is_ok() && self.heard.is_multiple_of(7) {
            self.kept.truncate(KEPT_MAX - 1);
            self.kept.push_front(Rc::clone(body));
        }
    }
}

impl Conduct for Stale {
    fn outgoing(&mut self, _view: &View<'_>, _to: u32, body: &Rc<Body>) -> Vec<Rc<Body>> {
        self.keep(body);
        vec![Rc::clone(body)]
    }

    fn incoming(&mut self, body: &Rc<Body>) {
        self.keep(body);
    }

    fn unbidden(&mut self, view: &View<'_>, to: u32) -> Vec<Rc<Body>> {
        let draw = view.draw.of(u64::from(to));
        let old = |n| self.kept.get(draw.of(n).below(self.kept.len() as u64) as usize);
        // As new frames: a node that passed one on before is to meet it again.
        let frames = (0..REPLAYED).filter_map(old).filter_map(|body| Some(body.opened.as_ref().ok()?.frame()));
        frames.map(|frame| Rc::new(Body::of_frame(&frame))).collect()
    }
}
