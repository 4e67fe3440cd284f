//! The newest durable state of a data directory, for readers beside the node that may be training in it.

use std::path::Path;

use neuroshard_proto::{Hash, LayerIndex, ModelSpec, Snapshot};
use neuroshard_shaders::layout::LayerLayout;

use super::ExchangeError;
use crate::home::Visit;
use crate::network::Network;
use crate::store::{Damage, Store, StoreError};

/// How often a reader begins anew because the node dropped what it was reading.
const ATTEMPTS: u32 = 5;

/// A saved state of a network's model. Reading it changes nothing and holds up nobody.
#[derive(Debug)]
pub struct SavedModel {
    pub network: Network,
    pub snapshot: Snapshot,
    store: Store,
}

impl SavedModel {
    /// Looks for the newest state that is durable.
    ///
    /// # Errors
    /// [`ExchangeError::NoWeights`] before the first one, [`ExchangeError::Part`] of a member that has no copies of the
    /// others' stages, and whatever is damaged.
    pub fn open(root: &Path) -> Result<Self, ExchangeError> {
        let Visit { network, store, core, .. } = Visit::open(root)?;
        let all = network.genesis.model.all_layers();
        match (core.whole_state(), core.saved_states().last()) {
            (Some(snapshot), _) => Ok(Self { network, snapshot, store }),
            (None, None) if core.config().stages() == all => Err(ExchangeError::NoWeights { path: root.to_owned() }),
            (None, newest) => {
                let stages = newest.map_or(core.config().stages(), |state| state.range);
                Err(ExchangeError::Part { path: root.to_owned(), stages, all })
            }
        }
    }

    /// Reads from the newest state. A node that trains meanwhile keeps a state for one or two snapshots more; a reader that
    /// is slower than that begins anew with the newest one.
    ///
    /// # Errors
    /// As [`Self::open`], and whatever `read` answers.
    pub fn read<T>(root: &Path, read: impl Fn(&Self) -> Result<T, ExchangeError>) -> Result<T, ExchangeError> {
        persevere(|| Self::open(root), |model| model.snapshot.clone(), read)
    }

    pub const fn model(&self) -> &ModelSpec {
        &self.network.genesis.model
    }

    /// A stage's weights as they are stored: singles, little-endian, tensors in canonical order.
    ///
    /// # Errors
    /// If the blob is missing or damaged.
    pub fn stage_bytes(&self, layer: LayerIndex) -> Result<Vec<u8>, ExchangeError> {
        let hash = self.snapshot.layers.get(layer.0 as usize).map_or_else(Hash::default, |blobs| blobs.weights);
        let bytes = self.store.get(&hash)?;
        if bytes.len() != 4 * LayerLayout::new(self.model(), layer).elements {
            return Err(StoreError::Blob { hash, what: Damage::Length }.into());
        }
        Ok(bytes)
    }

    /// The weights of all stages, a vector each.
    ///
    /// # Errors
    /// As [`Self::stage_bytes`].
    pub fn weights(&self) -> Result<Vec<Vec<f32>>, ExchangeError> {
        let single = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
        let stage = |layer| Ok(self.stage_bytes(layer)?.as_chunks().0.iter().map(single).collect());
        self.model().all_layers().iter().map(stage).collect()
    }
}

/// Opens and reads until nothing goes missing between the two; gives up if it was not a newer state that took it away.
fn persevere<M, K: PartialEq, T>(
    mut open: impl FnMut() -> Result<M, ExchangeError>,
    key: impl Fn(&M) -> K,
    read: impl Fn(&M) -> Result<T, ExchangeError>,
) -> Result<T, ExchangeError> {
    let mut dropped = None;
    for _ in 1..ATTEMPTS {
        // A database is open once in a process, so the last one must be gone here.
        let model = open()?;
        match read(&model) {
            Err(ExchangeError::Store(StoreError::Blob { what: Damage::Missing, .. }))
                if dropped.as_ref() != Some(&key(&model)) =>
            {
                tracing::debug!("a state was dropped while it was read");
                dropped = Some(key(&model));
            }
            other => return other,
        }
    }
    read(&open()?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn missing() -> ExchangeError {
        StoreError::Blob { hash: Hash::default(), what: Damage::Missing }.into()
    }

    /// Reads of states that open one after the other, of which those below `whole` are dropped meanwhile.
    fn read(states: &[u32], whole: u32) -> (Option<u32>, usize) {
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            Ok(states[opened.get() - 1])
        };
        let found = persevere(open, |state| *state, |state| if *state < whole { Err(missing()) } else { Ok(*state) });
        (found.ok(), opened.get())
    }

    #[test]
    fn a_state_that_was_dropped_is_followed_by_the_newest() {
        assert_eq!(read(&[7], 5), (Some(7), 1));
        assert_eq!(read(&[3, 4, 6], 5), (Some(6), 3));
        assert_eq!(read(&[0, 1, 2, 3, 5], 5), (Some(5), 5));
    }

    #[test]
    fn what_is_missing_for_another_reason_is_told_at_once() {
        assert_eq!(read(&[3, 3, 6], 5), (None, 2));
        assert_eq!(read(&[0, 1, 2, 3, 4, 6], 5), (None, 5));
    }
}
