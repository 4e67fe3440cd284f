//! Selective silence: some kinds of messages never reach some peers, while the rest does. Worse than being down, because others
//! go on to count on the node.

use std::rc::Rc;

use super::{Conduct, View};
use crate::draw::Draw;
use crate::message::Body;

#[derive(Debug)]
pub(super) struct Silence;

/// A third of the pairs of peer and kind are met with silence. It does not depend on the moment: who is not spoken to
/// never is.
fn is_silent(view: &View<'_>, to: u32, kind: &str) -> bool {
    let kind = kind.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte));
    Draw::new(u64::from(view.host), "silence").of(u64::from(to)).of(kind).happens(333_333)
}

impl Conduct for Silence {
    fn outgoing(&mut self, view: &View<'_>, to: u32, body: &Rc<Body>) -> Vec<Rc<Body>> {
        if is_silent(view, to, body.kind()) { Vec::new() } else { vec![Rc::clone(body)] }
    }
}
