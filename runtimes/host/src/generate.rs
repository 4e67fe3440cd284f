//! Text from a saved model: a prompt goes in, pieces of text come out one token at a time (PROTOCOL §9).
//!
//! **The window.** The model reads as many tokens at once as a training sequence has, since it never saw a position beyond
//! that. When they are full, its last half is read anew and generation goes on from there; a prompt that is longer than the
//! window is treated the same way. What came before is forgotten.

use std::mem;

use neuroshard_core::tokenizer::{BOS, EOS, Tokenizer};
use neuroshard_proto::ModelSpec;
use neuroshard_shaders::infer::{GenerateError, Generator};
use neuroshard_shaders::sample::Sampler;

/// A token, and the text that became whole with it: nothing while a character is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub token: u32,
    pub text: String,
    /// The model ended the document; nothing more comes.
    pub end: bool,
}

/// Writes on from a prompt.
#[derive(Debug)]
pub struct Writer {
    generator: Generator,
    sampler: Sampler,
    tokenizer: Tokenizer,
    window: usize,
    /// The tokens in the generator, and behind them those it has yet to read.
    tokens: Vec<u32>,
    characters: Characters,
}

impl Writer {
    /// A writer of a network's first vocabulary that reads `window` tokens at once.
    ///
    /// # Errors
    /// If the weights are not the model's.
    pub fn new(model: &ModelSpec, window: u32, weights: &[Vec<f32>], sampler: Sampler) -> Result<Self, GenerateError> {
        Ok(Self {
            generator: Generator::new(model, weights)?,
            sampler,
            tokenizer: Tokenizer::genesis(),
            window: window.clamp(1, model.context) as usize,
            tokens: Vec::new(),
            characters: Characters::default(),
        })
    }

    /// Adds text to go on from; returns its tokens. Without any text the model begins a document.
    pub fn prompt(&mut self, text: &[u8]) -> usize {
        let before = self.tokens.len();
        self.tokenizer.encode(text, &mut self.tokens);
        self.tokens.len() - before
    }

    /// Tokens the model reads at once.
    pub const fn window(&self) -> usize {
        self.window
    }

    /// Draws the next token.
    ///
    /// # Errors
    /// If the weights leave the range of the model's arithmetic.
    pub fn next_piece(&mut self) -> Result<Piece, GenerateError> {
        if self.tokens.is_empty() {
            self.tokens.push(BOS);
        }
        if self.tokens.len() > self.window {
            self.tokens.drain(..self.tokens.len() - self.window.div_ceil(2));
            self.generator.clear();
        }
        let logits = self.generator.feed(&self.tokens[self.generator.len()..])?;
        let token = self.sampler.sample(logits);
        self.tokens.push(token);
        let text = self.characters.add(self.tokenizer.bytes(token).unwrap_or_default());
        Ok(Piece { token, text, end: token == EOS })
    }

    /// What is left of a character that never became whole.
    pub fn finish(&mut self) -> String {
        self.characters.finish()
    }
}

/// Bytes become characters: those of one that is not whole yet wait for the rest of it.
#[derive(Clone, Debug, Default)]
struct Characters {
    waiting: Vec<u8>,
}

impl Characters {
    /// The text that is whole now. Bytes that can never be part of a character become replacement characters.
    fn add(&mut self, bytes: &[u8]) -> String {
        self.waiting.extend_from_slice(bytes);
        let whole = match self.waiting.utf8_chunks().last() {
            // At most three bytes that a character may begin with.
            Some(last) if is_begun(last.invalid()) => self.waiting.len() - last.invalid().len(),
            _ => self.waiting.len(),
        };
        let rest = self.waiting.split_off(whole);
        String::from_utf8_lossy(&mem::replace(&mut self.waiting, rest)).into_owned()
    }

    fn finish(&mut self) -> String {
        String::from_utf8_lossy(&mem::take(&mut self.waiting)).into_owned()
    }
}

