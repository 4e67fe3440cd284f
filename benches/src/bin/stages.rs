//! What it costs to pass a model's layers from executor to executor: `cargo run --release -p neuroshard-benches --bin stages`.
//!
//! Prints a table for `docs/benchmarks.md`: CPU-seconds of one batch through pipelines of several members in one process, in
//! relation to the same batch through one executor that trains it as a whole. Rounds alternate, so that a busy machine slows
//! all alike, and the best of each counts. What blobs cost, hashing them above all, is in it; networks are not.

use std::collections::BTreeMap;
use std::error::Error;

use neuroshard_benches::cpu_seconds;
use neuroshard_proto::{
    BatchId, BatchOutcome, Commitment, F32, Fault, Hash, Job, LayerRange, Micro, ModelSpec, Passed, Preset, Returned,
    Sample, Step, TrainSpec, Turned,
};
use neuroshard_shaders::cpu::{CpuEngine, Isa, Options};
use neuroshard_shaders::executor::{Blobs, Executor};

const MEMBERS: [u32; 4] = [1, 2, 3, 5];
const ROUNDS: u32 = 5;

fn main() -> Result<(), Box<dyn Error>> {
    println!("one thread, {}\n", Isa::best());
    let heads: String = MEMBERS.map(|members| format!(" in {members} |")).concat();
    println!("| | sequences x tokens | whole, CPU-ms a sequence |{heads} a stream | its hash, CPU-ms |");
    println!("|---|---|---|{}---|---|", MEMBERS.map(|_| "---|").concat());
    for preset in Preset::ALL {
        measure(preset)?;
    }
    Ok(())
}

fn measure(preset: Preset) -> Result<(), Box<dyn Error>> {
    let (model, training) = preset.specs();
    let mut blobs = Memory::default();
    let samples = samples(&training, &mut blobs)?;
    let mut whole = executor(&model, model.all_layers(), &mut blobs)?;
    let mut pipelines = Vec::new();
    for members in MEMBERS.map(|members| members.min(model.layers + 1)) {
        pipelines.push(pipeline(&model, members, &mut blobs)?);
    }
    let (mut alone, mut together) = (f64::INFINITY, [f64::INFINITY; MEMBERS.len()]);
    // The first round warms up.
    for round in 0..=ROUNDS {
        let start = cpu_seconds();
        let wanted = train_whole(&mut whole, &training, &samples, &mut blobs)?;
        alone = if round == 0 { alone } else { alone.min(cpu_seconds() - start) };
        for (members, best) in pipelines.iter_mut().zip(&mut together) {
            let start = cpu_seconds();
            let loss = train_parts(members, &training, &samples, &mut blobs)?;
            *best = if round == 0 { *best } else { best.min(cpu_seconds() - start) };
            if loss != wanted {
                return Err(format!("{} members came to {loss} instead of {wanted}", members.len()).into());
            }
        }
    }
    let stream = vec![1_u8; 4 * (training.sequence * model.hidden) as usize];
    let hash = neuroshard_benches::best_of(3, 0.02, || {
        std::hint::black_box(Hash::of_blob(&stream));
    });
    let ratios: String = together.iter().map(|spent| format!(" {:.3} |", spent / alone)).collect();
    let (batch, kib) = (f64::from(training.batch), stream.len() / 1024);
    println!(
        "| {} | {batch} x {} | {:.1} |{ratios} {kib} KiB | {:.2} |",
        preset.name(),
        training.sequence,
        1e3 * alone / batch,
        1e3 * hash
    );
    Ok(())
}

/// A blob store in memory.
#[derive(Default)]
struct Memory(BTreeMap<Hash, Vec<u8>>);

impl Blobs for Memory {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        self.0.get(hash).cloned().ok_or(Fault::BlobMissing { hash: *hash })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault> {
        self.put_transient(bytes.to_vec())
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        let hash = Hash::of_blob(&bytes);
        self.0.insert(hash, bytes);
        Ok(hash)
    }
}

