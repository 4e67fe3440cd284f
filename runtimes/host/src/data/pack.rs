//! Cuts the stream of encoded documents into shards.

use neuroshard_core::tokenizer::{self, Tokenizer};
use neuroshard_proto::{Hash, Manifest, SHARD_TOKENS_MAX, SHARDS_MAX, Shard};

use super::{DataError, Measure, OnShards, Skipped, Text};
use crate::files::FileError;

/// Tokens in a shard of an ordinary corpus. Small corpora have smaller shards and very large ones larger shards.
pub const SHARD_TOKENS: u64 = 65_536;

/// One shard of so many is held out.
const HELD_OUT_EVERY: usize = 20;
/// The held-out one in each group of [`HELD_OUT_EVERY`].
const HELD_OUT_PLACE: usize = 10;
/// Small corpora are cut finer, so that what is held out comes from several places of the text ...
const SHARDS_WANTED: u64 = 5 * HELD_OUT_EVERY as u64;
/// ... but a shard holds several sequences, for those across its ends are lost.
const SEQUENCES_WANTED: u64 = 16;

/// Bytes of shards that are stored together.
const GROUP_BYTES: usize = 8 << 20;
/// Bytes of text encoded at a time.
const BLOCK_BYTES: usize = 64 << 10;

/// Packed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pub manifest: Manifest,
    pub documents: u64,
    pub skipped: Skipped,
}

/// Encodes text, cuts it into shards for training on sequences of `sequence` tokens, and hands the shards' bytes to `store`
/// in groups; it answers with their hashes. `progress` hears how many bytes of how many are done.
///
/// # Errors
/// If the text cannot be read, is too small or too large, or the store fails.
pub fn pack(
    text: &dyn Text,
    sequence: u32,
    store: &mut OnShards<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Packed, DataError> {
    let measure = text.measure()?;
    let plan = Plan::new(&measure, sequence)?;
    let tokenizer = Tokenizer::genesis();
    let mut cutter = Cutter { plan, shards: Vec::new(), current: Vec::new(), group: Vec::new(), store };
    let (mut documents, mut bytes) = (0, 0);
    let (mut block, mut tokens) = (vec![0; BLOCK_BYTES], Vec::with_capacity(BLOCK_BYTES));
    text.read(&mut |name, document| {
        documents += 1;
        cutter.push(name, &[tokenizer::BOS])?;
        // The first vocabulary has no merges, so a text may be encoded block by block.
        loop {
            let len = document.read(&mut block).map_err(FileError::new("read", name.as_ref()))?;
            let Some(part) = block.get(..len).filter(|part| !part.is_empty()) else { break };
            tokens.clear();
            tokenizer.encode(part, &mut tokens);
            cutter.push(name, &tokens)?;
            bytes += len as u64;
            progress(bytes, measure.bytes.max(bytes));
        }
        cutter.push(name, &[tokenizer::EOS])
    })?;
    let shards = cutter.finish(sequence)?;
    let manifest = Manifest { tokenizer: tokenizer.hash(), text_bytes: bytes, shards };
    Ok(Packed { manifest, documents, skipped: measure.skipped })
}

/// How the text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Tokens in a shard.
    size: usize,
}

impl Plan {
    fn new(measure: &Measure, sequence: u32) -> Result<Self, DataError> {
        // A token for each byte, and two around each document.
        let tokens = measure.bytes.saturating_add(measure.documents.saturating_mul(2));
        let window = u64::from(sequence) + 1;
        if tokens < 2 * window {
            return Err(DataError::TooSmall { tokens, needed: 2 * window, sequence });
        }
        let fitting = tokens / (SEQUENCES_WANTED * window);
        let wanted = tokens.div_ceil(SHARD_TOKENS).max(SHARDS_WANTED).min(fitting).clamp(2, u64::from(SHARDS_MAX));
        let size = tokens.div_ceil(wanted);
        if size > u64::from(SHARD_TOKENS_MAX) {
            return Err(DataError::TooLarge { tokens });
        }
        Ok(Self { size: size as usize })
    }
}

