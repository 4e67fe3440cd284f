//! Why the ledger refuses: a transaction, or a block.

use core::fmt;

use neuroshard_proto::chain::CertificateError;
use neuroshard_proto::{Amount, Hash, LayerRange, NodeId, OwnerId, PlanError, QuorumId, Step, Time};

/// Why a transaction does not apply. It is its author's fault, or comes too late or too early; the state is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Another key signs for the account.
    Key { owner: OwnerId },
    /// The account's next wish carries another number.
    Sequence { expected: u64, found: u64 },
    /// A node's wish belongs to another epoch.
    Epoch { now: u64, found: u64 },
    /// A node wishes what only accounts may, or the other way round.
    Author,
    /// The balance does not cover amount and fee.
    Funds { needed: Amount, balance: Amount },
    /// An amount of nothing.
    Nothing,
    /// Less is bonded than should be taken back.
    Bond { wanted: Amount, bonded: Amount },
    /// As many sums are on their way back as can be.
    Unbondings { max: u32 },
    /// The new key is none, or one that anybody could sign with.
    WeakKey,
    /// Nobody registered the node, or it was revoked or convicted.
    Node { node: NodeId },
    /// The node belongs to another owner.
    Owner { node: NodeId },
    /// The node's key was registered before, and a key is good once.
    Known { node: NodeId },
    /// The node did not consent.
    Consent { node: NodeId },
    /// The puzzle is not solved.
    Puzzle { bits: u32, wanted: u32 },
    /// Layers that the model does not have, or none.
    Layers { stages: u32 },
    /// The node described itself in this epoch.
    Described,
    /// The node has sent as many messages in this epoch as its bond allows.
    Quota { max: u32 },
    /// The node's owner has too little at stake.
    Unbonded { node: NodeId },
    /// The beacon did not draw this node to attest that one.
    NotDrawn { attester: NodeId, subject: NodeId },
    /// Enough was attested already, or this was.
    Attested,
    /// The node has no seat.
    Seat { node: NodeId },
    /// The validator bound itself in this epoch.
    Committed,
    /// The validator did not bind itself to this value in the epoch before, or revealed it already.
    Reveal,
    /// The validator withheld a value and may not bind itself again before this epoch.
    Barred { until: u64 },
    /// The statements do not contradict each other, or are not one validator's.
    Evidence,
    /// The members are no pipeline for the model.
    Plan(PlanError),
    /// The node is no member of the quorum.
    Member { node: NodeId, quorum: QuorumId },
    /// A step accumulates no batch, or too many.
    Batches { max: u32 },
    /// The signatures under the terms hold no longer.
    Lapsed { until: Time, now: Time },
    /// The signatures under the terms would hold for too long.
    TooLong { until: Time, latest: Time },
    /// The same terms formed a quorum before.
    Formed { quorum: QuorumId },
    /// A network of this size wants larger quorums.
    TooFew { members: u32, min: u32 },
    /// The quorum never formed, or its session is over.
    Over { quorum: QuorumId },
    /// No member of the quorum that should end is among the new ones.
    Strangers { quorum: QuorumId },
    /// The same members may begin another session only late in this one.
    Early { quorum: QuorumId, from_ms: u64, now_ms: u64 },
    /// As many quorums are active as may be.
    Crowded { max: u32 },
    /// The node never said what it can and holds.
    Undescribed { node: NodeId },
    /// The node does not hold the stages that it should run.
    Holds { node: NodeId, held: LayerRange },
    /// The node was away too often.
    Uptime { node: NodeId, missed: u64, max: u64 },
    /// The node is taken by an active quorum that would not end.
    Taken { node: NodeId, quorum: QuorumId },
    /// The node is too slow for any pipeline.
    Slow { node: NodeId },
    /// The nodes' tiers do not go together.
    Tiers { node: NodeId, other: NodeId },
    /// The member did not sign these terms.
    Unsigned { node: NodeId },
    /// There are more signatures than members.
    Signatures { members: u32 },
    /// The node posts stages that it does not run, or none.
    Stages { own: LayerRange },
    /// The stage was posted at this step or a later one.
    Posted { newest: Step, found: Step },
}

