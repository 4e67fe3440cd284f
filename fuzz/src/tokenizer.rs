//! Any merges and any text: what is encoded decodes to the same bytes, in tokens of the vocabulary.

use neuroshard_core::tokenizer::{FIRST_BYTE, FIRST_MERGE, Merges, TOKEN_BYTES_MAX, Tokenizer};
use neuroshard_proto::codec;

/// Merges an input may ask for.
const MERGES_MAX: usize = 32;

/// The target: a count, so many pairs of bytes that choose merges, and a text.
pub fn run(bytes: &[u8]) {
    let Some((count, rest)) = bytes.split_first() else { return };
    let pairs = rest.len().min(2 * (usize::from(*count) % (MERGES_MAX + 1))) & !1;
    let (pairs, text) = rest.split_at(pairs);
    let tokenizer = tokenizer(pairs);
    let mut tokens = Vec::new();
    tokenizer.encode(text, &mut tokens);
    assert_eq!(tokenizer.decode(&tokens), text, "a text comes back");
    assert!(tokens.len() <= text.len(), "a token is a byte or more");
    assert!(tokens.iter().all(|token| (FIRST_BYTE..tokenizer.vocab()).contains(token)), "tokens are of the vocabulary");
    assert!(tokens.iter().all(|token| tokenizer.bytes(*token).is_some_and(|bytes| bytes.len() <= TOKEN_BYTES_MAX)));
    let mut again = Vec::new();
    tokenizer.encode(&tokenizer.decode(&tokens), &mut again);
    assert_eq!(again, tokens, "the same text has the same tokens");
}

/// The tokenizer of the pairs that may be merged; the others are left out.
fn tokenizer(pairs: &[u8]) -> Tokenizer {
    let (mut tokenizer, mut merges) = (Tokenizer::genesis(), Vec::new());
    for pair in pairs.chunks_exact(2) {
        let choose = |byte: u8| {
            let merged = tokenizer.vocab() - FIRST_MERGE;
            // The last bytes stand for the merges there are, the others for themselves.
            match u32::from(byte).checked_sub(224) {
                Some(rank) if rank < merged => FIRST_MERGE + rank,
                _ => FIRST_BYTE + u32::from(byte),
            }
        };
        merges.push((choose(pair[0]), choose(pair[1])));
        let list = Merges(merges.clone().try_into().expect("a short list"));
        match Tokenizer::new(list.clone()) {
            Ok(longer) => {
                assert_eq!(codec::decode::<Merges>(&codec::encode(&list)).as_ref(), Ok(&list));
                assert_eq!(longer.vocab(), tokenizer.vocab() + 1);
                tokenizer = longer;
            }
            Err(_) => drop(merges.pop()),
        }
    }
    tokenizer
}
