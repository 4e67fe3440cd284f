//! The self-test's inputs, drawn from keyed streams so that they are the same everywhere.

use neuroshard_proto::ops::{self, Call, Dim, Op, Slot};
use neuroshard_proto::{DType, F32, Fault, Hash, ModelSpec, Schedule, Stream};

use super::edges;
use crate::engine::Engine;
use crate::layout::single;
use crate::optimizer::Rates;
use crate::values::{Shape, Value, Values};

/// Golden inputs of one operation.
#[derive(Debug)]
pub(super) enum Case {
    /// A call of the operation table.
    Call {
        call: &'static Call,
        shape: Shape,
        inputs: Values,
        spoiled: bool,
    },
    SumSquares {
        gradient: Vec<f32>,
        spoiled: bool,
    },
    AdamW {
        rates: Rates,
        decay: bool,
        parts: [Vec<f32>; 3],
        gradient: Vec<f32>,
    },
}

/// What an engine made of a case.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) in_range: bool,
    pub(super) outputs: Vec<Value>,
}

impl Case {
    /// Whether the inputs hold a value that is out of range: then only that is a result.
    pub(super) fn is_spoiled(&self) -> bool {
        match self {
            Self::Call { spoiled, .. } | Self::SumSquares { spoiled, .. } => *spoiled,
            Self::AdamW { .. } => false,
        }
    }

    pub(super) fn run(&self, engine: &mut dyn Engine) -> Result<Outcome, Fault> {
        match self {
            Self::Call { call, shape, inputs, .. } => {
                let mut values = inputs.clone();
                let in_range = engine.apply(call, shape, &mut values)?;
                let writes = if self.is_spoiled() { &[] } else { call.writes };
                let outputs = writes.iter().filter_map(|slot| values.remove(slot)).collect();
                Ok(Outcome { in_range, outputs })
            }
            Self::SumSquares { gradient, .. } => {
                let sum = engine.sum_squares(gradient, F32::from_ratio(1, 3))?;
                let outputs = sum.map(|sum| Value::Float(vec![single(sum)])).into_iter().collect();
                Ok(Outcome { in_range: sum.is_some(), outputs })
            }
            Self::AdamW { rates, decay, parts, gradient } => {
                let mut parts = parts.clone();
                engine.adamw(rates, *decay, parts.each_mut().map(Vec::as_mut_slice), gradient)?;
                Ok(Outcome { in_range: true, outputs: parts.map(Value::Float).into() })
            }
        }
    }
}

/// All cases of an operation.
pub(super) fn of(op: Op) -> Vec<Case> {
    match op {
        Op::SumSquares => sum_squares(),
        Op::AdamW => adamw(),
        _ => setups(op).iter().enumerate().map(|(number, setup)| setup.case(op, number as u64)).collect(),
    }
}

/// How the inputs of a call are drawn.
#[derive(Clone, Copy, Debug)]
enum Flavour {
    /// As in training.
    Plain,
    /// Exponents over the whole range, subnormals, -0, ties, values at the edges of flushing.
    Wide,
    /// The second half of each sum is the first with the other sign, backwards: what is left is rounding alone.
    Cancelling,
    /// Results at the edges between bfloat16 values (see [`super::edges`]).
    Edges,
    /// Every bfloat16 in range with the low halves that decide ties.
    Patterns,
    /// As [`Flavour::Plain`], with an operand spoiled by these bits.
    Spoiled(Slot, u32),
}

/// A case before its inputs are drawn.
#[derive(Debug)]
struct Setup {
    call: &'static Call,
    model: ModelSpec,
    sequence: u32,
    sequences: usize,
    flavour: Flavour,
}

/// Ragged, and wider than a block of a reduction's tree.
const MODEL: ModelSpec = ModelSpec {
    layers: 2,
    hidden: 282,
    heads: 3,
    kv_heads: 1,
    ffn: 77,
    context: 320,
    vocab: 331,
    rope_theta: 10_000,
    norm_eps_pico: 1_000_000,
};

/// Narrow heads, so that a long sequence is quick.
const LONG: ModelSpec = ModelSpec { hidden: 60, heads: 6, kv_heads: 2, ..MODEL };

/// The bits of a bound.
const fn bound(exponent: u32) -> u32 {
    (127 + exponent) << 23
}

const NAN: u32 = 0x7fc0_0000;
const MINUS_INFINITY: u32 = 0xff80_0000;

