//! Why text cannot become a network's data.

use std::fmt;
use std::path::PathBuf;

use neuroshard_proto::{GenesisError, SHARD_TOKENS_MAX, SHARDS_MAX};

use super::Skipped;
use crate::files::FileError;
use crate::store::StoreError;

/// Why text cannot be packed.
#[derive(Debug)]
pub enum DataError {
    /// A path that was named does not exist.
    Missing { path: PathBuf },
    /// What was named cannot be read.
    File(FileError),
    /// There is no text in what was named.
    Empty { sources: String, skipped: Skipped },
    /// Too little text for one training and one held-out sequence.
    TooSmall { tokens: u64, needed: u64, sequence: u32 },
    /// More text than a manifest can list.
    TooLarge { tokens: u64 },
    /// A document grew by so much during packing that the plan no longer holds.
    Changed { document: String },
    /// Nothing is packed into a directory that holds anything.
    NotEmpty { path: PathBuf },
    /// A packed directory is not what its manifest says.
    Packed { path: PathBuf, why: String },
    /// The store failed.
    Store(StoreError),
    /// The manifest cannot found a network.
    Genesis(GenesisError),
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { path } => write!(
                f,
                "there is nothing at {}. --data takes files and folders of text, `book` (the project's own text, the \
                 default) or `synthetic`.",
                path.display()
            ),
            Self::File(error) => error.fmt(f),
            Self::Empty { sources, skipped } if skipped.is_nothing() => {
                write!(f, "there is no text in {sources}: no file that is not empty")
            }
            Self::Empty { sources, skipped } => write!(f, "there is no text in {sources}: skipped {skipped}"),
            Self::TooSmall { tokens, needed, sequence } => write!(
                f,
                "the text has {tokens} tokens, and at least {needed} are needed: one sequence of {sequence} + 1 to train \
                 on and one held out. Add more text with --data."
            ),
            Self::TooLarge { tokens } => write!(
                f,
                "the text has about {tokens} tokens; a network's manifest lists at most {SHARDS_MAX} shards of \
                 {SHARD_TOKENS_MAX} tokens, {} in all. Name a part of it.",
                u64::from(SHARDS_MAX) * u64::from(SHARD_TOKENS_MAX)
            ),
            Self::Changed { document } => {
                write!(f, "{document} grew while it was packed. Try again when nothing writes to the text any more.")
            }
            Self::NotEmpty { path } => write!(
                f,
                "{} is not empty, and nothing was written into it. Name a new or an empty directory.",
                path.display()
            ),
            Self::Packed { path, why } => {
                write!(f, "{} is not what `neuroshard data pack` made: {why}. Pack the text again.", path.display())
            }
            Self::Store(error) => error.fmt(f),
            Self::Genesis(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DataError {}

impl From<FileError> for DataError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl From<StoreError> for DataError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
