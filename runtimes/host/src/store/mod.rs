//! What a node keeps: the journal of its core and the blobs its executor works on.
//!
//! LMDB holds the journal, the history of the node's account, an index of all blobs, and the blobs of up to
//! [`INLINE_BYTES_MAX`]; larger ones are files named
//! by their hash. Every write is durable when its call returns: LMDB commits with plain syncs, and a file is complete and
//! durable before the index names it. Whatever is read is checked against its hash first.
//!
//! A crash can leave a file that the index does not name, or a blob that no journal record names, because its answer was
//! still on the way; [`Store::collect`] removes both.
//!
//! What members of a pipeline pass on lies in memory alone, up to [`TRANSIENT_BYTES_MAX`]; [`Store::get`] finds it too,
//! [`Store::get_stored`], from which everybody is served, does not.

mod error;
mod files;
mod integrity;
mod remembered;
mod scribe;
mod transient;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use heed::byteorder::BigEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RwTxn, WithoutTls};
use neuroshard_proto::{Fault, Hash, JournalSeq, mutant};
use neuroshard_shaders::executor::Blobs;

use self::error::database_error;
pub use self::error::{Bytes as ByteCount, Damage, StoreError};
use self::files::BlobFiles;
pub use self::remembered::{Memory, REMEMBERED_MAX};
pub use self::scribe::{Scribe, ScribeReport, StoreOrder};
use self::transient::Transient;
pub use self::transient::{Passing, TRANSIENT_BYTES_MAX};
use crate::directory::Paths;

/// Blobs above this lie in files of their own.
pub const INLINE_BYTES_MAX: u64 = 1 << 20;

/// Address space for LMDB; the file is sparse and grows as it is used. Systems that give less get less.
const MAP_BYTES: usize = 1 << 40;
const MAP_BYTES_MIN: usize = 1 << 28;

/// Bytes of BLAKE3 behind each journal record.
const CHECK_BYTES: usize = 32;

/// Tags of an index entry's first byte.
const INLINE: u8 = 0;
const IN_FILE: u8 = 1;

type Journal = Database<'static, U64<BigEndian>, Bytes>;
type Index = Database<'static, Bytes, Bytes>;
/// Journal, index of blobs, and the own account's history; a store of an earlier version has none until a node opens it.
type Databases = (Journal, Index, Option<Index>);

/// Who else may use the store at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The process that locked the data directory: reads and writes.
    Exclusive,
    /// A reader beside it.
    ReadOnly,
}

/// A node's journal and blobs.
pub struct Store {
    env: Env<WithoutTls>,
    journal: Journal,
    index: Index,
    history: Option<Index>,
    files: BlobFiles,
    transient: Transient,
    /// Bytes of all blobs on disk.
    used: AtomicU64,
    /// Bytes that blobs may take together.
    budget: u64,
    path: PathBuf,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).field("used", &self.used).finish_non_exhaustive()
    }
}

/// What [`Store::collect`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub blobs: u64,
    pub bytes: u64,
}

impl Store {
    /// Opens the store of a data directory, creating it if it is new. `budget` limits the bytes of all blobs together.
    ///
    /// # Errors
    /// If the database is damaged or the disk fails.
    pub fn open(paths: &Paths, opening: Opening, budget: u64) -> Result<Self, StoreError> {
        Self::open_within(paths, opening, budget, MAP_BYTES)
    }

    /// Opens a store whose database takes at most `map` bytes.
    fn open_within(paths: &Paths, opening: Opening, budget: u64, map: usize) -> Result<Self, StoreError> {
        let path = paths.database();
        // LMDB trusts its pages. What a failing disk did to them is found here, not by a crash later. A node that runs has
        // looked before, and its pages change under a reader's eyes.
        let held_off = (opening == Opening::ReadOnly).then(|| paths.hold_off_nodes());
        if !matches!(held_off, Some(None)) {
            integrity::check(&path.join("data.mdb"))?;
        }
        drop(held_off);
        let env = open_environment(&path, opening, map)?;
        let (journal, index, history) = open_databases(&env, opening, &path)?;
        let (files, transient) = (BlobFiles::new(paths.blobs()), Transient::new(TRANSIENT_BYTES_MAX));
        let store = Self { env, journal, index, history, files, transient, used: AtomicU64::new(0), budget, path };
        store.used.store(store.count_bytes()?, Ordering::Relaxed);
        Ok(store)
    }

    /// Bytes of all blobs on disk.
    pub fn bytes_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes of all blobs that lie in memory alone.
    pub fn transient_bytes(&self) -> u64 {
        self.transient.bytes()
    }

