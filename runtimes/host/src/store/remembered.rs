//! The history of the node's own account, which outlives the blocks that the core keeps.

use std::ops::Bound;

use super::{Store, StoreError};

/// Most entries that are kept; the oldest go first. Whoever pays somebody a million times has paid a million fees.
pub const REMEMBERED_MAX: u64 = 1 << 20;

/// An entry: the block's height, its place in the block, and what to remember.
pub type Memory = (u64, u32, Vec<u8>);

fn key(height: u64, place: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&height.to_be_bytes());
    key[8..].copy_from_slice(&place.to_be_bytes());
    key
}

impl Store {
    /// Remembers entries durably; those of the same place are replaced.
    ///
    /// # Errors
    /// If the disk is full or fails; nothing was remembered then.
    pub fn remember(&self, entries: &[Memory]) -> Result<(), StoreError> {
        self.remember_within(entries, REMEMBERED_MAX)
    }

    fn remember_within(&self, entries: &[Memory], most: u64) -> Result<(), StoreError> {
        let Some(history) = self.history else { return Ok(()) };
        let mut transaction = self.write()?;
        for (height, place, entry) in entries {
            let put = history.put(&mut transaction, &key(*height, *place), entry);
            put.map_err(|e| self.fail(e, entry.len() as u64))?;
        }
        while history.len(&transaction).map_err(|e| self.fail(e, 0))? > most {
            let oldest = history.first(&transaction).map_err(|e| self.fail(e, 0))?.map(|(key, _)| key.to_vec());
            let Some(oldest) = oldest else { break };
            history.delete(&mut transaction, &oldest).map_err(|e| self.fail(e, 0))?;
        }
        transaction.commit().map_err(|e| self.fail(e, 0))
    }

    /// The newest entries of blocks below a height, newest first: so many, and what else the last of these blocks has.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remembered(&self, before: u64, most: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some(history) = self.history else { return Ok(Vec::new()) };
        let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
        let end = key(before, 0);
        let range = (Bound::Unbounded, Bound::Excluded(&end[..]));
        let (mut found, mut last) = (Vec::new(), Vec::new());
        for entry in history.rev_range(&transaction, &range).map_err(|e| self.fail(e, 0))? {
            let (key, bytes) = entry.map_err(|e| self.fail(e, 0))?;
            let height = key.get(..8).unwrap_or_default();
            if found.len() >= most && last != height {
                break;
            }
            last = height.to_vec();
            found.push(bytes.to_vec());
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Opening;
    use super::*;
    use crate::directory::DataDirectory;

    #[test]
    fn entries_come_newest_first_and_are_still_there_in_the_next_life() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(scratch.path()).unwrap();
        let open = || Store::open(directory.paths(), Opening::Exclusive, 1 << 20).unwrap();
        let entry = |height: u64, place: u32| (height, place, format!("{height}/{place}").into_bytes());
        {
            let store = open();
            store.remember(&[entry(7, 0), entry(7, 1), entry(300, 2), entry(5, 9)]).unwrap();
            store.remember(&[entry(7, 1)]).unwrap();
        }
        let store = open();
        let words = |before, most| -> Vec<String> {
            let found = store.remembered(before, most).unwrap();
            found.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
        };
        assert_eq!(words(u64::MAX, 9), ["300/2", "7/1", "7/0", "5/9"]);
        assert_eq!(words(300, 1), ["7/1", "7/0"], "a block is told of as a whole");
        assert_eq!(words(7, 9), ["5/9"]);
        assert!(words(5, 9).is_empty());
        store.remember_within(&[entry(301, 0)], 3).unwrap();
        assert_eq!(words(u64::MAX, 9), ["301/0", "300/2", "7/1"], "the oldest went");
    }
}
