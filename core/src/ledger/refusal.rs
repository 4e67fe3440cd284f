//! Why the ledger refuses: a transaction, or a block.

use core::fmt;

use neuroshard_proto::chain::CertificateError;
use neuroshard_proto::{Amount, Hash, NodeId, OwnerId, PlanError, Step, Time};

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
    /// The members' word is not good any more, or is meant to be good for too long.
    Lapsed { until: Time, now: Time },
    /// The members are no pipeline of the model.
    Plan(PlanError),
    /// Too few members for a network of this size.
    QuorumSize { least: u32 },
    /// Not every member signed.
    Acceptances { members: usize, found: usize },
    /// The node has not said what it can.
    Undescribed { node: NodeId },
    /// The node does not hold the stages that it is to run.
    NotHeld { node: NodeId },
    /// The node's speed does not match the others'.
    Speed { node: NodeId },
    /// The node is a member of another quorum.
    Taken { node: NodeId },
    /// Another quorum trains; the others stand by until there are cohorts.
    QuorumsBusy,
    /// The quorum is there already.
    QuorumKnown,
    /// There is no such active quorum.
    NoQuorum,
    /// Only members may wish this for a quorum.
    NotAMember,
    /// The same members may begin another session when 80 % of this one are over.
    TooEarly,
    /// The quorum went on for as long as one may.
    SessionsOver,
    /// The stages are not the member's, or do not make the root.
    PostedStages,
    /// The stages were posted at this step or a later one.
    PostedBefore { step: Step },
}

impl Refusal {
    /// Whether the same transaction may apply later, as others are included and time passes.
    pub fn is_premature(&self) -> bool {
        matches!(self, Self::Sequence { expected, found } if found > expected)
            || matches!(self, Self::Epoch { now, found } if found > now)
            || matches!(self, Self::Funds { .. })
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
            Self::Lapsed { until, now } => {
                write!(f, "the members' word is good until {until}, now is {now}; it may be good for a minute at most")
            }
            Self::Plan(error) => write!(f, "the members are no pipeline: {error}"),
            Self::QuorumSize { least } => write!(f, "a quorum has at least {least} members in a network of this size"),
            Self::Acceptances { members, found } => write!(f, "{members} members must sign, {found} did"),
            Self::Undescribed { node } => write!(f, "node {node:.16} has not said what it can"),
            Self::NotHeld { node } => write!(f, "node {node:.16} does not hold the stages that it is to run"),
            Self::Speed { node } => write!(f, "the speed of node {node:.16} does not match the others'"),
            Self::Taken { node } => write!(f, "node {node:.16} is a member of another quorum"),
            Self::QuorumsBusy => {
                f.write_str("another quorum trains, and one trains in a network until there are cohorts")
            }
            Self::QuorumKnown => f.write_str("the quorum is there already"),
            Self::NoQuorum => f.write_str("there is no such active quorum"),
            Self::NotAMember => f.write_str("this is for the quorum's members to wish"),
            Self::TooEarly => f.write_str("the same members may begin another session when 80 % of this one are over"),
            Self::SessionsOver => f.write_str("the quorum went on for as long as one may; it ends and is formed anew"),
            Self::PostedStages => f.write_str("the stages are not those that the member runs, or do not make the root"),
            Self::PostedBefore { step } => write!(f, "step {step} or a later one was posted before"),
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
