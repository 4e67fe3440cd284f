//! Byte-level byte-pair encoding (PROTOCOL §7).
//!
//! Ids 0 to 3 are pad, bos, eos and unk, 4 to 9 are reserved, 10 to 265 are the bytes, and each merge makes the next id.
//! The list of merges is agreed and only ever grows, so an id never changes its meaning. At genesis it is empty.
//!
//! **Pre-split.** Text is cut into pieces before merging, and no merge crosses a cut. The rule is frozen: a piece is the
//! longest run, from left to right, of
//! 1. an optional single space and then letters: ASCII letters and all bytes from 0x80 on;
//! 2. an optional single space and then at most three ASCII digits;
//! 3. an optional single space and then other visible bytes;
//! 4. white space and control bytes, of which a last space is left to the piece it precedes.
//!
//! Pieces longer than [`PIECE_BYTES_MAX`] are cut there, so time is linear in the text.
//!
//! **Merging.** In a piece, the pair with the lowest rank is merged, the leftmost of equals first, until none is left.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Domain, Hash, List};
use serde::{Deserialize, Serialize};

/// Padding.
pub const PAD: u32 = 0;
/// Begin of a document.
pub const BOS: u32 = 1;
/// End of a document.
pub const EOS: u32 = 2;
/// Unknown; byte-level encoding never makes it.
pub const UNK: u32 = 3;
/// The id of byte 0.
pub const FIRST_BYTE: u32 = 10;
/// The id of the first merge, and the size of the genesis vocabulary.
pub const FIRST_MERGE: u32 = 266;
/// Most merges a tokenizer may have.
pub const MERGES_MAX: u32 = 1 << 16;
/// Longest token.
pub const TOKEN_BYTES_MAX: usize = 32;
/// Longest piece.
pub const PIECE_BYTES_MAX: usize = 256;

/// The agreed list of merges, as it is hashed and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merges(pub List<(u32, u32), MERGES_MAX>);

impl Canonical for Merges {}

/// Why a list of merges is no tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeError {
    /// A merge names an id that is special or does not exist yet.
    UnknownId { merge: u32, id: u32 },
    /// The same pair, or the same bytes, stands in the list already.
    Duplicate { merge: u32 },
    /// The token would be longer than [`TOKEN_BYTES_MAX`].
    TooLong { merge: u32, bytes: u64 },
    /// The token would cross a pre-split cut, so the encoder could never make it.
    CrossesCut { merge: u32 },
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownId { merge, id } => write!(f, "merge {merge} joins token {id}, which is not a piece of text"),
            Self::Duplicate { merge } => write!(f, "merge {merge} makes a token that exists already"),
            Self::TooLong { merge, bytes } => {
                write!(f, "merge {merge} makes a token of {bytes} bytes, at most {TOKEN_BYTES_MAX} are allowed")
            }
            Self::CrossesCut { merge } => write!(f, "merge {merge} joins what the pre-split always separates"),
        }
    }
}

impl core::error::Error for MergeError {}

/// An encoder and decoder for one list of merges.
///
/// ```
/// use neuroshard_core::tokenizer::Tokenizer;
///
/// let tokenizer = Tokenizer::genesis();
/// let mut tokens = Vec::new();
/// tokenizer.encode(b"Hi", &mut tokens);
/// assert_eq!(tokens, [10 + 72, 10 + 105]);
/// assert_eq!(tokenizer.decode(&tokens), b"Hi");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    merges: Merges,
    /// Rank of each pair; the token it makes is `FIRST_MERGE + rank`.
    ranks: BTreeMap<(u32, u32), u32>,
    /// The bytes of each merge.
    tokens: Vec<Vec<u8>>,
}

impl Tokenizer {
    /// The tokenizer without merges: every byte is a token.
    pub fn genesis() -> Self {
        Self { merges: Merges::default(), ranks: BTreeMap::new(), tokens: Vec::new() }
    }

