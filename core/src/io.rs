//! The whole surface towards a host: what can happen to a node, and what a node asks for (ARCHITECTURE §2).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::fmt;

use neuroshard_proto::chain::SignedTransaction;
use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{
    BatchId, Bytes, Commitment, Decline, Envelope, F32, Fault, Hash, Job, JournalSeq, LayerRange, Mode, NodeId,
    QuorumId, RequestId, Signature, Step, Text, Tier, Time, Verified,
};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Most outputs one step pushes. [`crate::Core::step`] refuses to start with less room.
pub const MAX_OUTPUTS: usize = 64;

/// Everything that can happen to a node. A trace is a list of `(Time, Input)` and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Input {
    /// The clock reached [`crate::Core::next_deadline`]. Early or repeated ticks change nothing.
    Tick,
    /// A frame from a peer whose signature held.
    Message(Verified),
    /// Every journal record up to and including `upto` survives a crash. A watermark: late or repeated reports are
    /// harmless.
    Persisted { upto: JournalSeq },
    /// A job's answer. Answers to unknown or lapsed requests are dropped and counted.
    Computed { id: RequestId, result: Result<Commitment, Fault> },
    /// A wish of the operator.
    Command(Command),
    /// The node's signature over what was asked to be signed. An answer to an unknown or lapsed request is dropped.
    Signed { id: RequestId, signature: Signature },
    /// A blob that was asked for is in the executor's store, with the hash it should have, or will not come.
    Fetched { id: RequestId, result: Result<(), FetchFault> },
}

impl Canonical for Input {}

impl Input {
    /// The input's name in tables and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tick => "tick",
            Self::Message(_) => "message",
            Self::Persisted { .. } => "persisted",
            Self::Computed { .. } => "computed",
            Self::Command(_) => "command",
            Self::Signed { .. } => "signed",
            Self::Fetched { .. } => "fetched",
        }
    }
}

/// What an operator can ask of a running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Command {
    /// Persist the state now.
    Save,
    /// Persist the state, then stop asking for work. [`Event::Stopped`] follows.
    Stop,
    /// Put a signed transaction before the validators. [`Event::TransactionDropped`] says if it can never apply.
    Submit(Box<SignedTransaction>),
    /// Hand over to the other members of this node's quorum, then stop as by [`Command::Stop`]. It takes a minute or two.
    Leave,
}

/// Everything a node asks of its host, to be done in the order given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Output {
    /// Append a record to the journal and report [`Input::Persisted`] when it is durable. What depends on the record is
    /// withheld until then, so a host cannot act on it too early even by mistake.
    Persist { seq: JournalSeq, record: Bytes<RECORD_BYTES_MAX> },
    /// Have the executor do a job. Jobs are done one after the other in the order they are given; an answer after
    /// `deadline` comes too late.
    Compute { id: RequestId, job: Job, deadline: Time },
    /// The answer to a job is no longer wanted.
    Cancel { id: RequestId },
    /// No durable fact names this blob any more: delete it.
    Drop { hash: Hash },
    /// Journal records before this one are superseded: they may be deleted.
    Trim { before: JournalSeq },
    /// For operators, metrics and checkers.
    Event(Event),
    /// Sign a digest with the node's key. What is signed is durable already where that matters.
    Sign { id: RequestId, digest: Hash },
    /// Send a message to one node, if it can be reached.
    Send { to: NodeId, message: Box<Envelope> },
    /// Spread a message among all who follow its topic.
    Publish { topic: Topic, message: Box<Envelope> },
    /// Get a blob from a node into the executor's store, and answer with [`Input::Fetched`]; if it is to be kept, then when it
    /// is durable. Blobs that jobs made are to be served to others until they are dropped.
    Fetch { id: RequestId, hash: Hash, from: NodeId, keep: bool },
}

impl Canonical for Output {}

/// What a published message is about; nodes follow the topics that concern them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum Topic {
    /// Transactions that wait for a block.
    Transactions,
    /// Votes, proposals and certificates: of interest to validators.
    Agreement,
    /// Decided blocks.
    Blocks,
}

