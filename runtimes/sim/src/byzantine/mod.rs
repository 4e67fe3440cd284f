//! Nodes that do not keep to the protocol: a real core whose outputs are edited on their way out.
//!
//! Each strategy is a file. It sees what its core sends and hears, and decides what leaves the machine; it has its node's key
//! and nobody else's.

mod certificates;
mod garbage;
mod silence;
mod stale;
mod states;
pub(crate) mod twins;

use std::fmt::Debug;
use std::rc::Rc;

use neuroshard_proto::NetworkId;

use crate::draw::Draw;
use crate::keys::Keys;
use crate::message::Body;
use crate::options::Strategy;

/// What a strategy knows when it acts.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) host: u32,
    pub(crate) network: NetworkId,
    pub(crate) keys: &'a Keys,
    /// Draws of this node and moment.
    pub(crate) draw: Draw,
}

/// A way to misbehave.
pub(crate) trait Conduct: Debug {
    /// A message is about to leave for a host: what leaves in its place.
    fn outgoing(&mut self, view: &View<'_>, to: u32, body: &Rc<Body>) -> Vec<Rc<Body>>;

    /// A message has come.
    fn incoming(&mut self, _body: &Rc<Body>) {}

    /// What the node sends to a neighbour unasked, now and then.
    fn unbidden(&mut self, _view: &View<'_>, _to: u32) -> Vec<Rc<Body>> {
        Vec::new()
    }
}

/// The conduct of a strategy. Twins are two hosts that are each honest by themselves: see [`twins`].
pub(crate) fn conduct(strategy: Strategy) -> Option<Box<dyn Conduct>> {
    match strategy {
        Strategy::Twins => None,
        Strategy::Silence => Some(Box::new(silence::Silence)),
        Strategy::Stale => Some(Box::<stale::Stale>::default()),
        Strategy::Certificates => Some(Box::<certificates::Certificates>::default()),
        Strategy::Garbage => Some(Box::new(garbage::Garbage)),
        Strategy::States => Some(Box::<states::States>::default()),
    }
}