    /// The tokenizer of a list of merges.
    ///
    /// # Errors
    /// The first merge that breaks a rule, and which.
    pub fn new(merges: Merges) -> Result<Self, MergeError> {
        let mut tokenizer = Self::genesis();
        let mut known = BTreeMap::new();
        for (rank, pair) in (0_u32..).zip(&merges.0) {
            let bytes = [tokenizer.text(rank, pair.0)?, tokenizer.text(rank, pair.1)?].concat();
            if bytes.len() > TOKEN_BYTES_MAX {
                let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                return Err(MergeError::TooLong { merge: rank, bytes });
            }
            if piece_len(&bytes) != bytes.len() {
                return Err(MergeError::CrossesCut { merge: rank });
            }
            if known.insert(bytes.clone(), rank).is_some() {
                return Err(MergeError::Duplicate { merge: rank });
            }
            tokenizer.ranks.insert(*pair, rank);
            tokenizer.tokens.push(bytes);
        }
        tokenizer.merges = merges;
        Ok(tokenizer)
    }

    fn text(&self, merge: u32, id: u32) -> Result<Vec<u8>, MergeError> {
        self.bytes(id).map(<[u8]>::to_vec).ok_or(MergeError::UnknownId { merge, id })
    }

    /// Tokens in the vocabulary.
    pub fn vocab(&self) -> u32 {
        FIRST_MERGE.saturating_add(u32::try_from(self.tokens.len()).unwrap_or(u32::MAX))
    }

    /// The hash that manifests and proposals name.
    pub fn hash(&self) -> Hash {
        Domain::Tokenizer.hash(&codec::encode(&self.merges))
    }

    /// The bytes of a token; `None` for special and unknown ids.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        if let Some(rank) = id.checked_sub(FIRST_MERGE) {
            return self.tokens.get(usize::try_from(rank).ok()?).map(Vec::as_slice);
        }
        let byte = usize::try_from(id.checked_sub(FIRST_BYTE)?).ok()?;
        BYTES.get(byte..=byte)
    }

    /// Appends the tokens of a text.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        if self.ranks.is_empty() {
            return out.extend(text.iter().map(|byte| byte_token(*byte)));
        }
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at_checked(piece_len(rest)).unwrap_or((rest, &[]));
            self.encode_piece(piece, out);
            rest = after;
        }
    }

    fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        let mut tokens: Vec<u32> = piece.iter().map(|byte| byte_token(*byte)).collect();
        let rank = |pair: &[u32]| match pair {
            [a, b] => self.ranks.get(&(*a, *b)).copied(),
            _ => None,
        };
        // `min` keeps the first of equals: the leftmost pair of the lowest rank.
        while let Some((rank, place)) =
            tokens.windows(2).enumerate().filter_map(|(place, pair)| Some((rank(pair)?, place))).min()
        {
            if let Some(token) = tokens.get_mut(place) {
                *token = FIRST_MERGE.saturating_add(rank);
            }
            tokens.remove(place.saturating_add(1));
        }
        out.append(&mut tokens);
    }

    /// The text of tokens; special and unknown ids say nothing.
    pub fn decode(&self, tokens: &[u32]) -> Vec<u8> {
        tokens.iter().filter_map(|token| self.bytes(*token)).flatten().copied().collect()
    }
}

/// Every byte once, so that a byte's token can lend its text.
const BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut rest: &mut [u8] = &mut bytes;
    let mut value = 0_u8;
    while let [first, tail @ ..] = rest {
        *first = value;
        value = value.wrapping_add(1);
        rest = tail;
    }
    bytes
};

fn byte_token(byte: u8) -> u32 {
    FIRST_BYTE.saturating_add(u32::from(byte))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Digit,
    Visible,
    Space,
}

const fn class(byte: u8) -> Class {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => Class::Letter,
        b'0'..=b'9' => Class::Digit,
        0..=b' ' | 0x7f => Class::Space,
        _ => Class::Visible,
    }
}

/// The length of the first piece of a text; at least 1 unless the text is empty.
fn piece_len(text: &[u8]) -> usize {
    let (lead, body) = match text {
        [b' ', next, ..] if class(*next) != Class::Space => (1, text.get(1..).unwrap_or_default()),
        _ => (0, text),
    };
    let Some(first) = body.first().copied() else { return 0 };
    let kind = class(first);
    let limit = if kind == Class::Digit { 3 } else { PIECE_BYTES_MAX.saturating_sub(lead) };
    let run = body.iter().take(limit).take_while(|byte| class(**byte) == kind).count();
    if kind != Class::Space {
        return run.saturating_add(lead);
    }
    // A space right before something visible goes with that.
    let last = body.get(run.saturating_sub(1));
    let leaves = run > 1 && run < body.len() && run < limit && last == Some(&b' ');
    run.saturating_sub(usize::from(leaves))
}

