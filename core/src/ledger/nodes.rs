//! Nodes: who may speak for whom, and what they can do (PROTOCOL §1, §2, §8).
//!
//! An owner registers a node with the node's consent, and pays with a puzzle or a fee. A node's key is good once: a revoked
//! or convicted node stays in the registry, so that evidence still finds its owner and nobody starts anew under its name.
//!
//! Protocol messages of nodes cost nothing and are limited by what is at stake: each least bond behind a node allows so
//! many an epoch.

use neuroshard_proto::chain::{consent_digest, puzzle_bits};
use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Amount, Founder, LayerRange, NodeId, OwnerId, QuorumId, Signature, Tier, verify};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use super::accounts::Account;
use super::activity::{Activity, Successes};
use super::part::Module;
use super::tree::{Tree, TreeRoot};
use super::{Refusal, State, quorums, stake};

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Node {
    pub owner: OwnerId,
    pub standing: Standing,
    /// The epoch of its registration.
    pub since: u64,
    pub description: Option<Description>,
    pub activity: Activity,
    pub successes: Successes,
    /// Messages sent in an epoch: the epoch, and how many.
    pub sent: (u64, u32),
    /// Who attested first that it lives, and in which epoch.
    pub witness: Option<(u64, NodeId)>,
    /// The last quorum that it joined, while that is remembered; its session may be over.
    pub quorum: Option<QuorumId>,
}

/// Whether a node may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Standing {
    Good,
    /// Its owner revoked it.
    Revoked,
    /// It contradicted itself.
    Convicted,
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Description {
    /// The epoch in which it said so.
    pub epoch: u64,
    pub memory_bytes: u64,
    pub storage_bytes: u64,
    pub tier: Tier,
    pub held: LayerRange,
}

impl Node {
    pub(super) const fn new(owner: OwnerId, since: u64) -> Self {
        Self {
            owner,
            standing: Standing::Good,
            since,
            description: None,
            activity: Activity::NONE,
            successes: Successes::NONE,
            sent: (0, 0),
            witness: None,
            quorum: None,
        }
    }
}

/// All nodes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Nodes {
    root: TreeRoot,
    #[serde(skip)]
    pub(super) tree: Tree<NodeId, Node>,
}

impl Canonical for Nodes {}

impl Module for Nodes {
    const NAME: &'static str = "nodes";
    const PLACE: u64 = 4;

    fn seal(&mut self) {
        self.tree.seal();
        self.root = self.tree.commitment();
    }
}

impl Nodes {
    pub(super) fn genesis(founders: &[Founder]) -> Self {
        let mut nodes = Self::default();
        for founder in founders {
            nodes.tree.insert(founder.node, Node::new(founder.owner, 0));
        }
        nodes
    }

    /// A node that may speak.
    pub(super) fn good(&self, node: &NodeId) -> Result<&Node, Refusal> {
        let known = self.tree.get(node).filter(|known| known.standing == Standing::Good);
        known.ok_or(Refusal::Node { node: *node })
    }

    /// What the trees must be to fit the digest.
    pub(super) const fn root(&self) -> TreeRoot {
        self.root
    }
}

/// How many least bonds stand behind each of an owner's nodes. A founder with power counts as one.
pub(super) fn bonds_behind(state: &State, node: &NodeId, owner: &OwnerId) -> u64 {
    let account = state.accounts.get(owner);
    let each = account.bond.units().checked_div(u64::from(account.nodes)).unwrap_or_default();
    let bonds = each.checked_div(state.rules.params.money.bond_min.units()).unwrap_or_default();
    bonds.max(u64::from(state.validators.is_founder(node, &state.rules.params)))
}

