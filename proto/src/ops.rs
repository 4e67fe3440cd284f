//! The operation table: every operation of a training step, its shapes, how its sums are split, and the order in which a
//! layer performs them (ARCHITECTURE §4).
//!
//! Backends run these programs, the trace has one leaf for each call, and the referee re-executes one element of one
//! call. The arithmetic of each operation is defined here in words and in `neuroshard-shaders`' reference backend in
//! code; both say the same.
//!
//! # Words
//!
//! * `bf(x)`: `x` rounded to bfloat16, nearest, ties to even, by integer operations on the bits. `|x| < 2^-52` becomes
//!   `+0`; `|x| > 2^50`, infinities and NaN **void** the batch.
//! * `z(x)`: `x`, or `+0` if `|x| < 2^-100`, by integer comparison. Every element-wise result and all stored state went
//!   through it, so no operation ever sees or makes a subnormal that matters.
//! * `mul(a, b)`: `z(a * b)`, shielded so that no compiler fuses the product with a sum that follows.
//! * `chain(c, a_k, b_k)`: `acc = c; for k ascending: acc = acc + a_k * b_k`. The factors are bfloat16 values, so each
//!   product is exact and fusing changes nothing.
//! * `tree(x)`: blocks of 256 from the start, the last filled with `+0`; in a block `for s in [128, 64, .., 1]: x_i =
//!   x_i + x_{i+s}`; the blocks' totals are added in order, starting from the first.
//! * Bounds that void the batch where they are exceeded (by integer comparison, so NaN exceeds them too): `2^40` for
//!   the input of a norm, `2^50` for everything else that is checked.

