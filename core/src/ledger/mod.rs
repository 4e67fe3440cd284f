//! Agreed state (PROTOCOL §0.1): what every honest node computes identically from the blocks that were decided.
//!
//! [`Ledger`] is a value: [`Ledger::apply`] takes a block and returns the ledger after it, and copies cost nothing. It
//! knows no clock but block time and no peer but keys. Signatures on transactions were checked when their message was
//! opened ([`Verified::open`](neuroshard_proto::Verified::open)); a transaction that does not apply makes its block invalid.
//!
//! The state is a row of modules of one shape, each a file: a struct that is its state, handlers for its
//! [`Action`](neuroshard_proto::chain::Action)s, and perhaps a hook at epochs' ends. A new one is a file, a field of
//! `State`, and an arm in `apply`. The state's root is a Merkle root over the modules' digests, each cached until the
//! module changes; what there are many of hangs in trees of its own, so [`Ledger::prove_account`] and its like show one entry
//! to whoever knows a finalized header.

use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{
    BLOCK_BYTES_MAX, Block, Certificate, Header, Seats, SignedTransaction, TRANSACTIONS_MAX,
};
use neuroshard_proto::{
    Amount, Domain, Genesis, Hash, LayerIndex, LayerRange, List, NetworkId, NodeId, OwnerId, Params, QuorumId, Ratio,
    Step, Time, codec, merkle, mutant,
};

mod accounts;
mod activity;
mod anchors;
mod apply;
mod beacon;
mod clock;
mod evidence;
pub mod light;
mod money;
mod nodes;
mod part;
mod proof;
mod quorums;
mod refusal;
mod rules;
mod source;
mod stake;
pub mod sync;
pub mod tree;
mod validators;

pub use accounts::{Account, UNBONDINGS_MAX, Unbonding};
pub use activity::{Activity, Successes, reputation};
pub use anchors::{Anchor, Post, Stage};
pub use nodes::{Description, Node, Standing};
pub use proof::{MODULE_BYTES_MAX, StateProof};
pub use quorums::Quorum;
pub use refusal::{BlockError, Refusal};
pub(crate) use source::Source;
pub use source::{Computed, Ledgers};
pub use validators::Candidate;

use accounts::Accounts;
use activity::Counts;
use anchors::Anchors;
use beacon::Beacon;
use clock::Clock;
use money::Money;
use nodes::Nodes;
use part::Part;
use quorums::Quorums;
use rules::Rules;
use validators::Validators;

/// How many modules there are.
const MODULES: usize = 10;

/// The modules, in the order of their digests.
#[derive(Clone, Debug)]
struct State {
    rules: Part<Rules>,
    clock: Part<Clock>,
    money: Part<Money>,
    accounts: Part<Accounts>,
    nodes: Part<Nodes>,
    counts: Part<Counts>,
    validators: Part<Validators>,
    beacon: Part<Beacon>,
    quorums: Part<Quorums>,
    anchors: Part<Anchors>,
}

impl State {
    /// The digests of all modules.
    fn seal(&mut self) -> [Hash; MODULES] {
        [
            self.rules.seal(),
            self.clock.seal(),
            self.money.seal(),
            self.accounts.seal(),
            self.nodes.seal(),
            self.counts.seal(),
            self.validators.seal(),
            if mutant("beacon left out of the root") { Hash::default() } else { self.beacon.seal() },
            self.quorums.seal(),
            self.anchors.seal(),
        ]
    }
}

/// The last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 0 before the first block.
    pub height: u64,
    /// The block's id; the network's before the first.
    pub id: Hash,
    /// Block time.
    pub time: Time,
}

/// What a transaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The transaction's name: its digest.
    pub transaction: Hash,
    /// What it burned: its fee, or the bond of whom it convicted.
    pub burned: Amount,
}

/// A block that a leader may propose.
#[derive(Clone, Debug)]
pub struct Draft {
    pub block: Block,
    /// The ledger after it.
    pub ledger: Ledger,
    /// Candidates that were left out, by their place, and why. Those for which there was no room are not among them.
    pub refused: Vec<(usize, Refusal)>,
}

/// The agreed state after a block. Two with equal roots are equal.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    head: Head,
    state: State,
    digests: [Hash; MODULES],
    root: Hash,
    seats: Arc<Seats>,
    seats_hash: Hash,
}