    /// Appends records to the journal in one durable transaction: all of them or none.
    ///
    /// # Errors
    /// If the disk is full or fails. Nothing was appended then, and the call may be repeated.
    ///
    /// # Panics
    /// If the records do not continue the journal: a core numbers its records without gaps.
    pub fn append<'a>(&self, records: impl IntoIterator<Item = (JournalSeq, &'a [u8])>) -> Result<(), StoreError> {
        let mut transaction = self.write()?;
        let last = self.journal.last(&transaction).map_err(|e| self.fail(e, 0))?;
        let mut next = last.map(|(seq, _)| seq.saturating_add(1));
        for (seq, record) in records {
            assert!(next.is_none_or(|next| next == seq.0), "journal record {seq} after {next:?}");
            next = Some(seq.0.saturating_add(1));
            let value = [record, check(seq, record).as_bytes()].concat();
            let put = self.journal.put(&mut transaction, &seq.0, &value);
            put.map_err(|e| self.fail(e, value.len() as u64))?;
        }
        transaction.commit().map_err(|e| self.fail(e, 0))
    }

    /// Removes the journal's records before this one. The last record stays, so that the numbers go on.
    ///
    /// # Errors
    /// If the disk is full or fails; nothing was removed then.
    pub fn trim(&self, before: JournalSeq) -> Result<(), StoreError> {
        let mut transaction = self.write()?;
        let last = self.journal.last(&transaction).map_err(|e| self.fail(e, 0))?;
        let end = last.map_or(0, |(last, _)| last.min(before.0));
        self.journal.delete_range(&mut transaction, &(..end)).map_err(|e| self.fail(e, 0))?;
        transaction.commit().map_err(|e| self.fail(e, 0))
    }

    /// Hands out the journal's records in order until `visit` breaks.
    ///
    /// # Errors
    /// The first record that is damaged or missing.
    pub fn records(&self, mut visit: impl FnMut(JournalSeq, &[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
        let records = self.journal.len(&transaction).map_err(|e| self.fail(e, 0))?;
        let mut expected = None;
        for entry in self.journal.iter(&transaction).map_err(|e| self.fail(e, 0))? {
            let (seq, value) = entry.map_err(|e| self.fail(e, 0))?;
            let seq = JournalSeq(seq);
            let damaged = |what| StoreError::Journal { path: self.path.clone(), seq, records, what };
            if expected.is_some_and(|expected| expected != seq.0) {
                return Err(damaged(Damage::Missing));
            }
            expected = Some(seq.0.saturating_add(1));
            let Some((record, stored)) = value.split_last_chunk::<CHECK_BYTES>() else {
                return Err(damaged(Damage::Length));
            };
            if check(seq, record).as_bytes() != stored {
                return Err(damaged(Damage::Hash));
            }
            if visit(seq, record).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Number of records in the journal.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn journal_len(&self) -> Result<u64, StoreError> {
        let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
        self.journal.len(&transaction).map_err(|e| self.fail(e, 0))
    }

    /// Stores a blob under its hash.
    ///
    /// # Errors
    /// If the budget or the disk is full, or the disk fails.
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, StoreError> {
        self.put_all(&[bytes]).map(|hashes| hashes[0])
    }

    /// Stores blobs, all of the small ones in one transaction.
    ///
    /// # Errors
    /// As [`Self::put`]; none of the small blobs is stored then.
    pub fn put_all(&self, blobs: &[&[u8]]) -> Result<Vec<Hash>, StoreError> {
        let mut hashes = Vec::with_capacity(blobs.len());
        let mut new = Vec::new();
        let mut needed = 0_u64;
        for bytes in blobs {
            let hash = Hash::of_blob(bytes);
            hashes.push(hash);
            // A blob that is here but damaged is written anew.
            let stored = if mutant("stored because it passes") { self.get(&hash) } else { self.get_stored(&hash) };
            if stored.is_err() && !new.iter().any(|(other, _)| *other == hash) {
                new.push((hash, *bytes));
                needed = needed.saturating_add(bytes.len() as u64);
            }
        }
        if self.bytes_used().saturating_add(needed) > self.budget {
            return Err(StoreError::Budget { needed, used: self.bytes_used(), budget: self.budget });
        }
        for (hash, bytes) in new.iter().filter(|(_, bytes)| bytes.len() as u64 > INLINE_BYTES_MAX) {
            self.files.write(hash, bytes)?;
        }
        let mut transaction = self.write()?;
        for (hash, bytes) in &new {
            let entry = if bytes.len() as u64 > INLINE_BYTES_MAX {
                [&[IN_FILE][..], &(bytes.len() as u64).to_le_bytes()].concat()
            } else {
                [&[INLINE][..], bytes].concat()
            };
            let put = self.index.put(&mut transaction, hash.as_bytes(), &entry);
            put.map_err(|e| self.fail(e, needed))?;
        }
        transaction.commit().map_err(|e| self.fail(e, needed))?;
        self.used.fetch_add(needed, Ordering::Relaxed);
        Ok(hashes)
    }

    /// Keeps a blob in memory until it is removed as often as it was put, or the process ends.
    ///
    /// # Errors
    /// [`StoreError::Transient`] if those that are kept leave no room.
    pub fn put_transient(&self, bytes: Vec<u8>) -> Result<Hash, StoreError> {
        let hash = Hash::of_blob(&bytes);
        self.transient.put(hash, bytes).map(|()| hash)
    }

    /// As [`Self::put_transient`], for bytes that were checked to have this hash.
    ///
    /// # Errors
    /// As [`Self::put_transient`].
    pub fn put_checked(&self, hash: Hash, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.transient.put(hash, bytes)
    }

    /// A blob in memory.
    pub fn passing(&self, hash: &Hash) -> Option<Arc<Passing>> {
        self.transient.get(hash)
    }

    /// The bytes behind a hash, from memory or from the disk.
    ///
    /// # Errors
    /// [`StoreError::Blob`] if they are missing or damaged.
    pub fn get(&self, hash: &Hash) -> Result<Vec<u8>, StoreError> {
        match self.transient.get(hash) {
            Some(blob) => Ok(blob.bytes.clone()),
            None => self.get_stored(hash),
        }
    }

    /// The bytes behind a hash, from the disk alone.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_stored(&self, hash: &Hash) -> Result<Vec<u8>, StoreError> {
        let damaged = |what| StoreError::Blob { hash: *hash, what };
        let bytes = {
            let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
            let entry = self.index.get(&transaction, hash.as_bytes()).map_err(|e| self.fail(e, 0))?;
            match Entry::read(entry.ok_or_else(|| damaged(Damage::Missing))?) {
                Some(Entry::Inline(bytes)) => bytes.to_vec(),
                Some(Entry::File(len)) => self.files.read(hash, len)?,
                None => return Err(damaged(Damage::Length)),
            }
        };
        if Hash::of_blob(&bytes) != *hash { Err(damaged(Damage::Hash)) } else { Ok(bytes) }
    }

    /// Whether a blob is in memory or named by the index.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn contains(&self, hash: &Hash) -> Result<bool, StoreError> {
        if self.transient.get(hash).is_some() {
            return Ok(true);
        }
        self.is_stored(hash)
    }

    fn is_stored(&self, hash: &Hash) -> Result<bool, StoreError> {
        let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
        Ok(self.index.get(&transaction, hash.as_bytes()).map_err(|e| self.fail(e, 0))?.is_some())
    }

    /// Removes blobs, from memory and from the disk; those that are not there are passed over. Says what went from the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove(&self, hashes: &[Hash]) -> Result<Collected, StoreError> {
        let mut stored = Vec::new();
        for hash in hashes {
            // What was in memory is seldom on the disk as well, and a transaction waits for the disk.
            if !self.transient.remove(hash) || self.is_stored(hash)? {
                stored.push(*hash);
            }
        }
        if stored.is_empty() { Ok(Collected::default()) } else { self.remove_stored(&stored) }
    }

    fn remove_stored(&self, hashes: &[Hash]) -> Result<Collected, StoreError> {
        let mut removed = Collected::default();
        let mut files = Vec::new();
        let mut transaction = self.write()?;
        for hash in hashes {
            let entry = self.index.get(&transaction, hash.as_bytes()).map_err(|e| self.fail(e, 0))?;
            let Some(entry) = entry else { continue };
            removed.blobs += 1;
            match Entry::read(entry) {
                Some(Entry::Inline(bytes)) => removed.bytes += bytes.len() as u64,
                Some(Entry::File(len)) => {
                    removed.bytes += len;
                    files.push(*hash);
                }
                None => {}
            }
            self.index.delete(&mut transaction, hash.as_bytes()).map_err(|e| self.fail(e, 0))?;
        }
        transaction.commit().map_err(|e| self.fail(e, 0))?;
        // After the index, so that it never names a file that is gone.
        for hash in &files {
            self.files.remove(hash)?;
        }
        self.used.fetch_sub(removed.bytes.min(self.bytes_used()), Ordering::Relaxed);
        Ok(removed)
    }

    /// Removes what a crash left behind: blobs that `named` does not hold, and files that no blob needs.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn collect(&self, named: &BTreeSet<Hash>) -> Result<Collected, StoreError> {
        let (mut orphans, mut in_files) = (Vec::new(), BTreeSet::new());
        {
            let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
            for entry in self.index.iter(&transaction).map_err(|e| self.fail(e, 0))? {
                let (key, value) = entry.map_err(|e| self.fail(e, 0))?;
                let Ok(key) = <[u8; 32]>::try_from(key) else { continue };
                let hash = Hash::from_bytes(key);
                if !named.contains(&hash) {
                    orphans.push(hash);
                } else if matches!(Entry::read(value), Some(Entry::File(_))) {
                    in_files.insert(hash);
                }
            }
        }
        let mut collected = Collected::default();
        for part in orphans.chunks(256) {
            let removed = self.remove_stored(part)?;
            collected.blobs += removed.blobs;
            collected.bytes += removed.bytes;
        }
        let files = self.files.remove_all_but(&in_files)?;
        collected.blobs += files.blobs;
        collected.bytes += files.bytes;
        Ok(collected)
    }

    fn count_bytes(&self) -> Result<u64, StoreError> {
        let transaction = self.env.read_txn().map_err(|e| self.fail(e, 0))?;
        let mut sum = 0_u64;
        for entry in self.index.iter(&transaction).map_err(|e| self.fail(e, 0))? {
            let (_, value) = entry.map_err(|e| self.fail(e, 0))?;
            sum = sum.saturating_add(match Entry::read(value) {
                Some(Entry::Inline(bytes)) => bytes.len() as u64,
                Some(Entry::File(len)) => len,
                None => 0,
            });
        }
        Ok(sum)
    }

    fn write(&self) -> Result<RwTxn<'_>, StoreError> {
        self.env.write_txn().map_err(|e| self.fail(e, 0))
    }

    fn fail(&self, error: heed::Error, needed: u64) -> StoreError {
        database_error(&self.path, error, needed)
    }
}

