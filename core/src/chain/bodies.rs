//! Blocks of the height being decided, by id: agreement knows ids only.

use alloc::boxed::Box;
use alloc::vec::Vec;

use neuroshard_proto::Hash;
use neuroshard_proto::chain::Block;
use serde::{Serialize, Serializer};

use crate::ledger::Ledger;

/// Most blocks kept of one height: each view has one at most, and few views pass before one is decided.
const BODIES_MAX: usize = 16;

/// A block that may be decided.
#[derive(Clone, Debug)]
pub(super) struct Body {
    id: Hash,
    /// The view in which it came first; `None` for one of an earlier life.
    view: Option<u64>,
    pub(super) block: Box<Block>,
    /// The ledger after it, once it was applied.
    pub(super) after: Option<Ledger>,
    /// Whether the journal holds it.
    pub(super) written: bool,
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.id, self.view, self.after.is_some(), self.written).serialize(serializer)
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Bodies(Vec<Body>);

impl Bodies {
    /// Keeps the first block of a view; beyond the limit the oldest goes, but for the one that is `locked`.
    pub(super) fn keep(&mut self, block: Block, view: u64, locked: Option<Hash>) {
        let id = block.header.id();
        if self.0.iter().any(|body| body.id == id || body.view == Some(view)) {
            return;
        }
        if self.0.len() >= BODIES_MAX
            && let Some(oldest) = self.0.iter().position(|body| Some(body.id) != locked)
        {
            self.0.remove(oldest);
        }
        self.0.push(Body { id, view: Some(view), block: Box::new(block), after: None, written: false });
    }

    /// Takes up a block that the journal holds.
    pub(super) fn recall(&mut self, block: Block) {
        let (id, block) = (block.header.id(), Box::new(block));
        self.0.push(Body { id, view: None, block, after: None, written: true });
    }

    pub(super) fn get(&self, id: &Hash) -> Option<&Body> {
        self.0.iter().find(|body| body.id == *id)
    }

    pub(super) fn get_mut(&mut self, id: &Hash) -> Option<&mut Body> {
        self.0.iter_mut().find(|body| body.id == *id)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