impl Topic {
    pub const ALL: [Self; 3] = [Self::Transactions, Self::Agreement, Self::Blocks];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Transactions => "transactions",
            Self::Agreement => "agreement",
            Self::Blocks => "blocks",
        }
    }
}

/// Most bytes of a journal record.
pub const RECORD_BYTES_MAX: u32 = (256 << 10) + 1024;

impl Output {
    /// The output's name in tables and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Persist { .. } => "persist",
            Self::Compute { .. } => "compute",
            Self::Cancel { .. } => "cancel",
            Self::Drop { .. } => "drop",
            Self::Trim { .. } => "trim",
            Self::Event(_) => "event",
            Self::Sign { .. } => "sign",
            Self::Send { .. } => "send",
            Self::Publish { .. } => "publish",
            Self::Fetch { .. } => "fetch",
        }
    }
}

/// What a node tells about itself. Numbers are integers; losses are sums in micro-nats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
#[non_exhaustive]
pub enum Event {
    /// The self-benchmark ended (PROTOCOL §2).
    TierMeasured { layer_us: u64, tier: Tier },
    /// The node chose how to contribute, and why.
    ModeChosen { mode: Mode, reason: ModeReason },
    /// The executor holds the model at this step: made from the seed, or loaded from a snapshot.
    StateReady { step: Step, root: Hash },
    /// An optimizer step was taken. `loss_micro` is the batch's loss *before* the step.
    Stepped { step: Step, batch: BatchId, loss_micro: i64, tokens: u64, norm: F32, rate: F32 },
    /// A batch was skipped because a value left its range (PROTOCOL §4).
    BatchVoid { step: Step, batch: BatchId, voids: u64 },
    /// The loss on held-out data after `step` steps.
    HeldOut { step: Step, loss_micro: i64, tokens: u64 },
    /// A snapshot is durable: a crash from now on loses nothing before this step.
    Saved { step: Step, root: Hash, bytes: u64 },
    /// A job failed; what the node does about it.
    JobFailed { job: JobKind, fault: Fault, then: Recovery },
    /// A job's answer did not come before its deadline; the node goes back to its last snapshot.
    JobLate { job: JobKind },
    /// A peer's message was refused.
    Rejected { reject: PeerFault },
    /// Another node of this network was heard for the first time, or again after having been offline.
    PeerUp { node: NodeId },
    /// Nothing was heard from a peer for 120 s (PROTOCOL §3).
    PeerDown { node: NodeId },
    /// So many batches in a row were void that the model has lost its way; the node stops without saving.
    Diverged { step: Step, voids: u64 },
    /// The step limit of the operator is reached.
    StepLimit { step: Step },
    /// The node asks for nothing more. `saved` is the last durable step, if there is one.
    Stopped { step: Step, saved: Option<Step> },
    /// A block was decided and applied: its block time, how many transactions it holds, and the root of the agreed state
    /// after it.
    BlockDecided { height: u64, id: Hash, time: Time, transactions: u32, root: Hash },
    /// A transaction will not be in a block by this node's doing.
    TransactionDropped { transaction: Hash, why: DropReason },
    /// A validator signed two statements that contradict each other; this node reports it.
    Equivocation { validator: NodeId },
    /// A quorum decided a block that does not follow the head: a third of the weight or more is faulty, or this program
    /// is. The node takes no further part in agreement.
    ChainBroken { height: u64, id: Hash },
    /// The agreed state after a decided block was taken from others, because they keep no older blocks.
    StateTaken { height: u64, id: Hash, time: Time, root: Hash },
    /// This node proposes a quorum to so many members, itself among them; a batch would take so long (PROTOCOL §4).
    QuorumProposed { quorum: QuorumId, members: u32, batch_us: u64 },
    /// A node takes no part in a quorum that this node proposed.
    QuorumDeclined { quorum: QuorumId, node: NodeId, why: Decline },
    /// This node is a member of a quorum, and runs these stages.
    QuorumJoined { quorum: QuorumId, members: u32, stages: LayerRange },
    /// This node is a member of no quorum any more.
    QuorumLeft,
    /// Nobody had a blob of stages that others persisted at this step; it is tried again.
    StagesMissing { step: Step, stages: LayerRange, blob: Hash, fault: FetchFault },
    /// The members of this node's quorum go on together from the state after this step (PROTOCOL §4).
    QuorumBegan { quorum: QuorumId, term: u64, step: Step },
    /// The operator takes this node away: it takes part in nothing new, and hands over to the members of its quorum, if
    /// it is in one.
    Leaving { quorum: Option<QuorumId> },
}

