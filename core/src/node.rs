//! The node as one value.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use neuroshard_proto::chain::Decided;
use neuroshard_proto::codec::{self, DecodeError};
use neuroshard_proto::{
    Domain, GenesisError, Hash, Hasher, JournalSeq, LayerRange, Message, Mode, NetworkId, NodeId, PlanError, Shared,
    Snapshot, Step, Time, Verified, mutant,
};
use serde::Serialize;

use crate::agent::forming::Forming;
use crate::agent::liveness::{self, Liveness};
use crate::agent::mode::ModePart;
use crate::agent::quorum::{Assignment, Quorum};
use crate::agent::shelf::Shelf;
use crate::agent::solo::{Solo, snapshot_bytes};
use crate::agent::tier::TierPart;
use crate::chain::{Chain, Contradiction, Past};
use crate::config::Config;
use crate::cx::{Cx, Local, Requests, Timers};
use crate::io::{Command, Event, Input, JobKind, MAX_OUTPUTS, Misuse, Outbox, Output, PeerFault, TimerKind};
use crate::journal::{Journal, JournalFact, Keeper, Progress, Record, SavedState};
use crate::ledger::{Computed, Ledger, Ledgers, Source};
use crate::part::Part;
use crate::sampling::Sampler;

/// A NeuroShard node: the whole protocol as one value, without clock, thread, socket, file or float.
///
/// * [`Core::restore`] makes one from a configuration, a seed and the journal of its earlier life, if any.
/// * [`Core::step`] is the only mutator: one input in, outputs into the host's [`Outbox`]. It runs to completion, never
///   blocks and never fails because of what a peer, disk or device did; [`Misuse`] is the host's own mistake.
/// * [`Core::next_deadline`] says when to call `step` with [`Input::Tick`] if nothing else happens before.
/// * [`Core::state_hash`] is equal wherever the same inputs were taken in the same order.
///
/// A host does the outputs in order, and answers [`Output::Persist`] with [`Input::Persisted`] and [`Output::Compute`]
/// with [`Input::Computed`] in its own time. The crate's documentation shows a complete host.
#[derive(Clone)]
pub struct Core {
    config: Config,
    network: NetworkId,
    sampler: Sampler,
    now: Time,
    journal: Part<Journal>,
    requests: Part<Requests>,
    timers: Part<Timers>,
    liveness: Part<Liveness>,
    tier: Part<TierPart>,
    mode: Part<ModePart>,
    forming: Part<Forming>,
    solo: Part<Solo>,
    chain: Part<Chain>,
}

/// Names of the parts, in the order of their digests. Traces say by bits which changed, so those that seldom do come last.
const PARTS: [&str; 9] = ["journal", "requests", "timers", "liveness", "tier", "mode", "solo", "chain", "forming"];

/// Why a core could not be made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// The genesis contradicts itself or its manifest.
    Genesis(GenesisError),
    /// The disk budget does not hold a snapshot and the next one beside it.
    DiskBudget { needed: u64, allowed: u64 },
    /// A journal record does not decode.
    Record { place: u64, error: DecodeError },
    /// A record is missing, or stands where another belongs.
    Order { expected: JournalSeq, found: JournalSeq },
    /// The journal is that of another network.
    OtherNetwork { theirs: NetworkId, ours: NetworkId },
    /// The journal is that of another node.
    OtherNode { theirs: NodeId, ours: NodeId },
    /// A saved state does not have the stages of the genesis' model.
    OtherModel { step: Step },
    /// The plan is no pipeline of this network's model.
    Plan(PlanError),
    /// Weights that a founder brought along are stored and committed to as a whole; members of a plan would need parts.
    FirstInParts,
    /// A decided block does not follow the ones before it, or the state at it is not whole.
    Block { height: u64 },
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Genesis(error) => error.fmt(f),
            Self::DiskBudget { needed, allowed } => {
                write!(f, "two snapshots of this model need {needed} bytes of disk, {allowed} are allowed")
            }
            Self::Record { place, error } => write!(f, "journal record {place} is damaged: {error}"),
            Self::Order { expected, found } => write!(f, "the journal has record {found} where {expected} belongs"),
            Self::OtherNetwork { theirs, ours } => {
                write!(f, "the journal belongs to network {theirs:.16}, not to {ours:.16}")
            }
            Self::OtherNode { theirs, ours } => {
                write!(f, "the journal belongs to node {theirs:.16}, not to {ours:.16}")
            }
            Self::OtherModel { step } => write!(f, "the state saved at step {step} is not of this network's model"),
            Self::Plan(error) => write!(f, "the plan cannot be: {error}"),
            Self::FirstInParts => f.write_str(
                "this network begins with weights brought along, which several members cannot take up in parts yet",
            ),
            Self::Block { height } => write!(f, "the decided block {height} does not follow the ones before it"),
        }
    }
}

