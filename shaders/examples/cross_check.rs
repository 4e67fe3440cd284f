//! Trains a preset on a GPU and on the CPU and compares the roots of both states:
//!
//! ```sh
//! cargo run --release -p neuroshard-shaders --example cross_check -- --preset nano --steps 50 [--adapter NAME]
//! ```
//!
//! Without `--adapter` it takes the best hardware; software drivers are taken by name only. The GPU is tested first,
//! and the program fails where a bit differs.

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Arguments, schedule, text};
use neuroshard_proto::{
    BatchId, BatchOutcome, Commitment, F32, Fault, Hash, Job, ModelSpec, Sample, Step, Stream, TrainSpec,
};
use neuroshard_shaders::cpu::CpuEngine;
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::executor::{Blobs, Executor};
use neuroshard_shaders::gpu::{self, Options};

/// A blob store in memory.
#[derive(Default)]
struct Memory(BTreeMap<Hash, Vec<u8>>);

impl Blobs for Memory {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        self.0.get(hash).cloned().ok_or(Fault::BlobMissing { hash: *hash })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault> {
        let hash = Hash::of_blob(bytes);
        self.0.insert(hash, bytes.to_vec());
        Ok(hash)
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        self.put(&bytes)
    }
}

/// One machine's run.
struct Run {
    device: String,
    losses: Vec<i64>,
    time: Duration,
    root: Hash,
}

fn train(
    engine: Box<dyn Engine>,
    model: &ModelSpec,
    training: &TrainSpec,
    steps: u64,
    shard: &[u8],
) -> Result<Run, Box<dyn Error>> {
    let (mut executor, mut blobs) = (Executor::new(engine), Memory::default());
    let shard_hash = blobs.put(shard)?;
    let windows = shard.len() as u64 / 2 - u64::from(training.sequence);
    let mut places = Stream::new(&Hash::of_blob(b"samples"), "example", 0);
    executor.run(&Job::Init { model: *model, range: model.all_layers(), seed: Hash::default() }, &mut blobs)?;
    let (mut losses, started) = (Vec::new(), Instant::now());
    let token_weight = F32::from_ratio(1, u128::from(training.batch_tokens()));
    for number in 0..steps {
        let sample = |_| Sample { shard: shard_hash, offset: places.below(windows) as u32 };
        let samples: Vec<Sample> = (0..training.batch).map(sample).collect();
        let samples = samples.try_into().map_err(|_| "too many sequences")?;
        let (step, sequence) = (Step(number), training.sequence);
        let job = Job::Train { step, batch: BatchId(number), fresh: true, sequence, token_weight, samples };
        let Commitment::Batch(BatchOutcome::Done { loss_micro, squared_norms, .. }) = executor.run(&job, &mut blobs)?
        else {
            return Err(format!("step {number} left the range").into());
        };
        losses.push(loss_micro);
        let schedule = schedule(training, number as u32 + 1);
        executor.run(&Job::Step { step, token_weight, squared_norms, schedule }, &mut blobs)?;
    }
    let device = executor.describe();
    let time = started.elapsed();
    match executor.run(&Job::Snapshot { step: Step(steps) }, &mut blobs)? {
        Commitment::Snapshot(snapshot) => Ok(Run { device, losses, time, root: snapshot.root }),
        other => Err(format!("a snapshot was asked for, {other:?} came").into()),
    }
}

fn show(run: &Run, training: &TrainSpec) {
    let loss = |loss: Option<&i64>| loss.map_or(0.0, |loss| *loss as f64 * 1e-6 / training.batch_tokens() as f64);
    println!("{}", run.device);
    println!("  loss {:.4} to {:.4} nats", loss(run.losses.first()), loss(run.losses.last()));
    let steps_per_s = run.losses.len() as f64 / run.time.as_secs_f64();
    println!("  {steps_per_s:.2} steps/s, {:.0} tokens/s", steps_per_s * training.batch_tokens() as f64);
    println!("  root {}", run.root);
}

fn main() -> ExitCode {
    common::report(run())
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::of_process();
    let (preset, model, training) = arguments.preset()?;
    let steps = arguments.number("--steps", 50)?;
    let adapter = arguments.adapter()?;
    let (engine, _) = gpu::open_tested(&adapter, Options::default())?;
    println!("{steps} steps of {} from the same seed and text", preset.name());
    let shard: Vec<u8> = text(model.vocab, 1 << 18).iter().flat_map(|token| token.to_le_bytes()).collect();
    let on_gpu = train(Box::new(engine), &model, &training, steps, &shard)?;
    show(&on_gpu, &training);
    let on_cpu = train(Box::new(CpuEngine::new(Default::default())?), &model, &training, steps, &shard)?;
    show(&on_cpu, &training);
    let differing = on_gpu.losses.iter().zip(&on_cpu.losses).position(|(a, b)| a != b);
    if let Some(step) = differing {
        return Err(format!("the losses differ from step {step} on").into());
    }
    if on_gpu.root != on_cpu.root {
        return Err("the losses agree and the states do not".into());
    }
    println!("every loss and every bit of the states is equal");
    Ok(())
}