/// Registers a node.
pub(super) fn register(
    state: &mut State,
    owner: OwnerId,
    mut account: Account,
    (node, consent, puzzle): (NodeId, &Signature, Option<u64>),
) -> Result<Amount, Refusal> {
    let (network, params) = (state.rules.network, state.rules.params);
    if state.nodes.tree.get(&node).is_some() {
        return Err(Refusal::Known { node });
    }
    let fee = match puzzle {
        None => params.money.registration_fee,
        Some(nonce) => {
            let (bits, wanted) = (puzzle_bits(network, node, nonce), params.nodes.puzzle_bits);
            if bits < wanted {
                return Err(Refusal::Puzzle { bits, wanted });
            }
            Amount::ZERO
        }
    };
    account.pay(fee)?;
    // The signature is checked last: it costs more than everything before.
    if !verify(&node, &consent_digest(network, owner, node), consent) {
        return Err(Refusal::Consent { node });
    }
    account.nodes = account.nodes.saturating_add(1);
    account.validator.get_or_insert(node);
    let since = state.clock.epoch;
    state.nodes.edit().tree.insert(node, Node::new(owner, since));
    stake::put(state, owner, account, fee);
    Ok(fee)
}

/// Revokes a node of the account.
pub(super) fn revoke(state: &mut State, owner: OwnerId, mut account: Account, node: NodeId) -> Result<Amount, Refusal> {
    if state.nodes.good(&node)?.owner != owner {
        return Err(Refusal::Owner { node });
    }
    let fee = state.rules.params.money.fee_min;
    account.pay(fee)?;
    retire(state, &mut account, node, Standing::Revoked);
    stake::put(state, owner, account, fee);
    Ok(fee)
}

/// Takes a node's voice. The caller stores the account of its owner.
pub(super) fn retire(state: &mut State, account: &mut Account, node: NodeId, standing: Standing) {
    let Some(mut known) = state.nodes.tree.get(&node).cloned() else { return };
    let before = core::mem::replace(&mut known.standing, standing);
    let last = known.activity.last();
    state.nodes.edit().tree.insert(node, known);
    // Who was revoked and is convicted of what it signed before was taken off all counts then.
    if before != Standing::Good {
        return;
    }
    if let Some(epoch) = last {
        state.counts.edit().forget(epoch);
    }
    account.nodes = account.nodes.saturating_sub(1);
    if account.validator == Some(node) {
        account.validator = None;
    }
    state.validators.edit().dismiss(&node);
}

/// Takes up what a node says of itself, once an epoch.
pub(super) fn describe(state: &mut State, node: NodeId, description: Description) -> Result<(), Refusal> {
    let (held, stages) = (description.held, state.rules.stages);
    if held.start >= held.end || held.end > stages {
        return Err(Refusal::Layers { stages });
    }
    let mut known = state.nodes.good(&node)?.clone();
    if known.description.is_some_and(|earlier| earlier.epoch == description.epoch) {
        return Err(Refusal::Described);
    }
    known.description = Some(description);
    state.nodes.edit().tree.insert(node, known);
    Ok(())
}

/// Whether a node may send one more message in this epoch.
pub(super) fn check_quota(state: &State, node: &NodeId) -> Result<(), Refusal> {
    let (known, params) = (state.nodes.good(node)?, &state.rules.params.nodes);
    // A place in an active quorum, of which there are few, counts as a bond here.
    let place = u32::from(quorums::quorum_of(state, node).is_some());
    let bonds = u32::try_from(bonds_behind(state, node, &known.owner)).unwrap_or(u32::MAX).max(place);
    let allowed = params.messages_per_bond.saturating_mul(bonds).min(params.messages_max);
    let max = allowed.max(params.messages_unbonded);
    let (epoch, sent) = known.sent;
    if epoch == state.clock.epoch && sent >= max {
        return Err(Refusal::Quota { max });
    }
    Ok(())
}

/// Counts a message.
pub(super) fn count_message(state: &mut State, node: &NodeId) {
    let now = state.clock.epoch;
    let Some(mut known) = state.nodes.tree.get(node).cloned() else { return };
    let (epoch, sent) = known.sent;
    known.sent = (now, if epoch == now { sent.saturating_add(1) } else { 1 });
    state.nodes.edit().tree.insert(*node, known);
}
