//! Blobs in memory: what one stage of a pipeline makes for another, kept until it is dropped or the process ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use neuroshard_proto::Hash;

use super::StoreError;

/// Bytes of all transient blobs together: of a pipeline with 64 microbatches in flight, what comes and goes both ways fits up
/// to 2 MiB a microbatch.
pub const TRANSIENT_BYTES_MAX: u64 = 512 << 20;

/// See the module. Readers share the bytes.
pub(super) struct Transient {
    kept: Mutex<Kept>,
    bytes_max: u64,
}

#[derive(Default)]
struct Kept {
    blobs: BTreeMap<Hash, Arc<Vec<u8>>>,
    bytes: u64,
}

impl fmt::Debug for Transient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.lock();
        f.debug_struct("Transient").field("blobs", &kept.blobs.len()).field("bytes", &kept.bytes).finish()
    }
}

impl Transient {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { kept: Mutex::default(), bytes_max }
    }

    /// Keeps bytes under their hash.
    pub(super) fn put(&self, bytes: Vec<u8>) -> Result<Hash, StoreError> {
        let (hash, needed) = (Hash::of_blob(&bytes), bytes.len() as u64);
        let mut kept = self.lock();
        if kept.blobs.contains_key(&hash) {
            return Ok(hash);
        }
        if needed > self.bytes_max - kept.bytes {
            return Err(StoreError::Transient { needed, used: kept.bytes, max: self.bytes_max });
        }
        kept.bytes += needed;
        kept.blobs.insert(hash, Arc::new(bytes));
        Ok(hash)
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<Arc<Vec<u8>>> {
        self.lock().blobs.get(hash).cloned()
    }

    /// Lets go of a blob and says how many bytes it had.
    pub(super) fn remove(&self, hash: &Hash) -> Option<u64> {
        let mut kept = self.lock();
        let bytes = kept.blobs.remove(hash)?.len() as u64;
        kept.bytes -= bytes;
        Some(bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_kept_once_up_to_the_bound_and_make_room_when_they_go() {
        let transient = Transient::new(10);
        let first = transient.put(vec![1; 6]).unwrap();
        assert_eq!(transient.put(vec![1; 6]).unwrap(), first, "kept once");
        assert_eq!(transient.bytes(), 6);
        let full = transient.put(vec![2; 5]).unwrap_err();
        assert!(matches!(full, StoreError::Transient { needed: 5, used: 6, max: 10 }), "{full}");
        transient.put(vec![2; 4]).unwrap();
        assert_eq!((transient.remove(&first), transient.remove(&first)), (Some(6), None));
        transient.put(vec![3; 6]).unwrap();
        assert_eq!(transient.bytes(), 10);
    }
}
