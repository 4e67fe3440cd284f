//! Single calls of the operation table, on the kernels that training uses: for self-tests and audits.
//!
//! Operands that the table says are bfloat16 must be bfloat16 values.

use neuroshard_proto::Fault;
use neuroshard_proto::ops::{Call, Op, Slot};

use crate::values::{Shape, Value, Values};

use super::attention::{Group, HeadRows};
use super::attention_backward;
use super::backward::{embed_backward, product_sums, sum_all};
use super::forward::{attend, embed};
use super::memory::{BLOCK, Buffer, Tile, TokenPanels, cuts, padded, pair_stride};
use super::pass::{Crew, Cx, LayerKept, Missing, Scratch, Sizes, group_words};
use super::rows;
use super::state::{Matrix, Worst};

/// Performs a call; returns whether every value stayed in its range.
///
/// # Errors
/// [`Fault::BadJob`] if an operand is missing or has another shape than the table says.
pub(crate) fn apply(crew: &mut Crew, call: &Call, shape: &Shape, values: &mut Values) -> Result<bool, Fault> {
    let sizes = Sizes::with_table(&shape.model, &shape.rotary);
    let sequence = shape.sequence.max(1);
    if !shape.tokens.is_multiple_of(sequence) || sequence * sizes.head.words() > sizes.cosines.len() {
        return Err(Fault::bad_job("a call is on whole sequences that fit the rotary table"));
    }
    crew.reserve(&sizes, sequence, true)?;
    let worst = Worst::default();
    let cx = Cx { isa: crew.isa, sizes: &sizes, sequence, worst: &worst };
    let operands = Operands { call, shape, values };
    let apply = Apply { crew, cx, operands, tokens: shape.tokens };
    let outputs = apply.run()?;
    values.extend(call.writes.iter().copied().zip(outputs));
    Ok(rows::fits(worst.get()))
}

/// A call's operands, checked as they are taken.
struct Operands<'a> {
    call: &'a Call,
    shape: &'a Shape,
    values: &'a Values,
}

impl<'a> Operands<'a> {
    fn slot(&self, index: usize) -> Result<Slot, Fault> {
        self.call.reads.get(index).copied().ok_or_else(|| Fault::bad_job("the call has too few operands"))
    }

    /// Rows and columns of an operand.
    fn sizes(&self, slot: Slot) -> (usize, usize) {
        let (rows, cols, _) = slot.shape();
        (self.shape.dim(rows), self.shape.dim(cols))
    }

    fn value(&self, index: usize) -> Result<&'a Value, Fault> {
        let slot = self.slot(index)?;
        let value = self.values.get(&slot);
        value.ok_or_else(|| Fault::bad_job(&format!("the operand {slot:?} is missing")))
    }

    fn floats(&self, index: usize) -> Result<&'a [f32], Fault> {
        let slot = self.slot(index)?;
        let (rows, cols) = self.sizes(slot);
        match self.value(index)? {
            Value::Float(values) if values.len() == rows * cols => Ok(values),
            _ => Err(Fault::bad_job(&format!("the operand {slot:?} is not {rows} x {cols} singles"))),
        }
    }

    /// Tokens, each below the vocabulary's size.
    fn tokens(&self, index: usize) -> Result<Vec<u32>, Fault> {
        let (slot, vocab) = (self.slot(index)?, self.shape.model.vocab);
        let Value::Int(values) = self.value(index)? else {
            return Err(Fault::bad_job(&format!("the operand {slot:?} holds no integers")));
        };
        let token = |value: &i32| u32::try_from(*value).ok().filter(|token| *token < vocab);
        let tokens: Option<Vec<u32>> = values.iter().map(token).collect();
        let tokens = tokens.filter(|tokens| tokens.len() == self.shape.tokens);
        tokens.ok_or_else(|| Fault::bad_job(&format!("the operand {slot:?} is not one token of the vocabulary each")))
    }
}