impl Refusal {
    /// Whether the same transaction may apply later, as others are included and time passes.
    pub fn is_premature(&self) -> bool {
        matches!(self, Self::Sequence { expected, found } if found > expected)
            || matches!(self, Self::Epoch { now, found } if found > now)
            || matches!(self, Self::Funds { .. } | Self::TooLong { .. } | Self::Early { .. })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { owner } => write!(f, "another key signs for account {owner:.16}"),
            Self::Sequence { expected, found } => {
                write!(f, "the account's next sequence number is {expected}, this transaction has {found}")
            }
            Self::Epoch { now, found } => write!(f, "it belongs to epoch {found}, now is epoch {now}"),
            Self::Author => f.write_str("this is not for such an author to wish"),
            Self::Funds { needed, balance } => write!(f, "it takes {needed}, the balance is {balance}"),
            Self::Nothing => f.write_str("the amount is 0"),
            Self::Bond { wanted, bonded } => write!(f, "{wanted} should come back, {bonded} are bonded"),
            Self::Unbondings { max } => write!(f, "{max} sums are on their way back already; wait for one"),
            Self::WeakKey => f.write_str("the new key is not a usable ed25519 key"),
            Self::Node { node } => write!(f, "node {node:.16} is not registered, or no longer"),
            Self::Owner { node } => write!(f, "node {node:.16} belongs to another owner"),
            Self::Known { node } => write!(f, "node {node:.16} was registered before; a node's key is good once"),
            Self::Consent { node } => write!(f, "node {node:.16} did not sign that it belongs to this owner"),
            Self::Puzzle { bits, wanted } => write!(f, "the puzzle has {bits} zero bits, {wanted} are wanted"),
            Self::Layers { stages } => write!(f, "held layers are a range within 0..{stages}"),
            Self::Described => f.write_str("the node described itself in this epoch already"),
            Self::Quota { max } => write!(f, "the node's bond allows {max} messages an epoch, and they are used"),
            Self::Unbonded { node } => write!(f, "the owner of node {node:.16} has too little at stake"),
            Self::NotDrawn { attester, subject } => {
                write!(f, "the beacon did not draw {attester:.16} to attest {subject:.16} in this epoch")
            }
            Self::Attested => f.write_str("it is attested already"),
            Self::Seat { node } => write!(f, "node {node:.16} has no seat among the validators"),
            Self::Committed => f.write_str("the validator committed to a value in this epoch already"),
            Self::Reveal => f.write_str("the value is not what the validator committed to in the epoch before"),
            Self::Barred { until } => write!(f, "the validator withheld a value and is barred until epoch {until}"),
            Self::Evidence => f.write_str("the evidence convicts nobody"),
            Self::Plan(error) => error.fmt(f),
            Self::Member { node, quorum } => write!(f, "node {node:.16} is no member of quorum {quorum:.16}"),
            Self::Batches { max } => write!(f, "a step accumulates 1 to {max} batches"),
            Self::Lapsed { until, now } => write!(f, "the members' signatures held until {until}, now is {now}"),
            Self::TooLong { until, latest } => {
                write!(f, "the members' signatures would hold until {until}; at most until {latest} they may")
            }
            Self::Formed { quorum } => write!(f, "quorum {quorum:.16} formed before; the same terms form none again"),
            Self::TooFew { members, min } => {
                write!(f, "the quorum has {members} members; in a network of this size it takes {min}")
            }
            Self::Over { quorum } => write!(f, "quorum {quorum:.16} is not active, or no longer"),
            Self::Strangers { quorum } => write!(f, "no member of quorum {quorum:.16} is among those who would end it"),
            Self::Early { quorum, from_ms, now_ms } => write!(
                f,
                "the members of quorum {quorum:.16} may renew it from {} on, now is {}",
                Time::from_ms(*from_ms),
                Time::from_ms(*now_ms)
            ),
            Self::Crowded { max: 1 } => f.write_str("another quorum trains; the others stand by until it ends"),
            Self::Crowded { max } => write!(f, "{max} quorums train already; the others stand by until one ends"),
            Self::Undescribed { node } => write!(f, "node {node:.16} has not said what it can and holds"),
            Self::Holds { node, held } => write!(f, "node {node:.16} holds the stages {held} alone"),
            Self::Uptime { node, missed, max } => {
                write!(f, "node {node:.16} missed {missed} of its last 100 epochs; at most {max} are allowed")
            }
            Self::Taken { node, quorum } => write!(f, "node {node:.16} is taken by quorum {quorum:.16}"),
            Self::Slow { node } => write!(f, "node {node:.16} is too slow for a pipeline"),
            Self::Tiers { node, other } => {
                write!(f, "the speeds of nodes {node:.16} and {other:.16} do not go together")
            }
            Self::Unsigned { node } => write!(f, "node {node:.16} did not sign these terms"),
            Self::Signatures { members } => write!(f, "there are more signatures than the {members} members"),
            Self::Stages { own } => write!(f, "the node may post some of the stages {own}, which it runs"),
            Self::Posted { newest, found } => write!(f, "the stage was posted at step {newest}; {found} is not later"),
        }
    }
}