#[cfg(test)]
mod tests {
    use std::string::String;
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    fn id(byte: u8) -> u32 {
        byte_token(byte)
    }

    fn pieces(mut text: &str) -> Vec<&str> {
        let mut pieces = Vec::new();
        while !text.is_empty() {
            let (piece, rest) = text.split_at(piece_len(text.as_bytes()));
            pieces.push(piece);
            text = rest;
        }
        pieces
    }

    fn tokenizer(pairs: Vec<(u32, u32)>) -> Result<Tokenizer, MergeError> {
        Tokenizer::new(Merges(pairs.try_into().unwrap()))
    }

    #[test]
    fn text_splits_at_the_frozen_cuts() {
        assert_eq!(
            pieces("Hello world, 12345  is\n\n  x!"),
            ["Hello", " world", ",", " 123", "45", " ", " is", "\n\n ", " x", "!"]
        );
        assert_eq!(pieces("Grüße, ça"), ["Grüße", ",", " ça"]);
        assert_eq!(pieces("a   "), ["a", "   "]);
    }

    #[test]
    fn the_lowest_rank_wins_and_then_the_leftmost() {
        // 266 = "ab", 267 = "bc", 268 = "aab" made of "a" and "ab".
        let merges = vec![(id(b'a'), id(b'b')), (id(b'b'), id(b'c')), (id(b'a'), 266)];
        let tokenizer = tokenizer(merges).unwrap();
        let encode = |text: &str| {
            let mut tokens = Vec::new();
            tokenizer.encode(text.as_bytes(), &mut tokens);
            tokens
        };
        assert_eq!(encode("abc"), [266, id(b'c')]);
        assert_eq!(encode("bcab"), [267, 266]);
        assert_eq!(encode("aabb"), [268, id(b'b')]);
        assert_eq!(encode("ab ab"), [266, id(b' '), 266]);
        assert_eq!(tokenizer.vocab(), 269);
    }

    #[test]
    fn merges_that_break_a_rule_are_refused() {
        let a = id(b'a');
        assert_eq!(tokenizer(vec![(a, BOS)]), Err(MergeError::UnknownId { merge: 0, id: BOS }));
        assert_eq!(tokenizer(vec![(a, 266)]), Err(MergeError::UnknownId { merge: 0, id: 266 }));
        assert_eq!(tokenizer(vec![(a, a), (a, a)]), Err(MergeError::Duplicate { merge: 1 }));
        assert_eq!(tokenizer(vec![(a, a), (266, a), (a, 266)]), Err(MergeError::Duplicate { merge: 2 }));
        assert_eq!(tokenizer(vec![(a, id(b' '))]), Err(MergeError::CrossesCut { merge: 0 }));
        let doubling = vec![(a, a), (266, 266), (267, 267), (268, 268), (269, 269), (270, a)];
        assert_eq!(tokenizer(doubling), Err(MergeError::TooLong { merge: 5, bytes: 33 }));
    }

    #[test]
    fn a_long_piece_takes_linear_time() {
        let tokenizer = tokenizer(vec![(id(b'a'), id(b'a'))]).unwrap();
        let mut tokens = Vec::new();
        tokenizer.encode(&vec![b'a'; 1 << 20], &mut tokens);
        assert_eq!(tokens, vec![266; 1 << 19]);
    }

    #[test]
    fn the_hash_is_that_of_the_merges() {
        assert_ne!(Tokenizer::genesis().hash(), tokenizer(vec![(id(b'a'), id(b'b'))]).unwrap().hash());
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(text: Vec<u8>, letters in prop::collection::vec("[a-z]{2}", 0..20)) {
            let pairs: Vec<_> = letters.iter().map(|pair| (id(pair.as_bytes()[0]), id(pair.as_bytes()[1]))).collect();
            let tokenizer = tokenizer(pairs).unwrap_or_else(|_| Tokenizer::genesis());
            let mut tokens = Vec::new();
            tokenizer.encode(&text, &mut tokens);
            prop_assert_eq!(tokenizer.decode(&tokens), text);
            prop_assert!(tokens.iter().all(|token| *token >= FIRST_BYTE && *token < tokenizer.vocab()));
        }

        #[test]
        fn cuts_never_fall_inside_a_character(text: String) {
            let joined: String = pieces(&text).concat();
            prop_assert_eq!(joined, text);
        }
    }
}
