//! The way to other nodes, behind a trait: the loop hands over what the core wants said, and reads what was heard.

use neuroshard_core::Topic;
use neuroshard_proto::{Envelope, Hash, NodeId, RequestId};

use crate::net::{Board, Heard};

/// Carries messages to other nodes. No call waits, and none promises that anybody hears.
pub trait Network: Send {
    /// Sends a message to one node, if it can be reached.
    fn send(&mut self, to: NodeId, message: Envelope);

    /// Spreads a message among all who follow its topic.
    fn publish(&mut self, topic: Topic, message: Envelope);

    /// Sends a message to every neighbour, and to each that comes before the next greeting.
    fn greet(&mut self, message: Envelope);

    /// From now on these are the members of this node's quorum: what passes between stages is given to them alone.
    fn companions(&mut self, nodes: Vec<NodeId>);

    /// Has a blob fetched into the store; what became of it is heard. False if there is no way to ask anybody.
    fn fetch(&mut self, wanted: Fetch) -> bool;
}

/// A blob that another node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub id: RequestId,
    pub hash: Hash,
    pub from: NodeId,
    pub keep: Keep,
}

/// Where a blob goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// What passes between stages: to memory, from a member of the same plan.
    Memory,
    /// What is to stay: to the disk.
    Disk,
}

/// A node's connection to others.
#[allow(missing_debug_implementations, reason = "networks have none")]
pub struct Link {
    pub network: Box<dyn Network>,
    /// What others say, and what happens on the way to them.
    pub heard: async_channel::Receiver<Heard>,
    /// Where the network writes down how it stands, if there is one.
    pub board: Option<Board>,
}

impl Link {
    /// A network of one.
    pub fn nobody_else() -> Self {
        Self { network: Box::new(NobodyElse), heard: async_channel::bounded(1).1, board: None }
    }
}

/// A network of one: there is nobody who could hear.
#[derive(Clone, Copy, Debug, Default)]
pub struct NobodyElse;

impl Network for NobodyElse {
    fn send(&mut self, _to: NodeId, _message: Envelope) {}

    fn publish(&mut self, _topic: Topic, _message: Envelope) {}

    fn greet(&mut self, _message: Envelope) {}

    fn companions(&mut self, _nodes: Vec<NodeId>) {}

    fn fetch(&mut self, _wanted: Fetch) -> bool {
        false
    }
}
