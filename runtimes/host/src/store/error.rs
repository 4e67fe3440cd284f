//! What can be wrong with a store, in words that say what is lost and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use neuroshard_proto::{Fault, Hash, JournalSeq};

use crate::files::{FileError, is_full};

/// What is wrong with stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// They are not there.
    Missing,
    /// They are longer or shorter than they should be.
    Length,
    /// They do not have the hash they should have.
    Hash,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Length => "cut short or too long",
            Self::Hash => "damaged: its bytes do not have the hash they should have",
        })
    }
}

/// Why the store cannot do what it is asked.
#[derive(Debug)]
pub enum StoreError {
    File(FileError),
    /// The database failed.
    Database {
        path: PathBuf,
        source: heed::Error,
    },
    /// The database's structure is damaged.
    Structure {
        path: PathBuf,
        why: String,
    },
    /// There is a database, but nothing was ever stored in it.
    Empty {
        path: PathBuf,
    },
    /// A journal record is damaged, or its predecessor is missing.
    Journal {
        path: PathBuf,
        seq: JournalSeq,
        records: u64,
        what: Damage,
    },
    /// A blob is missing or damaged.
    Blob {
        hash: Hash,
        what: Damage,
    },
    /// No room on the disk.
    Full {
        path: PathBuf,
        needed: u64,
    },
    /// No room in what the operator allows.
    Budget {
        needed: u64,
        used: u64,
        budget: u64,
    },
    /// No room in memory for what members of a pipeline pass on.
    Transient {
        needed: u64,
        used: u64,
        max: u64,
    },
}

/// What to do about data that the disk lost.
const RECOVER: &str = "What this directory holds cannot be trusted any more. Copy a backup of the whole directory back, or \
                       save your keys with `neuroshard keys backup FILE` and start anew with another --data-dir. Check \
                       the disk: its files changed behind the node's back.";

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Database { path, source: heed::Error::Mdb(heed::MdbError::Panic) } => write!(
                f,
                "the database {} could not finish a write and has to be opened anew: start the node again. What was \
                 saved before is safe.",
                path.display()
            ),
            Self::Database { path, source } => write!(f, "the database {} failed: {source}", path.display()),
            Self::Structure { path, why } => {
                write!(f, "the database {} is damaged: {why}. {RECOVER}", path.display())
            }
            Self::Empty { path } => {
                write!(f, "the database {} is empty. `neuroshard run` fills it.", path.display())
            }
            Self::Journal { path, seq, records, what } => write!(
                f,
                "record {seq} of the journal in {} ({records} records) is {what}. What the node decided from there on is \
                 lost. {RECOVER}",
                path.display()
            ),
            Self::Blob { hash, what } => write!(f, "blob {hash:.16} is {what}"),
            Self::Full { path, needed: 0 } => write!(f, "the disk of {} is full", path.display()),
            Self::Full { path, needed } => {
                write!(f, "the disk of {} is full: {} do not fit", path.display(), Bytes(*needed))
            }
            Self::Budget { needed, used, budget } => write!(
                f,
                "{} more would exceed the disk budget: {} of {} are used. Allow more with --disk.",
                Bytes(*needed),
                Bytes(*used),
                Bytes(*budget)
            ),
            Self::Transient { needed, used, max } => write!(
                f,
                "no memory for {} more that pass between stages: {} of {} are kept and none was let go",
                Bytes(*needed),
                Bytes(*used),
                Bytes(*max)
            ),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl StoreError {
    /// There is no room; nothing was changed, and the same may succeed later.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Budget { .. } => true,
            Self::File(error) => error.is_full(),
            _ => false,
        }
    }
}

/// The executor's view of an error.
impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Blob { hash, what: Damage::Missing } => Self::BlobMissing { hash },
            StoreError::Blob { hash, what: Damage::Length | Damage::Hash } => Self::BlobDamaged { hash },
            StoreError::Full { needed, .. } | StoreError::Budget { needed, .. } => Self::DiskFull { needed },
            StoreError::File(error) if error.is_full() => Self::DiskFull { needed: 0 },
            other => Self::store(&other.to_string()),
        }
    }
}

/// LMDB's errors in our words; `needed` is how many bytes were to be stored.
pub(super) fn database_error(path: &Path, error: heed::Error, needed: u64) -> StoreError {
    let path = path.to_owned();
    match error {
        heed::Error::Io(error) if is_full(&error) => StoreError::Full { path, needed },
        heed::Error::Mdb(heed::MdbError::MapFull) => StoreError::Full { path, needed },
        heed::Error::Mdb(
            heed::MdbError::Corrupted
            | heed::MdbError::PageNotFound
            | heed::MdbError::Invalid
            | heed::MdbError::VersionMismatch,
        ) => StoreError::Structure { path, why: error.to_string() },
        source => StoreError::Database { path, source },
    }
}

/// A number of bytes for people.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, size)) => write!(f, "{:.1} {unit}", self.0 as f64 / size as f64),
            None => write!(f, "{} bytes", self.0),
        }
    }
}
