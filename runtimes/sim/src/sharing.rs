//! What the nodes of a world have in common and hold once: ledgers after the same block, and journal records of the same bytes.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use neuroshard_core::ledger::{BlockError, Computed, Ledger, Ledgers};
use neuroshard_proto::chain::Block;
use neuroshard_proto::{Genesis, Hash};

/// Blocks whose ledgers are remembered: the newest. A node that is further behind works its ledgers out itself.
const BLOCKS_MAX: usize = 256;

/// Ledgers that one node has worked out and all nodes share.
#[derive(Debug, Default)]
pub(crate) struct SharedLedgers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    genesis: Option<(Hash, Ledger)>,
    after: BTreeMap<Hash, (Block, Ledger)>,
    order: VecDeque<Hash>,
}

impl Ledgers for SharedLedgers {
    fn genesis(&self, genesis: &Genesis) -> Ledger {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let network = genesis.network().0;
        match &known.genesis {
            Some((of, ledger)) if *of == network => ledger.clone(),
            _ => known.genesis.insert((network, Computed.genesis(genesis))).1.clone(),
        }
    }

    fn after(&self, before: &Ledger, block: &Block) -> Result<Ledger, BlockError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = block.header.id();
        if let Some((same, after)) = known.after.get(&id)
            // A header names its parent, and what its block holds; but a liar's block may hold something else.
            && before.head().id == block.header.parent
            && same == block
        {
            return Ok(after.clone());
        }
        let after = Computed.after(before, block)?;
        if known.after.insert(id, (block.clone(), after.clone())).is_none() {
            known.order.push_back(id);
        }
        if known.order.len() > BLOCKS_MAX
            && let Some(oldest) = known.order.pop_front()
        {
            known.after.remove(&oldest);
        }
        Ok(after)
    }
}

/// Bytes on disks, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    kept: HashSet<Rc<[u8]>>,
    /// At so many, those that no disk holds any more are let go.
    sweep_at: usize,
}

impl Pool {
    /// The one copy of these bytes.
    pub(crate) fn share(&mut self, bytes: &[u8]) -> Rc<[u8]> {
        if let Some(kept) = self.kept.get(bytes) {
            return Rc::clone(kept);
        }
        if self.kept.len() >= self.sweep_at {
            self.kept.retain(|kept| Rc::strong_count(kept) > 1);
            self.sweep_at = (2 * self.kept.len()).max(1024);
        }
        let shared: Rc<[u8]> = bytes.into();
        self.kept.insert(Rc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_bytes_are_one_and_bytes_that_nobody_holds_are_let_go() {
        let mut pool = Pool::default();
        let (one, same) = (pool.share(b"record"), pool.share(b"record"));
        assert!(Rc::ptr_eq(&one, &same));
        (0..10_000_u32).for_each(|number| drop(pool.share(&number.to_le_bytes())));
        assert!(pool.kept.len() <= 1024, "{}", pool.kept.len());
        assert!(Rc::ptr_eq(&one, &pool.share(b"record")));
    }
}