/// Why a blob did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum FetchFault {
    /// The node cannot be reached, or was too slow.
    Unreachable,
    /// The node does not have it.
    Missing,
    /// What came does not have the hash.
    Damaged,
    /// There is no room for it here.
    Full,
}

/// Why a transaction is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum DropReason {
    /// Too many wait; it may be sent again later.
    Full,
    /// Too many of the same author wait.
    AuthorFull,
    /// Another one of the same account and number waits.
    Taken,
    /// It waited too long.
    TooOld,
    /// Its signature does not hold.
    Forged,
    /// The ledger refuses it.
    Refused { why: Text<DROP_WORDS_MAX> },
}

/// Most bytes of the ledger's words in a [`DropReason`].
pub const DROP_WORDS_MAX: u32 = 160;

/// Why a mode was chosen (PROTOCOL §2), or could not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum ModeReason {
    /// The only node, and it holds all layers.
    Alone,
    /// The operator's choice.
    Operator,
    /// The operators agreed on a plan in which this node runs stages.
    Planned,
    /// It is a member of a quorum.
    Member,
    /// A quorum trains without it: it stands by to join or to replace a member.
    StandsBy,
    /// It looks for others to train with.
    Looks,
    /// The self-benchmark failed, so the node does not know what it can do.
    NoTier,
    /// The slowest tier trains offline.
    SlowTier,
    /// It holds layers, and nothing else has need of it.
    HoldsLayers,
    /// The model does not fit in the memory given.
    TooLittleMemory { needed: u64, allowed: u64 },
}

/// A job's kind, for events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum JobKind {
    Init,
    Load,
    Benchmark,
    Train,
    Step,
    Evaluate,
    Snapshot,
    Forward,
    Turn,
    Backward,
    Norms,
}

/// What follows a failed job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Recovery {
    /// Go on; try again later.
    Later { at: Time },
    /// Go back to the last durable state, or to the first weights if there is none.
    Reload { step: Step },
    /// Nothing can be done without the operator; the node stops.
    Stop,
}

/// A peer's fault as the core sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum PeerFault {
    /// The message is signed for another network.
    OtherNetwork { node: NodeId },
    /// The message says it is from this node.
    OwnName,
    /// The sender's clock is further off than a heartbeat can be.
    Clock { node: NodeId, theirs: Time },
    /// More peers than this node follows.
    TooManyPeers { node: NodeId },
    /// A proposal from a node that does not lead the view, or of a block that it did not make though it was free.
    Leader { node: NodeId, view: u64 },
    /// A proposed block's time is too far in the future.
    BlockTime { node: NodeId, theirs: Time },
    /// A proposed block does not follow the head.
    Block { node: NodeId, height: u64 },
    /// A block that is said to be decided, without the signatures of those who decide.
    Undecided { node: NodeId, height: u64 },
    /// A step to a later header that does not follow from what this node trusts: forged, or over so long a time that this
    /// node must begin anew from a header that its operator trusts.
    Steps { node: NodeId, height: u64 },
    /// A piece that is not one of the state at this height.
    State { node: NodeId, height: u64 },
    /// What it says is of a quorum that it is no member of, or of other stages than it runs.
    OtherQuorum { node: NodeId },
}

