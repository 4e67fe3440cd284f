//! State whose digest is kept until it changes.

use core::cell::Cell;
use core::ops::{Deref, DerefMut};

use neuroshard_proto::codec;
use neuroshard_proto::{Domain, Hash};
use serde::Serialize;

/// A part of the state with the digest of its encoding, which any mutable borrow forgets.
#[derive(Clone, Default)]
pub(crate) struct Part<T> {
    value: T,
    digest: Cell<Option<Hash>>,
}

impl<T> Part<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value, digest: Cell::new(None) }
    }
}

impl<T: Serialize> Part<T> {
    pub(crate) fn digest(&self) -> Hash {
        let digest = self.digest.get().unwrap_or_else(|| Domain::StatePart.hash(&codec::encode(&self.value)));
        self.digest.set(Some(digest));
        digest
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Part<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.digest.set(None);
        &mut self.value
    }
}
