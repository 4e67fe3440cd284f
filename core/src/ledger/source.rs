//! Where a core's ledgers come from: worked out, or known already.

use alloc::fmt::Debug;
use alloc::sync::Arc;

use neuroshard_proto::Genesis;
use neuroshard_proto::chain::Block;

use super::{BlockError, Ledger};

/// Works out ledgers. Both functions are pure, so a process that holds many nodes of one network may work each ledger out once
/// and let all nodes share it: [`crate::Core::restore_sharing`]. An answer that is not that of [`Computed`] breaks everything.
pub trait Ledgers: Debug + Send + Sync {
    /// [`Ledger::genesis`].
    fn genesis(&self, genesis: &Genesis) -> Ledger;

    /// [`Ledger::apply`], without the receipts.
    ///
    /// # Errors
    /// As [`Ledger::apply`].
    fn after(&self, before: &Ledger, block: &Block) -> Result<Ledger, BlockError>;
}

/// Works out every ledger.
#[derive(Clone, Copy, Debug, Default)]
pub struct Computed;

impl Ledgers for Computed {
    fn genesis(&self, genesis: &Genesis) -> Ledger {
        Ledger::genesis(genesis)
    }

    fn after(&self, before: &Ledger, block: &Block) -> Result<Ledger, BlockError> {
        before.apply(block).map(|(after, _)| after)
    }
}

/// A source that a process shares.
pub(crate) type Source = Arc<dyn Ledgers>;