impl core::error::Error for RestoreError {}

impl Core {
    /// Makes a core: a fresh one is one with an empty journal. Call [`Core::step`] with [`Input::Tick`] next.
    ///
    /// `seed` is this node's own randomness; nothing that nodes must agree on depends on it. `journal` holds the records
    /// of [`Output::Persist`] that survived, in order, without those that [`Output::Trim`] gave up.
    ///
    /// # Errors
    /// If the configuration or the journal cannot be used; each variant says why.
    pub fn restore<R: AsRef<[u8]>>(
        config: Config,
        seed: Hash,
        journal: impl IntoIterator<Item = R>,
    ) -> Result<Self, RestoreError> {
        Self::restore_sharing(config, seed, journal, Arc::new(Computed))
    }

    /// As [`Core::restore`], for one of many cores in a process that share the ledgers they work out.
    ///
    /// # Errors
    /// As [`Core::restore`].
    pub fn restore_sharing<R: AsRef<[u8]>>(
        config: Config,
        seed: Hash,
        journal: impl IntoIterator<Item = R>,
        ledgers: Arc<dyn Ledgers>,
    ) -> Result<Self, RestoreError> {
        config.genesis.check(&config.manifest).map_err(RestoreError::Genesis)?;
        let (needed, allowed) = (snapshot_bytes(&config).saturating_mul(2), config.operator.disk_bytes);
        if needed > allowed {
            return Err(RestoreError::DiskBudget { needed, allowed });
        }
        if let Some(plan) = &config.plan {
            plan.check(&config.genesis.model).map_err(RestoreError::Plan)?;
            if plan.members.len() > 1 && config.genesis.first.is_some() {
                return Err(RestoreError::FirstInParts);
            }
        }
        let quorum = Assignment::by_hand(&config).and_then(|plan| Quorum::new(&config, plan));
        let network = config.genesis.network();
        let Facts { next, shelf, saved, past } = read_journal(&config, &seed, ledgers, network, journal)?;
        let mut timers = Timers::default();
        timers.set(TimerKind::Start, Some(Time::ZERO));
        let mut journal = Journal::default();
        journal.resume(next);
        saved.into_iter().for_each(|record| journal.keep_from(Keeper::Solo, record));
        past.first.into_iter().for_each(|record| journal.keep_from(Keeper::Chain, record));
        let chain = Chain::new(past, config.node);
        let sampler = Sampler::new(config.genesis.seed, &config.genesis.training, &config.manifest);
        Ok(Self {
            config,
            network,
            sampler,
            now: Time::ZERO,
            journal: Part::new(journal),
            requests: Part::default(),
            timers: Part::new(timers),
            liveness: Part::default(),
            tier: Part::new(TierPart::new(&seed)),
            mode: Part::default(),
            forming: Part::new(Forming::new(&seed)),
            solo: Part::new(Solo::new(shelf, quorum)),
            chain: Part::new(chain),
        })
    }

