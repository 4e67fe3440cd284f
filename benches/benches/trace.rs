//! What recording costs a node, and how fast a trace replays.
//!
//! The same training loop runs plain and recorded, in turns; its executor answers at once, so nothing hides the cost. Then
//! a real batch of `nano` is trained on the CPU, to say which share of a training step the recording is: a step is two
//! inputs, the batch and the step. The floor is encoding and hashing: about a dozen BLAKE3 compressions an input.

use std::hint::black_box;
use std::io::Cursor;
use std::time::{Duration, Instant};

use neuroshard_core::proto::{
    BatchOutcome, Commitment, F32, Fault, Founder, Genesis, Hash, Job, LayerBlobs, Manifest, NodeId, Params, Preset,
    Shard, Snapshot, Step, Time,
};
use neuroshard_core::{Config, Core, Input, Operator, Outbox, Output};
use neuroshard_replay::{Detail, Header, Reader, Recorder, replay};
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::executor::{Blobs, Executor};

/// Milliseconds between inputs: about 40 training steps a second.
const INPUT_MS: u64 = 12;
const SHARD_TOKENS: u32 = 65_536;

fn shard_bytes(name: u8) -> Vec<u8> {
    let token = |place: u32| 10 + (place.wrapping_mul(2_654_435_761) >> 24) as u16 % 256;
    (0..SHARD_TOKENS).flat_map(|place| token(place.wrapping_add(u32::from(name) << 20)).to_le_bytes()).collect()
}

fn config() -> Config {
    let (model, training) = Preset::Nano.specs();
    let shard = |name: u8| Shard { hash: Hash::of_blob(&shard_bytes(name)), tokens: SHARD_TOKENS, held_out: name == 0 };
    let shards = (0..4).map(shard).collect::<Vec<_>>().try_into().expect("few");
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 1_500_000, shards };
    let node = NodeId::from_bytes([7; 32]);
    let genesis = Genesis {
        created_unix_ms: 0,
        seed: Hash::default(),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: vec![Founder::alone(node)].try_into().expect("one"),
        allocations: Default::default(),
        first: None,
    };
    Config::new(genesis, manifest, node, Operator::new(1 << 30, 1 << 30))
}

fn answer(job: &Job) -> Commitment {
    let squared_norms = vec![F32::from_bits(0x3c12_3456); 5].try_into().expect("five");
    match job {
        Job::Init { .. } | Job::Load { .. } => Commitment::Ready { step: Step(0), root: Hash::default() },
        Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 1 },
        Job::Train { batch, .. } => {
            let loss_micro = 5_000_000_000 - batch.0 as i64 * 7919;
            Commitment::Batch(BatchOutcome::Done { loss_micro, tokens: 1024, squared_norms })
        }
        Job::Step { step, .. } => Commitment::Step { step: step.next(), norm: F32::ONE },
        Job::Evaluate { step, .. } => Commitment::Evaluation { step: *step, loss_micro: Some(5), tokens: 4096 },
        Job::Snapshot { step } => {
            let blob = |name: u64| Hash::of_blob(&(step.0 * 10 + name).to_le_bytes());
            let layers = (0..5).map(|layer| {
                let (root, weights, moments) = (blob(layer + 10), blob(layer), blob(layer + 5));
                LayerBlobs { root, weights, moments }
            });
            let layers = layers.collect::<Vec<_>>().try_into().expect("five");
            Commitment::Snapshot(Snapshot { step: *step, root: blob(99), layers, bytes: 10 })
        }
        Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } => {
            unreachable!("a node alone trains whole models")
        }
    }
}

/// Trains for so many inputs, and answers how long the steps took and what was recorded.
fn run(inputs: u64, detail: Option<Detail>) -> (Duration, Option<Vec<u8>>) {
    let none = [] as [&[u8]; 0];
    let mut core = Core::restore(config(), Hash::default(), none).expect("a fair configuration");
    let mut recorder = detail.map(|detail| {
        let header = Header::new(&core, Hash::default(), none, Time::ZERO, detail).expect("no journal");
        Recorder::new(Vec::new(), &header, &core).expect("memory")
    });
    let (mut outbox, mut queue, mut spent) = (Outbox::default(), vec![Input::Tick], Duration::ZERO);
    for round in 0..inputs {
        let (now, input) = (Time::from_ms(round * INPUT_MS), queue.pop().unwrap_or(Input::Tick));
        let started = Instant::now();
        match &mut recorder {
            Some(recorder) => recorder.step(&mut core, now, black_box(input), &mut outbox),
            None => core.step(now, black_box(input), &mut outbox),
        }
        .expect("this host keeps the contract");
        spent += started.elapsed();
        while let Some(output) = outbox.pop() {
            match output {
                Output::Persist { seq, .. } => queue.push(Input::Persisted { upto: seq }),
                Output::Compute { id, job, .. } => queue.insert(0, Input::Computed { id, result: Ok(answer(&job)) }),
                Output::Cancel { .. } | Output::Drop { .. } | Output::Trim { .. } | Output::Event(_) => {}
                Output::Sign { .. } | Output::Send { .. } | Output::Publish { .. } => {}
            }
        }
    }
    (spent, recorder.map(|recorder| recorder.finish().expect("memory").0))
}