struct Cutter<'a> {
    plan: Plan,
    /// Finished shards; the held-out ones are chosen once all are known.
    shards: Vec<(Hash, u32)>,
    /// The bytes of the shard that is being filled.
    current: Vec<u8>,
    /// Shards to be stored.
    group: Vec<Vec<u8>>,
    store: &'a mut OnShards<'a>,
}

impl Cutter<'_> {
    fn push(&mut self, document: &str, tokens: &[u32]) -> Result<(), DataError> {
        for token in tokens {
            let token = u16::try_from(*token).expect("the first vocabulary has 266 tokens");
            self.current.extend_from_slice(&token.to_le_bytes());
            if self.current.len() == 2 * self.plan.size {
                self.cut()?;
                if self.shards.len() + self.group.len() > SHARDS_MAX as usize {
                    return Err(DataError::Changed { document: document.to_owned() });
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), DataError> {
        self.group.push(std::mem::take(&mut self.current));
        if self.group.len() * 2 * self.plan.size >= GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DataError> {
        let blobs: Vec<&[u8]> = self.group.iter().map(Vec::as_slice).collect();
        let hashes = (self.store)(&blobs)?;
        assert_eq!(hashes.len(), blobs.len(), "a store answers with a hash for each shard");
        let counted = hashes.into_iter().zip(&blobs).map(|(hash, bytes)| (hash, (bytes.len() / 2) as u32));
        self.shards.extend(counted);
        self.group.clear();
        Ok(())
    }

    /// Ends the last shard, unless it is too short for one sequence, and chooses those held out.
    fn finish(mut self, sequence: u32) -> Result<neuroshard_proto::List<Shard, SHARDS_MAX>, DataError> {
        if self.current.len() / 2 > sequence as usize {
            self.cut()?;
        }
        self.flush()?;
        let count = self.shards.len();
        if count < 2 {
            let tokens = self.shards.iter().map(|(_, tokens)| u64::from(*tokens)).sum();
            return Err(DataError::TooSmall { tokens, needed: 2 * (u64::from(sequence) + 1), sequence });
        }
        let held_out = |index| {
            if count <= HELD_OUT_PLACE { index + 1 == count } else { index % HELD_OUT_EVERY == HELD_OUT_PLACE }
        };
        let shard = |(index, (hash, tokens))| Shard { hash, tokens, held_out: held_out(index) };
        let shards: Vec<Shard> = self.shards.into_iter().enumerate().map(shard).collect();
        Ok(shards.try_into().expect("the number of shards is checked as they are cut"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::data::Embedded;
    use crate::store::StoreError;

    const SEQUENCE: u32 = 128;

    fn packed(text: &dyn Text) -> Result<(Packed, BTreeMap<Hash, Vec<u8>>), DataError> {
        let mut blobs = BTreeMap::new();
        let store = &mut |shards: &[&[u8]]| {
            let hashes: Vec<Hash> = shards.iter().map(|shard| Hash::of_blob(shard)).collect();
            blobs.extend(hashes.iter().copied().zip(shards.iter().map(|shard| shard.to_vec())));
            Ok(hashes)
        };
        let packed = pack(text, SEQUENCE, store, &mut |_, _| {})?;
        Ok((packed, blobs))
    }

    fn letters(count: usize, first: u8) -> Vec<u8> {
        (0..count).map(|i| first + (i % 23) as u8).collect()
    }

    fn tokens(packed: &Packed, blobs: &BTreeMap<Hash, Vec<u8>>) -> Vec<u16> {
        let bytes = packed.manifest.shards.iter().flat_map(|shard| blobs[&shard.hash].chunks_exact(2));
        bytes.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    #[test]
    fn documents_follow_each_other_between_their_marks() {
        let (a, b) = (letters(70_000, b'a'), letters(3000, b'A'));
        let (packed, blobs) = packed(&Embedded(vec![("a", &a), ("b", &b)])).unwrap();
        let mut expected = Vec::new();
        for text in [&a, &b] {
            expected.push(1);
            expected.extend(text.iter().map(|byte| 10 + u16::from(*byte)));
            expected.push(2);
        }
        assert_eq!(tokens(&packed, &blobs), expected);
        assert_eq!(packed.manifest.text_bytes, 73_000);
        assert_eq!(packed.manifest.tokenizer, Tokenizer::genesis().hash());
        assert_eq!(packed.documents, 2);
    }

    #[test]
    fn a_twentieth_of_the_shards_is_held_out_from_several_places() {
        let text = letters(1_000_000, b'a');
        let (packed, _) = packed(&Embedded(vec![("a", &text)])).unwrap();
        let shards = &packed.manifest.shards;
        assert_eq!(shards.len(), 100);
        let held_out: Vec<usize> = (0..100).filter(|index| shards[*index].held_out).collect();
        assert_eq!(held_out, [10, 30, 50, 70, 90]);
        assert!(shards.iter().all(|shard| (9900..=10_001).contains(&shard.tokens)));
    }

    #[test]
    fn an_ordinary_corpus_has_shards_of_the_usual_size_and_a_huge_one_larger_ones() {
        let plan = |bytes| Plan::new(&Measure { documents: 1, bytes, skipped: Skipped::default() }, SEQUENCE);
        assert_eq!(plan(1 << 29).unwrap().size, 65_529);
        assert_eq!(plan(1 << 34).unwrap().size, (1 << 20) + 1);
        assert!(matches!(plan(100_000_000_000), Err(DataError::TooLarge { tokens: 100_000_000_002 })));
    }

    #[test]
    fn the_smallest_text_has_one_sequence_of_each_kind() {
        let text = letters(256, b'a');
        let (smallest, _) = packed(&Embedded(vec![("a", &text)])).unwrap();
        let shape: Vec<_> = smallest.manifest.shards.iter().map(|shard| (shard.tokens, shard.held_out)).collect();
        assert_eq!(shape, [(129, false), (129, true)]);
        let error = packed(&Embedded(vec![("a", &text[1..])])).unwrap_err();
        assert!(matches!(error, DataError::TooSmall { tokens: 257, needed: 258, sequence: SEQUENCE }), "{error}");
    }

    #[test]
    fn equal_text_gives_equal_shards_and_any_change_another_manifest() {
        let text = letters(50_000, b'a');
        let root = |text: &[u8]| packed(&Embedded(vec![("a", text)])).unwrap().0.manifest.root();
        assert_eq!(root(&text), root(&text));
        let mut other = text.clone();
        other[25_000] ^= 1;
        assert_ne!(root(&text), root(&other));
    }

    /// A text that is longer when it is read than when it was measured.
    struct Growing(usize);

    impl Text for Growing {
        fn measure(&self) -> Result<Measure, DataError> {
            Ok(Measure { documents: 1, bytes: 1000, skipped: Skipped::default() })
        }

        fn read(&self, document: &mut crate::data::OnDocument<'_>) -> Result<(), DataError> {
            document("growing", &mut &letters(self.0, b'a')[..])
        }
    }

    #[test]
    fn text_that_changes_while_it_is_packed_is_packed_as_it_is_read_or_refused() {
        assert_eq!(packed(&Growing(5000)).unwrap().0.manifest.text_bytes, 5000);
        assert!(matches!(packed(&Growing(100)), Err(DataError::TooSmall { .. })));
        assert!(matches!(packed(&Growing(10_000_000)), Err(DataError::Changed { .. })));
    }

    #[test]
    fn a_failing_store_ends_the_packing() {
        let text = letters(50_000, b'a');
        let store = &mut |_: &[&[u8]]| Err(StoreError::Budget { needed: 1, used: 0, budget: 0 });
        let error = pack(&Embedded(vec![("a", &text)]), SEQUENCE, store, &mut |_, _| {}).unwrap_err();
        assert!(matches!(error, DataError::Store(StoreError::Budget { .. })));
    }
}
