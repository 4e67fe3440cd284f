//! The corpora's first inputs: small, each with a name that says what it is. They are made by code, so that a changed
//! encoding changes them too.

use std::path::{Path, PathBuf};

use neuroshard_core::schedule::schedule;
use neuroshard_core::tokenizer::Merges;
use neuroshard_core::{Command, Event, Input, JournalFact, Output, Record, SavedState};
use neuroshard_proto::{
    BatchId, BatchOutcome, Beacon, Commitment, F32, Fault, Hash, Job, JournalSeq, LayerRange, List, Message, Micro,
    RequestId, Sample, Step, Text, Time, Turned, VoidReason, codec,
};
use neuroshard_replay::{Detail, Header};
use serde::Serialize;

use crate::decode::TYPES;
use crate::node;
use crate::world::{Disk, World};

/// A target's name, and its seeds by name.
pub type Corpus = (&'static str, Vec<(&'static str, Vec<u8>)>);

/// The corpora.
pub fn corpora() -> [Corpus; 6] {
    let (decode, core, agreement) = (("decode", decode()), ("core", schedules()), ("agreement", heights()));
    [decode, core, agreement, ("apply", histories()), ("trace", traces()), ("tokenizer", texts())]
}

/// Where a target's corpus lies.
pub fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn schedules() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("trains_saves_and_stops", vec![0, 0, 0xef, 0xef, 0x80, 0xe3, 0x88, 0xe3]),
        ("crashes_and_comes_back", vec![4, 0, 0xef, 0xb0, 0xe7, 0x00, 0x00, 0xb1, 0xe7, 0xbf, 0xe3]),
        (
            "disk_is_slow",
            vec![4, 0, 0x61, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x02, 0x61, 0x60, 0x68, 0x02],
        ),
        ("device_is_lost", vec![4, 0, 0xef, 0x30, 0xe1, 0x31, 0xe1, 0x30, 0x70, 0xe1, 0x30, 0x70, 0xe1]),
        ("blobs_are_damaged", vec![0, 0, 0xef, 0xb0, 0x00, 0x34, 0x00, 0x34, 0xe2]),
        ("disk_is_full", vec![4, 0, 0xe3, 0x38, 0xe3, 0x38, 0x7b, 0x38, 0x7b, 0x88, 0xe3]),
        ("peers_come_and_go", vec![0, 0, 0xe2, 0x91, 0x92, 0xe1, 0x7c, 0x70, 0x70, 0x95, 0x99, 0x9d, 0xa0, 0xa1, 0xe2]),
        ("model_loses_its_way", vec![0, 0, 0xe1, 0xff, 0xff, 0xe1]),
        ("answers_are_wrong", vec![0, 0, 0xe1, 0x44, 0, 0x48, 1, 0x4c, 2, 0x4e, 130, 0x40, 9, 0x50, 3, 0xe1]),
        ("answers_are_late", vec![0, 0, 0xe1, 0x7d, 0x70, 0x00, 0x70, 0x7e, 0x70, 0x00, 0xe1]),
        ("answers_out_of_order", vec![0, 0, 0xe0, 0x29, 0x01, 0x29, 0x28, 0xe1]),
        ("step_limit", vec![2, 0, 0xef, 0x80, 0x88, 0x70]),
        ("too_little_memory", vec![0x40, 0, 0xe1, 0x80, 0x88, 0x70]),
        ("host_errs", vec![0, 0, 0xc0, 0xe0, 0xc1, 0xc3, 0xc2, 0xcf, 0xe0]),
        // Found by fuzzing; each broke a promise once.
        ("snapshot_of_other_stages", vec![60, 252, 234, 77, 252, 234, 73, 252, 234, 77]),
        ("records_durable_at_once", vec![191, 181, 9, 9, 9, 9, 9, 9, 9, 9, 133, 9, 9, 9, 9, 9, 9, 61, 229, 20]),
        ("far_back_to_the_last_snapshot", vec![0, 96, 239, 12, 0, 96, 239, 12, 0, 0, 227, 33]),
        ("raw_inputs", {
            let save = codec::encode(&Input::Command(Command::Save));
            let lost = codec::encode(&Input::Computed { id: RequestId(2), result: Err(Fault::device("gone")) });
            let raw = |bytes: Vec<u8>| [vec![0xd0, bytes.len() as u8], bytes].concat();
            [vec![0, 0, 0xe1], raw(save), vec![0xe1], raw(lost), vec![0xe1]].concat()
        }),
    ]
}