/// The setups of an operation: as in training, hard inputs, and inputs out of range in several ways.
fn setups(op: Op) -> Vec<Setup> {
    use Flavour::{Cancelling, Edges, Patterns, Plain, Spoiled, Wide};

    let calls: Vec<&'static Call> = {
        let programs: [&'static [Call]; 6] = [
            &ops::EMBED,
            &ops::LAYER_FORWARD,
            &ops::HEAD_FORWARD,
            &ops::HEAD_BACKWARD,
            &ops::LAYER_BACKWARD,
            &ops::EMBED_BACKWARD,
        ];
        programs.into_iter().flatten().filter(|call| call.op == op).collect()
    };
    let Some(first) = calls.first() else { return Vec::new() };
    let setup = |call, flavour| Setup { call, model: MODEL, sequence: 7, sequences: 3, flavour };
    let mut setups = vec![setup(first, Plain)];
    let spoils = |slot, limit| [NAN, MINUS_INFINITY, limit + 1].map(|bits| setup(first, Spoiled(slot, bits)));
    match op {
        Op::MatmulNt => setups.push(deep(calls[3], ModelSpec { ffn: 4096, ..LONG }, 24, Cancelling)),
        Op::MatmulNn => setups.push(deep(calls[2], ModelSpec { ffn: 2048, ..LONG }, 24, Cancelling)),
        Op::MatmulTn => {
            let model = ModelSpec { context: 4096, hidden: 24, ffn: 12, ..LONG };
            setups.push(deep(calls[1], model, 4096, Cancelling));
        }
        Op::Attention | Op::AttentionBackward => {
            setups.push(deep(first, LONG, 300, Edges));
            setups.push(deep(first, LONG, 65, Wide));
            let slot = if op == Op::Attention { Slot::Rotated } else { Slot::GradAttendedCast };
            setups.push(setup(first, Spoiled(slot, bound(50))));
        }
        Op::Cast => {
            setups.push(deep(first, ModelSpec { hidden: 512, heads: 4, ..LONG }, 512, Patterns));
            setups.extend(spoils(Slot::GradOutput, bound(50)));
        }
        Op::RmsNormBackward => {
            // The head's has nothing that by-passes it, a layer's has.
            setups.extend([setup(calls[1], Plain), setup(calls[1], Wide)]);
            setups.extend(spoils(Slot::GradNormedInput, bound(50)));
        }
        _ => {
            setups.extend([setup(first, Wide), setup(first, Edges)]);
            let checked = match op {
                Op::RmsNorm => Some((Slot::Input, bound(40))),
                Op::Rope => Some((Slot::Qkv, bound(50))),
                Op::RopeBackward => Some((Slot::GradRotated, bound(50))),
                Op::SwiGlu => Some((Slot::GateUp, bound(50))),
                Op::SwiGluBackward => Some((Slot::GradActivated, bound(50))),
                Op::CrossEntropy => Some((Slot::Logits, bound(50))),
                _ => None,
            };
            setups.extend(checked.into_iter().flat_map(|(slot, limit)| spoils(slot, limit)));
        }
    }
    setups
}

/// One long sequence.
fn deep(call: &'static Call, model: ModelSpec, sequence: u32, flavour: Flavour) -> Setup {
    Setup { call, model: ModelSpec { context: sequence.max(model.context), ..model }, sequence, sequences: 1, flavour }
}

impl Setup {
    fn case(&self, op: Op, number: u64) -> Case {
        let shape = Shape::new(&self.model, self.sequence, self.sequence as usize * self.sequences);
        let mut draw = Draw::new(op, number);
        let mut inputs = Values::new();
        for (operand, slot) in self.call.reads.iter().enumerate() {
            let (rows, cols, dtype) = slot.shape();
            let (rows, cols) = (shape.dim(rows), shape.dim(cols));
            if dtype == DType::I32 {
                inputs.insert(*slot, Value::Int(draw.tokens(rows, shape.dim(Dim::Vocab))));
                continue;
            }
            let mut values = draw.floats(op, *slot, rows * cols, self.flavour);
            match self.flavour {
                Flavour::Cancelling => cancel(op, operand, cols, &mut values),
                Flavour::Spoiled(spoiled, bits) if spoiled == *slot => {
                    // Attention's scores are sums: they leave the range only where every factor is large.
                    let is_attention = matches!(op, Op::Attention | Op::AttentionBackward);
                    let few = if is_attention { values.len() } else { 1 };
                    values[..few].fill(f32::from_bits(bits));
                }
                _ => {}
            }
            inputs.insert(*slot, Value::Float(values));
        }
        if matches!(self.flavour, Flavour::Edges) {
            edges::sharpen(op, &shape, &mut inputs);
        }
        Case::Call { call: self.call, shape, inputs, spoiled: matches!(self.flavour, Flavour::Spoiled(..)) }
    }
}

