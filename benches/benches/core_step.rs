//! What one input costs the core: nanoseconds, allocations, and the state hash on top.
//!
//! A training loop is driven by answers that cost nothing to make, so what is measured is the core alone. The floor of a
//! `Computed` input is hashing the samples it draws: two BLAKE3 compressions a sequence at about 50 ns each, and four
//! Feistel rounds of the same.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use neuroshard_core::proto::{
    BatchOutcome, Commitment, F32, Founder, Genesis, Hash, Job, LayerBlobs, Manifest, NodeId, Params, Preset,
    RequestId, Shard, Snapshot, Step, Time,
};
use neuroshard_core::{Config, Core, Input, Operator, Outbox, Output};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn config() -> Config {
    let (model, training) = Preset::Nano.specs();
    let shard = |name: u8| Shard { hash: Hash::of_blob(&[name]), tokens: 65_536, held_out: name == 0 };
    let shards = (0..24).map(shard).collect::<Vec<_>>().try_into().expect("few");
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
    let squared_norms = vec![F32::ONE; 5].try_into().expect("five");
    match job {
        Job::Init { .. } | Job::Load { .. } => Commitment::Ready { step: Step(0), root: Hash::default() },
        Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 1 },
        Job::Train { .. } => Commitment::Batch(BatchOutcome::Done { loss_micro: 5, tokens: 1024, squared_norms }),
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

#[derive(Clone, Copy, Default)]
struct Cost {
    inputs: u64,
    time: Duration,
    allocations: u64,
}

fn main() {
    // Under the test runner this only shows that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let inputs = if quick { 2_000 } else { 400_000 };
    let mut costs: BTreeMap<&str, Cost> = BTreeMap::new();
    let mut hashing = Cost::default();
    let mut core = Core::restore(config(), Hash::default(), [] as [&[u8]; 0]).expect("a fair configuration");
    let (mut outbox, mut queue) = (Outbox::default(), vec![(Input::Tick, "tick")]);
    for round in 0..inputs {
        let (input, name) = queue.pop().unwrap_or((Input::Tick, "tick (early)"));
        let cost = costs.entry(name).or_default();
        let (before, started) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        core.step(Time::from_ms(round), black_box(input), &mut outbox).expect("this host keeps the contract");
        cost.time += started.elapsed();
        cost.allocations += ALLOCATIONS.load(Ordering::Relaxed) - before;
        cost.inputs += 1;
        let started = Instant::now();
        black_box(core.state_hash());
        hashing.time += started.elapsed();
        hashing.inputs += 1;
        while let Some(output) = outbox.pop() {
            match output {
                Output::Persist { seq, .. } => queue.push((Input::Persisted { upto: seq }, "persisted")),
                Output::Compute { id, job, .. } => queue.insert(0, computed(id, &job)),
                Output::Cancel { .. } | Output::Drop { .. } | Output::Trim { .. } | Output::Event(_) => {}
                Output::Sign { .. } | Output::Send { .. } | Output::Publish { .. } => {}
            }
        }
    }
    println!("| input | inputs | ns each | allocations each |\n|---|---:|---:|---:|");
    costs.insert("state hash on top", hashing);
    for (name, cost) in costs {
        let each = |total: f64| total / cost.inputs as f64;
        let nanoseconds = each(cost.time.as_nanos() as f64);
        println!("| {name} | {} | {nanoseconds:.0} | {:.1} |", cost.inputs, each(cost.allocations as f64));
    }
}

fn computed(id: RequestId, job: &Job) -> (Input, &'static str) {
    let name = match job {
        Job::Train { .. } => "computed train (asks for step and next batch)",
        Job::Step { .. } => "computed step",
        Job::Snapshot { .. } => "computed snapshot",
        Job::Init { .. } | Job::Load { .. } | Job::Benchmark { .. } | Job::Evaluate { .. } => "computed, other",
        Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } => "computed, part",
    };
    (Input::Computed { id, result: Ok(answer(job)) }, name)
}
