//! What a node holds in memory for a while: streams and gradients, each as often as it was made or fetched, and what it has asked
//! others for.

use std::collections::BTreeMap;

use neuroshard_proto::{Hash, RequestId};

/// What passes; without a box while there is nothing, for a world may have a million nodes.
#[derive(Debug, Default)]
pub(crate) struct Passing(Option<Box<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    held: BTreeMap<Hash, u32>,
    asked: BTreeMap<RequestId, Asked>,
}

/// A blob that is being fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) hash: Hash,
    /// Whether it is to be kept on disk.
    pub(crate) keep: bool,
}

impl Passing {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    pub(crate) fn hold(&mut self, hash: Hash) {
        *self.0.get_or_insert_default().held.entry(hash).or_default() += 1;
    }

    /// Lets go of it once; answers whether it was held.
    pub(crate) fn let_go(&mut self, hash: &Hash) -> bool {
        let Some(inner) = &mut self.0 else { return false };
        let Some(times) = inner.held.get_mut(hash) else { return false };
        *times -= 1;
        if *times == 0 {
            inner.held.remove(hash);
        }
        self.tidy();
        true
    }

    pub(crate) fn has(&self, hash: &Hash) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.held.contains_key(hash))
    }

    /// How many are held, each as often as it is.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().flat_map(|inner| inner.held.values()).map(|times| u64::from(*times)).sum()
    }

    pub(crate) fn ask(&mut self, id: RequestId, asked: Asked) {
        self.0.get_or_insert_default().asked.insert(id, asked);
    }

    /// What was asked for, if it has neither come nor been given up.
    pub(crate) fn answered(&mut self, id: RequestId) -> Option<Asked> {
        let asked = self.0.as_mut()?.asked.remove(&id);
        self.tidy();
        asked
    }

    fn tidy(&mut self) {
        if self.0.as_ref().is_some_and(|inner| inner.held.is_empty() && inner.asked.is_empty()) {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_twice_is_let_go_of_twice() {
        let (mut passing, hash) = (Passing::new(), Hash::of_blob(b"stream"));
        passing.hold(hash);
        passing.hold(hash);
        assert!(passing.has(&hash) && passing.len() == 2);
        assert!(passing.let_go(&hash) && passing.has(&hash));
        assert!(passing.let_go(&hash) && !passing.has(&hash) && !passing.let_go(&hash));
        assert!(passing.len() == 0 && passing.0.is_none());
    }

    #[test]
    fn a_fetch_is_answered_once() {
        let (mut passing, asked) = (Passing::new(), Asked { hash: Hash::of_blob(b"weights"), keep: true });
        passing.ask(RequestId(4), asked);
        assert_eq!((passing.answered(RequestId(5)), passing.answered(RequestId(4))), (None, Some(asked)));
        assert!(passing.answered(RequestId(4)).is_none() && passing.0.is_none());
    }
}
