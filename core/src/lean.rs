//! Maps that are empty most of the time. One that was emptied keeps a node of its tree, room for eleven entries; a world of a
//! million nodes feels that.

use alloc::collections::BTreeMap;

/// Removes an entry, and the tree with the last one.
pub(crate) fn remove<K: Ord, V>(map: &mut BTreeMap<K, V>, key: &K) -> Option<V> {
    let removed = map.remove(key);
    if map.is_empty() {
        *map = BTreeMap::new();
    }
    removed
}
