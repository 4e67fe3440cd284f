//! How a module of the agreed state is held: shared until it changes, with its digest kept.

use alloc::sync::Arc;
use core::ops::Deref;

use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Domain, Hash, Hasher};

/// A module's state.
pub(super) trait Module: Clone + Canonical {
    /// Tells its digest from those of others.
    const NAME: &'static str;

    /// Its place in the row of modules, for those whose entries are proved.
    const PLACE: u64 = u64::MAX;

    /// Hashes what hangs in trees, so that the encoding, which leaves trees out, commits to them by their roots.
    fn seal(&mut self) {}
}

/// A module as the ledger holds it: a copy costs nothing, and what did not change is not hashed again.
#[derive(Debug)]
pub(super) struct Part<T> {
    value: Arc<T>,
    digest: Option<Hash>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), digest: self.digest }
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Module> Part<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Arc::new(value), digest: None }
    }

    /// The state, to be changed.
    pub(super) fn edit(&mut self) -> &mut T {
        self.digest = None;
        Arc::make_mut(&mut self.value)
    }

    /// The digest of the state as it is now.
    pub(super) fn seal(&mut self) -> Hash {
        if let Some(digest) = self.digest {
            return digest;
        }
        let value = Arc::make_mut(&mut self.value);
        value.seal();
        *self.digest.insert(digest::<T>(&codec::encode(value)))
    }
}

/// The digest of a module with this encoding.
pub(super) fn digest<T: Module>(encoding: &[u8]) -> Hash {
    let mut hasher = Hasher::new(Domain::LedgerModule);
    hasher.update(T::NAME.as_bytes()).update(&[0]).update(encoding).finish()
}