    /// Takes one input. At most [`MAX_OUTPUTS`] outputs are pushed.
    ///
    /// # Errors
    /// [`Misuse`] if the host broke the contract; then nothing changed and nothing was pushed.
    pub fn step(&mut self, now: Time, input: Input, out: &mut Outbox) -> Result<(), Misuse> {
        if now < self.now {
            return Err(Misuse::TimeWentBack { last: self.now, now });
        }
        if out.free() < MAX_OUTPUTS {
            return Err(Misuse::OutboxFull { free: out.free() });
        }
        let room = out.free().saturating_sub(MAX_OUTPUTS);
        let mut local = VecDeque::new();
        match input {
            Input::Persisted { upto } => {
                self.journal.persisted(upto)?;
            }
            Input::Tick => {}
            Input::Message(message) => self.on_message(message, &mut local, out),
            Input::Computed { id, result } => match (self.requests.take(id), result) {
                (Some(job), result) => local.push_back(Local::Answer { id, job, result }),
                // Nobody waits for it any more, nor for what it made for a neighbour.
                (None, Ok(answer)) => {
                    answer.passing().into_iter().for_each(|hash| out.push(Output::Drop { hash }));
                }
                (None, Err(_)) => {}
            },
            Input::Command(Command::Submit(signed)) => local.push_back(Local::Submit(signed)),
            Input::Command(command) => local.push_back(Local::Command(command)),
            Input::Signed { id, signature } => local.push_back(Local::Signed { id, signature }),
            Input::Fetched { id, result } => local.push_back(Local::Fetched { id, result }),
        }
        self.now = now;
        self.on_timers(&mut local, out);
        self.dispatch(&mut local, out);
        let left = out.free().saturating_sub(room);
        let more = self.journal.may_release() && self.journal.release(left, out);
        self.arm(TimerKind::Release, more.then_some(now));
        self.arm(TimerKind::Request, self.requests.deadline());
        Ok(())
    }

    /// When to call [`Core::step`] with [`Input::Tick`], and which timer asks. A moment in the past means now.
    pub fn next_deadline(&self) -> Option<(Time, TimerKind)> {
        self.timers.next()
    }

    /// The root over the digests of the parts.
    pub fn state_hash(&self) -> Hash {
        let mut hasher = Hasher::new(Domain::StateRoot);
        hasher.update(self.network.0.as_bytes()).update(&self.now.as_ms().to_le_bytes());
        for (_, digest) in self.part_hashes() {
            hasher.update(digest.as_bytes());
        }
        hasher.finish()
    }

