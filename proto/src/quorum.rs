//! Quorums: who runs which stages of the model, what members agree on, and what they say to each other while they train
//! (PROTOCOL §4).

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::bounded::List;
use crate::codec::{self, Canonical};
use crate::float::F32;
use crate::hash::{Domain, Hash, Hasher};
use crate::ids::{BatchId, NetworkId, NodeId, QuorumId, Step};
use crate::job::STAGES_MAX;
use crate::model::{LayerRange, ModelSpec};
use crate::time::Time;

/// Most members of a quorum.
pub const MEMBERS_MAX: u32 = 16;
/// Most batches that a step accumulates.
pub const BATCHES_MAX: u32 = 16;
/// Most stages that one transaction posts; a member that runs more posts them in parts.
pub const POSTED_MAX: u32 = 32;
/// Most persisted states that a member reports.
pub const REPORTED_MAX: u32 = 4;

/// A node and the stages that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Member {
    pub node: NodeId,
    pub stages: LayerRange,
}

/// A complete pipeline: its members in the order of their stages. The first one is the initiator, the last one the finisher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Plan {
    pub members: List<Member, MEMBERS_MAX>,
    /// Every member persists its stages after so many steps.
    pub snapshot_steps: u32,
}

impl Canonical for Plan {}

/// Why members are no pipeline for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    Empty,
    /// A member's stages do not begin where the ones before it end.
    Gap {
        member: u32,
        begins: u32,
        expected: u32,
    },
    /// A member runs no stage.
    Idle {
        member: u32,
    },
    /// The last member does not end with the model.
    Ends {
        at: u32,
        expected: u32,
    },
    /// A node stands in it twice.
    Twice {
        node: NodeId,
    },
    /// States are never persisted.
    Snapshots,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the plan has no members"),
            Self::Gap { member, begins, expected } => {
                write!(f, "member {member} begins with stage {begins}, the ones before it end before stage {expected}")
            }
            Self::Idle { member } => write!(f, "member {member} runs no stage"),
            Self::Ends { at, expected } => write!(f, "the plan ends before stage {at}, the model before {expected}"),
            Self::Twice { node } => write!(f, "node {node:.16} stands in the plan twice"),
            Self::Snapshots => f.write_str("the plan never persists its states"),
        }
    }
}

impl core::error::Error for PlanError {}

impl Plan {
    /// Checks that the members together are the model, each stage once and in order.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self, model: &ModelSpec) -> Result<(), PlanError> {
        self.check_stages(model.all_layers())
    }

    /// Checks that the members together run these stages, each once and in order.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check_stages(&self, all: LayerRange) -> Result<(), PlanError> {
        if self.members.is_empty() {
            return Err(PlanError::Empty);
        }
        if self.snapshot_steps == 0 {
            return Err(PlanError::Snapshots);
        }
        let mut expected = all.start;
        for (member, one) in (0_u32..).zip(&self.members) {
            if one.stages.start != expected {
                return Err(PlanError::Gap { member, begins: one.stages.start, expected });
            }
            if one.stages.end <= one.stages.start {
                return Err(PlanError::Idle { member });
            }
            expected = one.stages.end;
        }
        if expected != all.end {
            return Err(PlanError::Ends { at: expected, expected: all.end });
        }
        let twice = |(place, one): (usize, &Member)| {
            self.members.iter().skip(place.saturating_add(1)).any(|other| other.node == one.node)
        };
        match self.members.iter().enumerate().find(|one| twice(*one)) {
            Some((_, one)) => Err(PlanError::Twice { node: one.node }),
            None => Ok(()),
        }
    }

    /// The quorum's name.
    pub fn id(&self, network: NetworkId) -> QuorumId {
        let mut hasher = Hasher::new(Domain::Quorum);
        hasher.update(network.0.as_bytes()).update(&codec::encode(self));
        QuorumId(hasher.finish())
    }

    /// Where a node stands in it.
    pub fn place(&self, node: &NodeId) -> Option<usize> {
        self.members.iter().position(|member| member.node == *node)
    }
}

/// What the members of a quorum agree on: all of it is under each one's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Terms {
    pub plan: Plan,
    /// Batches that a step accumulates: 1 to [`BATCHES_MAX`].
    pub batches: u32,
    /// Active quorums that end where this one begins: what a renewal or a replacement succeeds.
    pub ends: List<QuorumId, MEMBERS_MAX>,
    /// The last block time at which the signatures hold.
    pub valid_until: Time,
}

impl Canonical for Terms {
    const BYTES_MAX: u32 = 2048;
}

impl Terms {
    /// The quorum's name. A renewal by the same members has other terms, and so another name.
    pub fn id(&self, network: NetworkId) -> QuorumId {
        QuorumId(self.hash(Domain::Quorum, network))
    }

    /// What every member signs with its node's key to accept.
    pub fn digest(&self, network: NetworkId) -> Hash {
        self.hash(Domain::Acceptance, network)
    }

    fn hash(&self, domain: Domain, network: NetworkId) -> Hash {
        let mut hasher = Hasher::new(domain);
        hasher.update(network.0.as_bytes()).update(&codec::encode(self)).finish()
    }
}

/// Where training stands in the data, as all members of a quorum count it: what a node needs to go on from a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Position {
    /// The next batch to draw.
    pub batch: BatchId,
    /// Tokens trained on.
    pub tokens: u64,
    /// Batches that were void.
    pub voids: u64,
}

/// What a member says to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct QuorumMessage {
    pub quorum: QuorumId,
    /// Who says it.
    pub node: NodeId,
    /// The initiator's count of beginnings: what was said in an earlier term is void. 0 is said by who knows none.
    pub term: u64,
    pub word: Word,
}

impl Canonical for QuorumMessage {
    const BYTES_MAX: u32 = 16 << 10;
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Word {
    /// To the initiator: this member is there, and these steps' states are persisted with it.
    Ready { steps: List<Step, REPORTED_MAX> },
    /// From the initiator: a term begins; stop, and report.
    Gather,
    /// From the initiator: all take up the state after this step, step 0 being the first one, and go on.
    Go { step: Step },
    /// The residual stream of a sequence, to the next member.
    Forward { batch: BatchId, index: u32, blob: Hash },
    /// The gradient of the loss with respect to it, to the member before.
    Backward { batch: BatchId, index: u32, blob: Hash },
    /// The batch is done here: the squared norms of this member's stages' gradients. The finisher's has the loss.
    Done { batch: BatchId, loss_micro: i64, tokens: u64, squared_norms: List<F32, STAGES_MAX> },
    /// A value left its range here: nobody takes the batch in.
    Void { batch: BatchId },
    /// What the sender of this still lacks of a batch from the receiver: streams and gradients from these indices on, or its
    /// word that it is done.
    Lacks { batch: BatchId, forward: u32, backward: u32, done: bool },
    /// The sender lives, and has nothing else to say to a question.
    Here,
}
