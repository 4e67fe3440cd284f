//! The agreed state as a running node's local API shows it: accounts, the network, blocks, and what became of transactions.
//!
//! Amounts are whole units of 10^-9 NEURO. What an answer claims it can prove: accounts and transactions come with the
//! header they belong to and the way from there.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use neuroshard_core::ledger::Ledger;
use neuroshard_core::{Core, DropReason, Event};
use neuroshard_proto::chain::{Decided, Header};
use neuroshard_proto::{Hash, LayerRange, NodeId, OwnerId, Shared, codec};
use serde::{Deserialize, Serialize};

use crate::history::{Entry, entries, history};
use crate::status::AgreedStatus;
use crate::store::{Memory, Store, StoreError};
use crate::training::{self, LayerInfo};
use crate::why::Declined;

/// Blocks that can be asked for: those that the core keeps.
const BLOCKS_MAX: usize = 1024;
/// Dropped transactions whose reason is remembered.
const DROPPED_MAX: usize = 256;
/// Refusals to be in a quorum that are remembered.
const DECLINED_MAX: usize = 64;

/// A network at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    pub network: String,
    /// Decided blocks.
    pub height: u64,
    pub block: String,
    /// Block time, in milliseconds of the network.
    pub time_ms: u64,
    /// Root of the agreed state.
    pub root: String,
    pub epoch: u64,
    pub epoch_ends_ms: u64,
    pub protocol_ms: u64,
    pub beacon: String,
    /// The agreed size `n` (PROTOCOL §0.2), and the phase it makes (PROTOCOL §12).
    pub nodes: u64,
    pub phase: String,
    pub minted_units: u64,
    pub burned_units: u64,
    /// Who decides the next block, each with its weight, and the weight that decides.
    pub validators: Vec<(String, u64)>,
    pub quorum: u64,
    /// Transactions that wait for a block.
    pub waiting: u64,
}

/// An account at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountInfo {
    pub owner: String,
    pub height: u64,
    pub spendable_units: u64,
    pub bond_units: u64,
    pub locked_units: u64,
    /// On its way back from the bond.
    pub unbonding_units: u64,
    pub sequence: u64,
    pub key: String,
    pub nodes: u32,
    /// The header whose state the proof leads to, in canonical encoding and hexadecimal; `None` before the first block.
    pub header: Option<String>,
    /// A [`neuroshard_core::ledger::StateProof`], likewise.
    pub proof: String,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Fate {
    /// It stands in a decided block.
    Decided { height: u64 },
    /// It will not be in a block by this node's doing.
    Dropped { why: String },
    /// It waits, or this node has not heard of it.
    Unknown,
}

/// What API and status read while the loop runs.
#[derive(Debug)]
pub struct Agreed {
    /// Whose account the status shows.
    owner: OwnerId,
    node: NodeId,
    /// The stages of the model.
    all: LayerRange,
    view: Mutex<View>,
}

#[derive(Debug)]
struct View {
    ledger: Ledger,
    blocks: VecDeque<Shared<Decided>>,
    waiting: u64,
    dropped: VecDeque<(Hash, String)>,
    declined: VecDeque<Declined>,
}

impl Agreed {
    /// The agreed world as a core has it, with the account of this owner in the status.
    pub fn new(core: &Core, owner: OwnerId) -> Self {
        let blocks = core.decided_since(0).cloned().collect();
        let (ledger, dropped, declined) = (core.ledger().clone(), VecDeque::new(), VecDeque::new());
        let view = View { ledger, blocks, waiting: 0, dropped, declined };
        let (node, all) = (core.config().node, core.config().genesis.model.all_layers());
        Self { owner, node, all, view: Mutex::new(view) }
    }

    /// Takes note of what the core tells.
    pub(crate) fn on_event(&self, core: &Core, event: &Event) {
        let mut view = self.view();
        view.waiting = core.waiting_transactions() as u64;
        match event {
            Event::BlockDecided { .. } => {
                let next = view.blocks.back().map_or(0, |last| last.block.header.height + 1);
                view.blocks.extend(core.decided_since(next).cloned());
                let surplus = view.blocks.len().saturating_sub(BLOCKS_MAX);
                view.blocks.drain(..surplus);
                view.ledger = core.ledger().clone();
            }
            Event::StateTaken { .. } => {
                // Blocks between are kept by nobody.
                view.blocks = core.decided_since(0).cloned().collect();
                view.ledger = core.ledger().clone();
            }
            Event::TransactionDropped { transaction, why } => {
                view.dropped.push_back((*transaction, drop_text(why)));
                if view.dropped.len() > DROPPED_MAX {
                    view.dropped.pop_front();
                }
            }
            Event::QuorumDeclined { quorum, node, why } => {
                view.declined.push_back(Declined { at: core.now(), node: *node, quorum: *quorum, why: *why });
                if view.declined.len() > DECLINED_MAX {
                    view.declined.pop_front();
                }
            }
            _ => {}
        }
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self) -> AgreedStatus {
        AgreedStatus::new(&self.ledger(), self.owner)
    }

    /// The agreed state. A copy costs nothing.
    pub fn ledger(&self) -> Ledger {
        self.view().ledger.clone()
    }

    pub fn network(&self) -> NetworkInfo {
        let (ledger, waiting) = {
            let view = self.view();
            (view.ledger.clone(), view.waiting)
        };
        network_info(&ledger, waiting)
    }