impl Ledger {
    /// The state before the first block: the founders' nodes are registered and vote, and allocated money exists.
    /// [`Genesis::check`] has passed.
    pub fn genesis(genesis: &Genesis) -> Self {
        let rules = Rules::genesis(genesis);
        let head = Head { height: 0, id: rules.network.0, time: Time::ZERO };
        let (mut accounts, mut money) = (Accounts::default(), Money::default());
        for allocation in &genesis.allocations {
            let mut account = accounts.get(&allocation.owner);
            account.balance = account.balance.saturating_add(allocation.amount);
            money.minted = money.minted.saturating_add(allocation.amount);
            accounts.put(allocation.owner, account);
        }
        for founder in &genesis.founders {
            let mut account = accounts.get(&founder.owner);
            account.nodes = account.nodes.saturating_add(1);
            account.validator.get_or_insert(founder.node);
            accounts.put(founder.owner, account);
        }
        let beacon = Beacon::genesis(&genesis.seed);
        let fade = genesis.params.validators.founders_fade.units();
        let validators = Validators::genesis(&genesis.founders, fade, *beacon.current());
        let state = State {
            rules: Part::new(rules),
            clock: Part::new(Clock::default()),
            money: Part::new(money),
            accounts: Part::new(accounts),
            nodes: Part::new(Nodes::genesis(&genesis.founders)),
            counts: Part::new(Counts::genesis()),
            validators: Part::new(validators),
            beacon: Part::new(beacon),
            quorums: Part::new(Quorums::default()),
            anchors: Part::new(Anchors::default()),
        };
        money::assert_conserved(&state);
        Self::seal(head, state, None)
    }

    fn seal(head: Head, mut state: State, before: Option<&Inner>) -> Self {
        let digests = state.seal();
        let root = root_of(&digests);
        let kept = before.filter(|before| *before.seats == *state.validators.seats());
        let (seats, seats_hash) = match kept {
            Some(before) => (Arc::clone(&before.seats), before.seats_hash),
            None => (Arc::new(state.validators.seats().clone()), state.validators.seats().hash()),
        };
        Self { inner: Arc::new(Inner { head, state, digests, root, seats, seats_hash }) }
    }

    /// The ledger after a block, and what each transaction did.
    ///
    /// # Errors
    /// The first rule that the block breaks; this ledger is as it was.
    ///
    /// # Panics
    /// If money were not conserved: a mistake in the ledger itself.
    pub fn apply(&self, block: &Block) -> Result<(Self, Vec<Receipt>), BlockError> {
        let Inner { head, state, .. } = &*self.inner;
        apply::check_header(state, head, block)?;
        let (header, network) = (&block.header, self.network());
        let mut state = state.clone();
        apply::begin(&mut state, head, (header.proposer, header.time), block.finality.as_ref())?;
        let mut receipts = Vec::new();
        for (place, signed) in (0..).zip(&block.transactions) {
            let refused = |refusal| BlockError::Transaction { place, refusal };
            let burned = apply::transaction(&mut state, signed).map_err(refused)?;
            receipts.push(Receipt { transaction: signed.transaction.digest(network), burned });
        }
        apply::finish(&mut state);
        let head = Head { height: header.height, id: header.id(), time: header.time };
        let next = Self::seal(head, state, Some(&self.inner));
        if header.state != next.inner.root {
            return Err(BlockError::State { expected: next.inner.root, found: header.state });
        }
        if header.seats != next.inner.seats_hash {
            return Err(BlockError::Seats { expected: next.inner.seats_hash, found: header.seats });
        }
        if header.beacon != next.beacon() {
            return Err(BlockError::Beacon { expected: next.beacon(), found: header.beacon });
        }
        Ok((next, receipts))
    }