    /// The digest of each part, by name: where two states differ, this says in what.
    pub fn part_hashes(&self) -> [(&'static str, Hash); PARTS.len()] {
        let digests = [
            self.journal.digest(),
            self.requests.digest(),
            self.timers.digest(),
            self.liveness.digest(),
            self.tier.digest(),
            self.mode.digest(),
            if mutant("solo left out of the hash") { Hash::default() } else { self.solo.digest() },
            self.chain.digest(),
            self.forming.digest(),
        ];
        let mut named = PARTS.map(|name| (name, Hash::default()));
        for (slot, digest) in named.iter_mut().zip(digests) {
            slot.1 = digest;
        }
        named
    }

    /// The whole state but the configuration, part by part, for people and tools to read. Its form is no interface: it
    /// changes with the parts.
    pub fn parts(&self) -> impl Serialize + fmt::Debug {
        PartValues {
            now: self.now,
            journal: &self.journal,
            requests: &self.requests,
            timers: &self.timers,
            liveness: &self.liveness,
            tier: &self.tier,
            mode: &self.mode,
            forming: &self.forming,
            solo: &self.solo,
            chain: &self.chain,
        }
    }

    /// The network this node belongs to.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The time of the last step.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The mode in force; `None` before the first benchmark ended.
    pub fn mode(&self) -> Option<Mode> {
        self.mode.mode()
    }

    /// Optimizer steps the model in the executor has taken.
    pub fn model_step(&self) -> Step {
        self.solo.step()
    }

    /// How far training has come.
    pub fn progress(&self) -> Progress {
        self.solo.progress()
    }

    /// The persisted states, the newest last.
    pub fn saved_states(&self) -> &[SavedState] {
        self.solo.states()
    }

    /// The newest persisted state of the whole model, if all its stages are here: a member of a quorum has those that it trains
    /// and copies of others'.
    pub fn whole_state(&self) -> Option<Snapshot> {
        self.solo.whole(&self.config)
    }

    /// The agreed state after the last decided block.
    pub fn ledger(&self) -> &Ledger {
        self.chain.ledger()
    }

    /// The newest decided blocks, from a height on, as far as they are kept: the last 1024, or 4 MiB of them.
    pub fn decided_since(&self, height: u64) -> impl Iterator<Item = &Shared<Decided>> {
        self.chain.decided_since(height)
    }

    /// Transactions that wait for a block.
    pub fn waiting_transactions(&self) -> usize {
        self.chain.waiting()
    }

    /// Every blob that a fact names: a host may delete all others when it starts, but for the data shards.
    pub fn pinned(&self) -> BTreeSet<Hash> {
        self.solo.pinned()
    }

    fn on_message(&mut self, message: Verified, local: &mut VecDeque<Local>, out: &mut Outbox) {
        if message.network() != self.network {
            let reject = PeerFault::OtherNetwork { node: message.message().signer() };
            return out.push(Output::Event(Event::Rejected { reject }));
        }
        match message.message() {
            Message::Heartbeat(heartbeat) => local.push_back(Local::Heartbeat(*heartbeat)),
            Message::Transaction(_)
            | Message::Vote(_)
            | Message::Proposal(_)
            | Message::Certificate(_)
            | Message::BlocksWanted(_)
            | Message::Decided(_)
            | Message::StepsWanted(_)
            | Message::Steps(_)
            | Message::StateWanted(_)
            | Message::StatePiece(_) => local.push_back(Local::Chain(Box::new(message))),
            Message::Quorum(said) => local.push_back(Local::Quorum(said.clone())),
            Message::Forming(said) => local.push_back(Local::Forming(said.clone())),
            // For hosts that look for others.
            Message::Beacon(_) => {}
        }
    }

    fn arm(&mut self, kind: TimerKind, at: Option<Time>) {
        if self.timers.get(kind) != at {
            self.timers.set(kind, at);
        }
    }

    /// Turns timers that are due into events: a few a step, the rest stay due.
    fn on_timers(&mut self, local: &mut VecDeque<Local>, out: &mut Outbox) {
        while local.len() < TIMERS_A_STEP && self.timers.next().is_some_and(|(at, _)| at <= self.now) {
            let Some(kind) = self.timers.due(self.now) else { break };
            match kind {
                TimerKind::Start => {
                    if self.journal.is_empty() {
                        let founded = JournalFact::Founded { network: self.network, node: self.config.node };
                        self.journal.persist(founded, out);
                    }
                    local.extend([Local::Start, Local::Begin]);
                }
                TimerKind::Release => {}
                TimerKind::Request => {
                    for (id, job) in self.requests.lapsed(self.now) {
                        out.push(Output::Cancel { id });
                        local.push_back(Local::Late { job });
                    }
                }
                TimerKind::Benchmark
                | TimerKind::Liveness
                | TimerKind::Retry
                | TimerKind::View
                | TimerKind::Sign
                | TimerKind::Block
                | TimerKind::Blocks
                | TimerKind::Quorum
                | TimerKind::Form => local.push_back(Local::Timer(kind)),
            }
        }
    }

    /// Gives each event to the part it concerns, until no part causes another.
    fn dispatch(&mut self, local: &mut VecDeque<Local>, out: &mut Outbox) {
        for _ in 0..EVENTS_A_STEP_MAX {
            let Some(event) = local.pop_front() else { return };
            let Self { journal, requests, timers, liveness, tier, mode, forming, solo, chain, .. } = self;
            let mut cx = Cx { now: self.now, config: &self.config, journal, requests, timers, liveness, local, out };
            match event {
                Local::Heartbeat(heartbeat) => liveness::on_heartbeat(&mut cx, &heartbeat),
                Local::Timer(TimerKind::Liveness) => liveness::on_timer(&mut cx),
                Local::Start | Local::Timer(TimerKind::Benchmark) => tier.on_due(&mut cx),
                Local::Answer { job: JobKind::Benchmark, result, .. } => tier.on_answer(&mut cx, result),
                Local::Late { job: JobKind::Benchmark } => tier.on_late(&mut cx),
                Local::Peers { live } => mode.on_peers(&mut cx, live),
                Local::Tier(tier) => {
                    mode.on_head(&mut cx, chain.ledger());
                    mode.on_tier(&mut cx, tier);
                }
                Local::Mode(mode) => solo.on_mode(&mut cx, &self.sampler, mode),
                Local::Answer { id, job, result } => solo.on_answer(&mut cx, &self.sampler, id, job, result),
                Local::Late { job } => solo.on_late(&mut cx, &self.sampler, job),
                Local::Command(Command::Leave) => forming.on_leave(&mut cx, chain.ledger()),
                Local::Command(command) => solo.on_command(&mut cx, &self.sampler, command),
                Local::Timer(TimerKind::Retry) => solo.on_retry(&mut cx, &self.sampler),
                Local::Timer(TimerKind::Quorum) => solo.on_quorum_timer(&mut cx, &self.sampler),
                Local::Quorum(said) => solo.on_said(&mut cx, &self.sampler, &said),
                Local::Fetched { id, result } => solo.on_fetched(&mut cx, &self.sampler, id, result),
                Local::Say { to, message } => chain.say(&mut cx, to, message),
                Local::Rewrite => solo.on_rewrite(&mut cx),
                Local::Begin => chain.on_start(&mut cx),
                Local::Chain(message) => chain.on_message(&mut cx, &message),
                Local::Submit(signed) => chain.on_submit(&mut cx, &signed),
                Local::Signed { id, signature } => chain.on_signed(&mut cx, id, signature),
                Local::Measured { layer_us, tier } => {
                    chain.on_tier(&mut cx, tier);
                    forming.on_speed(&mut cx, chain.ledger(), layer_us, tier);
                }
                Local::Neighbours => {
                    forming.on_progress(solo.reached(&self.config, chain.ledger()));
                    forming.on_neighbours(&mut cx, chain.ledger());
                }
                Local::Forming(message) => {
                    forming.on_progress(solo.reached(&self.config, chain.ledger()));
                    forming.on_message(&mut cx, chain.ledger(), &message);
                }
                Local::Timer(TimerKind::Form) => {
                    forming.on_progress(solo.reached(&self.config, chain.ledger()));
                    forming.on_timer(&mut cx, chain.ledger());
                }
                Local::Silent(nodes) => forming.on_silent(&mut cx, chain.ledger(), nodes),
                Local::Consent { quorum, digest, to } => chain.consent(&mut cx, quorum, digest, to),
                Local::Accepted { quorum, signature } => {
                    forming.on_accepted(&mut cx, chain.ledger(), self.config.node, quorum, signature);
                }
                Local::Act { action, after } => chain.act(&mut cx, *action, after),
                Local::Assigned(assignment) => {
                    mode.on_assigned(&mut cx, assignment.is_some());
                    solo.on_assigned(&mut cx, &self.sampler, assignment);
                }
                Local::Head => {
                    mode.on_head(&mut cx, chain.ledger());
                    forming.on_progress(solo.reached(&self.config, chain.ledger()));
                    forming.on_head(&mut cx, chain.ledger());
                    solo.on_head(&mut cx, &self.sampler, chain.ledger());
                }
                Local::Timer(kind @ (TimerKind::View | TimerKind::Sign | TimerKind::Block | TimerKind::Blocks)) => {
                    chain.on_timer(&mut cx, kind);
                }
                Local::Timer(TimerKind::Start | TimerKind::Release | TimerKind::Request) => {}
            }
        }
        assert!(local.is_empty(), "parts cause a bounded number of events in a step");
    }
}

/// The parts as [`Core::parts`] shows them.
#[derive(Debug, Serialize)]
struct PartValues<'a> {
    now: Time,
    journal: &'a Journal,
    requests: &'a Requests,
    timers: &'a Timers,
    liveness: &'a Liveness,
    tier: &'a TierPart,
    mode: &'a ModePart,
    forming: &'a Forming,
    solo: &'a Solo,
    chain: &'a Chain,
}

