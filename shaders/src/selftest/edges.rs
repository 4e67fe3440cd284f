//! Inputs whose results lie on the edge between two bfloat16 values, or nearly cancel. An error in the last place of a
//! single would pass a narrowing unseen 65 535 times in 65 536; here it shows.

use neuroshard_proto::ops::{Dim, Op, Slot};

use crate::canon::{exp, max, mul, recip, sigmoid, silu, tree, z};
use crate::layout::single;
use crate::values::{Shape, Value, Values};

/// Moves an operand so that most outputs are within a few last places of a tie.
pub(super) fn sharpen(op: Op, shape: &Shape, values: &mut Values) {
    match op {
        Op::SwiGlu => swiglu(shape, floats(values, Slot::GateUp)),
        Op::SwiGluBackward => {
            let gate_up = values[&Slot::GateUp].float().to_vec();
            swiglu_backward(shape, &gate_up, floats(values, Slot::GradActivated));
        }
        Op::Rope => rope(shape, 1.0, floats(values, Slot::Qkv)),
        Op::RopeBackward => rope(shape, -1.0, floats(values, Slot::GradRotated)),
        Op::CrossEntropy => {
            let bias = values[&Slot::HeadBias].float().to_vec();
            cross_entropy(shape, &bias, floats(values, Slot::Logits));
        }
        Op::Attention => attention(shape, floats(values, Slot::Rotated)),
        Op::AttentionBackward => {
            let [rotated, maxima] = [Slot::Rotated, Slot::RowMax].map(|slot| values[&slot].float().to_vec());
            attention_backward(shape, &rotated, &maxima, floats(values, Slot::RowScale));
        }
        _ => {}
    }
}

fn floats(values: &mut Values, slot: Slot) -> &mut [f32] {
    match values.get_mut(&slot) {
        Some(Value::Float(floats)) => floats,
        _ => &mut [],
    }
}

/// The tie between bfloat16 values nearest to `x`.
fn tie(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0xffff_0000 | 0x8000)
}

/// What times `factor` is nearly the tie nearest to `product`; `otherwise` where that is no ordinary number.
fn quotient(product: f32, factor: f32, otherwise: f32) -> f32 {
    let quotient = tie(product) / factor;
    if product.is_normal() && quotient.is_normal() && quotient.abs() < 1e6 { quotient } else { otherwise }
}

/// `mul(silu(g), u)` by `u`.
fn swiglu(shape: &Shape, x: &mut [f32]) {
    let ffn = shape.dim(Dim::Ffn);
    for row in x.chunks_exact_mut(2 * ffn) {
        let (gates, ups) = row.split_at_mut(ffn);
        for (g, u) in gates.iter().zip(ups) {
            let s = silu(*g);
            *u = quotient(mul(s, *u), s, *u);
        }
    }
}

/// The gradients of gate and up by turns, by `da`.
fn swiglu_backward(shape: &Shape, x: &[f32], da: &mut [f32]) {
    let ffn = shape.dim(Dim::Ffn);
    for (row, das) in x.chunks_exact(2 * ffn).zip(da.chunks_exact_mut(ffn)) {
        for (c, da) in das.iter_mut().enumerate() {
            let (g, u) = (row[c], row[ffn + c]);
            let s = sigmoid(g);
            let slope = mul(s, 1.0 + mul(g, 1.0 - s));
            let (product, factor) =
                if c % 2 == 0 { (mul(mul(*da, u), slope), u * slope) } else { (mul(*da, mul(g, s)), mul(g, s)) };
            *da = quotient(product, factor, *da);
        }
    }
}

/// The first of each pair, by itself: forward `x_i cos - x_j sin`, back with the other sign.
fn rope(shape: &Shape, direction: f32, x: &mut [f32]) {
    let (model, width) = (&shape.model, shape.dim(Dim::Qkv));
    let (pairs, turning) = (model.head_width() as usize / 2, (model.heads + model.kv_heads) as usize);
    for (token, row) in x.chunks_exact_mut(width).enumerate() {
        let table = &shape.rotary[token % shape.sequence * pairs..][..pairs];
        for head in row.chunks_exact_mut(2 * pairs).take(turning) {
            for (i, [cosine, sine]) in table.iter().enumerate() {
                let across = direction * mul(head[i + pairs], *sine);
                let wanted = tie(mul(head[i], *cosine) - across) + across;
                let moved = wanted / cosine;
                if cosine.abs() > 0.1 && moved.is_normal() {
                    head[i] = moved;
                }
            }
        }
    }
}

/// Each weight but the target's, by its logit. Moving one moves all through their sum, so it takes a few rounds.
fn cross_entropy(shape: &Shape, bias: &[f32], logits: &mut [f32]) {
    for row in logits.chunks_exact_mut(shape.dim(Dim::Vocab)) {
        for _ in 0..4 {
            let l: Vec<f32> = row.iter().zip(bias).map(|(x, bias)| z(x + bias)).collect();
            let m = l.iter().copied().fold(f32::MIN, max);
            let e: Vec<f32> = l.iter().map(|l| exp(z(l - m))).collect();
            let c = recip(tree(e.len(), |i| e[i]));
            for ((x, l), e) in row.iter_mut().zip(&l).zip(&e) {
                let p = mul(*e, c);
                // The largest stays: it holds the others' differences in place.
                if p.is_normal() && *l < m {
                    *x += tie(p) / p - 1.0;
                }
            }
        }
    }
}

/// Every second position has its neighbour's keys, and values of the other sign in every second place: what is left of
/// their sum is what the order of additions leaves.
fn attention(shape: &Shape, rotated: &mut [f32]) {
    let (model, width) = (&shape.model, shape.dim(Dim::Qkv));
    let keys = model.hidden as usize;
    let values = keys + model.kv_width() as usize;
    for pair in rotated.chunks_exact_mut(2 * width) {
        let (first, second) = pair.split_at_mut(width);
        second[keys..values].copy_from_slice(&first[keys..values]);
        for (mine, other) in second[values..].iter_mut().zip(&first[values..]).step_by(2) {
            *mine = -other;
        }
    }
}

/// One weight of each row, by the row's scale.
fn attention_backward(shape: &Shape, rotated: &[f32], maxima: &[f32], scales: &mut [f32]) {
    let (model, width) = (&shape.model, shape.dim(Dim::Qkv));
    let (heads, head_width) = (model.heads as usize, model.head_width() as usize);
    let scale = single(model.attention_scale());
    for (place, (m, c)) in maxima.iter().zip(scales).enumerate() {
        let (token, head) = (place / heads, place % heads);
        let position = token % shape.sequence;
        let seen = token - position + place * 7 % (position + 1);
        let key = model.hidden as usize + head / (heads / model.kv_heads as usize) * head_width;
        let query = &rotated[token * width + head * head_width..][..head_width];
        let dot = query.iter().zip(&rotated[seen * width + key..]).fold(0.0, |sum: f32, (q, k)| sum + q * k);
        let e = exp(z(mul(dot, scale) - m));
        *c = quotient(mul(e, *c), e, *c);
    }
}