/// Makes the factors of a product's operand cancel: along its rows, or down its columns for what is summed so. The
/// first operand changes its sign, the second does not, and an accumulator is left as it is.
fn cancel(op: Op, operand: usize, cols: usize, values: &mut [f32]) {
    let sign = match operand {
        0 => -1.0,
        1 => 1.0,
        _ => return,
    };
    let down = op == Op::MatmulTn || (op == Op::MatmulNn && operand == 1);
    let lines = if down { vec![values] } else { values.chunks_exact_mut(cols).collect() };
    let width = if down { cols } else { 1 };
    for line in lines {
        let depth = line.len() / width;
        for k in depth.div_ceil(2)..depth {
            for column in 0..width {
                line[k * width + column] = sign * line[(depth - 1 - k) * width + column];
            }
        }
    }
}

/// A source of operands: the bytes of a keyed stream.
struct Draw {
    stream: Stream,
    position: u64,
    block: Vec<u8>,
}

/// Exponents that an operand's values have, and whether values that must be flushed stand among them.
struct Spread {
    low: i32,
    high: i32,
    flushed: bool,
}

impl Draw {
    fn new(op: Op, case: u64) -> Self {
        let stream = Stream::new(&Hash::of_blob(op.name().as_bytes()), "self-test", case);
        Self { stream, position: 0, block: Vec::new() }
    }

    fn next(&mut self) -> u64 {
        if self.block.is_empty() {
            self.block.resize(1 << 16, 0);
            self.stream.fill(self.position, &mut self.block);
            self.position += self.block.len() as u64;
        }
        let rest = self.block.len() - 8;
        let word = u64::from_le_bytes(std::array::from_fn(|i| self.block[rest + i]));
        self.block.truncate(rest);
        word
    }

    /// A quarter of all tokens are one, so that its row gathers many gradients.
    fn tokens(&mut self, count: usize, vocab: usize) -> Vec<i32> {
        let mut token = || {
            let drawn = (self.next() % (4 * vocab as u64 / 3).max(1)) as usize;
            if drawn < vocab { drawn as i32 } else { vocab as i32 - 1 }
        };
        (0..count).map(|_| token()).collect()
    }

    fn floats(&mut self, op: Op, slot: Slot, count: usize, flavour: Flavour) -> Vec<f32> {
        if matches!(flavour, Flavour::Patterns) {
            return (0..count).map(pattern).collect();
        }
        let spread = spread(op, slot, flavour);
        let positive = matches!(slot, Slot::InputScale | Slot::MiddleScale | Slot::RowScale);
        let bf16 = slot.shape().2 == DType::Bf16;
        let mut value = || {
            let mut x = self.float(&spread);
            if positive {
                x = if x.to_bits() << 1 == 0 { 1.0 } else { x.abs() };
            }
            if bf16 { f32::from_bits(x.to_bits() & 0xffff_0000) } else { x }
        };
        (0..count).map(|_| value()).collect()
    }

    fn float(&mut self, spread: &Spread) -> f32 {
        let bits = self.next();
        let (low, high) = (bits as u32, (bits >> 32) as u32);
        let sign = low & 0x8000_0000;
        let exponent = (127 + spread.low) as u32 + (high >> 8) % (spread.high - spread.low + 1) as u32;
        let significand = match high & 0xf0 {
            // Ties between bfloat16 values.
            0 => (low & 0x7f_0000) | 0x8000,
            _ => low & 0x7f_ffff,
        };
        match high & 0x3f {
            0 => 0.0,
            1 if spread.flushed => -0.0,
            2 if spread.flushed => f32::from_bits(sign | (low & 0x7f_ffff)),
            3 if spread.flushed => f32::from_bits(sign | (((127 - 100) << 23) - (low & 1))),
            4 if spread.flushed => f32::from_bits(sign | (((127 - 52) << 23) - (low & 1))),
            _ => f32::from_bits(sign | exponent << 23 | significand),
        }
    }
}

/// Every bfloat16 with each of four low halves; those out of range, and NaN, give way to 1.
fn pattern(i: usize) -> f32 {
    let low = [0x0000, 0x8000, 0x7fff, 0x8001][i >> 16 & 3];
    let x = f32::from_bits((i as u32 & 0xffff) << 16 | low);
    if crate::canon::exceeds(x) { 1.0 } else { x }
}

