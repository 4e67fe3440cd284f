//! The operation table executed as it is written: one loop an operation, no cleverness. It is the oracle of every other
//! engine, and the readable definition of the model.
//!
//! `CONTRACT` makes the machine fuse every product with the sum it feeds wherever the rules leave them unshielded, which
//! is in [`Op`]'s chains and nowhere else. Both machines give the same bits: that is what operands in bfloat16 buy.

mod engine;

use neuroshard_proto::ModelSpec;
use neuroshard_proto::ops::{Call, Dim, Op};

use crate::canon::{bf, exceeds, exceeds_norm, exp, log, max, micro, mul, recip, rsqrt, sigmoid, tree, z};
use crate::layout::single;
use crate::values::{Shape, Value, Values};

pub use engine::Reference;

/// Runs a program over named values; returns whether every value stayed in its range.
pub fn run<const CONTRACT: bool>(program: &[Call], shape: &Shape, values: &mut Values) -> bool {
    program.iter().all(|call| apply::<CONTRACT>(call, shape, values))
}

/// Performs one call; returns whether every value stayed in its range.
pub fn apply<const CONTRACT: bool>(call: &Call, shape: &Shape, values: &mut Values) -> bool {
    let mut range = Range(true);
    let outputs = match call.op {
        Op::Embed => embed(call, shape, values),
        Op::EmbedBackward => embed_backward(call, shape, values),
        Op::RmsNorm => rms_norm(call, shape, values, &mut range),
        Op::RmsNormBackward => rms_norm_backward(call, shape, values, &mut range),
        Op::MatmulNt => matmul_nt::<CONTRACT>(call, shape, values),
        Op::MatmulNn => matmul_nn::<CONTRACT>(call, shape, values),
        Op::MatmulTn => matmul_tn::<CONTRACT>(call, shape, values),
        Op::Rope => rope(call, shape, values, false, &mut range),
        Op::RopeBackward => rope(call, shape, values, true, &mut range),
        Op::Attention => attention::<CONTRACT>(call, shape, values, &mut range),
        Op::AttentionBackward => attention_backward::<CONTRACT>(call, shape, values, &mut range),
        Op::SwiGlu => swiglu(call, shape, values, &mut range),
        Op::SwiGluBackward => swiglu_backward(call, shape, values, &mut range),
        Op::Residual => {
            let (x, y) = (floats(call, values, 0), floats(call, values, 1));
            vec![Value::Float(x.iter().zip(y).map(|(x, y)| z(x + y)).collect())]
        }
        Op::Cast => vec![Value::Float(floats(call, values, 0).iter().map(|x| range.bf(*x)).collect())],
        Op::CrossEntropy => cross_entropy(call, shape, values, &mut range),
        Op::SumSquares | Op::AdamW => panic!("the optimizer's operations stand in no program"),
    };
    assert_eq!(outputs.len(), call.writes.len(), "{:?} makes what it writes", call.op);
    values.extend(call.writes.iter().copied().zip(outputs));
    range.0
}

/// Remembers whether a value left its range.
struct Range(bool);

impl Range {
    fn check(&mut self, x: f32) -> f32 {
        self.0 &= !exceeds(x);
        x
    }

    fn bf(&mut self, x: f32) -> f32 {
        bf(self.check(x))
    }
}

fn floats<'a>(call: &Call, values: &'a Values, operand: usize) -> &'a [f32] {
    values[&call.reads[operand]].float()
}

fn mac<const CONTRACT: bool>(acc: f32, a: f32, b: f32) -> f32 {
    if CONTRACT { a.mul_add(b, acc) } else { acc + a * b }
}

fn chain<const CONTRACT: bool>(start: f32, count: usize, factors: impl Fn(usize) -> (f32, f32)) -> f32 {
    (0..count).map(factors).fold(start, |acc, (a, b)| mac::<CONTRACT>(acc, a, b))
}

fn embed(call: &Call, shape: &Shape, values: &Values) -> Vec<Value> {
    let (tokens, table, width) = (values[&call.reads[0]].int(), floats(call, values, 1), shape.dim(Dim::Hidden));
    let row = |token: &i32| &table[*token as usize * width..][..width];
    vec![Value::Float(tokens.iter().flat_map(row).copied().collect())]
}