impl core::error::Error for Refusal {}

/// Why a block cannot follow the head. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// A block of another network.
    Network,
    Height {
        expected: u64,
        found: u64,
    },
    Parent {
        expected: Hash,
        found: Hash,
    },
    /// Block time does not increase.
    Time {
        head: Time,
        found: Time,
    },
    /// The proposer has no seat.
    Proposer {
        node: NodeId,
    },
    /// A block without transactions before one is due.
    Empty {
        due: Time,
    },
    /// The header names other transactions.
    Transactions,
    /// The first block of an epoch must carry its parent's finalization, and no other block may.
    Finality {
        wanted: bool,
    },
    /// What the block carries is not a finalization of its parent by those who decided it.
    Certificate(CertificateError),
    /// It certifies something else.
    Subject,
    /// A transaction does not apply.
    Transaction {
        place: u64,
        refusal: Refusal,
    },
    /// The header names another state.
    State {
        expected: Hash,
        found: Hash,
    },
    /// The header names others to decide the next block.
    Seats {
        expected: Hash,
        found: Hash,
    },
    /// The header names another value of the beacon.
    Beacon {
        expected: Hash,
        found: Hash,
    },
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network => f.write_str("the block is of another network"),
            Self::Height { expected, found } => write!(f, "the block has height {found}, next is {expected}"),
            Self::Parent { expected, found } => write!(f, "the block follows {found:.16}, the head is {expected:.16}"),
            Self::Time { head, found } => write!(f, "block time {found} is not after the head's {head}"),
            Self::Proposer { node } => write!(f, "proposer {node:.16} has no seat"),
            Self::Empty { due } => write!(f, "the block holds no transaction, and none is due before {due}"),
            Self::Transactions => f.write_str("the header names other transactions"),
            Self::Finality { wanted: true } => {
                f.write_str("the first block of an epoch carries its parent's finalization")
            }
            Self::Finality { wanted: false } => f.write_str("only the first block of an epoch carries a finalization"),
            Self::Certificate(error) => write!(f, "the parent's finalization: {error}"),
            Self::Subject => f.write_str("the finalization it carries is not its parent's"),
            Self::Transaction { place, refusal } => write!(f, "transaction {place}: {refusal}"),
            Self::State { expected, found } => {
                write!(f, "the header names state {found:.16}, applying the block gives {expected:.16}")
            }
            Self::Beacon { expected, found } => {
                write!(f, "the header names beacon {found:.16}, applying the block gives {expected:.16}")
            }
            Self::Seats { expected, found } => {
                write!(f, "the header names seats {found:.16}, applying the block gives {expected:.16}")
            }
        }
    }
}

impl core::error::Error for BlockError {}
