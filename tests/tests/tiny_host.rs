//! The core linked into a host that shares nothing with ours: one thread, no files, no clock, about eighty lines. The
//! arithmetic is real, so what it shows is the whole protocol of a node that is alone.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::proto::{
    Fault, Founder, Genesis, Hash, JournalSeq, Manifest, ModelSpec, NodeId, Params, Preset, Shard, Signature, Time,
    TrainSpec,
};
use neuroshard_core::{Config, Core, Event, Input, Operator, Outbox, Output};
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::executor::{Blobs, Executor};

/// What a power cut leaves: the journal and the blobs.
#[derive(Clone, Default)]
struct Disk {
    journal: BTreeMap<JournalSeq, Vec<u8>>,
    blobs: BTreeMap<Hash, Vec<u8>>,
}

impl Blobs for Disk {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        self.blobs.get(hash).cloned().ok_or(Fault::BlobMissing { hash: *hash })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault> {
        let hash = Hash::of_blob(bytes);
        self.blobs.insert(hash, bytes.to_vec());
        Ok(hash)
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        self.put(&bytes)
    }
}

/// Runs a node until `until` says so or it stops; every input takes a millisecond. Returns what it told.
fn host(config: Config, disk: &mut Disk, now: &mut u64, mut until: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let mut core = Core::restore(config, Hash::default(), disk.journal.values()).expect("an honest journal");
    let mut executor = Executor::new(Box::new(CpuEngine::new(Options::default()).expect("a CPU")));
    let (mut outbox, mut inputs, mut told) = (Outbox::default(), Vec::from([Input::Tick]), Vec::new());
    while let Some(input) = inputs.pop() {
        *now += 1;
        core.step(Time::from_ms(*now), input, &mut outbox).expect("this host keeps the contract");
        while let Some(output) = outbox.pop() {
            match output {
                Output::Persist { seq, record } => {
                    disk.journal.insert(seq, record.into_vec());
                    inputs.push(Input::Persisted { upto: seq });
                }
                Output::Trim { before } => disk.journal.retain(|seq, _| *seq >= before),
                Output::Compute { id, job, .. } => {
                    let result = executor.run(&job, disk);
                    inputs.insert(0, Input::Computed { id, result });
                }
                Output::Cancel { .. } => {}
                Output::Drop { hash } => drop(disk.blobs.remove(&hash)),
                Output::Sign { id, digest } => {
                    let signature = Signature(key().sign(digest.as_bytes()).to_bytes());
                    inputs.push(Input::Signed { id, signature });
                }
                // There is nobody else.
                Output::Send { .. } | Output::Publish { .. } | Output::Fetch { .. } => {}
                Output::Event(event) => {
                    let done = until(&event);
                    told.push(event);
                    if done {
                        return told;
                    }
                }
            }
        }
    }
    told
}

/// The node's key.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

/// A model so small that it trains while one looks, and a language it can learn: each token is
/// followed by one of two.
fn toy(steps: u64) -> (Config, Disk) {
    let (model, training) = Preset::Nano.specs();
    let model = ModelSpec { layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 48, context: 32, ..model };
    let training = TrainSpec { batch: 4, sequence: 32, peak_rate_nano: 10_000_000, warmup: 5, ..training };
    let mut disk = Disk::default();
    let mut state = 1_u32;
    let mut shard = |held_out: bool| {
        let mut token = 0_u32;
        let tokens = (0..4096).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            token = (token * 5 + 1 + (state >> 31)) % 64;
            u16::try_from(10 + token).expect("small")
        });
        let bytes: Vec<u8> = tokens.flat_map(u16::to_le_bytes).collect();
        Shard { hash: disk.put(&bytes).expect("memory"), tokens: 4096, held_out }
    };
    let shards = Vec::from([shard(false), shard(false), shard(true)]).try_into().expect("few");
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 12_288, shards };
    let node = NodeId::from_bytes(key().verifying_key().to_bytes());
    let genesis = Genesis {
        created_unix_ms: 0,
        seed: Hash::of_blob(b"tiny host"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: Vec::from([Founder::alone(node)]).try_into().expect("one"),
        allocations: Default::default(),
        first: None,
    };
    let mut operator = Operator::new(1 << 30, 1 << 30);
    operator.steps = Some(steps);
    operator.snapshot_every_steps = 10;
    operator.evaluate_every_steps = 1000;
    (Config::new(genesis, manifest, node, operator), disk)
}

fn final_root(told: &[Event]) -> Hash {
    let root = |event: &Event| match event {
        Event::Saved { root, .. } => Some(*root),
        _ => None,
    };
    told.iter().rev().find_map(root).expect("a node saves before it stops")
}

#[test]
fn a_foreign_host_trains_a_model_that_learns() {
    let (config, mut disk) = toy(60);
    let told = host(config, &mut disk, &mut 0, |_| false);
    let losses: Vec<f64> = told
        .iter()
        .filter_map(|event| match event {
            Event::HeldOut { loss_micro, tokens, .. } => Some(*loss_micro as f64 / *tokens as f64 / 1e6),
            _ => None,
        })
        .collect();
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!((first - 266_f64.ln()).abs() < 0.1, "an untrained model knows nothing: {first}");
    // The language has ln 2 = 0.69 nats a token.
    assert!(last < 2.5, "it learns: {last}");
    assert!(matches!(told.last(), Some(Event::Stopped { .. })));
}

#[test]
fn power_cuts_at_any_moment_change_nothing_in_the_end() {
    let (config, disk) = toy(24);
    let mut calm = disk.clone();
    let whole = final_root(&host(config.clone(), &mut calm, &mut 0, |_| false));
    for cut in [1, 5, 12, 23, 40] {
        let (mut disk, mut now, mut events) = (disk.clone(), 0, 0);
        host(config.clone(), &mut disk, &mut now, |_| {
            events += 1;
            events == cut
        });
        let told = host(config.clone(), &mut disk, &mut now, |_| false);
        if told.iter().any(|event| matches!(event, Event::Saved { .. })) {
            assert_eq!(final_root(&told), whole, "cut after {cut} events");
        }
        assert_eq!(
            disk.blobs.keys().collect::<Vec<_>>(),
            calm.blobs.keys().collect::<Vec<_>>(),
            "no blob is left over"
        );
    }
}

#[test]
fn a_stop_and_a_return_equal_one_run() {
    let (config, disk) = toy(20);
    let whole = final_root(&host(config.clone(), &mut disk.clone(), &mut 0, |_| false));
    let (mut disk, mut now) = (disk, 0);
    let mut first = config.clone();
    first.operator.steps = Some(7);
    host(first, &mut disk, &mut now, |_| false);
    assert_eq!(final_root(&host(config, &mut disk, &mut now, |_| false)), whole);
}
