//! The model of PROTOCOL §13 in double precision, forward only, written from its description and from nothing else.

#![allow(dead_code, unreachable_pub, reason = "each test uses its part")]

use neuroshard_proto::{LayerIndex, ModelSpec, TensorKind};
use neuroshard_shaders::layout::LayerLayout;

/// `W x` for `W` in rows.
fn linear(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

/// `x / sqrt(mean(x^2) + eps) * gain`.
fn norm(x: &[f64], gain: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(gain).map(|(x, gain)| x / (mean + eps).sqrt() * gain).collect()
}

/// Turns a head by its position: element `i` with `i + half`.
fn turn(head: &mut [f64], position: usize, theta: f64) {
    let half = head.len() / 2;
    for i in 0..half {
        let (sine, cosine) = (position as f64 * theta.powf(-(i as f64) / half as f64)).sin_cos();
        (head[i], head[i + half]) =
            (head[i] * cosine - head[i + half] * sine, head[i + half] * cosine + head[i] * sine);
    }
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// The logits, bias included, at every position of one sequence. Weights are one vector a stage, in canonical order.
pub fn logits(model: &ModelSpec, weights: &[Vec<f64>], tokens: &[u32]) -> Vec<Vec<f64>> {
    let tensor = |layer: u32, kind: TensorKind| {
        let range = LayerLayout::new(model, LayerIndex(layer)).find(kind).expect("the stage has the tensor");
        &weights[layer as usize][range]
    };
    let (hidden, eps) = (model.hidden as usize, f64::from(model.norm_eps_pico) * 1e-12);
    let (width, theta) = (model.head_width() as usize, f64::from(model.rope_theta));
    let group = (model.heads / model.kv_heads) as usize;
    let embedding = tensor(0, TensorKind::Embedding);
    let row = |token: &u32| embedding[*token as usize * hidden..][..hidden].to_vec();
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(row).collect();
    for layer in 0..model.layers {
        let weight = |kind| tensor(layer, kind);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in stream.iter_mut().enumerate() {
            let normed = norm(x, weight(TensorKind::AttentionNorm), eps);
            let mut queries = linear(weight(TensorKind::Query), &normed);
            let mut key = linear(weight(TensorKind::Key), &normed);
            queries.chunks_mut(width).chain(key.chunks_mut(width)).for_each(|head| turn(head, position, theta));
            keys.push(key);
            values.push(linear(weight(TensorKind::Value), &normed));
            let mut mixed = Vec::new();
            for (head, query) in queries.chunks(width).enumerate() {
                let own = head / group * width..head / group * width + width;
                let dot = |key: &Vec<f64>| query.iter().zip(&key[own.clone()]).map(|(q, k)| q * k).sum::<f64>();
                let scores: Vec<f64> = keys.iter().map(|key| (dot(key) / (width as f64).sqrt()).exp()).collect();
                let total: f64 = scores.iter().sum();
                let mix = |i: usize| scores.iter().zip(&values).map(|(s, value)| s / total * value[i]).sum::<f64>();
                mixed.extend(own.clone().map(mix));
            }
            add(x, &linear(weight(TensorKind::Output), &mixed));
            let normed = norm(x, weight(TensorKind::FfnNorm), eps);
            let (gates, ups) = (linear(weight(TensorKind::Gate), &normed), linear(weight(TensorKind::Up), &normed));
            let activated: Vec<f64> = gates.iter().zip(&ups).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, &linear(weight(TensorKind::Down), &activated));
        }
    }
    let weight = |kind| tensor(model.layers, kind);
    let head = |x: &Vec<f64>| {
        let mut logits = linear(weight(TensorKind::Head), &norm(x, weight(TensorKind::FinalNorm), eps));
        add(&mut logits, weight(TensorKind::HeadBias));
        logits
    };
    stream.iter().map(head).collect()
}

/// The sum of the cross-entropies of all sequences, in nats.
pub fn loss(model: &ModelSpec, weights: &[Vec<f64>], sequence: usize, inputs: &[u32], targets: &[u32]) -> f64 {
    let of_sequence = |(inputs, targets): (&[u32], &[u32])| {
        let logits = logits(model, weights, inputs);
        let loss = |(logits, target): (&Vec<f64>, &u32)| {
            logits.iter().map(|l| l.exp()).sum::<f64>().ln() - logits[*target as usize]
        };
        logits.iter().zip(targets).map(loss).sum::<f64>()
    };
    inputs.chunks(sequence).zip(targets.chunks(sequence)).map(of_sequence).sum()
}