/// What an operand's values may be without leaving what the operation promises.
fn spread(op: Op, slot: Slot, flavour: Flavour) -> Spread {
    let (rows, _, dtype) = slot.shape();
    let weight_or_accumulator = rows != Dim::Tokens;
    let wide = matches!(flavour, Flavour::Wide) && !weight_or_accumulator;
    let (low, high) = match (op, slot) {
        (Op::Attention | Op::AttentionBackward, Slot::RowScale) => (-8, -1),
        (_, Slot::RowMax | Slot::InputScale | Slot::MiddleScale) => (-2, 2),
        (Op::CrossEntropy, Slot::Logits) if wide => (-110, 5),
        (Op::SwiGlu | Op::SwiGluBackward, Slot::GateUp) if wide => (-110, 6),
        (Op::RmsNorm, _) if wide => (-110, 39),
        (Op::RmsNormBackward, _) if wide => (-110, 15),
        // Gradients are added as they come: what reaches the embedding was flushed before.
        (Op::EmbedBackward, _) if wide => return Spread { low: -99, high: 10, flushed: false },
        (Op::Attention, _) if wide => (-40, 3),
        // Maxima are drawn and not found: scores far above them would leave the range.
        (Op::AttentionBackward, _) if wide => (-40, 0),
        _ if wide && dtype == DType::F32 => (-110, 30),
        _ if wide => (-50, 20),
        _ if matches!(flavour, Flavour::Cancelling) => (-12, 12),
        _ => (-4, 1),
    };
    Spread { low, high, flushed: wide && dtype == DType::F32 }
}

fn sum_squares() -> Vec<Case> {
    let mut draw = Draw::new(Op::SumSquares, 0);
    let plain = Spread { low: -8, high: 8, flushed: false };
    let wide = Spread { low: -110, high: 20, flushed: true };
    let mut case = |count, spread: &Spread, spoil: Option<u32>| {
        let mut gradient: Vec<f32> = (0..count).map(|_| draw.float(spread)).collect();
        if let Some(bits) = spoil {
            gradient[count / 2] = f32::from_bits(bits);
        }
        Case::SumSquares { gradient, spoiled: spoil.is_some() }
    };
    // A case is one number: equal terms in many lengths, so that another order shows in some.
    let even = Spread { low: -1, high: 0, flushed: false };
    let mut cases: Vec<Case> = (0..12).map(|length| case(700 + 97 * length, &even, None)).collect();
    cases.extend([
        case(1, &plain, None),
        case(70_001, &plain, None),
        case(3000, &wide, None),
        case(300, &plain, Some(NAN)),
        case(300, &plain, Some(bound(50) + 1)),
    ]);
    cases
}

/// AdamW in its first step, later without clipping, and with moments that vanish.
fn adamw() -> Vec<Case> {
    let ratio = |numerator, denominator| F32::from_ratio(numerator, denominator);
    let schedule = Schedule {
        rate: ratio(3, 1000),
        beta1: ratio(9, 10),
        beta1_rest: ratio(1, 10),
        beta2: ratio(95, 100),
        beta2_rest: ratio(5, 100),
        correction1: ratio(10, 1),
        correction2: ratio(20, 1),
        epsilon: ratio(1, 100_000_000),
        weight_decay: ratio(1, 10),
        clip: F32::ONE,
    };
    let late = Schedule { correction1: ratio(101, 100), correction2: ratio(105, 100), ..schedule };
    let mut draw = Draw::new(Op::AdamW, 0);
    let mut case = |schedule: &Schedule, squared_norm, decay, spread: &Spread| {
        let mut floats = || -> Vec<f32> { (0..1003).map(|_| draw.float(spread)).collect() };
        let [weights, mut moments1, mut moments2, gradient] = [(); 4].map(|()| floats());
        // State has been flushed, and second moments are squares.
        moments1.iter_mut().for_each(|m| *m = crate::canon::z(*m));
        moments2.iter_mut().for_each(|v| *v = crate::canon::mul(*v, *v));
        let weights = weights.into_iter().map(crate::canon::z).collect();
        let rates = Rates::new(schedule, ratio(1, 1024), squared_norm);
        Case::AdamW { rates, decay, parts: [weights, moments1, moments2], gradient }
    };
    let plain = Spread { low: -12, high: 1, flushed: false };
    let wide = Spread { low: -110, high: 30, flushed: true };
    vec![
        case(&schedule, ratio(1, 2), true, &plain),
        case(&late, ratio(77, 3), false, &plain),
        case(&late, ratio(1, 2), true, &wide),
    ]
}
