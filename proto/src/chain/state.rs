//! How a node that knows little comes to the agreed state of a later height: steps over changes of seats, then the state in
//! pieces (PROTOCOL §11).

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::bounded::{Bytes, List};
use crate::chain::block::Header;
use crate::chain::certificate::{Certificate, Seats};
use crate::codec::{CHUNK_BYTES_MAX, CONTROL_BYTES_MAX, Canonical};
use crate::hash::Hash;
use crate::ids::NodeId;

/// Most steps in one answer.
pub const STEPS_MAX: u32 = 16;

/// What takes a client from one header to a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Advance {
    pub header: Header,
    /// A finalization of the header's block.
    pub certificate: Certificate,
    /// The header before and the seats it names, if the client does not know who decided.
    pub deciders: Option<(Header, Seats)>,
    /// The seats that the header names.
    pub next: NextSeats,
}

/// Who decides after a header, as seen from those who decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum NextSeats {
    /// The same.
    Same,
    /// The same with another seed, as when a period ends and nobody's bond has changed.
    Reseeded(Hash),
    Other(Seats),
}

impl NextSeats {
    /// The shortest way to say it.
    pub fn between(deciders: &Seats, next: &Seats) -> Self {
        if deciders == next {
            Self::Same
        } else if deciders.same_weights(next) {
            Self::Reseeded(*next.seed())
        } else {
            Self::Other(next.clone())
        }
    }

    /// The seats after these.
    #[must_use]
    pub fn after(&self, deciders: &Seats) -> Seats {
        match self {
            Self::Same => deciders.clone(),
            Self::Reseeded(seed) => deciders.with_seed(*seed),
            Self::Other(seats) => seats.clone(),
        }
    }
}

impl Canonical for Advance {
    const BYTES_MAX: u32 = 128 << 10;
}

/// A node asks for the way from a header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct StepsWanted {
    pub node: NodeId,
    /// The height of the header that it trusts; 0 for the genesis.
    pub above: u64,
}

impl Canonical for StepsWanted {
    const BYTES_MAX: u32 = 64;
}

/// The way on: the answer to [`StepsWanted`], and to who wants blocks that are kept no longer. Whoever takes a step checks
/// its certificate, after its weight: signatures of nobody are not worth checking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Steps {
    pub node: NodeId,
    /// One after the other.
    pub steps: List<Advance, STEPS_MAX>,
    /// Whether the last one leads to a height whose state this node gives out.
    pub arrives: bool,
}

impl Canonical for Steps {
    const BYTES_MAX: u32 = CONTROL_BYTES_MAX - 512;
}

/// A place in what must be known to go on from a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum StatePlace {
    /// The block itself and its certificate.
    Block,
    /// What all modules hold beside their trees.
    Modules,
    /// The branch of a tree that stands, or would stand, on the way to this path.
    Accounts(Hash),
    Nodes(Hash),
    Candidates(Hash),
    Frozen(Hash),
    Quorums(Hash),
    Stages(Hash),
}

/// A node asks for a piece of the state after a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct StateWanted {
    pub node: NodeId,
    pub height: u64,
    pub place: StatePlace,
}

impl Canonical for StateWanted {
    const BYTES_MAX: u32 = 96;
}

/// The answer to [`StateWanted`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct StatePiece {
    pub node: NodeId,
    pub height: u64,
    pub place: StatePlace,
    /// A decided block or a chunk, encoded; `None` if this node does not give out the state at that height.
    pub piece: Option<Bytes<CHUNK_BYTES_MAX>>,
}

impl Canonical for StatePiece {
    const BYTES_MAX: u32 = CHUNK_BYTES_MAX + 128;
}