/// bfloat16 values as rows of pairs.
fn pack_rows(values: &[f32], width: usize) -> Result<Buffer<u32>, Fault> {
    let mut out = Buffer::new(values.len() / width * pair_stride(width))?;
    for (row, out) in values.chunks_exact(width).zip(out.chunks_exact_mut(pair_stride(width))) {
        rows::write_pairs(row, out);
    }
    Ok(out)
}

/// Rows of pairs as the values they are.
fn unpack_rows(words: &[u32], width: usize) -> Vec<f32> {
    let row = |row: &[u32]| row.iter().flat_map(|word| rows::split(*word)).take(width).collect::<Vec<_>>();
    words.chunks_exact(pair_stride(width)).flat_map(row).collect()
}

/// Rows a whole number of vectors apart.
fn spread(values: &[f32], width: usize) -> Result<Buffer<f32>, Fault> {
    let mut out = Buffer::new(values.len() / width * padded(width))?;
    for (row, out) in values.chunks_exact(width).zip(out.chunks_exact_mut(padded(width))) {
        out[..width].copy_from_slice(row);
    }
    Ok(out)
}

struct Apply<'a> {
    crew: &'a Crew,
    cx: Cx<'a>,
    operands: Operands<'a>,
    tokens: usize,
}

impl Apply<'_> {
    fn run(&self) -> Result<Vec<Value>, Fault> {
        match self.operands.call.op {
            Op::Embed => self.embed(),
            Op::EmbedBackward => self.embed_backward(),
            Op::RmsNorm => self.rms_norm(),
            Op::RmsNormBackward => self.rms_norm_backward(),
            Op::MatmulNt => self.multiply(false),
            Op::MatmulNn => self.multiply(true),
            Op::MatmulTn => self.multiply_tokens(),
            Op::Rope => self.rope(&self.cx.sizes.sines),
            Op::RopeBackward => self.rope(&self.cx.sizes.sines_back),
            Op::Attention => self.attention(),
            Op::AttentionBackward => self.attention_backward(),
            Op::SwiGlu => self.swiglu(),
            Op::SwiGluBackward => self.swiglu_backward(),
            Op::Residual => {
                let mut out = self.operands.floats(1)?.to_vec();
                rows::residual(self.cx.isa, self.operands.floats(0)?, &mut out);
                Ok(vec![Value::Float(out)])
            }
            Op::Cast => {
                let x = self.operands.floats(0)?;
                self.each_row(x, self.cx.sizes.hidden, self.cx.sizes.hidden, |row, scratch, out| {
                    rows::cast(self.cx.isa, row, &mut scratch.lines[0], out)
                })
            }
            Op::CrossEntropy => self.cross_entropy(),
            Op::SumSquares | Op::AdamW => Err(Fault::bad_job("the optimizer's operations stand in no program")),
        }
    }

    /// Rows of `width` values in, rows of `out_width` bfloat16 values out.
    fn each_row(
        &self,
        x: &[f32],
        width: usize,
        out_width: usize,
        kernel: impl Fn(&[f32], &mut Scratch, &mut [u32]) -> rows::Magnitude + Sync,
    ) -> Result<Vec<Value>, Fault> {
        let stride = pair_stride(out_width);
        let mut out = Buffer::new(x.len() / width * stride)?;
        let items = x.chunks(BLOCK * width).zip(out.chunks_mut(BLOCK * stride)).collect();
        self.crew.for_each(items, |scratch, (x, out)| {
            for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(stride)) {
                self.cx.worst.see(kernel(row, scratch, out));
            }
        });
        Ok(vec![Value::Float(unpack_rows(&out, out_width))])
    }

    fn embed(&self) -> Result<Vec<Value>, Fault> {
        let (tokens, table, hidden) = (self.operands.tokens(0)?, self.operands.floats(1)?, self.cx.sizes.hidden);
        let mut out = vec![0.0; tokens.len() * hidden];
        embed(table, hidden, &tokens, &mut out, hidden);
        Ok(vec![Value::Float(out)])
    }

    fn embed_backward(&self) -> Result<Vec<Value>, Fault> {
        let (dy, tokens) = (self.operands.floats(0)?, self.operands.tokens(1)?);
        let mut table = self.operands.floats(2)?.to_vec();
        let stream = spread(dy, self.cx.sizes.hidden)?;
        embed_backward(self.crew, self.cx, &stream, &tokens, &mut table);
        Ok(vec![Value::Float(table)])
    }

    fn rms_norm(&self) -> Result<Vec<Value>, Fault> {
        let (x, gain, sizes) = (self.operands.floats(0)?, self.operands.floats(1)?, self.cx.sizes);
        let mut scales = vec![0.0; self.tokens];
        let mut out = Buffer::new(self.tokens * sizes.hidden_pairs())?;
        let mut scratch = Scratch::default();
        scratch.lines[0].reserve(sizes.hidden)?;
        let rows = x.chunks_exact(sizes.hidden).zip(&mut scales).zip(out.chunks_exact_mut(sizes.hidden_pairs()));
        for ((x, scale), out) in rows {
            let line = &mut scratch.lines[0];
            self.cx.worst.see(rows::rms_norm(self.cx.isa, x, gain, sizes.inverse, sizes.eps, scale, line, out));
        }
        Ok(vec![Value::Float(unpack_rows(&out, sizes.hidden)), Value::Float(scales)])
    }

    fn rms_norm_backward(&self) -> Result<Vec<Value>, Fault> {
        let operands = &self.operands;
        let [dy, x, gain, scales, dgain] = [0, 1, 2, 3, 4].map(|index| operands.floats(index));
        let (dy, x, gain, scales, mut dgain) = (dy?, x?, gain?, scales?, dgain?.to_vec());
        let hidden = self.cx.sizes.hidden;
        let skip = if operands.call.reads.len() > 5 { operands.floats(5)?.to_vec() } else { vec![0.0; x.len()] };
        let (mut grad, mut terms) = (skip, dy.to_vec());
        let mut lines = [vec![0.0; hidden], vec![0.0; hidden], vec![0.0; hidden]];
        let rows = x.chunks_exact(hidden).zip(grad.chunks_exact_mut(hidden)).zip(terms.chunks_exact_mut(hidden));
        for (((x, grad), terms), scale) in rows.zip(scales) {
            let lines = lines.each_mut().map(Vec::as_mut_slice);
            let inverse = self.cx.sizes.inverse;
            self.cx.worst.see(rows::rms_norm_backward(self.cx.isa, x, gain, inverse, *scale, lines, grad, terms));
        }
        rows::add_rows(self.cx.isa, &terms, hidden, 0, &mut dgain);
        Ok(vec![Value::Float(grad), Value::Float(dgain)])
    }

    /// `matmul_nt`, or `matmul_nn` if `back`.
    fn multiply(&self, back: bool) -> Result<Vec<Value>, Fault> {
        let (x, w, slot) = (self.operands.floats(0)?, self.operands.floats(1)?, self.operands.slot(1)?);
        let (rows, cols) = self.operands.sizes(slot);
        let mut matrix = Matrix::new(slot, rows, cols)?;
        matrix.pack(self.crew, w);
        let (depth, width) = if back { (rows, cols) } else { (cols, rows) };
        let left = pack_rows(x, depth)?;
        let mut out = vec![0.0; self.tokens * width];
        let tiles = Tile::new(&mut out, width, self.tokens, width).grid(&cuts(self.tokens, BLOCK), &[width]);
        self.crew.for_each(
            tiles.into_iter().zip(left.chunks(BLOCK * pair_stride(depth))).collect(),
            |scratch, item| {
                let (out, rows): (Tile<'_, f32>, &[u32]) = item;
                let right = if back { matrix.backward() } else { matrix.forward() };
                self.cx.multiply(rows, depth, right, out, &mut scratch.unpacked);
            },
        );
        Ok(vec![Value::Float(out)])
    }

    /// Values as token panels.
    fn panels(&self, values: &[f32], width: usize, missing: Missing) -> Result<TokenPanels, Fault> {
        let (rows, mut panels) = (pack_rows(values, width)?, TokenPanels::default());
        panels.resize(self.tokens, width)?;
        for (rows, out) in rows.chunks(BLOCK * pair_stride(width)).zip(panels.blocks_mut()) {
            self.cx.interleave(rows, width, rows.len() / pair_stride(width), missing, out);
        }
        Ok(panels)
    }

    fn multiply_tokens(&self) -> Result<Vec<Value>, Fault> {
        let (rows, cols) = self.operands.sizes(self.operands.slot(2)?);
        let left = self.panels(self.operands.floats(0)?, rows, Missing::Left)?;
        let right = self.panels(self.operands.floats(1)?, cols, Missing::Right)?;
        let mut out = self.operands.floats(2)?.to_vec();
        let mut sums = Vec::new();
        product_sums(&left, &right, Tile::new(&mut out, cols, rows, cols), &mut sums);
        sum_all(self.crew, self.cx, sums);
        Ok(vec![Value::Float(out)])
    }

    fn rope(&self, sines: &[f32]) -> Result<Vec<Value>, Fault> {
        let (x, sizes) = (self.operands.floats(0)?, self.cx.sizes);
        let mut out = Buffer::new(self.tokens * sizes.qkv_pairs())?;
        let mut x = x.to_vec();
        let rows = x.chunks_exact_mut(sizes.qkv).zip(out.chunks_exact_mut(sizes.qkv_pairs())).enumerate();
        for (token, (row, out)) in rows {
            let position = token % self.cx.sequence;
            let (cosines, sines) = (sizes.turns(&sizes.cosines, position), sizes.turns(sines, position));
            self.cx.worst.see(rows::rope(self.cx.isa, row, sizes.hidden + sizes.kv, cosines, sines, out));
        }
        Ok(vec![Value::Float(unpack_rows(&out, sizes.qkv))])
    }

    /// `[sequence][head][token]` to `[token][head]`, or back.
    fn transpose_heads(&self, values: &[f32], back: bool) -> Vec<f32> {
        let (heads, sequence) = (self.cx.sizes.heads(), self.cx.sequence);
        let mut out = vec![0.0; values.len()];
        for token in 0..self.tokens {
            for head in 0..heads {
                let kept = (token / sequence * heads + head) * sequence + token % sequence;
                let (from, to) = if back { (token * heads + head, kept) } else { (kept, token * heads + head) };
                out[to] = values[from];
            }
        }
        out
    }

    fn attention(&self) -> Result<Vec<Value>, Fault> {
        let sizes = self.cx.sizes;
        let mut kept = LayerKept { rotated: pack_rows(self.operands.floats(0)?, sizes.qkv)?, ..LayerKept::default() };
        kept.attended = Buffer::new(self.tokens * sizes.hidden_pairs())?;
        kept.maxima = Buffer::new(self.tokens * sizes.heads())?;
        kept.scales = Buffer::new(self.tokens * sizes.heads())?;
        attend(self.crew, self.cx, &mut kept, self.tokens);
        Ok(vec![
            Value::Float(unpack_rows(&kept.attended, sizes.hidden)),
            Value::Float(self.transpose_heads(&kept.maxima, false)),
            Value::Float(self.transpose_heads(&kept.scales, false)),
        ])
    }

    fn attention_backward(&self) -> Result<Vec<Value>, Fault> {
        let (sizes, sequence) = (self.cx.sizes, self.cx.sequence);
        let rotated = pack_rows(self.operands.floats(0)?, sizes.qkv)?;
        let (y, dy) =
            (pack_rows(self.operands.floats(1)?, sizes.hidden)?, pack_rows(self.operands.floats(2)?, sizes.hidden)?);
        let maxima = self.transpose_heads(self.operands.floats(3)?, true);
        let scales = self.transpose_heads(self.operands.floats(4)?, true);
        let mut out = vec![0.0; self.tokens * sizes.qkv];
        let width = sizes.head.width;
        let sequences = out.chunks_mut(sequence * sizes.qkv).enumerate().collect();
        self.crew.for_each(sequences, |scratch: &mut Scratch, (index, out): (usize, &mut [f32])| {
            for kv in 0..sizes.kv_heads {
                let [query, key, value] = group_words(sizes, kv);
                let (qkv_stride, stride) = (sizes.qkv_pairs(), sizes.hidden_pairs());
                let qkv = HeadRows { words: &rotated[index * sequence * qkv_stride..], stride: qkv_stride };
                let group = Group {
                    queries: qkv.skip(query),
                    keys: qkv.skip(key),
                    values: qkv.skip(value),
                    heads: sizes.group,
                    tokens: sequence,
                };
                let place = (index * sizes.kv_heads + kv) * sizes.group * sequence;
                let place = place..place + sizes.group * sequence;
                let kept = attention_backward::Kept {
                    outputs: HeadRows { words: &y[index * sequence * stride..], stride }.skip(query),
                    grads: HeadRows { words: &dy[index * sequence * stride..], stride }.skip(query),
                    maxima: &maxima[place.clone()],
                    scales: &scales[place],
                };
                let backward = &mut scratch.backward;
                self.cx.worst.see(attention_backward::backward(self.cx.isa, sizes.head, group, kept, backward));
                for (token, out) in out.chunks_exact_mut(sizes.qkv).enumerate() {
                    let row = attention_backward::gradients(backward, sizes.head, sizes.group, token);
                    let (queries, rest) = row.split_at(sizes.group * width);
                    out[2 * query..][..queries.len()].copy_from_slice(queries);
                    out[2 * key..][..width].copy_from_slice(&rest[..width]);
                    out[2 * value..][..width].copy_from_slice(&rest[width..]);
                }
            }
        });
        Ok(vec![Value::Float(out)])
    }

    fn swiglu(&self) -> Result<Vec<Value>, Fault> {
        let ffn = self.cx.sizes.ffn;
        self.each_row(self.operands.floats(0)?, 2 * ffn, ffn, |row, scratch, out| {
            let (gate, up) = row.split_at(ffn);
            rows::swiglu(self.cx.isa, gate, up, &mut scratch.lines[0], out)
        })
    }

    fn swiglu_backward(&self) -> Result<Vec<Value>, Fault> {
        let (da, x, ffn) = (self.operands.floats(0)?, self.operands.floats(1)?, self.cx.sizes.ffn);
        let both: Vec<f32> =
            da.chunks_exact(ffn).zip(x.chunks_exact(2 * ffn)).flat_map(|(da, x)| [da, x].concat()).collect();
        self.each_row(&both, 3 * ffn, 2 * ffn, |row, scratch, out| {
            let (da, x) = row.split_at(ffn);
            let (gate, up) = x.split_at(ffn);
            rows::swiglu_backward(self.cx.isa, da, gate, up, &mut scratch.lines[0], out)
        })
    }

    fn cross_entropy(&self) -> Result<Vec<Value>, Fault> {
        let (logits, bias, targets) = (self.operands.floats(0)?, self.operands.floats(1)?, self.operands.tokens(2)?);
        let vocab = self.cx.sizes.vocab;
        let mut losses = vec![0; self.tokens];
        let mut out = Buffer::new(self.tokens * pair_stride(vocab))?;
        let mut line = vec![0.0; padded(vocab)];
        let rows = logits.chunks_exact(vocab).zip(out.chunks_exact_mut(pair_stride(vocab)));
        for ((logits, out), (target, loss)) in rows.zip(targets.iter().zip(&mut losses)) {
            let target = *target as usize;
            self.cx.worst.see(rows::cross_entropy(self.cx.isa, logits, bias, target, &mut line, loss, out));
        }
        Ok(vec![Value::Int(losses), Value::Float(unpack_rows(&out, vocab))])
    }
}
