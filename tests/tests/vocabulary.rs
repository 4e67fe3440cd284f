//! `tokenizer.json` as an export writes it, held against the library that others read it with: for every text the same tokens
//! as the core's tokenizer, and back.

use neuroshard_core::tokenizer::{FIRST_BYTE, Tokenizer};
use neuroshard_host::exchange::tokenizer_json;
use proptest::prelude::*;
use std::sync::LazyLock;

static THEIRS: LazyLock<tokenizers::Tokenizer> =
    LazyLock::new(|| tokenizer_json().to_string().parse().expect("a tokenizer that the library reads"));

fn ours(text: &[u8]) -> Vec<u32> {
    let mut tokens = Vec::new();
    Tokenizer::genesis().encode(text, &mut tokens);
    tokens
}

fn theirs(text: &str) -> Vec<u32> {
    // With special tokens added, as is the default in Python: there are none to add.
    THEIRS.encode(text, true).expect("any text encodes").get_ids().to_vec()
}

fn decoded(tokens: &[u32], skip_special_tokens: bool) -> String {
    THEIRS.decode(tokens, skip_special_tokens).expect("any tokens decode")
}

/// The names that special tokens have in the file.
fn special() -> Vec<String> {
    (0..FIRST_BYTE).map(|id| THEIRS.id_to_token(id).expect("a name for every token")).collect()
}

#[test]
fn the_vocabularies_have_one_size() {
    assert_eq!(THEIRS.get_vocab_size(true), Tokenizer::genesis().vocab() as usize);
}

#[test]
fn every_byte_has_its_token() {
    // Each byte stands in some character: those of one byte, and the first and later ones of longer characters.
    let all: String = (0..0x11_0000).step_by(61).chain(0..0x800).filter_map(char::from_u32).collect();
    assert_eq!(theirs(&all), ours(all.as_bytes()));
    let mut seen: Vec<u32> = ours(all.as_bytes());
    seen.sort_unstable();
    seen.dedup();
    // All but the 13 that UTF-8 never holds.
    assert_eq!(seen.len(), 256 - 13);
    for byte in 0..=255 {
        let (token, text) = (FIRST_BYTE + u32::from(byte), [byte]);
        assert_eq!(decoded(&[token], true), String::from_utf8_lossy(&text), "{byte}");
    }
}

#[test]
fn text_that_spells_a_special_token_is_text() {
    for name in special() {
        for text in [name.clone(), format!("a{name} {name}{name}b")] {
            assert_eq!(theirs(&text), ours(text.as_bytes()), "{text}");
            assert_eq!(decoded(&theirs(&text), true), text);
        }
    }
}

#[test]
fn special_tokens_say_nothing() {
    let framed: Vec<u32> = (0..FIRST_BYTE).chain(ours(b"between")).chain(0..FIRST_BYTE).collect();
    for skip in [false, true] {
        assert_eq!(decoded(&framed, skip).as_bytes(), Tokenizer::genesis().decode(&framed));
    }
}

proptest! {
    #[test]
    fn any_text_encodes_to_the_same_tokens_and_comes_back(text: String) {
        let tokens = theirs(&text);
        prop_assert_eq!(&tokens, &ours(text.as_bytes()));
        prop_assert_eq!(decoded(&tokens, true), text);
    }

    #[test]
    fn any_tokens_decode_to_the_same_text(tokens in prop::collection::vec(0_u32..266, 0..64)) {
        let wanted = Tokenizer::genesis().decode(&tokens);
        prop_assert_eq!(decoded(&tokens, true), String::from_utf8_lossy(&wanted));
    }
}