use crate::tensor::DType;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// `y[t] = E[token[t]]`.
    Embed,
    /// `dE[token[t]] += dy[t]`, t ascending, one add a time: `acc = acc + dy`.
    EmbedBackward,
    /// `|x| <= 2^40`; `r = rsqrt(mul(tree(mul(x, x)), 1/D) + eps)`; `y = bf(mul(mul(x, r), gain))`; keeps `r`.
    RmsNorm,
    /// `|dy| <= 2^50`; `n = mul(x, r)`; `u = mul(dy, gain)`; `s = mul(tree(mul(u, n)), 1/D)`;
    /// `dx = z(skip + mul(r, z(u - mul(n, s))))`, where `skip` is the gradient that by-passes the norm, if any;
    /// `dgain_c = dgain_c + mul(dy_c, n_c)`, rows ascending.
    RmsNormBackward,
    /// `y[t, o] = chain(0, x[t, k], w[o, k])`: a product with a weight, `y = x W^T`.
    MatmulNt,
    /// `dx[t, i] = chain(0, dy[t, k], w[k, i])`: the gradient of a product's input, `dx = dy W`.
    MatmulNn,
    /// `dw[o, i] = chain(dw[o, i], dy[k, o], x[k, i])`, k over all tokens of the step in (batch, microbatch, position)
    /// order: the gradient of a weight, `dW += dy^T x`. Microbatches may come one by one or together: the bits agree.
    MatmulTn,
    /// For the query and key heads, pair `i` with `i + h/2`: `y_i = bf(z(mul(x_i, cos) - mul(x_j, sin)))`,
    /// `y_j = bf(z(mul(x_j, cos) + mul(x_i, sin)))`; values are `bf(x)`.
    Rope,
    /// The inverse rotation: as [`Op::Rope`] with `-sin`, `y_i = bf(z(mul(x_i, cos) + mul(x_j, sin)))`,
    /// `y_j = bf(z(mul(x_j, cos) - mul(x_i, sin)))`.
    RopeBackward,
    /// Causal attention of one head over one sequence, `j <= t`: `d = chain(0, q[t, k], key[j, k])`, `|d| <= 2^50`;
    /// `s_j = mul(d, scale)`; `m = max s_j`; `e_j = exp(z(s_j - m))`, and `+0` for `j > t`; `c = recip(tree(e))`;
    /// `y[t, i] = bf(chain(0, bf(mul(e_j, c)), value[j, i]))`, j ascending. Keeps `m` and `c`.
    Attention,
    /// With `e_j`, `p_j = mul(e_j, c)` as in [`Op::Attention`]: `b = chain(0, dy[t, i], y[t, i])`;
    /// `dp_j = chain(0, dy[t, i], value[j, i])`; `ds_j = bf(mul(mul(p_j, z(dp_j - b)), scale))`;
    /// `dq[t, i] = chain(0, ds_j, key[j, i])`, j ascending; `dkey[j, i] = chain(0, ds[t, j], q[t, i])` and
    /// `dvalue[j, i] = chain(0, bf(p[t, j]), dy[t, i])`, over the query heads of the group ascending and in each `t >= j`
    /// ascending.
    AttentionBackward,
    /// `|g|, |u| <= 2^50`; `a = bf(mul(silu(g), u))`, where `sigmoid(g) = recip(1 + exp(-clamp(g, -64, 64)))` and
    /// `silu(g) = mul(g, sigmoid(g))`. Gate and up stand side by side in a row.
    SwiGlu,
    /// `|da| <= 2^50`; with `s = sigmoid(g)`: `du = bf(mul(da, mul(g, s)))`;
    /// `dg = bf(mul(mul(da, u), mul(s, 1 + mul(g, 1 - s))))`.
    SwiGluBackward,
    /// `z(x + y)`.
    Residual,
    /// `bf(x)`.
    Cast,
    /// `|logit| <= 2^50`; `l = z(logit + bias)`; `m = max l`; `e = exp(z(l - m))`; `s = tree(e)`; `c = recip(s)`;
    /// the loss is `log(s) + (m - l_target)` in whole micro-nats, `floor(mul(loss, 10^6) + 1/2)`, at most 2^30;
    /// `dl = bf(z(mul(e, c) - [target]))`: the gradient of the *sum* of the losses.
    CrossEntropy,
    /// `|g| <= 2^50`; `tree(mul(w, w))` with `w = mul(g, token_weight)`, over a tensor's elements in row-major order. A
    /// stage's squared norm adds its tensors' in canonical order, starting from the first; the global one adds the
    /// stages' in order, starting from the first.
    SumSquares,
    /// With `total` the global squared norm, `c = 1` if `total <= clip^2` (`mul(clip, clip)`, compared as bits), else
    /// `mul(clip, rsqrt(total))`: `g = mul(mul(gradient, token_weight), c)`; `m = z(mul(beta1, m) + mul(beta1_rest, g))`;
    /// `v = z(mul(beta2, v) + mul(beta2_rest, mul(g, g)))`; `h = mul(v, correction2)`;
    /// `u = mul(mul(m, correction1), recip(mul(h, rsqrt(h)) + eps))`, where the root of 0 is 0;
    /// `w = z(w - mul(rate, z(u + mul(decay, w))))`, with decay only for matrices.
    AdamW,
}

impl Op {
    pub const ALL: [Self; 18] = [
        Self::Embed,
        Self::EmbedBackward,
        Self::RmsNorm,
        Self::RmsNormBackward,
        Self::MatmulNt,
        Self::MatmulNn,
        Self::MatmulTn,
        Self::Rope,
        Self::RopeBackward,
        Self::Attention,
        Self::AttentionBackward,
        Self::SwiGlu,
        Self::SwiGluBackward,
        Self::Residual,
        Self::Cast,
        Self::CrossEntropy,
        Self::SumSquares,
        Self::AdamW,
    ];

    /// The operation's name in traces, self-tests and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::EmbedBackward => "embed_backward",
            Self::RmsNorm => "rms_norm",
            Self::RmsNormBackward => "rms_norm_backward",
            Self::MatmulNt => "matmul_nt",
            Self::MatmulNn => "matmul_nn",
            Self::MatmulTn => "matmul_tn",
            Self::Rope => "rope",
            Self::RopeBackward => "rope_backward",
            Self::Attention => "attention",
            Self::AttentionBackward => "attention_backward",
            Self::SwiGlu => "swiglu",
            Self::SwiGluBackward => "swiglu_backward",
            Self::Residual => "residual",
            Self::Cast => "cast",
            Self::CrossEntropy => "cross_entropy",
            Self::SumSquares => "sum_squares",
            Self::AdamW => "adamw",
        }
    }
}

