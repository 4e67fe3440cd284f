//! Transactions that a node owes the network by itself: what it can (PROTOCOL §2), and its share of the beacon (§11).
//!
//! A validator binds itself to a random value in each epoch and reveals it in the next. The value is a journal record before
//! its commitment is signed: who forgot a value in a crash could not reveal it, and would be barred for an hour.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Action, Author, Transaction, random_commitment};
use neuroshard_proto::{Hash, Stream, Tier};
use serde::Serialize;

use super::{Chain, room};
use crate::cx::Cx;
use crate::journal::JournalFact;
use crate::ledger::Standing;

/// Values kept: of this epoch and the one before, and some that came too late.
pub(crate) const VALUES_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Duties {
    tier: Option<Tier>,
    /// What this node bound itself to, by epoch.
    values: BTreeMap<u64, Hash>,
    draws: Stream,
    /// The last epochs in which each was done: describe, commit, reveal.
    described: Option<u64>,
    committed: Option<u64>,
    revealed: Option<u64>,
}

impl Duties {
    pub(super) fn new(seed: &Hash) -> Self {
        let draws = Stream::new(seed, "beacon", 0);
        Self { tier: None, values: BTreeMap::new(), draws, described: None, committed: None, revealed: None }
    }

    pub(super) fn measured(&mut self, tier: Tier) {
        self.tier = Some(tier);
    }

    /// Takes up a value of an earlier life.
    pub(super) fn recall(&mut self, epoch: u64, value: Hash) {
        self.values.insert(epoch, value);
        while self.values.len() > VALUES_MAX {
            self.values.pop_first();
        }
        // The commitment may have been lost with the crash, or not: made again with the same value, it is the same.
        self.committed = self.committed.filter(|last| *last != epoch);
    }

    /// The values of this node, by epoch.
    pub(super) fn values(&self) -> Vec<(u64, Hash)> {
        self.values.iter().map(|(epoch, value)| (*epoch, *value)).collect()
    }

    fn draw(&mut self) -> Hash {
        let mut bytes = [0; 32];
        for (to, from) in bytes.chunks_mut(8).zip([0; 4].map(|_: u8| self.draws.next_u64())) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        Hash::from_bytes(bytes)
    }
}

impl Chain {
    /// Sends what is owed in this epoch and was not sent yet.
    pub(super) fn do_duties(&mut self, cx: &mut Cx<'_>) {
        let (me, epoch) = (cx.config.node, self.ledger.epoch());
        let Some(known) = self.ledger.node(&me).filter(|known| known.standing == Standing::Good) else { return };
        let described = known.description;
        let author = Author::Node { node: me, epoch };
        let today = described.map(|description| description.held);
        if let Some(tier) = self.duties.tier
            && self.duties.described != Some(epoch)
            && let Some(held) = room::held(cx.config, &self.ledger, cx.liveness, today)
        {
            let (memory_bytes, storage_bytes) = (cx.config.operator.memory_bytes, cx.config.operator.disk_bytes);
            let same = described.is_some_and(|one| {
                (one.memory_bytes, one.storage_bytes, one.tier, one.held) == (memory_bytes, storage_bytes, tier, held)
            });
            self.duties.described = Some(epoch);
            if !same {
                let action = Action::DescribeNode { memory_bytes, storage_bytes, tier, held };
                self.wish(cx, Transaction { author, action }, None);
            }
        }
        if self.ledger.seats().weight(&me) == 0 {
            return;
        }
        let before = epoch.checked_sub(1).filter(|_| self.duties.revealed != Some(epoch));
        if let Some(value) = before.and_then(|before| self.duties.values.get(&before)).copied() {
            self.duties.revealed = Some(epoch);
            self.wish(cx, Transaction { author, action: Action::RevealRandom { value } }, None);
        }
        if self.duties.committed != Some(epoch) {
            self.duties.committed = Some(epoch);
            let (value, record) = match self.duties.values.get(&epoch) {
                Some(value) => (*value, None),
                None => {
                    let value = self.duties.draw();
                    let record = self.write(cx, JournalFact::Bound { epoch, value });
                    self.duties.recall(epoch, value);
                    self.duties.committed = Some(epoch);
                    (value, Some(record))
                }
            };
            let commitment = random_commitment(me, epoch, &value);
            self.wish(cx, Transaction { author, action: Action::CommitRandom { commitment } }, record);
        }
    }
}
