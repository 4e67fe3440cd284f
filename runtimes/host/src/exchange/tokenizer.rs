//! The vocabulary of a new network as `tokenizers` reads it: a byte is a token (PROTOCOL §7).
//!
//! * Text is cut nowhere and each byte looked up, so encoding gives what the core's tokenizer gives for every text.
//! * No text encodes to a special token, whatever it spells: the ten are in the vocabulary and not among the added tokens,
//!   which `tokenizers` looks for in text. `transformers` adds those that `tokenizer_config.json` names, and splits them
//!   like any text because that file says so.
//! * Special tokens decode to nothing. The brackets in their names stand for no byte, so no text can be mistaken for one.

use neuroshard_core::tokenizer::{BOS, EOS, FIRST_BYTE, PAD, Tokenizer, UNK};
use serde_json::{Map, Value, json};

/// The name of a special token.
fn special(id: u32) -> String {
    match id {
        PAD => "\u{27e8}pad\u{27e9}".to_owned(),
        BOS => "\u{27e8}bos\u{27e9}".to_owned(),
        EOS => "\u{27e8}eos\u{27e9}".to_owned(),
        UNK => "\u{27e8}unk\u{27e9}".to_owned(),
        other => format!("\u{27e8}reserved {other}\u{27e9}"),
    }
}

/// The character that stands for a byte in a byte-level vocabulary: itself if it is visible in Latin-1, otherwise the next
/// one from U+0100 on.
fn character(byte: u8) -> char {
    let visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if visible(byte) {
        return char::from(byte);
    }
    let hidden = (0..byte).filter(|below| !visible(*below)).count() as u32;
    char::from_u32(0x100 + hidden).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// `tokenizer.json` of a network's first vocabulary.
pub fn tokenizer_json() -> Value {
    let tokenizer = Tokenizer::genesis();
    let mut vocab = Map::new();
    let mut decoders = Vec::new();
    for id in 0..tokenizer.vocab() {
        let name = match tokenizer.bytes(id) {
            Some(bytes) => bytes.iter().map(|byte| character(*byte)).collect(),
            None => special(id),
        };
        vocab.insert(name, id.into());
    }
    for id in 0..FIRST_BYTE {
        decoders.push(json!({ "type": "Replace", "pattern": { "String": special(id) }, "content": "" }));
    }
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    decoders.push(byte_level.clone());
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": [],
        },
    })
}

/// `tokenizer_config.json`: what `transformers` adds to that.
pub(super) fn tokenizer_config_json(context: u32) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special(BOS),
        "eos_token": special(EOS),
        "pad_token": special(PAD),
        "unk_token": special(UNK),
        "split_special_tokens": true,
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
    })
}

/// `generation_config.json`.
pub(super) fn generation_config_json() -> Value {
    json!({ "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD })
}

/// What speaks against a tokenizer: the first part that encodes otherwise than ours.
pub(super) fn difference(theirs: &Value) -> Option<&'static str> {
    let ours = tokenizer_json();
    let parts = ["/model/type", "/model/vocab", "/model/merges", "/normalizer", "/pre_tokenizer"];
    parts
        .into_iter()
        .find(|part| theirs.pointer(part).unwrap_or(&Value::Null) != ours.pointer(part).unwrap_or(&Value::Null))
}