/// A dimension of a value, by what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    One,
    /// Tokens: microbatches times positions.
    Tokens,
    Hidden,
    /// Query, key and value side by side.
    Qkv,
    Heads,
    Ffn,
    /// Gate and up side by side.
    GateUp,
    Vocab,
}

/// A value of a layer step, by name. Names that start with `Grad` are gradients of the value they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    // Inputs and activations.
    Tokens,
    Targets,
    /// The residual stream that enters the layer or the head.
    Input,
    NormedInput,
    InputScale,
    Qkv,
    Rotated,
    Attended,
    RowMax,
    RowScale,
    AttentionOut,
    /// The residual stream between attention and feed-forward.
    Middle,
    NormedMiddle,
    MiddleScale,
    GateUp,
    Activated,
    FfnOut,
    /// The residual stream that leaves the layer.
    Output,
    Logits,
    Loss,
    // Weights: matrices as bfloat16, gains and bias as single precision.
    EmbeddingWeight,
    AttentionGain,
    QkvWeight,
    OutputWeight,
    FfnGain,
    GateUpWeight,
    DownWeight,
    FinalGain,
    HeadWeight,
    HeadBias,
    // Gradients of values.
    GradOutput,
    GradOutputCast,
    GradActivated,
    GradGateUp,
    GradNormedMiddle,
    GradMiddle,
    GradMiddleCast,
    GradAttended,
    GradAttendedCast,
    GradRotated,
    GradQkv,
    GradNormedInput,
    GradInput,
    GradLogits,
    // Gradients of weights: accumulators that live through a step.
    GradEmbeddingWeight,
    GradAttentionGain,
    GradQkvWeight,
    GradOutputWeight,
    GradFfnGain,
    GradGateUpWeight,
    GradDownWeight,
    GradFinalGain,
    GradHeadWeight,
    GradHeadBias,
}

impl Slot {
    /// Rows, columns and element type of the value.
    pub const fn shape(self) -> (Dim, Dim, DType) {
        use DType::{Bf16, F32, I32};
        use Dim::{Ffn, GateUp, Heads, Hidden, One, Qkv, Tokens, Vocab};
        match self {
            Self::Tokens | Self::Targets | Self::Loss => (Tokens, One, I32),
            Self::Input
            | Self::AttentionOut
            | Self::Middle
            | Self::FfnOut
            | Self::Output
            | Self::GradOutput
            | Self::GradNormedMiddle
            | Self::GradMiddle
            | Self::GradAttended
            | Self::GradNormedInput
            | Self::GradInput => (Tokens, Hidden, F32),
            Self::NormedInput
            | Self::Attended
            | Self::NormedMiddle
            | Self::GradOutputCast
            | Self::GradMiddleCast
            | Self::GradAttendedCast => (Tokens, Hidden, Bf16),
            Self::InputScale | Self::MiddleScale => (Tokens, One, F32),
            Self::Qkv | Self::GradRotated => (Tokens, Qkv, F32),
            Self::Rotated | Self::GradQkv => (Tokens, Qkv, Bf16),
            Self::RowMax | Self::RowScale => (Tokens, Heads, F32),
            Self::GateUp => (Tokens, GateUp, F32),
            Self::GradGateUp => (Tokens, GateUp, Bf16),
            Self::Activated => (Tokens, Ffn, Bf16),
            Self::GradActivated => (Tokens, Ffn, F32),
            Self::Logits => (Tokens, Vocab, F32),
            Self::GradLogits => (Tokens, Vocab, Bf16),
            Self::EmbeddingWeight | Self::GradEmbeddingWeight | Self::GradHeadWeight => (Vocab, Hidden, F32),
            Self::HeadWeight => (Vocab, Hidden, Bf16),
            Self::AttentionGain
            | Self::FfnGain
            | Self::FinalGain
            | Self::GradAttentionGain
            | Self::GradFfnGain
            | Self::GradFinalGain => (One, Hidden, F32),
            Self::HeadBias | Self::GradHeadBias => (One, Vocab, F32),
            Self::QkvWeight => (Qkv, Hidden, Bf16),
            Self::GradQkvWeight => (Qkv, Hidden, F32),
            Self::OutputWeight => (Hidden, Hidden, Bf16),
            Self::GradOutputWeight => (Hidden, Hidden, F32),
            Self::GateUpWeight => (GateUp, Hidden, Bf16),
            Self::GradGateUpWeight => (GateUp, Hidden, F32),
            Self::DownWeight => (Hidden, Ffn, Bf16),
            Self::GradDownWeight => (Hidden, Ffn, F32),
        }
    }
}