/// Schedules of wishes and blocks: see [`crate::apply`].
pub(crate) fn histories() -> Vec<(&'static str, Vec<u8>)> {
    // Owner, other, account, action and its numbers; then a block by the first seat.
    let transfer = |from: u8, to: u8| vec![0, from, to, 0, 0, 200, 30];
    let block = |wait: u8| vec![4, 0, wait];
    let by_node = |action: u8| vec![1, 0, 1, 1, action];
    let bond = vec![0, 2, 2, 0, 1, 3, 36];
    let epochs = |count: usize| block(2).repeat(2 * count);
    let every =
        (0..15).flat_map(|action| vec![0, 2, 3, 0, action, 9, 35, 0, 1, 2, 1, action, 0, 4]).collect::<Vec<_>>();
    vec![
        ("transfers", [transfer(2, 3), transfer(3, 4), block(0), transfer(4, 5), block(1)].concat()),
        (
            "bonds",
            [bond.clone(), block(0), vec![0, 2, 2, 0, 2, 1, 36], block(1), epochs(5), transfer(2, 4), block(0)]
                .concat(),
        ),
        ("idle_epochs", epochs(12)),
        ("beacon", [by_node(2), block(0), epochs(1), by_node(3), block(0), epochs(3), by_node(2), block(0)].concat()),
        ("attests", [vec![1, 0, 1, 1, 0, 1, 1, 0, 1, 0], block(0), epochs(2)].concat()),
        ("every_wish", [every, block(1), epochs(1), block(3)].concat()),
        ("bent", [transfer(2, 3), vec![6, 0, 0, 0, 40, 1, 6, 0, 0, 1, 9, 4, 6, 0, 0, 0, 200, 128], block(0)].concat()),
        (
            "bytes_as_blocks",
            [bond, vec![7, 20, 4], vec![1; 80], vec![0, 0], block(2), vec![7, 3, 1, 0, 0, 0, 0, 0]].concat(),
        ),
        ("quorums", {
            let by = |who: u8, other: u8, action: u8| vec![0, who, other, 1, action];
            let describe = |who| [by(who, 0, 1), vec![0, 2]].concat();
            let form = |who, other, cut, bits| [by(who, other, 5), vec![cut, bits]].concat();
            let post = |who, step| [by(who, 0, 7), vec![0, step]].concat();
            let pair = [describe(0), describe(1), block(0), form(0, 1, 2, 42), block(0), post(0, 9), post(1, 9)];
            let alone = [block(0), form(0, 1, 0, 43), block(1), post(0, 10), block(0), by(0, 0, 6), block(1)];
            [pair.concat(), alone.concat(), epochs(2)].concat()
        }),
        ("a_day_without_blocks", [block(3), transfer(2, 3), block(3), epochs(2)].concat()),
    ]
}