fn embed_backward(call: &Call, shape: &Shape, values: &Values) -> Vec<Value> {
    let (dy, tokens, width) = (floats(call, values, 0), values[&call.reads[1]].int(), shape.dim(Dim::Hidden));
    let mut table = floats(call, values, 2).to_vec();
    for (token, row) in tokens.iter().zip(dy.chunks_exact(width)) {
        for (acc, dy) in table[*token as usize * width..].iter_mut().zip(row) {
            *acc += dy;
        }
    }
    vec![Value::Float(table)]
}

fn rms_norm(call: &Call, shape: &Shape, values: &Values, range: &mut Range) -> Vec<Value> {
    let (x, gain, width) = (floats(call, values, 0), floats(call, values, 1), shape.dim(Dim::Hidden));
    let (inverse, eps) = (single(shape.model.inverse_hidden()), single(shape.model.norm_eps()));
    let (mut y, mut scales) = (Vec::with_capacity(x.len()), Vec::new());
    for row in x.chunks_exact(width) {
        range.0 &= !row.iter().any(|x| exceeds_norm(*x));
        let r = rsqrt(mul(tree(width, |c| mul(row[c], row[c])), inverse) + eps);
        y.extend(row.iter().zip(gain).map(|(x, gain)| range.bf(mul(mul(*x, r), *gain))));
        scales.push(r);
    }
    vec![Value::Float(y), Value::Float(scales)]
}

fn rms_norm_backward(call: &Call, shape: &Shape, values: &Values, range: &mut Range) -> Vec<Value> {
    let [dy, x, gain, scales, dgain] = [0, 1, 2, 3, 4].map(|operand| floats(call, values, operand));
    let skip = call.reads.get(5).map(|slot| values[slot].float());
    let (width, inverse) = (shape.dim(Dim::Hidden), single(shape.model.inverse_hidden()));
    let (mut dx, mut dgain) = (Vec::with_capacity(x.len()), dgain.to_vec());
    for (t, r) in scales.iter().enumerate() {
        let at = |c: usize| t * width + c;
        let n: Vec<f32> = (0..width).map(|c| mul(x[at(c)], *r)).collect();
        let u: Vec<f32> = (0..width).map(|c| mul(range.check(dy[at(c)]), gain[c])).collect();
        let s = mul(tree(width, |c| mul(u[c], n[c])), inverse);
        for c in 0..width {
            let own = mul(*r, z(u[c] - mul(n[c], s)));
            dx.push(z(skip.map_or(0.0, |skip| skip[at(c)]) + own));
            dgain[c] += mul(dy[at(c)], n[c]);
        }
    }
    vec![Value::Float(dx), Value::Float(dgain)]
}

fn matmul_nt<const CONTRACT: bool>(call: &Call, shape: &Shape, values: &Values) -> Vec<Value> {
    let (x, w) = (floats(call, values, 0), floats(call, values, 1));
    let depth = shape.dim(call.reads[1].shape().1);
    let products = x
        .chunks_exact(depth)
        .flat_map(|x| w.chunks_exact(depth).map(move |w| chain::<CONTRACT>(0.0, depth, |k| (x[k], w[k]))));
    vec![Value::Float(products.collect())]
}

fn matmul_nn<const CONTRACT: bool>(call: &Call, shape: &Shape, values: &Values) -> Vec<Value> {
    let (dy, w) = (floats(call, values, 0), floats(call, values, 1));
    let (rows, cols, _) = call.reads[1].shape();
    let (depth, width) = (shape.dim(rows), shape.dim(cols));
    let products = dy
        .chunks_exact(depth)
        .flat_map(|dy| (0..width).map(move |i| chain::<CONTRACT>(0.0, depth, |k| (dy[k], w[k * width + i]))));
    vec![Value::Float(products.collect())]
}

fn matmul_tn<const CONTRACT: bool>(call: &Call, shape: &Shape, values: &Values) -> Vec<Value> {
    let (dy, x, dw) = (floats(call, values, 0), floats(call, values, 1), floats(call, values, 2));
    let (rows, cols, _) = call.writes[0].shape();
    let (rows, cols) = (shape.dim(rows), shape.dim(cols));
    let factors = |place: usize| move |k: usize| (dy[k * rows + place / cols], x[k * cols + place % cols]);
    let sums = dw.iter().enumerate().map(|(place, dw)| chain::<CONTRACT>(*dw, shape.tokens, factors(place)));
    vec![Value::Float(sums.collect())]
}

