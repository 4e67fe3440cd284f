//! The operation table in double precision, forward and backward, without any rounding of operands: the mathematics that
//! the canonical arithmetic approximates. Shapes and programs are the table's own.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use std::collections::BTreeMap;

use neuroshard_proto::ModelSpec;
use neuroshard_proto::ops::{Call, Dim, Op, Slot};

/// Values by name; tokens, targets and losses are whole numbers.
pub type Values64 = BTreeMap<Slot, Vec<f64>>;

/// A model's shape in numbers of this arithmetic.
#[derive(Clone, Debug)]
pub struct Shape64 {
    pub model: ModelSpec,
    pub sequence: usize,
    pub tokens: usize,
    /// `[position][pair]` of cosine and sine.
    pub rotary: Vec<[f64; 2]>,
}

impl Shape64 {
    pub fn new(model: &ModelSpec, sequence: usize, tokens: usize) -> Self {
        let pairs = model.head_width() as usize / 2;
        let angle = |place: usize| {
            let (position, pair) = ((place / pairs) as f64, (place % pairs) as f64);
            position * f64::from(model.rope_theta).powf(-pair / pairs as f64)
        };
        let turn = |place| [f64::cos(angle(place)), f64::sin(angle(place))];
        Self { model: *model, sequence, tokens, rotary: (0..model.context as usize * pairs).map(turn).collect() }
    }

    pub fn dim(&self, dim: Dim) -> usize {
        let model = &self.model;
        match dim {
            Dim::One => 1,
            Dim::Tokens => self.tokens,
            Dim::Hidden => model.hidden as usize,
            Dim::Qkv => model.qkv_width() as usize,
            Dim::Heads => model.heads as usize,
            Dim::Ffn => model.ffn as usize,
            Dim::GateUp => 2 * model.ffn as usize,
            Dim::Vocab => model.vocab as usize,
        }
    }
}

/// Runs a program.
pub fn run(program: &[Call], shape: &Shape64, values: &mut Values64) {
    for call in program {
        apply(call, shape, values);
    }
}