struct Shards(Vec<Vec<u8>>);

impl Blobs for Shards {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        self.0.iter().find(|bytes| Hash::of_blob(bytes) == *hash).cloned().ok_or(Fault::BlobMissing { hash: *hash })
    }

    fn put(&mut self, _: &[u8]) -> Result<Hash, Fault> {
        Err(Fault::DiskFull { needed: 0 })
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        self.put(&bytes)
    }
}

/// How long a training step of `nano` takes on this CPU, batch and step, once warm.
fn training_step(steps: u32) -> (String, Duration) {
    let mut core = Core::restore(config(), Hash::default(), [] as [&[u8]; 0]).expect("a fair configuration");
    let mut executor = Executor::new(Box::new(CpuEngine::new(Options::default()).expect("a CPU")));
    let mut blobs = Shards((0..4).map(shard_bytes).collect());
    let (mut outbox, mut queue) = (Outbox::default(), vec![Input::Tick]);
    let (mut spent, mut done, mut now) = (Duration::ZERO, 0, 0);
    while done < steps + 1 {
        now += INPUT_MS;
        core.step(Time::from_ms(now), queue.pop().unwrap_or(Input::Tick), &mut outbox).expect("an honest host");
        while let Some(output) = outbox.pop() {
            match output {
                Output::Persist { seq, .. } => queue.push(Input::Persisted { upto: seq }),
                Output::Compute { id, job, .. } => {
                    let started = Instant::now();
                    let result = executor.run(&job, &mut blobs);
                    // The first step warms caches and is not counted.
                    if done > 0 && matches!(job, Job::Train { .. } | Job::Step { .. }) {
                        spent += started.elapsed();
                    }
                    done += u32::from(matches!(job, Job::Step { .. }));
                    queue.insert(0, Input::Computed { id, result });
                }
                Output::Cancel { .. } | Output::Drop { .. } | Output::Trim { .. } | Output::Event(_) => {}
                Output::Sign { .. } | Output::Send { .. } | Output::Publish { .. } => {}
            }
        }
    }
    (executor.describe(), spent / steps)
}

fn main() {
    // Under the test runner this only shows that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let (inputs, rounds, steps) = if quick { (2_000, 1, 1) } else { (60_000, 5, 20) };
    let each = |spent: Duration| spent.as_nanos() as f64 / (inputs * rounds) as f64;
    let mut spent = [Duration::ZERO; 3];
    let mut trace = Vec::new();
    for _ in 0..rounds {
        for (spent, detail) in spent.iter_mut().zip([None, Some(Detail::Inputs), Some(Detail::Outputs)]) {
            let (took, bytes) = run(inputs, detail);
            *spent += took;
            trace = bytes.unwrap_or(trace);
        }
    }
    let [plain, lean, full] = spent.map(each);
    let (device, step) = training_step(steps);
    let mut reader = Reader::new(Cursor::new(&trace[..])).expect("a good trace");
    let (summary, _) = reader.closing().expect("a closed trace");
    let frame_bytes = summary.frame_bytes as f64 / summary.steps as f64;
    let report = replay(&mut reader);
    assert!(report.is_equal(), "{report}");
    let share = |recorded: f64| 100.0 * 2.0 * (recorded - plain) / step.as_nanos() as f64;
    println!("| | ns an input | share of a training step |\n|---|---:|---:|");
    println!("| core alone | {plain:.0} | |");
    println!("| recording inputs only | +{:.0} | {:.3} % |", lean - plain, share(lean));
    println!("| recording inputs and outputs | +{:.0} | {:.3} % |", full - plain, share(full));
    println!("\nA training step of `nano` took {:.1} ms on {device}.", step.as_secs_f64() * 1e3);
    println!("A step took {frame_bytes:.0} bytes, {:.0} in the file.", trace.len() as f64 / inputs as f64);
    let replayed = report.took.as_secs_f64();
    let covered = inputs as f64 * INPUT_MS as f64 / 1e3;
    println!("Replay: {:.0} steps/s, {:.0} times as fast as life.", inputs as f64 / replayed, covered / replayed);
}