/// A record's check: over its number too, so that two records cannot change places.
fn check(seq: JournalSeq, record: &[u8]) -> Hash {
    Hash::of_blob(&[&seq.0.to_be_bytes(), record].concat())
}

enum Entry<'a> {
    Inline(&'a [u8]),
    File(u64),
}

impl<'a> Entry<'a> {
    fn read(value: &'a [u8]) -> Option<Self> {
        match value.split_first()? {
            (&INLINE, bytes) => Some(Self::Inline(bytes)),
            (&IN_FILE, len) => len.try_into().ok().map(|len| Self::File(u64::from_le_bytes(len))),
            _ => None,
        }
    }
}

fn open_environment(path: &Path, opening: Opening, mut map: usize) -> Result<Env<WithoutTls>, StoreError> {
    loop {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map).max_dbs(3);
        // SAFETY: `READ_ONLY` is none of the flags that give up LMDB's guarantees.
        unsafe {
            if opening == Opening::ReadOnly {
                options.flags(EnvFlags::READ_ONLY);
            }
        }
        // SAFETY: the map is backed by a file of the data directory, which its lock reserves for one writing process;
        // readers of other processes are coordinated by LMDB's own lock file.
        match unsafe { options.open(path) } {
            Err(heed::Error::Io(error)) if error.kind() == std::io::ErrorKind::OutOfMemory && map > MAP_BYTES_MIN => {
                map /= 2;
            }
            other => return other.map_err(|e| database_error(path, e, 0)),
        }
    }
}