fn samples(training: &TrainSpec, blobs: &mut Memory) -> Result<Vec<Sample>, Fault> {
    let count = training.batch_tokens() as u32 + 1;
    let tokens = (0..count).map(|i| 10 + (i.wrapping_mul(i).wrapping_mul(7919) % 256) as u16);
    let shard = blobs.put(&tokens.flat_map(u16::to_le_bytes).collect::<Vec<_>>())?;
    Ok((0..training.batch).map(|index| Sample { shard, offset: index * training.sequence }).collect())
}

fn executor(model: &ModelSpec, range: LayerRange, blobs: &mut Memory) -> Result<Executor, Fault> {
    let mut executor = Executor::new(Box::new(CpuEngine::new(Options { threads: 1, ..Options::default() })?));
    executor.run(&Job::Init { model: *model, range, seed: Hash::default() }, blobs)?;
    Ok(executor)
}

/// Members with as equal numbers of stages as can be.
fn pipeline(model: &ModelSpec, members: u32, blobs: &mut Memory) -> Result<Vec<Executor>, Fault> {
    let cut = |member: u32| (model.layers + 1) * member / members;
    (0..members).map(|member| executor(model, LayerRange { start: cut(member), end: cut(member + 1) }, blobs)).collect()
}

fn train_whole(
    executor: &mut Executor,
    training: &TrainSpec,
    samples: &[Sample],
    blobs: &mut Memory,
) -> Result<i64, Box<dyn Error>> {
    let (batch, sequence) = (BatchId(1), training.sequence);
    let token_weight = F32::from_ratio(1, u128::from(training.batch_tokens()));
    let samples = samples.to_vec().try_into().map_err(|_| "too many sequences")?;
    let job = Job::Train { step: Step(0), batch, fresh: true, sequence, token_weight, samples };
    match executor.run(&job, blobs)? {
        Commitment::Batch(BatchOutcome::Done { loss_micro, .. }) => Ok(loss_micro),
        other => Err(format!("{other:?}").into()),
    }
}

/// One sequence after the other through all members and back, then the norms.
fn train_parts(
    members: &mut [Executor],
    training: &TrainSpec,
    samples: &[Sample],
    blobs: &mut Memory,
) -> Result<i64, Box<dyn Error>> {
    let (step, sequence, mut loss) = (Step(0), training.sequence, 0);
    let Some((last, others)) = members.split_last_mut() else { return Err("no members".into()) };
    for (index, sample) in (0..).zip(samples) {
        let (micro, fresh, sample) = (Micro { batch: BatchId(1), index }, index == 0, *sample);
        let (mut input, mut passing) = (None, Vec::new());
        for member in &mut *others {
            match member.run(&Job::Forward { step, micro, fresh, sequence, sample, input }, blobs)? {
                Commitment::Forward(Passed::Done { output }) => input = Some(output),
                other => return Err(format!("{other:?}").into()),
            }
            passing.extend(input);
        }
        let mut gradient = match last.run(&Job::Turn { step, micro, fresh, sequence, sample, input }, blobs)? {
            Commitment::Turn(Turned::Done { loss_micro, gradient, .. }) => {
                loss += loss_micro;
                gradient
            }
            other => return Err(format!("{other:?}").into()),
        };
        for member in others.iter_mut().rev() {
            let own = gradient.ok_or("a gradient goes back")?;
            passing.push(own);
            match member.run(&Job::Backward { step, micro, gradient: own }, blobs)? {
                Commitment::Backward(Returned::Done { gradient: next }) => gradient = next,
                other => return Err(format!("{other:?}").into()),
            }
        }
        passing.iter().for_each(|hash| drop(blobs.0.remove(hash)));
    }
    let token_weight = F32::from_ratio(1, u128::from(training.batch_tokens()));
    for member in others.iter_mut().chain([last]) {
        member.run(&Job::Norms { step, token_weight }, blobs)?;
    }
    Ok(loss)
}
