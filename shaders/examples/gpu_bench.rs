//! Prints how fast a GPU trains, and where the time goes:
//!
//! ```sh
//! cargo run --release -p neuroshard-shaders --example gpu_bench -- [--adapter NAME] [--preset nano] [--steps 10]
//! ```
//!
//! Times of kernels are the device's own. A kernel's share of the memory rate is what its operands come to, each read
//! or written once, over what a copy moves on the same device: far below 100 % it waits for something else, above it,
//! its operands stayed in a cache.

mod common;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use common::{Arguments, schedule, text};
use neuroshard_proto::{F32, Hash, LayerIndex, ModelSpec, TrainSpec};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch, Trained};
use neuroshard_shaders::gpu::{GpuEngine, KernelTime, Options};
use neuroshard_shaders::layout::LayerLayout;

fn initialise(engine: &mut GpuEngine, model: &ModelSpec) -> Result<(), Box<dyn Error>> {
    engine.allocate(model, model.all_layers())?;
    for layer in (0..=model.layers).map(LayerIndex) {
        let layout = LayerLayout::new(model, layer);
        let mut bits = vec![0; layout.elements];
        for tensor in &layout.tensors {
            tensor.spec.fill_init(model, &Hash::default(), layer, 0, &mut bits[tensor.range.clone()]);
        }
        engine.write(Part::Weights, layer, bytemuck::cast_slice(&bits))?;
    }
    Ok(())
}

fn batch(model: &ModelSpec, training: &TrainSpec) -> TokenBatch {
    let tokens = text(model.vocab, training.batch_tokens() as usize + 1);
    let tokens: Vec<u32> = tokens.into_iter().map(u32::from).collect();
    let (inputs, targets) = (tokens[..tokens.len() - 1].to_vec(), tokens[1..].to_vec());
    TokenBatch { sequence: training.sequence, inputs, targets }
}

fn table(times: &[KernelTime], copy_rate: f64) {
    let all: u64 = times.iter().map(|time| time.nanoseconds).sum();
    println!(
        "{:16} {:>6} {:>10} {:>6} {:>10} {:>9} {:>7}",
        "kernel", "calls", "us", "share", "GFLOP/s", "GB/s", "memory"
    );
    for time in times {
        let nanoseconds = time.nanoseconds.max(1) as f64;
        let bytes_per_ns = time.bytes as f64 / nanoseconds;
        println!(
            "{:16} {:6} {:10.1} {:5.1}% {:>10} {:9.2} {:6.1}%",
            time.kernel,
            time.calls,
            nanoseconds * 1e-3,
            100.0 * nanoseconds / all.max(1) as f64,
            if time.work == 0 { "-".to_owned() } else { format!("{:.1}", 2.0 * time.work as f64 / nanoseconds) },
            bytes_per_ns,
            100.0 * bytes_per_ns / copy_rate
        );
    }
}

fn main() -> ExitCode {
    common::report(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::of_process();
    let (preset, model, training) = arguments.preset()?;
    let steps = arguments.number("--steps", 10)?.max(1);
    let adapter = arguments.adapter()?;
    let mut engine = GpuEngine::open(&adapter, Options::default())?;
    let copy_rate = engine.copy_rate()?;
    println!("{}, copies {:.1} GB/s", engine.describe(), copy_rate);
    initialise(&mut engine, &model)?;
    let (batch, weight) = (batch(&model, &training), F32::from_ratio(1, u128::from(training.batch_tokens())));
    let mut step = |number: u64| -> Result<(), Box<dyn Error>> {
        let outcome = engine.train(&batch, true, weight)?;
        let Trained::Done { squared_norms, .. } = outcome else { return Err("a value left its range".into()) };
        let total = squared_norms.iter().fold(0.0, |sum: f32, norm| sum + f32::from_bits(norm.to_bits()));
        let total = F32::from_bits(total.to_bits());
        Ok(engine.step(weight, total, &schedule(&training, number as u32))?)
    };
    // The first step makes buffers and compiles kernels.
    let started = Instant::now();
    step(1)?;
    println!("first step {:.2} s", started.elapsed().as_secs_f64());
    let started = Instant::now();
    (2..2 + steps).try_for_each(&mut step)?;
    let seconds = started.elapsed().as_secs_f64() / steps as f64;
    let tokens = training.batch_tokens() as f64;
    let flop = 6.0 * model.parameters() as f64 * tokens;
    println!("{}: {:.1} ms a step, {:.0} tokens/s", preset.name(), 1e3 * seconds, tokens / seconds);
    println!("{:.1} GFLOP/s of 6 x parameters x tokens", flop / seconds * 1e-9);
    table(&engine.profile(&batch, weight, &schedule(&training, 2))?, copy_rate);
    Ok(())
}
