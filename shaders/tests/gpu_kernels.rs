//! Every kernel on every software driver gives the bits of the reference.
#![cfg(feature = "gpu")]

mod gpu_support;

use gpu_support::{Draw, bits, calls_of, difference, model, on_every_driver, open, schedule};
use neuroshard_proto::F32;
use neuroshard_proto::ops::{Op, Slot};
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::gpu::kernels::Tile;
use neuroshard_shaders::gpu::{GpuEngine, Options};
use neuroshard_shaders::optimizer::Rates;
use neuroshard_shaders::reference::Reference;
use neuroshard_shaders::values::{Shape, Value};

/// The dimensions that random shapes are drawn from.
struct Menu {
    sequences: &'static [u32],
    head_widths: &'static [u32],
    ffns: &'static [u32],
    vocabs: &'static [u32],
}

/// Ones, primes, and what is no multiple of any tile.
const RAGGED: Menu = Menu {
    sequences: &[1, 2, 7, 16, 37, 65],
    head_widths: &[2, 6, 8, 10, 34],
    ffns: &[1, 13, 64, 70],
    vocabs: &[1, 3, 31, 257],
};

/// What can be cut into small blocks: the feed-forward weights and the larger vocabulary always are.
const EVEN: Menu = Menu { sequences: &[9, 24], head_widths: &[16], ffns: &[96], vocabs: &[80, 264] };

/// Runs every call of an operation over random shapes on both.
fn compare(engine: &mut GpuEngine, op: Op, menu: &Menu, rounds: u64) {
    let mut reference = Reference::<false>::default();
    for round in 0..rounds {
        let mut draw = Draw::new(op.name(), round);
        let sequence = draw.pick(menu.sequences);
        let kv_heads = draw.pick(&[1, 2, 3]);
        let heads = kv_heads * draw.pick(&[1, 2, 3]);
        let (ffn, vocab) = (draw.pick(menu.ffns), draw.pick(menu.vocabs));
        let spec = model(heads, kv_heads, draw.pick(menu.head_widths), ffn, vocab, 80);
        let shape = Shape::new(&spec, sequence, sequence as usize * draw.pick(&[1, 2, 3]));
        for call in calls_of(op) {
            let mut want = draw.values(&call, &shape);
            let mut got = want.clone();
            let wanted = reference.apply(&call, &shape, &mut want).unwrap();
            let in_range = engine.apply(&call, &shape, &mut got).unwrap_or_else(|fault| panic!("{op:?}: {fault}"));
            for slot in call.writes {
                let difference = difference(*slot, &got[slot], &want[slot]);
                assert_eq!(difference, None, "{op:?}, round {round}, {sequence} of {} tokens, {spec:?}", shape.tokens);
            }
            assert_eq!(in_range, wanted, "{op:?}, round {round}");
        }
    }
}

fn table() -> impl Iterator<Item = Op> {
    Op::ALL.into_iter().filter(|op| !matches!(op, Op::SumSquares | Op::AdamW))
}

#[test]
fn every_operation_gives_the_references_bits_over_random_shapes() {
    on_every_driver("every_operation_gives_the_references_bits_over_random_shapes", |adapter| {
        let mut engine = open(adapter, Options::default());
        table().for_each(|op| compare(&mut engine, op, &RAGGED, 3));
    });
}

#[test]
fn every_tile_gives_the_same_bits() {
    on_every_driver("every_tile_gives_the_same_bits", |adapter| {
        for tile in Tile::ALL {
            // Shielding the chains must change nothing either.
            let shield_chains = Some(tile.threads_m == 8);
            let mut engine = open(adapter, Options { tile: Some(tile), shield_chains, ..Options::default() });
            for op in [Op::MatmulNt, Op::MatmulNn, Op::MatmulTn, Op::Attention, Op::AttentionBackward] {
                compare(&mut engine, op, &RAGGED, 1);
            }
        }
    });
}

#[test]
fn cut_matrices_and_split_scores_give_the_same_bits() {
    on_every_driver("cut_matrices_and_split_scores_give_the_same_bits", |adapter| {
        for (block_bytes, scores_max) in [(10_000, 1500), (12_000, 100)] {
            let mut engine = open(adapter, Options { block_bytes, scores_max, ..Options::default() });
            table().for_each(|op| compare(&mut engine, op, &EVEN, 2));
        }
    });
}

#[test]
fn squares_are_summed_in_the_references_order() {
    on_every_driver("squares_are_summed_in_the_references_order", |adapter| {
        let (mut engine, mut reference) = (open(adapter, Options::default()), Reference::<false>::default());
        for (round, length) in [1, 3, 255, 256, 257, 1024, 70_001].into_iter().enumerate() {
            let mut gradient = Draw::new("sum_squares", round as u64).floats(Slot::GradInput, length);
            let weight = F32::from_ratio(1, 1000);
            let want = reference.sum_squares(&gradient, weight).unwrap();
            assert!(want.is_some());
            assert_eq!(engine.sum_squares(&gradient, weight).unwrap(), want, "{length} elements");
            gradient[length / 2] = f32::NAN;
            assert_eq!(engine.sum_squares(&gradient, weight).unwrap(), None, "{length} elements");
        }
    });
}

#[test]
fn adamw_updates_as_the_reference_does() {
    on_every_driver("adamw_updates_as_the_reference_does", |adapter| {
        let (mut engine, mut reference) = (open(adapter, Options::default()), Reference::<false>::default());
        for (round, length) in [1, 5, 64, 1023].into_iter().enumerate() {
            let mut draw = Draw::new("adamw", round as u64);
            let [w, m, v, g] = [(); 4].map(|()| draw.floats(Slot::GradInput, length));
            // Second moments are squares; one parameter in eight has none yet.
            let v: Vec<f32> = v.into_iter().map(|v| if v < 0.0 { v * v } else { 0.0 }).collect();
            // With and without clipping, and early and late corrections.
            let rates = Rates::new(&schedule(1 + 40 * round as i32, 3e-3), bits(1e-3), bits([0.5, 7.5][round % 2]));
            for decay in [false, true] {
                let mut want = [w.clone(), m.clone(), v.clone()];
                let mut got = want.clone();
                reference.adamw(&rates, decay, want.each_mut().map(Vec::as_mut_slice), &g).unwrap();
                engine.adamw(&rates, decay, got.each_mut().map(Vec::as_mut_slice), &g).unwrap();
                for (got, want) in got.into_iter().zip(want) {
                    let difference = difference(Slot::Input, &Value::Float(got), &Value::Float(want));
                    assert_eq!(difference, None, "{length} parameters, decay {decay}");
                }
            }
        }
    });
}
