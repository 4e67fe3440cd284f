//! Blobs in memory: what one stage of a pipeline makes for another, kept until it is dropped or the process ends.
//!
//! A blob is held as often as it was put, and goes when it was let go of as often: two sequences of equal tokens make one stream,
//! and what is trained again makes the blobs of the first time before the last of those is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use neuroshard_proto::Hash;

use super::StoreError;
use crate::net::outline::Outline;

/// Bytes of all transient blobs together: of a pipeline with 64 microbatches in flight, what comes and goes both ways fits up
/// to 2 MiB a microbatch.
pub const TRANSIENT_BYTES_MAX: u64 = 512 << 20;

/// A blob in memory. Readers share it.
#[derive(Debug)]
pub struct Passing {
    hash: Hash,
    pub bytes: Vec<u8>,
    outline: OnceLock<Option<Outline>>,
}

impl Passing {
    /// The blob's outline, which is worked out once; `None` if the blob is too large for one.
    pub fn outline(&self) -> Option<&Outline> {
        let outline = self.outline.get_or_init(|| Outline::of_checked(self.hash, &self.bytes));
        outline.as_ref()
    }
}

/// See the module.
pub(super) struct Transient {
    kept: Mutex<Kept>,
    bytes_max: u64,
}

#[derive(Default)]
struct Kept {
    /// With how often each is held.
    blobs: BTreeMap<Hash, (Arc<Passing>, u64)>,
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

    /// Holds bytes under their hash, which the caller has worked out.
    pub(super) fn put(&self, hash: Hash, bytes: Vec<u8>) -> Result<(), StoreError> {
        debug_assert_eq!(hash, Hash::of_blob(&bytes), "blobs lie under their own hash");
        let needed = bytes.len() as u64;
        let mut kept = self.lock();
        if let Some((_, held)) = kept.blobs.get_mut(&hash) {
            *held += 1;
            return Ok(());
        }
        if needed > self.bytes_max - kept.bytes {
            return Err(StoreError::Transient { needed, used: kept.bytes, max: self.bytes_max });
        }
        kept.bytes += needed;
        kept.blobs.insert(hash, (Arc::new(Passing { hash, bytes, outline: OnceLock::new() }), 1));
        Ok(())
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<Arc<Passing>> {
        self.lock().blobs.get(hash).map(|(blob, _)| Arc::clone(blob))
    }

    /// Lets go of a blob once; whether it was here.
    pub(super) fn remove(&self, hash: &Hash) -> bool {
        let mut kept = self.lock();
        let Some((blob, held)) = kept.blobs.get_mut(hash) else { return false };
        *held -= 1;
        if *held == 0 {
            let bytes = blob.bytes.len() as u64;
            kept.blobs.remove(hash);
            kept.bytes -= bytes;
        }
        true
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

    fn put(transient: &Transient, bytes: Vec<u8>) -> Result<Hash, StoreError> {
        let hash = Hash::of_blob(&bytes);
        transient.put(hash, bytes).map(|()| hash)
    }

    #[test]
    fn blobs_take_room_once_up_to_the_bound_and_make_room_when_they_go() {
        let transient = Transient::new(10);
        let first = put(&transient, vec![1; 6]).unwrap();
        let full = put(&transient, vec![2; 5]).unwrap_err();
        assert!(matches!(full, StoreError::Transient { needed: 5, used: 6, max: 10 }), "{full}");
        put(&transient, vec![2; 4]).unwrap();
        assert!(transient.remove(&first) && !transient.remove(&first));
        put(&transient, vec![3; 6]).unwrap();
        assert_eq!(transient.bytes(), 10);
    }

    #[test]
    fn a_blob_goes_when_all_who_put_it_let_go_of_it() {
        let transient = Transient::new(10);
        let first = put(&transient, vec![1; 6]).unwrap();
        assert_eq!(put(&transient, vec![1; 6]).unwrap(), first);
        assert_eq!(transient.bytes(), 6, "it takes its room once");
        assert!(transient.remove(&first) && transient.get(&first).is_some());
        assert!(transient.remove(&first) && transient.get(&first).is_none());
        assert_eq!(transient.bytes(), 0);
    }
}