fn open_databases(env: &Env<WithoutTls>, opening: Opening, path: &Path) -> Result<Databases, StoreError> {
    let fail = |e| database_error(path, e, 0);
    let opened: Result<_, heed::Error> = match opening {
        Opening::Exclusive => env.create_databases_and_commit(env.write_txn().map_err(fail)?, |open, transaction| {
            let journal = open.create_database::<U64<BigEndian>, Bytes>(transaction, Some("journal"))?;
            let index = open.create_database::<Bytes, Bytes>(transaction, Some("blobs"))?;
            let history = open.create_database::<Bytes, Bytes>(transaction, Some("history"))?;
            Ok(CommitOrAbort::<_, ()>::Commit((Some(journal), Some(index), Some(history))))
        }),
        Opening::ReadOnly => env.open_databases_and_commit(env.read_txn().map_err(fail)?, |open, transaction| {
            let journal = open.open_database::<U64<BigEndian>, Bytes>(transaction, Some("journal"))?;
            let index = open.open_database::<Bytes, Bytes>(transaction, Some("blobs"))?;
            let history = open.open_database::<Bytes, Bytes>(transaction, Some("history"))?;
            Ok(CommitOrAbort::<_, ()>::Commit((journal, index, history)))
        }),
    };
    match opened.map_err(fail)? {
        CommitOrAbort::Commit((Some(journal), Some(index), history)) => Ok((journal, index, history)),
        _ => Err(StoreError::Empty { path: path.to_owned() }),
    }
}

/// The store as an executor sees it.
#[derive(Clone, Debug)]
pub struct StoreBlobs(pub Arc<Store>);

impl Blobs for StoreBlobs {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        self.0.get(hash).map_err(Fault::from)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault> {
        self.0.put(bytes).map_err(Fault::from)
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        self.0.put_transient(bytes).map_err(Fault::from)
    }
}

#[cfg(test)]
mod tests;
