//! Old traces: one of every released format is kept for ever, and this build reads it. A trace of today's wire version
//! replays to the same outputs and states.
//!
//! `cargo xtask golden` records the newest format's trace anew. Until that format is released this may be done after any
//! meant change of the core; afterwards a new format or wire version gets a trace of its own beside the old ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::proto::{
    Commitment, Envelope, Fault, Founder, Genesis, Hash, Heartbeat, Job, JournalSeq, Manifest, Message, ModelSpec,
    NetworkId, NodeId, Params, Preset, Shard, Signature, Step, Time, TrainSpec, Verified, WIRE_VERSION, codec,
};
use neuroshard_core::{Command, Config, Core, Event, Input, Operator, Outbox, Output};
use neuroshard_replay::{At, Detail, Ending, FORMAT, Filter, Form, Header, Reader, Recorder, cat, info, replay, state};
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::executor::{Blobs, Executor};
use neuroshard_tests::golden;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("traces")
}

fn newest() -> PathBuf {
    folder().join(format!("format-{FORMAT}.trace"))
}

/// What a power cut leaves.
#[derive(Default)]
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

/// A model that trains while one looks.
fn toy(disk: &mut Disk, steps: u64) -> Config {
    let (model, training) = Preset::Nano.specs();
    let model = ModelSpec { layers: 1, hidden: 16, heads: 2, kv_heads: 1, ffn: 24, context: 16, ..model };
    let training = TrainSpec { batch: 2, sequence: 16, peak_rate_nano: 10_000_000, warmup: 5, ..training };
    let mut shard = |first: u16, held_out| {
        let token = |place: u16| 10 + (first + (place % 64) * (place % 64)) % 64;
        let bytes: Vec<u8> = (0..2048).flat_map(|place| token(place).to_le_bytes()).collect();
        Shard { hash: disk.put(&bytes).expect("memory"), tokens: 2048, held_out }
    };
    let shards = vec![shard(1, false), shard(2, false), shard(3, true)].try_into().expect("few");
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 6144, shards };
    let node = NodeId::from_bytes([5; 32]);
    let genesis = Genesis {
        created_unix_ms: 1_800_000_000_000,
        seed: Hash::of_blob(b"an old trace"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: vec![Founder::alone(node)].try_into().expect("one"),
        allocations: Default::default(),
        first: None,
    };
    let mut operator = Operator::new(1 << 30, 1 << 30);
    operator.steps = Some(steps);
    operator.snapshot_every_steps = 10;
    Config::new(genesis, manifest, node, operator)
}

/// A heartbeat from a node of another network.
fn stranger(time: Time) -> Input {
    let key = SigningKey::from_bytes(&[9; 32]);
    let node = NodeId::from_bytes(key.verifying_key().to_bytes());
    let heartbeat = Heartbeat { node, time, quorum: None, queue_depth: 0, free_bytes: 0, step: Step(1) };
    let network = NetworkId(Hash::of_blob(b"another network"));
    let sign = |digest: &Hash| Signature(key.sign(digest.as_bytes()).to_bytes());
    let frame = codec::encode(&Envelope::seal(network, &Message::Heartbeat(heartbeat), sign));
    Input::Message(Verified::open(&frame).expect("an honest frame"))
}

