//! Text becomes a network's data: documents in a fixed order, encoded, cut into shards, listed in a manifest (PROTOCOL §13).
//!
//! A document is a file (or an embedded text), encoded as `bos bytes eos`. Documents follow each other without gaps; shards
//! cut this stream into pieces of equal length, of which every twentieth is held out to measure the loss on text the model
//! never trains on. Nothing is random, so equal text gives equal shards, and memory stays at a few shards however large the
//! text is.

mod error;
mod pack;
mod packed;
mod synthetic;
mod walk;

use std::io::Read;

use neuroshard_proto::Hash;

pub use self::error::DataError;
pub use self::pack::{Packed, SHARD_TOKENS, pack};
pub use self::packed::PackedDirectory;
pub use self::synthetic::Synthetic;
pub use self::walk::{Files, Skipped};
use crate::store::StoreError;

/// Something that documents can be read from, twice in the same order.
pub trait Text {
    /// Counts documents and bytes, so that shards can be planned.
    ///
    /// # Errors
    /// If something that was named cannot be read.
    fn measure(&self) -> Result<Measure, DataError>;

    /// Hands out every document in order.
    ///
    /// # Errors
    /// As [`Self::measure`], and whatever `document` answers.
    fn read(&self, document: &mut OnDocument<'_>) -> Result<(), DataError>;
}

/// What to do with a document: a name for messages, and its bytes.
pub type OnDocument<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<(), DataError> + 'a;

/// Where shards go: their bytes in, their hashes out.
pub type OnShards<'a> = dyn FnMut(&[&[u8]]) -> Result<Vec<Hash>, StoreError> + 'a;

/// How much text there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    pub documents: u64,
    pub bytes: u64,
    pub skipped: Skipped,
}

/// Texts that are part of the program: name and content.
#[derive(Clone, Debug)]
pub struct Embedded<'a>(pub Vec<(&'a str, &'a [u8])>);

impl Text for Embedded<'_> {
    fn measure(&self) -> Result<Measure, DataError> {
        let bytes = self.0.iter().map(|(_, text)| text.len() as u64).sum();
        Ok(Measure { documents: self.0.len() as u64, bytes, skipped: Skipped::default() })
    }

    fn read(&self, document: &mut OnDocument<'_>) -> Result<(), DataError> {
        self.0.iter().try_for_each(|(name, text)| document(name, &mut &text[..]))
    }
}
