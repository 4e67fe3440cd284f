//! A node's disk: a journal whose last records may not be synced yet, and blobs. Bytes that many disks hold are kept once.
//!
//! Records lie in the journal with their length, as in a real one, so that a record torn by a crash is seen at the next start
//! and everything from it on is gone. A sync covers what was written when it began; what is written meanwhile waits for the
//! next.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use neuroshard_proto::{Hash, JournalSeq};

/// What a node finds again after a crash.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    records: VecDeque<Rc<[u8]>>,
    /// Place of the first of them.
    first: JournalSeq,
    /// Records before this one are durable.
    durable: JournalSeq,
    syncing: Option<JournalSeq>,
    blobs: BTreeSet<Hash>,
}

/// What a crash did to the tail that was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Torn {
    pub(crate) kept: u64,
    pub(crate) torn: u64,
    pub(crate) lost: u64,
}

impl Disk {
    pub(crate) const fn new() -> Self {
        Self {
            records: VecDeque::new(),
            first: JournalSeq(0),
            durable: JournalSeq(0),
            syncing: None,
            blobs: BTreeSet::new(),
        }
    }

    /// Appends a record.
    pub(crate) fn write(&mut self, seq: JournalSeq, bytes: Rc<[u8]>) {
        if self.records.is_empty() {
            self.first = seq;
        }
        assert_eq!(seq, self.end(), "records come in order");
        self.records.push_back(bytes);
    }

    /// Begins to sync, if there is something to sync and no sync is under way; answers up to which record.
    pub(crate) fn begin_sync(&mut self) -> Option<JournalSeq> {
        let last = JournalSeq(self.end().0.checked_sub(1).filter(|_| !self.records.is_empty())?);
        if self.syncing.is_some() || last < self.durable {
            return None;
        }
        self.syncing = Some(last);
        Some(last)
    }

    /// A sync is done.
    pub(crate) fn synced(&mut self, upto: JournalSeq) {
        self.syncing = None;
        self.durable = self.durable.max(upto.next());
    }

    /// The last record that survives a crash for certain.
    pub(crate) fn durable_upto(&self) -> Option<JournalSeq> {
        self.durable.0.checked_sub(1).map(JournalSeq)
    }

    /// The records that would survive a crash for certain.
    pub(crate) fn durable(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.records.iter().take(self.durable_records()).map(|record| &**record)
    }

    /// All records, in order.
    pub(crate) fn journal(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().map(|record| &**record)
    }

    /// Deletes the records before this one.
    pub(crate) fn trim(&mut self, before: JournalSeq) {
        while self.first < before && self.records.pop_front().is_some() {
            self.first = self.first.next();
        }
    }

    /// The power goes: of the records that were not synced the first `keep` survive, the next one in part if `torn`. Then
    /// the disk is read as at a start: everything from the first record on that is not whole is cut off.
    pub(crate) fn crash(&mut self, keep: u32, torn: bool) -> Torn {
        let durable = self.durable_records();
        let waiting = self.records.len() - durable;
        let kept = waiting.min(keep as usize);
        // A piece of the next record reached the disk, shorter than the length before it says.
        let torn = usize::from(torn && waiting > kept);
        self.records.truncate(durable + kept);
        self.syncing = None;
        if !self.records.is_empty() {
            self.durable = self.end();
        }
        Torn { kept: kept as u64, torn: torn as u64, lost: (waiting - kept - torn) as u64 }
    }

    /// The place after the last record.
    fn end(&self) -> JournalSeq {
        JournalSeq(self.first.0 + self.records.len() as u64)
    }

    fn durable_records(&self) -> usize {
        self.records.len().min(self.durable.0.saturating_sub(self.first.0) as usize)
    }

    pub(crate) fn put_blobs(&mut self, blobs: impl IntoIterator<Item = Hash>) {
        self.blobs.extend(blobs);
    }

    /// Whether a blob was there to delete.
    pub(crate) fn drop_blob(&mut self, hash: &Hash) -> bool {
        self.blobs.remove(hash)
    }

    pub(crate) const fn blobs(&self) -> &BTreeSet<Hash> {
        &self.blobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(records: u64, synced: u64) -> Disk {
        let mut disk = Disk::new();
        (0..synced).for_each(|seq| disk.write(JournalSeq(seq), vec![seq as u8; 40].into()));
        if let Some(upto) = disk.begin_sync() {
            disk.synced(upto);
        }
        (synced..records).for_each(|seq| disk.write(JournalSeq(seq), vec![seq as u8; 40].into()));
        disk
    }

    fn left(disk: &Disk) -> Vec<u8> {
        disk.journal().map(|record| record[0]).collect()
    }

    #[test]
    fn a_crash_takes_nothing_that_was_synced_and_leaves_a_prefix_of_the_rest() {
        for (keep, torn, expected) in [
            (0, false, Torn { kept: 0, torn: 0, lost: 4 }),
            (2, false, Torn { kept: 2, torn: 0, lost: 2 }),
            (2, true, Torn { kept: 2, torn: 1, lost: 1 }),
            (9, true, Torn { kept: 4, torn: 0, lost: 0 }),
        ] {
            let mut disk = disk(7, 3);
            assert_eq!(disk.crash(keep, torn), expected);
            assert_eq!(left(&disk), (0..3 + expected.kept as u8).collect::<Vec<_>>());
            assert_eq!(disk.durable().count(), left(&disk).len(), "what survived is durable");
        }
    }

    #[test]
    fn a_sync_covers_what_was_written_when_it_began() {
        let mut disk = disk(2, 0);
        assert_eq!(disk.begin_sync(), Some(JournalSeq(1)));
        disk.write(JournalSeq(2), vec![2].into());
        assert_eq!(disk.begin_sync(), None, "one sync at a time");
        disk.synced(JournalSeq(1));
        assert_eq!((disk.durable_upto(), disk.durable().count()), (Some(JournalSeq(1)), 2));
        assert_eq!(disk.begin_sync(), Some(JournalSeq(2)));
        disk.synced(JournalSeq(2));
        assert_eq!(disk.begin_sync(), None);
    }

    #[test]
    fn trimmed_records_are_gone() {
        let mut disk = disk(5, 5);
        disk.trim(JournalSeq(3));
        assert_eq!(left(&disk), [3, 4]);
    }
}
