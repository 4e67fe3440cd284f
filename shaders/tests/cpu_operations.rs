//! Each operation of the table on the CPU engine, held to the reference to the bit: every instruction set, several numbers of
//! threads, random shapes and values at the edges.

mod common;

use common::Random;
use neuroshard_proto::DType;
use neuroshard_proto::ModelSpec;
use neuroshard_proto::ops::{self, Call, Dim, Op, Slot};
use neuroshard_shaders::canon::bf;
use neuroshard_shaders::cpu::{CpuEngine, Isa, Options};
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::values::{Shape, Value, Values};
use neuroshard_shaders::{reference, selftest};

const PROGRAMS: [&[Call]; 6] = [
    &ops::EMBED,
    &ops::LAYER_FORWARD,
    &ops::HEAD_FORWARD,
    &ops::HEAD_BACKWARD,
    &ops::LAYER_BACKWARD,
    &ops::EMBED_BACKWARD,
];

fn engine(threads: usize, isa: Isa) -> CpuEngine {
    CpuEngine::new(Options { threads, isa: Some(isa), ..Options::default() }).unwrap()
}

/// What the numbers of an operand look like.
#[derive(Clone, Copy, Debug)]
enum Range {
    /// Around one.
    Plain,
    /// Over the whole range in which arithmetic agrees, zeros among them.
    Wide,
    /// Subnormal and large numbers, negative zeros, and neighbours of every bound.
    Edges,
}

const EDGES: [f32; 18] = [
    0.0,
    -0.0,
    1e-40,
    -1e-45,
    f32::MIN_POSITIVE,
    7.888_609e-31,
    7.888_608e-31,
    -7.888_608e-31,
    2.220_446e-16,
    2.220_445_8e-16,
    1.0,
    -1.0,
    255.0,
    1.099_511_6e12,
    1.099_511_8e12,
    1.125_899_9e15,
    -1.125_9e15,
    64.5,
];

fn number(random: &mut Random, range: Range) -> f32 {
    match range {
        Range::Plain => random.unit() * 4.0,
        Range::Wide => {
            let exponent = random.below(71) as i32 - 45;
            if random.below(9) == 0 { 0.0 } else { random.unit() * 2_f32.powi(exponent) }
        }
        Range::Edges if random.below(3) == 0 => EDGES[random.below(EDGES.len())],
        Range::Edges => random.unit(),
    }
}

fn operand(random: &mut Random, shape: &Shape, slot: Slot, range: Range) -> Value {
    let (rows, cols, dtype) = slot.shape();
    let count = shape.dim(rows) * shape.dim(cols);
    match dtype {
        DType::I32 => Value::Int((0..count).map(|_| random.below(shape.model.vocab as usize) as i32).collect()),
        DType::Bf16 => Value::Float((0..count).map(|_| bf(number(random, range).clamp(-1.0e15, 1.0e15))).collect()),
        // What a norm or a softmax leaves is positive.
        DType::F32 if matches!(slot, Slot::InputScale | Slot::MiddleScale | Slot::RowScale) => {
            Value::Float((0..count).map(|_| 0.01 + random.unit().abs()).collect())
        }
        // Sums of bfloat16 products are whole multiples of 2^-118.
        DType::F32 if rows != Dim::Tokens && cols != Dim::One => Value::Float(
            (0..count)
                .map(|_| (number(random, range), 2_f32.powi(-94)))
                .map(|(x, least)| if x.abs() < least { x * 0.0 } else { x })
                .collect(),
        ),
        DType::F32 => Value::Float((0..count).map(|_| number(random, range)).collect()),
    }
}

fn shape(random: &mut Random) -> Shape {
    let heads = [1, 2, 4, 6][random.below(4)];
    let kv_heads = if heads % 2 == 0 && random.below(2) == 0 { heads / 2 } else { heads };
    let width = 2 * [1, 3, 4, 8, 11, 16][random.below(6)];
    let sequence = [1, 2, 7, 13, 65, 80][random.below(6)];
    let model = ModelSpec {
        layers: 1,
        hidden: heads * width,
        heads,
        kv_heads,
        ffn: [1, 16, 37, 96][random.below(4)],
        context: 128,
        vocab: [1, 3, 29, 266][random.below(4)],
        rope_theta: 10_000,
        norm_eps_pico: 1_000_000,
    };
    model.check().unwrap();
    Shape::new(&model, sequence, sequence as usize * (1 + random.below(3)))
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
        }
        (a, b) => a == b,
    }
}

/// Runs a call on both; a void call's results are worthless, so only the verdict counts then. Returns the verdict.
fn compare(cpu: &mut CpuEngine, call: &Call, shape: &Shape, values: &Values) -> bool {
    let (mut wanted, mut got) = (values.clone(), values.clone());
    let fits = reference::apply::<false>(call, shape, &mut wanted);
    let Shape { model, sequence, tokens, .. } = shape;
    let place = format!("{:?} of {tokens} tokens in {sequence}s of {model:?} on {}", call.op, cpu.describe());
    assert_eq!(cpu.apply(call, shape, &mut got).unwrap(), fits, "verdict on {place}");
    for slot in call.writes.iter().filter(|_| fits) {
        assert!(same(&got[slot], &wanted[slot]), "{slot:?} by {place}");
    }
    fits
}

#[test]
fn every_operation_agrees_with_the_reference_over_random_shapes() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for threads in [1, 2, 7] {
            let mut cpu = engine(threads, isa);
            let mut random = Random::new(threads as u64);
            for round in 0..6 {
                let shape = shape(&mut random);
                let range = [Range::Plain, Range::Wide][round % 2];
                for call in PROGRAMS.into_iter().flatten() {
                    let operand = |slot: &Slot| (*slot, operand(&mut random, &shape, *slot, range));
                    let values: Values = call.reads.iter().map(operand).collect();
                    compare(&mut cpu, call, &shape, &values);
                }
            }
        }
    }
}

#[test]
fn values_at_the_edges_are_treated_as_the_reference_does() {
    let mut cpu = engine(2, Isa::best());
    let mut random = Random::new(99);
    let mut verdicts = [0; 2];
    for _ in 0..12 {
        let shape = shape(&mut random);
        for call in PROGRAMS.into_iter().flatten() {
            let operand = |slot: &Slot| (*slot, operand(&mut random, &shape, *slot, Range::Edges));
            let values: Values = call.reads.iter().map(operand).collect();
            verdicts[usize::from(compare(&mut cpu, call, &shape, &values))] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 20), "both verdicts are met: {verdicts:?}");
}

#[test]
fn every_instruction_set_passes_the_self_test() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let report = selftest::run(&mut engine(2, isa));
        assert!(report.passed(), "{isa}:\n{report}");
    }
}

#[test]
fn calls_with_missing_or_misshapen_operands_are_refused() {
    let mut cpu = engine(1, Isa::Scalar);
    let shape = shape(&mut Random::new(1));
    for call in PROGRAMS.into_iter().flatten() {
        assert!(cpu.apply(call, &shape, &mut Values::new()).is_err(), "{:?}", call.op);
        let misshapen = call.reads.iter().map(|slot| (*slot, Value::Float(vec![1.0; 1])));
        let refused = cpu.apply(call, &Shape { tokens: shape.tokens * 2, ..shape.clone() }, &mut misshapen.collect());
        assert!(refused.is_err(), "{:?}", call.op);
    }
    assert!(Op::ALL.len() > PROGRAMS.len());
}