/// Lives until the node stops or has taken `limit` inputs, and answers the trace of it. Every input takes 20 ms, so the
/// trace is the same wherever it is recorded.
fn live(config: &Config, disk: &mut Disk, now: &mut u64, limit: usize) -> Vec<u8> {
    let seed = Hash::of_blob(b"the node's own");
    let mut core = Core::restore(config.clone(), seed, disk.journal.values()).expect("an honest journal");
    let origin = Time::from_ms(*now);
    let header = Header::new(&core, seed, disk.journal.values(), origin, Detail::Outputs).expect("a short journal");
    let mut recorder = Recorder::new(Vec::new(), &header, &core).expect("memory");
    let mut executor = Executor::new(Box::new(CpuEngine::new(Options::default()).expect("a CPU")));
    let (mut outbox, mut inputs) = (Outbox::default(), vec![Input::Tick]);
    for taken in 1..=limit {
        let Some(input) = inputs.pop() else { break };
        *now += 20;
        recorder.step(&mut core, Time::from_ms(*now), input, &mut outbox).expect("this host keeps the contract");
        while let Some(output) = outbox.pop() {
            match output {
                Output::Persist { seq, record } => {
                    disk.journal.insert(seq, record.into_vec());
                    inputs.push(Input::Persisted { upto: seq });
                }
                Output::Trim { before } => disk.journal.retain(|seq, _| *seq >= before),
                Output::Compute { id, job, .. } => {
                    // The one answer that a clock makes.
                    let measured = Ok(Commitment::Benchmark { layer_us: 900 });
                    let timed = matches!(job, Job::Benchmark { .. });
                    let result = if timed { measured } else { executor.run(&job, disk) };
                    inputs.insert(0, Input::Computed { id, result });
                }
                Output::Event(Event::Stopped { .. }) => inputs.clear(),
                Output::Cancel { .. } | Output::Drop { .. } | Output::Event(_) => {}
                Output::Sign { .. } | Output::Send { .. } | Output::Publish { .. } | Output::Fetch { .. } => {}
            }
        }
        match taken {
            30 => inputs.push(stranger(Time::from_ms(*now))),
            40 => inputs.push(Input::Command(Command::Save)),
            _ => {}
        }
    }
    recorder.finish().expect("memory").0
}

/// A node that is cut off, comes back with a journal, is asked to save, hears a stranger and reaches its step limit.
fn record() -> Vec<u8> {
    let mut disk = Disk::default();
    let config = toy(&mut disk, 40);
    let mut now = 5000;
    live(&config, &mut disk, &mut now, 35);
    live(&config, &mut disk, &mut now, usize::MAX)
}

fn open(bytes: &[u8]) -> Reader<Cursor<&[u8]>> {
    Reader::new(Cursor::new(bytes)).expect("a trace of a format that this build reads")
}

/// The newest format's trace as it is checked in, or as it is to be.
fn kept() -> Vec<u8> {
    if std::env::var_os("NEUROSHARD_BLESS").is_some() {
        return record();
    }
    fs::read(newest()).expect("the newest format's trace is checked in")
}

#[test]
fn recording_the_same_life_again_gives_the_same_bytes() {
    let (trace, kept) = (record(), kept());
    if std::env::var_os("NEUROSHARD_BLESS").is_some() {
        fs::create_dir_all(folder()).expect("the folder can be made");
        fs::write(newest(), &trace).expect("the trace can be written");
    }
    let report = replay(&mut open(&kept));
    assert!(
        kept == trace,
        "the core, the arithmetic or the format changed; this build makes of the old trace:\n{report}"
    );
}

#[test]
fn every_old_trace_is_read_and_those_of_this_wire_version_replay_equal() {
    let mut formats = 0;
    for entry in fs::read_dir(folder()).expect("the traces are checked in") {
        let path = entry.expect("the folder can be read").path();
        let bytes = if path == newest() { kept() } else { fs::read(&path).expect("the trace can be read") };
        let mut reader = open(&bytes);
        let current = reader.header().wire_version == WIRE_VERSION;
        let report = replay(&mut reader);
        assert!(!current || report.is_equal(), "{}:\n{report}", path.display());
        assert!(!current || report.steps > 50 && matches!(report.ending, Some(Ok(Ending::Clean))), "{report}");
        formats += u16::from(current);
    }
    assert!(formats >= FORMAT, "a trace of every format");
}

#[test]
fn what_the_tools_show_of_a_trace_stays_as_it_is() {
    let bytes = kept();
    let (mut reader, mut out) = (open(&bytes), Vec::new());
    info(&mut reader, Form::Text, &mut out).expect("a good trace");
    info(&mut reader, Form::Json, &mut out).expect("a good trace");
    cat(&mut reader, &Filter::default(), Form::Text, &mut out).expect("a good trace");
    let messages = Filter { kinds: vec!["message".into()], from: Some(At::Step(20)), to: None };
    cat(&mut reader, &messages, Form::Json, &mut out).expect("a good trace");
    state(&mut reader, "6s".parse().expect("a time"), Form::Text, &mut out).expect("a good trace");
    golden::check("tests/golden/trace.txt", &String::from_utf8(out).expect("text"));
}