/// Timers handled in one step.
const TIMERS_A_STEP: usize = 8;
/// Events of one step, those that parts cause included.
const EVENTS_A_STEP_MAX: u32 = 64;

/// What a journal says.
struct Facts {
    /// The next record's place.
    next: JournalSeq,
    shelf: Shelf,
    /// The record that holds it.
    saved: Option<JournalSeq>,
    past: Past,
}

/// Reads the facts of an earlier life.
fn read_journal<R: AsRef<[u8]>>(
    config: &Config,
    seed: &Hash,
    ledgers: Source,
    network: NetworkId,
    journal: impl IntoIterator<Item = R>,
) -> Result<Facts, RestoreError> {
    let mut next: Option<JournalSeq> = None;
    let contradiction = |Contradiction { height }| RestoreError::Block { height };
    let (mut states, mut copies, mut saved) = (Vec::new(), Vec::new(), None);
    let mut past = Past::new(config, seed, ledgers);
    for (place, bytes) in (0_u64..).zip(journal) {
        let record: Record = codec::decode(bytes.as_ref()).map_err(|error| RestoreError::Record { place, error })?;
        let expected = next.unwrap_or(record.seq);
        if record.seq != expected {
            return Err(RestoreError::Order { expected, found: record.seq });
        }
        next = Some(record.seq.next());
        match record.fact {
            JournalFact::Founded { network: theirs, .. } if theirs != network => {
                return Err(RestoreError::OtherNetwork { theirs, ours: network });
            }
            JournalFact::Founded { node: theirs, .. } if theirs != config.node => {
                return Err(RestoreError::OtherNode { theirs, ours: config.node });
            }
            JournalFact::Founded { .. } => {}
            JournalFact::Saved { states: own, copies: others } => {
                (states, copies, saved) = (own.into_vec(), others.into_vec(), Some(record.seq));
            }
            fact @ (JournalFact::Proposed { .. }
            | JournalFact::Voted { .. }
            | JournalFact::Decided { .. }
            | JournalFact::Bound { .. }
            | JournalFact::State { .. }
            | JournalFact::Chunk { .. }
            | JournalFact::Step { .. }
            | JournalFact::Taking { .. }) => past.take(record.seq, fact).map_err(contradiction)?,
        }
    }
    let range = config.genesis.model.all_layers();
    if states.is_empty() && config.stages() == range {
        // Weights that the founder brought along are a state that every journal of this network begins with.
        let first = config.genesis.first.clone();
        states.extend(first.map(|snapshot| SavedState { range, snapshot, progress: Progress::default() }));
    }
    past.check().map_err(contradiction)?;
    let fits = |SavedState { range: LayerRange { start, end }, snapshot, .. }: &SavedState| {
        start < end && *end <= range.end && (*start..*end).len() == snapshot.layers.len()
    };
    match states.iter().chain(&copies).find(|state| !fits(state)) {
        Some(state) => Err(RestoreError::OtherModel { step: state.snapshot.step }),
        None => Ok(Facts { next: next.unwrap_or_default(), shelf: Shelf::new(states, copies), saved, past }),
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("network", &self.network)
            .field("node", &self.config.node)
            .field("now", &self.now)
            .field("mode", &self.mode())
            .field("step", &self.model_step())
            .finish_non_exhaustive()
    }
}