/// Who asks for the next [`Input::Tick`]: the reason makes idle spins debuggable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum TimerKind {
    /// The first tick of a core's life.
    Start,
    /// Outputs that are free to go but did not fit in the last step.
    Release,
    /// The earliest deadline of an open request.
    Request,
    /// The next self-benchmark.
    Benchmark,
    /// The next peer that would be offline.
    Liveness,
    /// Another try at a job that failed.
    Retry,
    /// The view's patience, while there is something to decide.
    View,
    /// A signature that should be there.
    Sign,
    /// The next block that is due even without transactions.
    Block,
    /// An answer from a node that knows more blocks.
    Blocks,
    /// Patience with the members of a quorum.
    Quorum,
    /// Looking for members, and patience with those that were asked.
    Form,
}

impl TimerKind {
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::Release,
        Self::Request,
        Self::Benchmark,
        Self::Liveness,
        Self::Retry,
        Self::View,
        Self::Sign,
        Self::Block,
        Self::Blocks,
        Self::Quorum,
        Self::Form,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Release => "release",
            Self::Request => "request",
            Self::Benchmark => "benchmark",
            Self::Liveness => "liveness",
            Self::Retry => "retry",
            Self::View => "view",
            Self::Sign => "sign",
            Self::Block => "block",
            Self::Blocks => "blocks",
            Self::Quorum => "quorum",
            Self::Form => "form",
        }
    }
}

/// A host's mistake, visible in its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// The outbox has less room than [`MAX_OUTPUTS`].
    OutboxFull { free: usize },
    /// `now` is before the time of the last step.
    TimeWentBack { last: Time, now: Time },
    /// The host reports a record durable that the core never wrote.
    PersistedBeyondJournal { upto: JournalSeq, written: Option<JournalSeq> },
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutboxFull { free } => {
                write!(f, "the outbox has room for {free} outputs, a step needs {MAX_OUTPUTS}")
            }
            Self::TimeWentBack { last, now } => write!(f, "time went back from {last} to {now}"),
            Self::PersistedBeyondJournal { upto, written: Some(written) } => {
                write!(f, "record {upto} reported durable, the last one written is {written}")
            }
            Self::PersistedBeyondJournal { upto, written: None } => {
                write!(f, "record {upto} reported durable, none was written")
            }
        }
    }
}

impl core::error::Error for Misuse {}

/// Where a step leaves its outputs. The host owns it, drains it, and may use one for many cores.
#[derive(Clone, Debug)]
pub struct Outbox {
    outputs: VecDeque<Output>,
    capacity: usize,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::with_capacity(MAX_OUTPUTS)
    }
}

impl Outbox {
    /// An outbox for at least one step.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.max(MAX_OUTPUTS);
        Self { outputs: VecDeque::with_capacity(capacity), capacity }
    }

    /// Outputs there is room for.
    pub fn free(&self) -> usize {
        self.capacity.saturating_sub(self.outputs.len())
    }

    /// The oldest output.
    pub fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn is_empty(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The outputs in order, without taking them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Output> {
        self.outputs.iter()
    }

    /// Adds an output. Cores call it; there is always room, because a step checks before it starts.
    pub(crate) fn push(&mut self, output: Output) {
        assert!(self.free() > 0, "a step pushes at most MAX_OUTPUTS");
        self.outputs.push_back(output);
    }
}

impl From<&Job> for JobKind {
    fn from(job: &Job) -> Self {
        match job {
            Job::Init { .. } => Self::Init,
            Job::Load { .. } => Self::Load,
            Job::Benchmark { .. } => Self::Benchmark,
            Job::Train { .. } => Self::Train,
            Job::Step { .. } => Self::Step,
            Job::Evaluate { .. } => Self::Evaluate,
            Job::Snapshot { .. } => Self::Snapshot,
            Job::Forward { .. } => Self::Forward,
            Job::Turn { .. } => Self::Turn,
            Job::Backward { .. } => Self::Backward,
            Job::Norms { .. } => Self::Norms,
        }
    }
}