/// Draws of leaders, and acts on a height: everybody hears the newest messages, timeouts, crashes, lies.
fn heights() -> Vec<(&'static str, Vec<u8>)> {
    let all = |which: u8| (0..5_u8).flat_map(move |place| [0xf0 | place, which]);
    let timeouts = || (0..5_u8).flat_map(|place| [0xa0 | place, 0]);
    let crashes = || (0..5_u8).flat_map(|place| [0xd0 | place, 0]);
    let round = |draw: u8| [draw].into_iter().chain(all(255)).chain(all(255)).chain(all(255));
    vec![
        ("calm", round(0).collect()),
        ("another_leader", round(7).collect()),
        ("nobody_hears_the_proposal", [1].into_iter().chain(timeouts()).chain(all(20)).chain(all(255)).collect()),
        (
            "crash_between_votes",
            [2].into_iter().chain(all(3)).chain(crashes()).chain(all(255)).chain(all(255)).collect(),
        ),
        ("some_finalize_and_some_nullify", {
            let some = [0xf0, 20, 0xf1, 20, 0xa2, 0, 0xa3, 0];
            [0].into_iter().chain(all(2)).chain(some).chain(all(255)).chain(timeouts()).chain(all(255)).collect()
        }),
        ("lies", {
            let lies = (0..40_u8).flat_map(|which| [0xe0, which.wrapping_mul(13)]);
            [5].into_iter().chain(all(9)).chain(lies).chain(all(255)).chain(timeouts()).chain(all(255)).collect()
        }),
    ]
}

/// One encoding of each type, after the byte that chooses it.
fn decode() -> Vec<(&'static str, Vec<u8>)> {
    let config = node::config(0, 0);
    let heartbeat = node::heartbeat(config.genesis.network(), 1, Time::from_ms(7));
    let Message::Heartbeat(inner) = heartbeat.message() else { unreachable!("a heartbeat was made") };
    let world = World::start(&config, Disk::default(), Time::ZERO, Detail::Outputs).expect("a good configuration");
    let snapshot = world.snapshot(Step(3), 2);
    let (model, range) = (config.genesis.model, config.genesis.model.all_layers());
    let saved = SavedState {
        range: LayerRange { start: 3, end: 5 },
        snapshot: snapshot.clone(),
        progress: world.core.progress(),
    };
    let record =
        Record { seq: JournalSeq(1), fact: JournalFact::Saved { states: list(vec![saved]), copies: List::default() } };
    let header = Header::new(&world.core, Hash::default(), [codec::encode(&record)], Time::ZERO, Detail::Outputs);
    let norms = || list(vec![F32::ONE; 2]);
    let address = Text::try_from("/ip4/192.168.1.7/tcp/4700".to_owned()).expect("short");
    let beacon = Beacon { node: inner.node, addresses: list(vec![address]) };
    let samples = list(vec![Sample { shard: Hash::of_blob(b"training"), offset: 8 }; 2]);
    let (step, batch, token_weight) = (Step(3), BatchId(4), F32::ONE);
    let train = Job::Train { step, batch, fresh: true, sequence: 8, token_weight, samples };
    let micro = Micro { batch, index: 1 };
    let sample = Sample { shard: Hash::of_blob(b"training"), offset: 8 };
    let turn = Job::Turn { step, micro, fresh: false, sequence: 8, sample, input: Some(Hash::of_blob(b"stream")) };
    let turned = Turned::Done { loss_micro: 5, tokens: 8, gradient: Some(Hash::of_blob(b"gradient")) };
    let schedule = schedule(&config.genesis.training, step);
    let stepping = Job::Step { step, token_weight, squared_norms: norms(), schedule };
    let batch = BatchOutcome::Done { loss_micro: -5, tokens: 16, squared_norms: norms() };
    let compute = Output::Compute { id: RequestId(9), job: stepping, deadline: Time::from_ms(3_600_000) };
    let persist = Output::Persist { seq: JournalSeq(1), record: codec::encode(&record).try_into().expect("short") };
    let stopped = Output::Event(Event::Stopped { step, saved: None });
    let computed = Input::Computed { id: RequestId(1), result: Ok(Commitment::Snapshot(snapshot.clone())) };
    vec![
        ("envelope", of("Envelope", &heartbeat)),
        ("heartbeat", of("Heartbeat", inner)),
        ("beacon", of("Beacon", &beacon)),
        ("genesis", of("Genesis", &*config.genesis)),
        ("manifest", of("Manifest", &*config.manifest)),
        ("params", of("Params", &config.genesis.params)),
        ("job_train", of("Job", &train)),
        ("job_turn", of("Job", &turn)),
        ("job_load", of("Job", &Job::Load { model, range, snapshot })),
        ("commitment_batch", of("Commitment", &Commitment::Batch(batch))),
        ("commitment_turn", of("Commitment", &Commitment::Turn(turned))),
        ("commitment_void", of("Commitment", &Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange)))),
        ("fault_step", of("Fault", &Fault::WrongStep { expected: Step(1), at: Some(Step(2)) })),
        ("fault_text", of("Fault", &Fault::store("no space left on device"))),
        ("model", of("ModelSpec", &model)),
        ("config", of("Config", &config)),
        ("input_message", of("Input", &Input::Message(heartbeat.clone()))),
        ("input_computed", of("Input", &computed)),
        ("output_persist", of("Output", &persist)),
        ("output_compute", of("Output", &compute)),
        ("output_event", of("Output", &stopped)),
        ("record", of("Record", &record)),
        ("merges", of("Merges", &Merges(list(vec![(107, 114), (266, 111)])))),
        ("header", of("Header", &header.expect("a short journal"))),
        ("frame", [vec![place("frame")], heartbeat.frame()].concat()),
    ]
}