    /// Makes a block of what applies among the candidates, in their order. `time` is raised to the least that is allowed;
    /// `finality` is the head's finalization and goes in where the block begins an epoch.
    ///
    /// # Errors
    /// [`BlockError::Proposer`] without a seat, [`BlockError::Empty`] if nothing applies and no block is due, and the
    /// errors of a finalization that is missing or is none.
    pub fn draft<'a>(
        &self,
        proposer: NodeId,
        time: Time,
        finality: Option<&Certificate>,
        candidates: impl IntoIterator<Item = &'a SignedTransaction>,
    ) -> Result<Draft, BlockError> {
        let Inner { head, state, .. } = &*self.inner;
        let time = time.max(head.time.after_ms(1));
        let finality = finality.filter(|_| self.wants_finality());
        let mut state = state.clone();
        apply::begin(&mut state, head, (proposer, time), finality)?;
        // The rest of the block takes less than this.
        let mut bytes = u64::from(Header::BYTES_RESERVED).saturating_add(codec::encoded_len(&finality));
        let (mut chosen, mut refused) = (Vec::new(), Vec::new());
        for (place, signed) in candidates.into_iter().enumerate() {
            let longer = bytes.saturating_add(codec::encoded_len(signed));
            if longer > u64::from(BLOCK_BYTES_MAX) || chosen.len() >= usize::try_from(TRANSACTIONS_MAX).unwrap_or(0) {
                break;
            }
            match apply::transaction(&mut state, signed) {
                Ok(_) => (chosen, bytes) = (push(chosen, signed.clone()), longer),
                Err(refusal) => refused.push((place, refusal)),
            }
        }
        let due = self.next_due();
        if chosen.is_empty() && time < due {
            return Err(BlockError::Empty { due });
        }
        apply::finish(&mut state);
        let mut ledger = Self::seal(*head, state, Some(&self.inner));
        let header = Header {
            network: self.network(),
            height: head.height.saturating_add(1),
            parent: head.id,
            time,
            proposer,
            transactions: Block::transactions_root(&chosen),
            state: ledger.root(),
            seats: ledger.inner.seats_hash,
            beacon: ledger.beacon(),
            finality: Block::finality_hash(finality),
        };
        Arc::make_mut(&mut ledger.inner).head = Head { height: header.height, id: header.id(), time };
        let transactions = List::try_from(chosen);
        assert!(transactions.is_ok(), "no more were chosen than a block may hold");
        let block = Block { header, transactions: transactions.unwrap_or_default(), finality: finality.cloned() };
        Ok(Draft { block, ledger, refused })
    }

    /// Whether a transaction would apply to the next block as things stand.
    ///
    /// # Errors
    /// Why it would not; [`Refusal::is_premature`] says whether it may later.
    pub fn admits(&self, signed: &SignedTransaction) -> Result<(), Refusal> {
        apply::transaction(&mut self.inner.state.clone(), signed).map(|_| ())
    }

    /// The last block.
    pub fn head(&self) -> Head {
        self.inner.head
    }

    /// The root over all modules: what the header of the last block names.
    pub fn root(&self) -> Hash {
        self.inner.root
    }

    /// Who decides the next block.
    pub fn seats(&self) -> &Arc<Seats> {
        &self.inner.seats
    }

    /// When a block is due even without transactions: where an epoch ends, or where protocol time would stand still (see
    /// PROTOCOL §0.2). An empty block before this time is invalid.
    pub fn next_due(&self) -> Time {
        self.inner.state.clock.next_due(&self.params())
    }

    /// When this epoch ends if blocks come when they are due.
    pub fn next_epoch_end(&self) -> Time {
        let clock = &self.inner.state.clock;
        clock.time.after_ms(clock.epoch_rest_ms(&self.params()).max(1))
    }

    /// Whether the next block begins an epoch and must carry the head's finalization.
    pub fn wants_finality(&self) -> bool {
        apply::wants_finality(&self.inner.state)
    }

    /// The epoch that the next block belongs to.
    pub fn epoch(&self) -> u64 {
        self.inner.state.clock.epoch
    }

    /// Protocol time since genesis, in milliseconds (PROTOCOL §0.2).
    pub fn protocol_ms(&self) -> u64 {
        self.inner.state.clock.protocol_ms
    }

    /// The beacon's value in this epoch.
    pub fn beacon(&self) -> Hash {
        *self.inner.state.beacon.current()
    }

    /// The agreed network size `n` in this epoch (PROTOCOL §0.2).
    pub fn size(&self) -> u64 {
        self.inner.state.counts.size
    }

    /// Money that was ever minted, and that was ever burned.
    pub fn supply(&self) -> (Amount, Amount) {
        (self.inner.state.money.minted, self.inner.state.money.burned)
    }

    pub fn network(&self) -> NetworkId {
        self.inner.state.rules.network
    }

    pub fn params(&self) -> Params {
        self.inner.state.rules.params
    }

    /// An owner's account; `None` if nothing ever happened to it.
    pub fn account(&self, owner: &OwnerId) -> Option<&Account> {
        self.inner.state.accounts.tree.get(owner)
    }

    /// A node that was ever registered.
    pub fn node(&self, node: &NodeId) -> Option<&Node> {
        self.inner.state.nodes.tree.get(node)
    }

    /// Shows what the state holds for an owner, to whoever knows a finalized header.
    pub fn prove_account(&self, owner: &OwnerId) -> StateProof<OwnerId, Account> {
        let accounts = &self.inner.state.accounts;
        StateProof::new(&self.inner.digests, &**accounts, accounts.tree.prove(owner))
    }

    /// Shows what the state holds for a node.
    pub fn prove_node(&self, node: &NodeId) -> StateProof<NodeId, Node> {
        let nodes = &self.inner.state.nodes;
        StateProof::new(&self.inner.digests, &**nodes, nodes.tree.prove(node))
    }

    /// Shows what the state holds for a quorum.
    pub fn prove_quorum(&self, id: &QuorumId) -> StateProof<QuorumId, Quorum> {
        let quorums = &self.inner.state.quorums;
        StateProof::new(&self.inner.digests, &**quorums, quorums.tree.prove(id))
    }

    /// Shows what was posted of a stage.
    pub fn prove_stage(&self, layer: LayerIndex) -> StateProof<LayerIndex, Stage> {
        let anchors = &self.inner.state.anchors;
        StateProof::new(&self.inner.digests, &**anchors, anchors.tree.prove(&layer))
    }

    /// A quorum that is remembered; its session may be over ([`Quorum::is_active`]).
    pub fn quorum(&self, id: &QuorumId) -> Option<&Quorum> {
        self.inner.state.quorums.tree.get(id)
    }

    /// The active quorum that a node is taken by.
    pub fn quorum_of(&self, node: &NodeId) -> Option<(QuorumId, &Quorum)> {
        quorums::quorum_of(&self.inner.state, node)
    }

    /// The quorums whose sessions are under way.
    pub fn active_quorums(&self) -> impl Iterator<Item = (QuorumId, &Quorum)> {
        let all = self.inner.state.quorums.tree.iter();
        all.filter(|(_, quorum)| quorum.is_active(self.protocol_ms())).map(|(id, quorum)| (*id, quorum))
    }

    /// The newest step of which the states of all stages were posted; `None` while training begins with the genesis.
    pub fn anchor(&self) -> Option<Anchor> {
        self.inner.state.anchors.newest
    }

    /// Where the anchor's states of these stages lie, in order; nothing before the first anchor.
    pub fn anchored(&self, range: LayerRange) -> impl Iterator<Item = &Post> {
        self.inner.state.anchors.stages(range)
    }

    /// What was posted of a stage; `None` before the first post.
    pub fn stage(&self, layer: LayerIndex) -> Option<&Stage> {
        self.inner.state.anchors.tree.get(&layer)
    }

    /// The newest step after which a node posted these stages.
    pub fn posted(&self, node: &NodeId, stages: LayerRange) -> Option<Step> {
        let stage = self.inner.state.anchors.tree.get(&LayerIndex(stages.start))?;
        stage.posts.iter().filter(|post| post.node == *node).map(|post| post.anchor.step).max()
    }

    /// Whether a node was there for long enough to be a member of a quorum (PROTOCOL §2): a new one is.
    pub fn is_steady(&self, node: &NodeId) -> bool {
        self.node(node).is_some_and(|known| quorums::is_steady(&self.inner.state, known))
    }

    /// All nodes that were ever registered.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.inner.state.nodes.tree.iter()
    }

    /// How many nodes are registered.
    pub fn nodes_count(&self) -> u64 {
        self.inner.state.nodes.tree.len()
    }

    /// The registered node at this place of the order they are kept in; for drawing some of many.
    pub fn node_at(&self, place: u64) -> Option<(&NodeId, &Node)> {
        self.inner.state.nodes.tree.nth(place)
    }

    /// A node's agreed uptime over the last 100 epochs; `None` if it is new or unknown (PROTOCOL §3).
    pub fn uptime(&self, node: &NodeId) -> Option<Ratio> {
        let known = self.node(node)?;
        known.activity.uptime(known.since, self.epoch())
    }

    /// A node's reputation (PROTOCOL §3).
    pub fn reputation(&self, node: &NodeId) -> Option<Ratio> {
        let known = self.node(node)?;
        Some(reputation(self.uptime(node), known.successes.share()))
    }

    /// The peers that may attest in this epoch that a node lives.
    pub fn attesters(&self, subject: &NodeId) -> Vec<NodeId> {
        activity::attesters(&self.inner.state, subject)
    }
}

/// The state's root over its modules' digests.
fn root_of(digests: &[Hash]) -> Hash {
    Domain::LedgerState.hash(merkle::root(digests).as_bytes())
}

fn push<T>(mut list: Vec<T>, item: T) -> Vec<T> {
    list.push(item);
    list
}