/// One operation applied to named values. A value in `writes` that is also in `reads` is an accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub op: Op,
    pub reads: &'static [Slot],
    pub writes: &'static [Slot],
}

const fn call(op: Op, reads: &'static [Slot], writes: &'static [Slot]) -> Call {
    Call { op, reads, writes }
}

use Op as O;
use Slot as S;

/// Tokens to residual stream.
pub const EMBED: [Call; 1] = [call(O::Embed, &[S::Tokens, S::EmbeddingWeight], &[S::Input])];

/// A transformer layer, forward: [`Slot::Input`] to [`Slot::Output`].
pub const LAYER_FORWARD: [Call; 11] = [
    call(O::RmsNorm, &[S::Input, S::AttentionGain], &[S::NormedInput, S::InputScale]),
    call(O::MatmulNt, &[S::NormedInput, S::QkvWeight], &[S::Qkv]),
    call(O::Rope, &[S::Qkv], &[S::Rotated]),
    call(O::Attention, &[S::Rotated], &[S::Attended, S::RowMax, S::RowScale]),
    call(O::MatmulNt, &[S::Attended, S::OutputWeight], &[S::AttentionOut]),
    call(O::Residual, &[S::Input, S::AttentionOut], &[S::Middle]),
    call(O::RmsNorm, &[S::Middle, S::FfnGain], &[S::NormedMiddle, S::MiddleScale]),
    call(O::MatmulNt, &[S::NormedMiddle, S::GateUpWeight], &[S::GateUp]),
    call(O::SwiGlu, &[S::GateUp], &[S::Activated]),
    call(O::MatmulNt, &[S::Activated, S::DownWeight], &[S::FfnOut]),
    call(O::Residual, &[S::Middle, S::FfnOut], &[S::Output]),
];

/// The head, forward: residual stream to losses and the gradient of the logits.
pub const HEAD_FORWARD: [Call; 3] = [
    call(O::RmsNorm, &[S::Input, S::FinalGain], &[S::NormedInput, S::InputScale]),
    call(O::MatmulNt, &[S::NormedInput, S::HeadWeight], &[S::Logits]),
    call(O::CrossEntropy, &[S::Logits, S::HeadBias, S::Targets], &[S::Loss, S::GradLogits]),
];

/// The head, backward: gradient of the logits to [`Slot::GradInput`]. The bias is no matter of training: its gradient stays
/// zero, and so it stays what vocabulary activation made it (PROTOCOL §7).
pub const HEAD_BACKWARD: [Call; 3] = [
    call(O::MatmulTn, &[S::GradLogits, S::NormedInput, S::GradHeadWeight], &[S::GradHeadWeight]),
    call(O::MatmulNn, &[S::GradLogits, S::HeadWeight], &[S::GradNormedInput]),
    call(
        O::RmsNormBackward,
        &[S::GradNormedInput, S::Input, S::FinalGain, S::InputScale, S::GradFinalGain],
        &[S::GradInput, S::GradFinalGain],
    ),
];