fn list<T, const MAX: u32>(items: Vec<T>) -> List<T, MAX> {
    List::try_from(items).expect("a short list")
}

fn place(name: &str) -> u8 {
    TYPES.iter().position(|(known, _)| *known == name).unwrap_or(usize::MAX) as u8
}

fn of<T: Serialize>(name: &str, value: &T) -> Vec<u8> {
    [vec![place(name)], codec::encode(value)].concat()
}

/// The trace of an honest node that takes about so many steps, crosses a crash's journal and saves.
pub fn trace(turns: usize, detail: Detail) -> Vec<u8> {
    let config = node::config(4, 0);
    let start = |disk, now| World::start(&config, disk, now, detail).expect("a good configuration");
    let live = |world: &mut World, turns: usize| {
        for _ in 0..turns {
            world.now = world.now.after_ms(50);
            world.answer(0);
            world.sync(false);
        }
    };
    let mut first = start(Disk::default(), Time::from_ms(1000));
    live(&mut first, 12);
    let now = first.now;
    let mut second = start(first.end().crash(0), now);
    live(&mut second, turns);
    second.into_trace()
}

/// Traces after the byte that says whether their checksums are to be mended.
fn traces() -> Vec<(&'static str, Vec<u8>)> {
    let of = |mend: u8, trace: &[u8]| [&[mend], trace].concat();
    let (full, inputs) = (trace(30, Detail::Outputs), trace(20, Detail::Inputs));
    vec![
        ("inputs_and_outputs", of(0, &full)),
        ("inputs_only", of(0, &inputs)),
        ("mended", of(1, &full)),
        ("mended_and_not_compressed", of(1, &trace(0, Detail::Outputs))),
        ("torn", of(0, &full[..full.len() * 2 / 3])),
        ("empty", of(0, &trace(0, Detail::Inputs))),
        ("no_trace", of(0, b"once upon a time there was a file")),
    ]
}

/// Texts after a count of merges and their pairs.
fn texts() -> Vec<(&'static str, Vec<u8>)> {
    let of = |pairs: &[u8], text: &str| [&[(pairs.len() / 2) as u8], pairs, text.as_bytes()].concat();
    vec![
        ("no_merges", of(b"", "Any text, 1234567 digits\n\n  and spaces.")),
        ("merges_of_merges", of(&[b't', b'h', 224, b'e', b' ', 225, b'i', b'n'], "the thing then in the thin air")),
        ("overlapping", of(b"aaababba", "aaaa abab baba aabb bbaa")),
        (
            "characters",
            of(&[0xc3, 0xa4, 224, 0xc3], "Gr\u{fc}\u{df}e aus \u{e4}\u{e4}\u{e4}, \u{65e5}\u{672c}\u{8a9e} \u{1f980}"),
        ),
        ("long_piece", of(b"aa\xe0\xe0\xe1\xe1", &"a".repeat(700))),
        ("control_bytes", of(b"  \n\n", "\u{0}\u{1}\t\t  \n\n \r\n x")),
    ]
}