fn rope(call: &Call, shape: &Shape, values: &Values, inverse: bool, range: &mut Range) -> Vec<Value> {
    let (x, width, model) = (floats(call, values, 0), shape.dim(Dim::Qkv), &shape.model);
    let (pairs, turned) = (model.head_width() as usize / 2, (model.heads + model.kv_heads) as usize);
    let mut y = x.to_vec();
    for (t, row) in y.chunks_exact_mut(width).enumerate() {
        let table = &shape.rotary[t % shape.sequence * pairs..][..pairs];
        for head in row.chunks_exact_mut(2 * pairs).take(turned) {
            for (i, [cosine, sine]) in table.iter().enumerate() {
                let (a, b) = (head[i], head[i + pairs]);
                (head[i], head[i + pairs]) = if inverse {
                    (z(mul(a, *cosine) + mul(b, *sine)), z(mul(b, *cosine) - mul(a, *sine)))
                } else {
                    (z(mul(a, *cosine) - mul(b, *sine)), z(mul(b, *cosine) + mul(a, *sine)))
                };
            }
        }
        for x in row {
            *x = range.bf(*x);
        }
    }
    vec![Value::Float(y)]
}

/// One query head over one sequence: where its query, key and value stand in a row of query, key and value.
struct Head {
    query: usize,
    key: usize,
    value: usize,
    width: usize,
}

impl Head {
    fn new(model: &ModelSpec, head: usize) -> Self {
        let width = model.head_width() as usize;
        let kv = head / (model.heads / model.kv_heads) as usize;
        let key = model.hidden as usize + kv * width;
        Self { query: head * width, key, value: key + model.kv_width() as usize, width }
    }
}

fn attention<const CONTRACT: bool>(call: &Call, shape: &Shape, values: &Values, range: &mut Range) -> Vec<Value> {
    let (qkv, row) = (floats(call, values, 0), shape.dim(Dim::Qkv));
    let (heads, hidden, scale) = (shape.dim(Dim::Heads), shape.dim(Dim::Hidden), single(shape.model.attention_scale()));
    let mut y = vec![0.0; shape.tokens * hidden];
    let (mut maxima, mut scales) = (vec![0.0; shape.tokens * heads], vec![0.0; shape.tokens * heads]);
    for place in 0..shape.tokens * heads {
        let (t, head) = (place / heads, Head::new(&shape.model, place % heads));
        let (first, seen) = (t - t % shape.sequence, t % shape.sequence + 1);
        let query = |k: usize| qkv[t * row + head.query + k];
        let scores: Vec<f32> = (0..seen)
            .map(|j| {
                let dot = chain::<CONTRACT>(0.0, head.width, |k| (query(k), qkv[(first + j) * row + head.key + k]));
                mul(range.check(dot), scale)
            })
            .collect();
        let top = scores.iter().copied().fold(f32::MIN, max);
        let weights: Vec<f32> = scores.iter().map(|s| exp(z(s - top))).collect();
        let c = recip(tree(seen, |j| weights[j]));
        for i in 0..head.width {
            let value = |j: usize| qkv[(first + j) * row + head.value + i];
            let sum = chain::<CONTRACT>(0.0, seen, |j| (bf(mul(weights[j], c)), value(j)));
            y[t * hidden + head.query + i] = range.bf(sum);
        }
        (maxima[place], scales[place]) = (top, c);
    }
    vec![Value::Float(y), Value::Float(maxima), Value::Float(scales)]
}