/// A transformer layer, backward: [`Slot::GradOutput`] to [`Slot::GradInput`].
pub const LAYER_BACKWARD: [Call; 16] = [
    call(O::Cast, &[S::GradOutput], &[S::GradOutputCast]),
    call(O::MatmulTn, &[S::GradOutputCast, S::Activated, S::GradDownWeight], &[S::GradDownWeight]),
    call(O::MatmulNn, &[S::GradOutputCast, S::DownWeight], &[S::GradActivated]),
    call(O::SwiGluBackward, &[S::GradActivated, S::GateUp], &[S::GradGateUp]),
    call(O::MatmulTn, &[S::GradGateUp, S::NormedMiddle, S::GradGateUpWeight], &[S::GradGateUpWeight]),
    call(O::MatmulNn, &[S::GradGateUp, S::GateUpWeight], &[S::GradNormedMiddle]),
    call(
        O::RmsNormBackward,
        &[S::GradNormedMiddle, S::Middle, S::FfnGain, S::MiddleScale, S::GradFfnGain, S::GradOutput],
        &[S::GradMiddle, S::GradFfnGain],
    ),
    call(O::Cast, &[S::GradMiddle], &[S::GradMiddleCast]),
    call(O::MatmulTn, &[S::GradMiddleCast, S::Attended, S::GradOutputWeight], &[S::GradOutputWeight]),
    call(O::MatmulNn, &[S::GradMiddleCast, S::OutputWeight], &[S::GradAttended]),
    call(O::Cast, &[S::GradAttended], &[S::GradAttendedCast]),
    call(
        O::AttentionBackward,
        &[S::Rotated, S::Attended, S::GradAttendedCast, S::RowMax, S::RowScale],
        &[S::GradRotated],
    ),
    call(O::RopeBackward, &[S::GradRotated], &[S::GradQkv]),
    call(O::MatmulTn, &[S::GradQkv, S::NormedInput, S::GradQkvWeight], &[S::GradQkvWeight]),
    call(O::MatmulNn, &[S::GradQkv, S::QkvWeight], &[S::GradNormedInput]),
    call(
        O::RmsNormBackward,
        &[S::GradNormedInput, S::Input, S::AttentionGain, S::InputScale, S::GradAttentionGain, S::GradMiddle],
        &[S::GradInput, S::GradAttentionGain],
    ),
];

/// Gradient of the residual stream to the gradient of the embedding.
pub const EMBED_BACKWARD: [Call; 1] =
    [call(O::EmbedBackward, &[S::GradInput, S::Tokens, S::GradEmbeddingWeight], &[S::GradEmbeddingWeight])];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_value_is_made_before_it_is_used() {
        let weight_or_accumulator = |slot: Slot| {
            let (rows, _, _) = slot.shape();
            rows != Dim::Tokens
        };
        let chains: [(&[Call], &[Call], &[Slot]); 2] = [
            (&LAYER_FORWARD, &LAYER_BACKWARD, &[Slot::Input, Slot::GradOutput]),
            (&HEAD_FORWARD, &HEAD_BACKWARD, &[Slot::Input, Slot::Targets]),
        ];
        for (forward, backward, given) in chains {
            let mut known: BTreeSet<Slot> = given.iter().copied().collect();
            for call in forward.iter().chain(backward) {
                for slot in call.reads {
                    assert!(weight_or_accumulator(*slot) || known.contains(slot), "{:?} reads {slot:?}", call.op);
                }
                known.extend(call.writes);
            }
            assert!(known.contains(&Slot::GradInput));
        }
    }

    #[test]
    fn every_operation_of_a_layer_has_a_place() {
        let programs: [&[Call]; 6] =
            [&EMBED, &LAYER_FORWARD, &HEAD_FORWARD, &HEAD_BACKWARD, &LAYER_BACKWARD, &EMBED_BACKWARD];
        let used: BTreeSet<Op> = programs.into_iter().flatten().map(|call| call.op).collect();
        let apart = [Op::SumSquares, Op::AdamW];
        assert!(Op::ALL.iter().all(|op| used.contains(op) != apart.contains(op)));
    }
}
