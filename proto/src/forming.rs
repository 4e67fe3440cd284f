//! How nodes become a quorum (PROTOCOL §4): one asks the others what they can do, proposes terms to those it would take, and
//! gathers their signatures.

use alloc::boxed::Box;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::codec::Canonical;
use crate::envelope::Signature;
use crate::ids::{NodeId, QuorumId};
use crate::quorum::Terms;

/// What a node says to another one about quorums that could be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct FormingMessage {
    /// Who says it.
    pub node: NodeId,
    pub word: FormingWord,
}

impl Canonical for FormingMessage {
    const BYTES_MAX: u32 = 4096;
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum FormingWord {
    /// What can you do? The number comes back with the answer.
    Ask { question: u64 },
    /// This long takes one layer's forward pass here, in microseconds; `declines` says why the node would not take part now.
    Offer { question: u64, layer_us: u64, declines: Option<Decline> },
    /// Would you take part on these terms?
    Propose { terms: Box<Terms> },
    /// The node's signature over [`Terms::digest`].
    Accept { quorum: QuorumId, signature: Signature },
    /// The node takes no part.
    Decline { quorum: QuorumId, why: Decline },
}

/// Why a node takes no part in a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum Decline {
    /// Its operator, its speed or its memory keep it from training with others.
    Unwilling,
    /// It is a member of another quorum.
    Taken,
    /// It gave its word to others a moment ago.
    Reserved,
    /// It proposes a quorum itself, which has precedence.
    Precedence,
    /// It does not hold the stages that it should run, or the plan is none.
    Stages,
    /// The terms are good no longer, or for too long.
    Lapsed,
    /// It has trained the whole model further than what was posted, and posts that first.
    Ahead,
}