/// Whether bytes are the beginning of a character.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::{Hash, Preset};
    use neuroshard_shaders::layout::LayerLayout;
    use neuroshard_shaders::sample::Sampling;

    use super::*;

    fn model() -> ModelSpec {
        let (nano, _) = Preset::Nano.specs();
        ModelSpec { layers: 1, hidden: 16, heads: 2, kv_heads: 1, ffn: 24, context: 24, ..nano }
    }

    fn weights(model: &ModelSpec) -> Vec<Vec<f32>> {
        let stage = |layer| {
            let layout = LayerLayout::new(model, layer);
            let mut bits = vec![0; layout.elements];
            for tensor in &layout.tensors {
                tensor.spec.fill_init(model, &Hash::default(), layer, 0, &mut bits[tensor.range.clone()]);
            }
            // Larger than first weights are, so that what comes depends on what came.
            bits.into_iter().map(|bits| 8.0 * f32::from_bits(bits)).collect()
        };
        model.all_layers().iter().map(stage).collect()
    }

    fn writer(window: u32, temperature: f32, seed: u64) -> Writer {
        let model = model();
        let sampler = Sampler::new(Sampling { temperature, top_p: 0.95, seed }).unwrap();
        Writer::new(&model, window, &weights(&model), sampler).unwrap()
    }

    fn tokens(mut writer: Writer, prompt: &str, count: usize) -> Vec<u32> {
        writer.prompt(prompt.as_bytes());
        (0..count).map(|_| writer.next_piece().unwrap().token).collect()
    }

    #[test]
    fn a_seed_names_the_text() {
        assert_eq!(tokens(writer(16, 1.0, 5), "abc", 40), tokens(writer(16, 1.0, 5), "abc", 40));
        assert_ne!(tokens(writer(16, 1.0, 5), "abc", 40), tokens(writer(16, 1.0, 6), "abc", 40));
    }

    #[test]
    fn a_full_window_is_read_anew_from_its_last_half() {
        let all = tokens(writer(16, 0.0, 0), "0123456789", 30);
        // Ten of the prompt and seven more are one too many: the last eight go on.
        let mut again = writer(16, 0.0, 0);
        again.prompt(b"9");
        again.tokens.extend(&all[..7]);
        assert_eq!(again.next_piece().unwrap().token, all[7]);
        // Twice over, nothing before the last half matters.
        let mut late = writer(16, 0.0, 0);
        late.tokens.extend(&all[8..16]);
        assert_eq!(late.next_piece().unwrap().token, all[16]);
    }

    #[test]
    fn of_a_prompt_that_is_longer_than_the_window_the_last_half_counts() {
        let long = "first things that are forgotten, and then: ABCDEFGH";
        assert_eq!(tokens(writer(16, 0.0, 0), long, 9), tokens(writer(16, 0.0, 0), "ABCDEFGH", 9));
        assert_ne!(tokens(writer(16, 0.0, 0), long, 9), tokens(writer(16, 0.0, 0), "XBCDEFGH", 9));
    }

    #[test]
    fn without_a_prompt_a_document_begins() {
        let mut begun = writer(16, 0.0, 0);
        begun.tokens.push(BOS);
        assert_eq!(tokens(writer(16, 0.0, 0), "", 5), tokens(begun, "", 5));
    }

    #[test]
    fn a_window_of_one_token_is_enough_to_go_on() {
        assert_eq!(tokens(writer(1, 0.0, 0), "ab", 12).len(), 12);
    }

    #[test]
    fn characters_appear_whole_and_broken_ones_are_replaced() {
        let spell = |bytes: &[u8]| {
            let mut characters = Characters::default();
            let mut pieces: Vec<String> = bytes.iter().map(|byte| characters.add(&[*byte])).collect();
            pieces.push(characters.finish());
            pieces
        };
        assert_eq!(spell("aé€😀".as_bytes()), ["a", "", "é", "", "", "€", "", "", "", "😀", ""]);
        // A second character begins before the first one is whole; a byte that begins none; an end in the middle.
        assert_eq!(spell(b"\xe2\x82a"), ["", "", "\u{fffd}a", ""]);
        assert_eq!(spell(b"\xffb"), ["\u{fffd}", "b", ""]);
        assert_eq!(spell(b"\xc3\xc3\xa9"), ["", "\u{fffd}", "é", ""]);
        assert_eq!(spell(b"\xf0\x9f"), ["", "", "\u{fffd}"]);
    }

    #[test]
    fn pieces_join_to_the_lossy_text_of_all_bytes() {
        let mut bytes = Vec::new();
        let mut state = 1_u32;
        for _ in 0..4000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Mostly bytes of longer characters.
            bytes.push((state >> 24) as u8 | if state & 4 == 0 { 0x80 } else { 0 });
        }
        let mut characters = Characters::default();
        let mut text: String = bytes.iter().map(|byte| characters.add(&[*byte])).collect();
        text.push_str(&characters.finish());
        assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}
