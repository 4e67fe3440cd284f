//! The way to other nodes, behind a trait: the loop hands over what the core wants said, and what is heard comes back
//! through the loop's inbox.

use neuroshard_core::Topic;
use neuroshard_proto::{Envelope, NodeId};

/// Carries messages to other nodes. Neither call waits, and neither promises that anybody hears.
pub trait Network: Send {
    /// Sends a message to one node, if it can be reached.
    fn send(&mut self, to: NodeId, message: Envelope);

    /// Spreads a message among all who follow its topic.
    fn publish(&mut self, topic: Topic, message: Envelope);
}

/// A network of one: there is nobody who could hear.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyElse;

impl Network for NobodyElse {
    fn send(&mut self, _to: NodeId, _message: Envelope) {}

    fn publish(&mut self, _topic: Topic, _message: Envelope) {}
}
