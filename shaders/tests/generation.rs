//! Generation gives the logits of training, to the bit.

mod common;

use common::{Random, TOY, first_weights};
use neuroshard_proto::ops::{self, Slot};
use neuroshard_proto::{DType, ModelSpec};
use neuroshard_shaders::canon::{bf, z};
use neuroshard_shaders::cpu::Isa;
use neuroshard_shaders::infer::{GenerateError, Generator};
use neuroshard_shaders::layout::{LayerLayout, tensor_slots};
use neuroshard_shaders::reference;
use neuroshard_shaders::values::{Shape, Value, Values};

fn weights(model: &ModelSpec) -> Vec<Vec<f32>> {
    let mut random = Random::new(3);
    // Larger than first weights, so that positions differ, and with a bias.
    let stage = |layer| first_weights(model, layer).into_iter().map(|w| 6.0 * w + 0.02 * random.unit()).collect();
    model.all_layers().iter().map(stage).collect()
}

/// The logits, bias included, at every position of one sequence, by the reference's forward pass.
fn reference_logits(model: &ModelSpec, weights: &[Vec<f32>], tokens: &[u32]) -> Vec<Vec<u32>> {
    let shape = Shape::new(model, tokens.len() as u32, tokens.len());
    let mut stream = Value::Float(Vec::new());
    for (layer, weights) in model.all_layers().iter().zip(weights) {
        let mut values = Values::new();
        for (slot, _, range) in tensor_slots(&LayerLayout::new(model, layer)) {
            let operand = slot.shape().2 == DType::Bf16;
            let own = weights[range].iter().map(|w| if operand { bf(*w) } else { *w });
            values.insert(slot, Value::Float(own.collect()));
        }
        if layer.0 == 0 {
            values.insert(Slot::Tokens, Value::Int(tokens.iter().map(|token| *token as i32).collect()));
            assert!(reference::run::<false>(&ops::EMBED, &shape, &mut values));
        } else {
            values.insert(Slot::Input, stream);
        }
        if layer.0 == model.layers {
            assert!(reference::run::<false>(&ops::HEAD_FORWARD[..2], &shape, &mut values));
            let (logits, bias) = (values[&Slot::Logits].float(), values[&Slot::HeadBias].float());
            let row = |row: &[f32]| row.iter().zip(bias).map(|(logit, bias)| z(logit + bias).to_bits()).collect();
            return logits.chunks(bias.len()).map(row).collect();
        }
        assert!(reference::run::<false>(&ops::LAYER_FORWARD, &shape, &mut values));
        stream = values[&Slot::Output].clone();
    }
    Vec::new()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn logits_of_prefill_and_of_single_tokens_are_those_of_training() {
    let models = [TOY, ModelSpec { hidden: 30, heads: 5, kv_heads: 1, ffn: 31, context: 150, vocab: 266, ..TOY }];
    for model in models {
        let weights = weights(&model);
        let count = model.context.min(145) as usize;
        let tokens = Random::new(4).tokens(&model, count);
        let wanted = reference_logits(&model, &weights, &tokens);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for cuts in [vec![count], (1..=count).collect(), vec![1, 8, 9, 24, 27, count - 1, count]] {
                let mut generator = Generator::with_isa(&model, &weights, isa).unwrap();
                let mut first = 0;
                for cut in cuts {
                    let logits = bits(generator.feed(&tokens[first..cut]).unwrap());
                    assert!(logits == wanted[cut - 1], "at {cut} from {first} on {isa}");
                    first = cut;
                }
                assert_eq!(generator.len(), count);
            }
        }
    }
}

#[test]
fn a_token_changes_no_logit_before_it() {
    let weights = weights(&TOY);
    let tokens = Random::new(5).tokens(&TOY, 24);
    let before = reference_logits(&TOY, &weights, &tokens);
    for changed in [0, 1, 11, 23] {
        let mut other = tokens.clone();
        other[changed] = (other[changed] + 1) % TOY.vocab;
        let after = reference_logits(&TOY, &weights, &other);
        assert!(before[..changed] == after[..changed], "token {changed}");
        assert!(before[changed..].iter().zip(&after[changed..]).all(|(before, after)| before != after));
    }
}

#[test]
fn a_cleared_generator_starts_over() {
    let weights = weights(&TOY);
    let mut generator = Generator::new(&TOY, &weights).unwrap();
    let first = bits(generator.feed(&[1, 2, 3]).unwrap());
    generator.feed(&[4, 5, 6, 7]).unwrap();
    generator.clear();
    assert!(generator.is_empty());
    assert_eq!(bits(generator.feed(&[1, 2, 3]).unwrap()), first);
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let mut generator = Generator::new(&TOY, &weights(&TOY)).unwrap();
    assert_eq!(generator.feed(&[]).unwrap_err(), GenerateError::Nothing);
    assert_eq!(generator.feed(&[29]).unwrap_err(), GenerateError::Token { token: 29, vocab: 29 });
    generator.feed(&[3; 30]).unwrap();
    let refused = generator.feed(&[3; 3]).unwrap_err();
    assert_eq!(refused, GenerateError::Context { fed: 30, more: 3, context: 32 });
    assert!(refused.to_string().contains("context holds 32 tokens; 30 are in it and 3 more do not fit"));
    assert_eq!(generator.len(), 30);
    generator.feed(&[3; 2]).unwrap();
    let mut short = weights(&TOY);
    short[1].pop();
    assert!(matches!(Generator::new(&TOY, &short), Err(GenerateError::Weights(_))));
}

#[test]
fn weights_out_of_range_are_refused_and_diverged_ones_forget_the_sequence() {
    let mut spoiled = weights(&TOY);
    spoiled[0][40 * 32] = f32::NAN;
    assert_eq!(Generator::new(&TOY, &spoiled).unwrap_err(), GenerateError::OutOfRange);
    let mut diverged = weights(&TOY);
    diverged[0][..29 * 32].fill(1e20);
    let mut generator = Generator::new(&TOY, &diverged).unwrap();
    assert_eq!(generator.feed(&[1]).unwrap_err(), GenerateError::OutOfRange);
    assert!(generator.is_empty());
}
