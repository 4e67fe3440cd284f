//! Traces for unit tests: plausible inputs and outputs, no core behind them.

use neuroshard_core::{Config, Event, Input, Operator, Output};
use neuroshard_proto::{
    BatchId, BatchOutcome, Commitment, F32, Genesis, Hash, JournalSeq, List, Manifest, NodeId, Params, Preset,
    RequestId, Shard, Step, Text, Time, WIRE_VERSION,
};

use crate::{Detail, Header, Recorder};

pub(crate) fn config() -> Config {
    let (model, training) = Preset::Nano.specs();
    let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 4096, held_out };
    let shards = List::try_from(vec![shard(b"train", false), shard(b"held out", true)]).unwrap();
    let manifest = Manifest { tokenizer: Hash::of_blob(b"tokenizer"), text_bytes: 8192, shards };
    let node = NodeId::from_bytes([7; 32]);
    let genesis = Genesis {
        created_unix_ms: 0,
        seed: Hash::of_blob(b"weights"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: List::try_from(vec![node]).unwrap(),
    };
    Config { genesis, manifest, node, operator: Operator::new(1 << 30, 1 << 30) }
}

pub(crate) fn header(detail: Detail) -> Header {
    let parts = ["clock", "journal", "solo"].map(|name| Text::try_from(name.to_owned()).unwrap());
    Header {
        wire_version: WIRE_VERSION,
        build: Text::try_from(Header::BUILD.to_owned()).unwrap(),
        detail,
        config: config(),
        seed: Hash::of_blob(b"seed"),
        journal: List::default(),
        origin: Time::from_ms(500),
        state: Hash::of_blob(b"start"),
        parts: List::try_from(parts.to_vec()).unwrap(),
    }
}

/// The `n`-th step of a made-up run: its time, input, outputs and part digests.
pub(crate) fn step(n: u64) -> (Time, Input, Vec<Output>, Vec<Hash>) {
    let outcome = BatchOutcome::Done {
        loss_micro: 5_580_000_000 - n as i64 * 1000,
        tokens: 1024,
        squared_norms: List::try_from(vec![F32::ONE; 5]).unwrap(),
    };
    let input = match n % 4 {
        0 => Input::Persisted { upto: JournalSeq(n / 4) },
        1 => Input::Tick,
        _ => Input::Computed { id: RequestId(n), result: Ok(Commitment::Batch(outcome)) },
    };
    let record = Hash::of_blob(&n.to_le_bytes()).as_bytes().to_vec().try_into().unwrap();
    let event = Event::Stepped {
        step: Step(n),
        batch: BatchId(n),
        loss_micro: 5_580_000_000,
        tokens: 1024,
        norm: F32::ONE,
        rate: F32::ZERO,
    };
    let outputs = match n % 3 {
        0 => vec![],
        1 => vec![Output::Persist { seq: JournalSeq(n), record }],
        _ => vec![Output::Event(event), Output::Cancel { id: RequestId(n) }],
    };
    let digest = |part: &[u8], n: u64| Hash::of_blob(&[part, &n.to_le_bytes()].concat());
    let parts = vec![digest(b"clock", n), digest(b"journal", n / 4), digest(b"solo", n / 2)];
    (Time::from_ms(500 + n * 12), input, outputs, parts)
}

pub(crate) fn begin(out: &mut Vec<u8>, detail: Detail) -> Recorder<&mut Vec<u8>> {
    Recorder::new(out, &header(detail), &step(0).3).unwrap()
}

pub(crate) fn push<W: std::io::Write>(recorder: &mut Recorder<W>, steps: std::ops::RangeInclusive<u64>) {
    for n in steps {
        let (now, input, outputs, parts) = step(n);
        recorder.begin(now, &input);
        recorder.end(outputs.iter(), &Hash::of_blob(&n.to_le_bytes()), parts.into_iter());
    }
}

/// A finished trace of so many made-up steps.
pub(crate) fn trace(steps: u64, detail: Detail) -> Vec<u8> {
    let mut out = Vec::new();
    let mut recorder = begin(&mut out, detail);
    push(&mut recorder, 1..=steps);
    recorder.finish().unwrap();
    out
}