/// Performs one call.
pub fn apply(call: &Call, shape: &Shape64, values: &mut Values64) {
    let get = |operand: usize| values[&call.reads[operand]].as_slice();
    let weight = |operand: usize| {
        let (rows, cols, _) = call.reads[operand].shape();
        (shape.dim(rows), shape.dim(cols))
    };
    let hidden = shape.dim(Dim::Hidden);
    let outputs = match call.op {
        Op::Embed => {
            vec![get(0).iter().flat_map(|token| &get(1)[*token as usize * hidden..][..hidden]).copied().collect()]
        }
        Op::EmbedBackward => {
            let mut table = get(2).to_vec();
            for (dy, token) in get(0).chunks(hidden).zip(get(1)) {
                (0..hidden).for_each(|c| table[*token as usize * hidden + c] += dy[c]);
            }
            vec![table]
        }
        Op::RmsNorm => rms_norm(shape, get(0), get(1)),
        Op::RmsNormBackward => {
            rms_norm_backward(get(0), get(1), get(2), get(3), get(4), (call.reads.len() > 5).then(|| get(5)))
        }
        Op::MatmulNt => {
            let (rows, cols) = weight(1);
            let row = |x: &[f64]| (0..rows).map(|o| dot(x, &get(1)[o * cols..][..cols])).collect::<Vec<_>>();
            vec![get(0).chunks(cols).flat_map(row).collect()]
        }
        Op::MatmulNn => {
            let (rows, cols) = weight(1);
            let row = |dy: &[f64]| {
                (0..cols).map(|i| (0..rows).map(|o| dy[o] * get(1)[o * cols + i]).sum()).collect::<Vec<_>>()
            };
            vec![get(0).chunks(rows).flat_map(row).collect()]
        }
        Op::MatmulTn => {
            let (rows, cols) = weight(2);
            let mut dw = get(2).to_vec();
            for (dy, x) in get(0).chunks(rows).zip(get(1).chunks(cols)) {
                (0..rows * cols).for_each(|place| dw[place] += dy[place / cols] * x[place % cols]);
            }
            vec![dw]
        }
        Op::Rope => vec![rope(shape, get(0), 1.0)],
        Op::RopeBackward => vec![rope(shape, get(0), -1.0)],
        Op::Attention => attention(shape, get(0)),
        Op::AttentionBackward => vec![attention_backward(shape, get(0), get(2))],
        Op::SwiGlu => {
            let ffn = shape.dim(Dim::Ffn);
            let row = |row: &[f64]| (0..ffn).map(|c| row[c] * sigmoid(row[c]) * row[ffn + c]).collect::<Vec<_>>();
            vec![get(0).chunks(2 * ffn).flat_map(row).collect()]
        }
        Op::SwiGluBackward => vec![swiglu_backward(get(0), get(1), shape.dim(Dim::Ffn))],
        Op::Residual => vec![get(0).iter().zip(get(1)).map(|(x, y)| x + y).collect()],
        Op::Cast => vec![get(0).to_vec()],
        Op::CrossEntropy => cross_entropy(get(0), get(1), get(2)),
        Op::SumSquares | Op::AdamW => panic!("the optimizer's operations stand in no program"),
    };
    values.extend(call.writes.iter().copied().zip(outputs));
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn rms_norm(shape: &Shape64, x: &[f64], gain: &[f64]) -> Vec<Vec<f64>> {
    let eps = f64::from(shape.model.norm_eps_pico) * 1e-12;
    let scale = |row: &[f64]| 1.0 / (dot(row, row) / row.len() as f64 + eps).sqrt();
    let scales: Vec<f64> = x.chunks(gain.len()).map(scale).collect();
    let y = x.iter().enumerate().map(|(place, x)| x * scales[place / gain.len()] * gain[place % gain.len()]);
    vec![y.collect(), scales.clone()]
}

fn rms_norm_backward(
    dy: &[f64],
    x: &[f64],
    gain: &[f64],
    scales: &[f64],
    dgain: &[f64],
    skip: Option<&[f64]>,
) -> Vec<Vec<f64>> {
    let width = gain.len();
    let (mut dx, mut dgain) = (skip.map_or_else(|| vec![0.0; x.len()], <[f64]>::to_vec), dgain.to_vec());
    for (t, r) in scales.iter().enumerate() {
        let row = t * width..(t + 1) * width;
        let (dy, x, dx) = (&dy[row.clone()], &x[row.clone()], &mut dx[row]);
        let mean = (0..width).map(|c| dy[c] * gain[c] * x[c] * r).sum::<f64>() / width as f64;
        for c in 0..width {
            dx[c] += r * (dy[c] * gain[c] - x[c] * r * mean);
            dgain[c] += dy[c] * x[c] * r;
        }
    }
    vec![dx, dgain]
}

fn rope(shape: &Shape64, x: &[f64], direction: f64) -> Vec<f64> {
    let (model, width) = (&shape.model, shape.dim(Dim::Qkv));
    let (half, turned) = (model.head_width() as usize / 2, (model.heads + model.kv_heads) as usize);
    let mut y = x.to_vec();
    for (t, row) in y.chunks_mut(width).enumerate() {
        for head in row.chunks_mut(2 * half).take(turned) {
            for i in 0..half {
                let [cosine, sine] = shape.rotary[t % shape.sequence * half + i];
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cosine - direction * b * sine;
                head[i + half] = b * cosine + direction * a * sine;
            }
        }
    }
    y
}

/// Where a query head and its key and value stand in a row, and the heads' width.
fn places(model: &ModelSpec, head: usize) -> (usize, usize, usize, usize) {
    let width = model.head_width() as usize;
    let key = model.hidden as usize + head / (model.heads / model.kv_heads) as usize * width;
    (head * width, key, key + model.kv_width() as usize, width)
}

/// The weights of one head at one token, with the greatest score and one over the sum of exponentials.
fn weights(shape: &Shape64, qkv: &[f64], token: usize, head: usize) -> (Vec<f64>, f64, f64) {
    let (row, (query, key, _, width)) = (shape.dim(Dim::Qkv), places(&shape.model, head));
    let first = token - token % shape.sequence;
    let score =
        |j: usize| dot(&qkv[token * row + query..][..width], &qkv[j * row + key..][..width]) / (width as f64).sqrt();
    let scores: Vec<f64> = (first..=token).map(score).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let c = 1.0 / scores.iter().map(|score| (score - top).exp()).sum::<f64>();
    (scores.iter().map(|score| (score - top).exp() * c).collect(), top, c)
}

fn attention(shape: &Shape64, qkv: &[f64]) -> Vec<Vec<f64>> {
    let (row, hidden, heads) = (shape.dim(Dim::Qkv), shape.dim(Dim::Hidden), shape.dim(Dim::Heads));
    let (mut y, mut maxima, mut scales) = (vec![0.0; shape.tokens * hidden], Vec::new(), Vec::new());
    for place in 0..shape.tokens * heads {
        let (token, head) = (place / heads, place % heads);
        let (weights, top, c) = weights(shape, qkv, token, head);
        let (query, _, value, width) = places(&shape.model, head);
        for (j, weight) in (token - token % shape.sequence..).zip(&weights) {
            (0..width).for_each(|i| y[token * hidden + query + i] += weight * qkv[j * row + value + i]);
        }
        maxima.push(top);
        scales.push(c);
    }
    vec![y, maxima, scales]
}

fn attention_backward(shape: &Shape64, qkv: &[f64], dy: &[f64]) -> Vec<f64> {
    let (row, hidden, heads) = (shape.dim(Dim::Qkv), shape.dim(Dim::Hidden), shape.dim(Dim::Heads));
    let mut grad = vec![0.0; qkv.len()];
    for place in 0..shape.tokens * heads {
        let (token, head) = (place / heads, place % heads);
        let (weights, ..) = weights(shape, qkv, token, head);
        let (query, key, value, width) = places(&shape.model, head);
        let (dy, first) = (&dy[token * hidden + query..][..width], token - token % shape.sequence);
        let slopes: Vec<f64> =
            (0..weights.len()).map(|j| dot(dy, &qkv[(first + j) * row + value..][..width])).collect();
        let mean = dot(&weights, &slopes);
        for (j, (p, slope)) in (first..).zip(weights.iter().zip(&slopes)) {
            let ds = p * (slope - mean) / (width as f64).sqrt();
            for i in 0..width {
                grad[token * row + query + i] += ds * qkv[j * row + key + i];
                grad[j * row + key + i] += ds * qkv[token * row + query + i];
                grad[j * row + value + i] += p * dy[i];
            }
        }
    }
    grad
}

fn swiglu_backward(da: &[f64], x: &[f64], ffn: usize) -> Vec<f64> {
    let mut dx = vec![0.0; x.len()];
    for (t, da) in da.chunks(ffn).enumerate() {
        let (x, dx) = (&x[2 * t * ffn..][..2 * ffn], &mut dx[2 * t * ffn..][..2 * ffn]);
        for c in 0..ffn {
            let s = sigmoid(x[c]);
            dx[c] = da[c] * x[ffn + c] * s * (1.0 + x[c] * (1.0 - s));
            dx[ffn + c] = da[c] * x[c] * s;
        }
    }
    dx
}

fn cross_entropy(logits: &[f64], bias: &[f64], targets: &[f64]) -> Vec<Vec<f64>> {
    let (mut losses, mut grads) = (Vec::new(), Vec::new());
    for (row, target) in logits.chunks(bias.len()).zip(targets) {
        let l: Vec<f64> = row.iter().zip(bias).map(|(x, bias)| x + bias).collect();
        let top = l.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = l.iter().map(|l| (l - top).exp()).sum();
        losses.push(sum.ln() + top - l[*target as usize]);
        grads.extend(l.iter().enumerate().map(|(c, l)| (l - top).exp() / sum - f64::from(c == *target as usize)));
    }
    vec![losses, grads]
}