    /// The node whose world this is.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The stages of the model.
    pub const fn all_stages(&self) -> LayerRange {
        self.all
    }

    /// Who holds, runs and posted each stage.
    pub fn layers(&self) -> Vec<LayerInfo> {
        training::layers(&self.ledger(), self.all)
    }

    /// Who took no part in a quorum that this node proposed, the newest last.
    pub fn declined(&self) -> Vec<Declined> {
        self.view().declined.iter().copied().collect()
    }

    pub fn account(&self, owner: &OwnerId) -> AccountInfo {
        let (ledger, header) = {
            let view = self.view();
            (view.ledger.clone(), view.blocks.back().map(|last| last.block.header))
        };
        account_info(&ledger, header.as_ref(), owner)
    }

    /// The transactions below a height that an account made or that paid it, newest first: in the blocks that are kept, and
    /// those of the node's owner in older blocks too.
    ///
    /// # Errors
    /// If the store fails.
    pub fn history(&self, owner: &OwnerId, before: u64, store: &Store) -> Result<Vec<Entry>, StoreError> {
        let blocks: Vec<_> = self.view().blocks.iter().rev().cloned().collect();
        let remembered = (*owner == self.owner).then_some(store);
        history(blocks.iter().map(|decided| &**decided), remembered, owner, before)
    }

    /// What is to be remembered of the newest blocks, from a height on.
    pub(crate) fn memories(&self, from: u64) -> Vec<Memory> {
        let blocks: Vec<_> = self.view().blocks.iter().rev().cloned().collect();
        let blocks = blocks.iter().take_while(|decided| decided.block.header.height >= from);
        let entries = blocks.flat_map(|decided| entries(decided, &self.owner));
        let memory = |(place, entry): (u32, Entry)| Some((entry.height, place, serde_json::to_vec(&entry).ok()?));
        entries.filter_map(memory).collect()
    }

    /// What became of a transaction.
    pub fn fate(&self, id: &Hash) -> Fate {
        let view = self.view();
        let holds = |decided: &&Shared<Decided>| {
            let block = &decided.block;
            block.transactions.iter().any(|one| one.transaction.digest(block.header.network) == *id)
        };
        if let Some(decided) = view.blocks.iter().rev().find(holds) {
            return Fate::Decided { height: decided.block.header.height };
        }
        let why = view.dropped.iter().rev().find(|(dropped, _)| dropped == id);
        why.map_or(Fate::Unknown, |(_, why)| Fate::Dropped { why: why.clone() })
    }
}

/// The network as a ledger knows it.
pub fn network_info(ledger: &Ledger, waiting: u64) -> NetworkInfo {
    let (head, (minted, burned), seats) = (ledger.head(), ledger.supply(), ledger.seats());
    NetworkInfo {
        network: ledger.network().to_string(),
        height: head.height,
        block: head.id.to_string(),
        time_ms: head.time.as_ms(),
        root: ledger.root().to_string(),
        epoch: ledger.epoch(),
        epoch_ends_ms: ledger.next_epoch_end().as_ms(),
        protocol_ms: ledger.protocol_ms(),
        beacon: ledger.beacon().to_string(),
        nodes: ledger.size(),
        phase: ledger.params().at(ledger.size()).phase.name().to_owned(),
        minted_units: minted.units(),
        burned_units: burned.units(),
        validators: seats.iter().map(|(node, weight)| (node.to_string(), weight)).collect(),
        quorum: seats.quorum(),
        waiting,
    }
}

/// An account as a ledger knows it; `header` is that of the ledger's head.
pub fn account_info(ledger: &Ledger, header: Option<&Header>, owner: &OwnerId) -> AccountInfo {
    let known = ledger.account(owner).cloned();
    let account = known.unwrap_or_else(|| neuroshard_core::ledger::Account::new(*owner));
    let unbonding = account.unbonding.iter().filter(|one| one.free_at_ms > ledger.protocol_ms());
    AccountInfo {
        owner: owner.to_string(),
        height: ledger.head().height,
        spendable_units: account.spendable(ledger.protocol_ms()).units(),
        bond_units: account.bond.units(),
        locked_units: account.locked.units(),
        unbonding_units: unbonding.map(|one| one.amount.units()).sum(),
        sequence: account.sequence,
        key: account.key.to_string(),
        nodes: account.nodes,
        header: header.map(to_hex),
        proof: to_hex(&ledger.prove_account(owner)),
    }
}

fn drop_text(why: &DropReason) -> String {
    match why {
        DropReason::Full => "too many transactions wait; send it again later".to_owned(),
        DropReason::AuthorFull => "too many transactions of this account wait; send it again later".to_owned(),
        DropReason::Taken => "another transaction with this number waits already".to_owned(),
        DropReason::TooOld => "it waited too long for its turn".to_owned(),
        DropReason::Forged => "its signature does not hold".to_owned(),
        DropReason::Refused { why } => why.to_string(),
    }
}

/// The canonical encoding in hexadecimal.
pub fn to_hex<T: Serialize>(value: &T) -> String {
    codec::encode(value).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value from its canonical encoding in hexadecimal; `None` if it is none.
pub fn from_hex<T: codec::Canonical>(text: &str) -> Option<T> {
    let text = text.trim().as_bytes();
    if text.len() as u64 > 2 * u64::from(T::BYTES_MAX) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(16 * digit(*high)? + digit(*low)?)).collect();
    bytes.filter(|_| rest.is_empty()).and_then(|bytes| codec::decode(&bytes).ok())
}