fn attention_backward<const CONTRACT: bool>(
    call: &Call,
    shape: &Shape,
    values: &Values,
    range: &mut Range,
) -> Vec<Value> {
    let [qkv, y, dy, maxima, scales] = [0, 1, 2, 3, 4].map(|operand| floats(call, values, operand));
    let (row, heads, hidden) = (shape.dim(Dim::Qkv), shape.dim(Dim::Heads), shape.dim(Dim::Hidden));
    let scale = single(shape.model.attention_scale());
    let mut dqkv = vec![0.0; shape.tokens * row];
    for first in (0..shape.tokens).step_by(shape.sequence) {
        for h in 0..heads {
            let head = Head::new(&shape.model, h);
            // Query heads ascend outside and rows ascend inside: the order in which keys and values gather.
            for t in first..first + shape.sequence {
                let (m, c) = (maxima[t * heads + h], scales[t * heads + h]);
                let out = |i: usize| t * hidden + head.query + i;
                let b = chain::<CONTRACT>(0.0, head.width, |i| (dy[out(i)], y[out(i)]));
                for j in first..=t {
                    let (query, key, value) = (t * row + head.query, j * row + head.key, j * row + head.value);
                    let dot = chain::<CONTRACT>(0.0, head.width, |k| (qkv[query + k], qkv[key + k]));
                    let p = mul(exp(z(mul(dot, scale) - m)), c);
                    let dp = chain::<CONTRACT>(0.0, head.width, |i| (dy[out(i)], qkv[value + i]));
                    let ds = range.bf(mul(mul(p, z(dp - b)), scale));
                    for i in 0..head.width {
                        dqkv[query + i] = mac::<CONTRACT>(dqkv[query + i], ds, qkv[key + i]);
                        dqkv[key + i] = mac::<CONTRACT>(dqkv[key + i], ds, qkv[query + i]);
                        dqkv[value + i] = mac::<CONTRACT>(dqkv[value + i], bf(p), dy[out(i)]);
                    }
                }
            }
        }
    }
    vec![Value::Float(dqkv)]
}

fn swiglu(call: &Call, shape: &Shape, values: &Values, range: &mut Range) -> Vec<Value> {
    let (x, ffn) = (floats(call, values, 0), shape.dim(Dim::Ffn));
    let mut y = Vec::with_capacity(x.len() / 2);
    for row in x.chunks_exact(2 * ffn) {
        let (gates, ups) = row.split_at(ffn);
        for (g, u) in gates.iter().zip(ups) {
            let (g, u) = (range.check(*g), range.check(*u));
            y.push(range.bf(mul(mul(g, sigmoid(g)), u)));
        }
    }
    vec![Value::Float(y)]
}

fn swiglu_backward(call: &Call, shape: &Shape, values: &Values, range: &mut Range) -> Vec<Value> {
    let (da, x, ffn) = (floats(call, values, 0), floats(call, values, 1), shape.dim(Dim::Ffn));
    let mut dx = vec![0.0; x.len()];
    for ((dx, row), da) in dx.chunks_exact_mut(2 * ffn).zip(x.chunks_exact(2 * ffn)).zip(da.chunks_exact(ffn)) {
        for c in 0..ffn {
            let (g, u, da) = (row[c], row[ffn + c], range.check(da[c]));
            let s = sigmoid(g);
            dx[c] = range.bf(mul(mul(da, u), mul(s, 1.0 + mul(g, 1.0 - s))));
            dx[ffn + c] = range.bf(mul(da, mul(g, s)));
        }
    }
    vec![Value::Float(dx)]
}

fn cross_entropy(call: &Call, shape: &Shape, values: &Values, range: &mut Range) -> Vec<Value> {
    let (logits, bias, targets) = (floats(call, values, 0), floats(call, values, 1), values[&call.reads[2]].int());
    let vocab = shape.dim(Dim::Vocab);
    let (mut losses, mut dlogits) = (Vec::new(), Vec::with_capacity(logits.len()));
    for (row, target) in logits.chunks_exact(vocab).zip(targets) {
        let l: Vec<f32> = row.iter().zip(bias).map(|(x, bias)| z(range.check(*x) + bias)).collect();
        let m = l.iter().copied().fold(f32::MIN, max);
        let e: Vec<f32> = l.iter().map(|l| exp(z(l - m))).collect();
        let s = tree(vocab, |c| e[c]);
        let c = recip(s);
        let target = *target as usize;
        dlogits
            .extend(e.iter().enumerate().map(|(i, e)| range.bf(z(mul(*e, c) - if i == target { 1.0 } else { 0.0 }))));
        losses.push(micro(log(s) + (m - l[target])));
    }
    vec![Value::Int(losses), Value::Float(dlogits)]
}

/// The squared norm of a tensor's gradient ([`Op::SumSquares`]); `None` if a value is out of range.
pub fn sum_squares(gradient: &[f32], token_weight: f32) -> Option<f32> {
    let squares = tree(gradient.len(), |i| {
        let weighted = mul(gradient[i], token_weight);
        mul(weighted, weighted)
    });
    (!gradient.iter().any(|g| exceeds(*g))).then_some(squares)
}
