//! Any schedule of a node's life: its executor answers late, wrongly or twice, its disk is slow, strangers talk to it, it
//! crashes. It must never panic or promise what is not durable, and when the world is honest again it must go on.

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::{Command, Config, Input, Operator};
use neuroshard_proto::{
    BatchOutcome, Commitment, Envelope, F32, Fault, Founder, Genesis, Hash, Heartbeat, Job, List, Manifest, Message,
    Mode, NetworkId, NodeId, Params, Passed, Preset, Ratio, RequestId, Shard, Signature, Step, Time, Verified,
    VoidReason, codec,
};
use neuroshard_replay::Detail;

use crate::world::{Disk, World};

/// Acts that one schedule may hold; the rest of the bytes is not read.
const ACTS_MAX: usize = 2048;

/// The target: two bytes choose the configuration, the others are acts.
pub fn run(bytes: &[u8]) {
    let mut schedule = Schedule(bytes);
    let config = config(schedule.next(), schedule.next());
    let Some(mut world) = World::start(&config, Disk::default(), Time::ZERO, Detail::Outputs) else { return };
    for _ in 0..ACTS_MAX {
        if schedule.0.is_empty() {
            break;
        }
        world = act(world, &config, &mut schedule);
    }
    world.settle();
    let _ = world.end();
}

/// Bytes that are still to be acted on; zeros when there are none.
struct Schedule<'a>(&'a [u8]);

impl<'a> Schedule<'a> {
    fn next(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }
}

/// A small model whose operator wants what the bytes say.
pub(crate) fn config(first: u8, second: u8) -> Config {
    let pick = |byte: u8, shift: u32, choices: [u64; 4]| choices[usize::from(byte >> shift & 3)];
    let (mut model, mut training) = Preset::Nano.specs();
    (model.layers, model.hidden, model.heads, model.kv_heads, model.ffn, model.context) = (1, 8, 2, 1, 8, 16);
    (training.sequence, training.batch) = (8, 2);
    let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 100, held_out };
    let shards = vec![shard(b"training", false), shard(b"held out", true)].try_into().expect("two shards");
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 200, shards };
    let node = NodeId::from_bytes(key(0).verifying_key().to_bytes());
    let founders = vec![Founder::alone(node)].try_into().expect("one founder");
    let seed = Hash::of_blob(b"weights");
    let params = Params::DEFAULT;
    let genesis = Genesis {
        created_unix_ms: 0,
        seed,
        model,
        training,
        params,
        manifest: manifest.root(),
        founders,
        allocations: List::default(),
        first: None,
    };
    let snapshot_bytes = model.parameters() * 12;
    let memory = if first >> 6 & 1 == 1 { 1000 } else { 1 << 30 };
    let mut operator = Operator::new(memory, snapshot_bytes * pick(second, 0, [2, 3, 1, 1000]));
    operator.steps = [None, Some(0), Some(3), Some(40)][usize::from(first & 3)];
    operator.snapshot_every_steps = pick(first, 2, [5, 1, 100, 0]);
    operator.snapshots_kept = pick(first, 4, [2, 1, 3, 0]) as u32;
    operator.mode = (first >> 7 == 1).then(|| Mode::ALL[usize::from(second) % Mode::ALL.len()]);
    operator.snapshot_every_ms = pick(second, 2, [30_000, 0, 1000, u64::MAX]);
    operator.evaluate_every_steps = pick(second, 4, [50, 1, 0, u64::MAX]);
    operator.snapshot_share = Ratio::from_ppm(pick(second, 6, [50_000, 0, 1_000_000, u64::from(u32::MAX)]) as u32);
    Config::new(genesis, manifest, node, operator)
}

/// Does one act: the high half of a byte says what, the low half how.
fn act(mut world: World, config: &Config, schedule: &mut Schedule<'_>) -> World {
    let byte = schedule.next();
    let how = byte & 15;
    match byte >> 4 {
        0 | 1 => {
            world.now = world.now.after_ms(u64::from(how) * 7);
            world.answer(0);
        }
        2 if how < 8 => world.answer(usize::from(how)),
        2 => world.answer_blindly(usize::from(how - 8)),
        3 => world.answer_with(|_| Err(fault(how))),
        4 => {
            let offset = schedule.next();
            let made_up = made_up(&world, how, offset);
            world.answer_with(|_| Ok(made_up));
        }
        5 => {
            let id = RequestId(u64::from(schedule.next()) << (how * 4));
            let result = Ok(made_up(&world, how, 0));
            world.answer_as(id, result);
        }
        6 => match how {
            6 | 7 => world.sign(how == 7),
            0..=5 => world.sync(how & 1 == 1),
            _ => world.sync_again(u64::from(how - 8)),
        },
        7 => {
            world.now = moment(&world, how);
            world.step(Input::Tick);
        }
        8 => world.step(Input::Command(match how {
            0..8 => Command::Save,
            15 => Command::Leave,
            _ => Command::Stop,
        })),
        9 => {
            let message = heartbeat(world.core.network(), 1 + (how & 3), offset(world.now, how >> 2));
            world.step(Input::Message(message));
        }
        10 => {
            let network = if how & 1 == 1 { world.core.network() } else { NetworkId(Hash::default()) };
            let message = heartbeat(network, 0, world.now);
            world.step(Input::Message(message));
        }
        11 => {
            let now = world.now;
            let disk = world.end().crash(usize::from(how));
            let again = World::start(config, disk, now, Detail::Inputs);
            world = again.expect("a configuration that was accepted is accepted again");
        }
        12 => world.misuse(how),
        13 => {
            let len = usize::from(schedule.next());
            raw(&mut world, schedule.take(len));
        }
        14 => {
            for _ in 0..4 * (how + 1) {
                world.now = world.now.after_ms(20);
                world.answer(0);
                world.sync(false);
                world.sign(how & 1 == 1);
            }
        }
        _ => {
            for _ in 0..8 * (how + 1) {
                world.answer_with(void);
            }
        }
    }
    world
}

/// An input as its encoding, if it is one and a host may give it.
fn raw(world: &mut World, bytes: &[u8]) {
    match codec::decode::<Input>(bytes) {
        // What is durable is the disk's to say.
        Ok(Input::Persisted { .. }) | Err(_) => {}
        Ok(Input::Computed { id, result }) => world.answer_as(id, result),
        Ok(input) => world.step(input),
    }
}

/// A moment that the core may wait for, or not.
fn moment(world: &World, how: u8) -> Time {
    const DAY: u64 = 86_400_000;
    let due = world.core.next_deadline().map_or(world.now, |(at, _)| at.max(world.now));
    match how {
        0..=5 => due,
        6 => due.after_ms(1),
        7 => Time::from_ms(due.as_ms().saturating_sub(1)).max(world.now),
        8 => world.now,
        9 => world.now.after_ms(1),
        10 => world.now.after_ms(1000),
        11 => world.now.after_ms(60_000),
        12 => world.now.after_ms(120_001),
        13 => world.now.after_ms(3_600_000),
        14 => world.now.after_ms(DAY),
        _ => world.now.after_ms(1000 * DAY),
    }
}

/// A peer's clock beside ours.
fn offset(now: Time, how: u8) -> Time {
    match how {
        0 => now,
        1 => Time::from_ms(now.as_ms().saturating_sub(120_000)),
        2 => now.after_ms(120_000),
        _ => now.after_ms(120_001),
    }
}

fn fault(how: u8) -> Fault {
    let hash = Hash::of_blob(&[how]);
    match how {
        0 | 1 => Fault::device("unplugged"),
        2 | 3 => Fault::BlobMissing { hash },
        4 | 5 => Fault::BlobDamaged { hash },
        6 => Fault::RootMismatch { expected: hash, found: Hash::default() },
        7 => Fault::WrongStep { expected: Step(u64::from(how)), at: None },
        8 | 9 => Fault::DiskFull { needed: u64::MAX },
        10 | 11 => Fault::store("i/o error"),
        12 | 13 => Fault::bad_job("no such shape"),
        _ => Fault::WrongStep { expected: Step(u64::MAX), at: Some(Step(0)) },
    }
}

fn void(job: &Job) -> Result<Commitment, Fault> {
    match job {
        Job::Train { .. } => Ok(Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange))),
        _ => Err(Fault::device("only batches can be void")),
    }
}

/// An answer that may be to another question, or of another step than asked for.
fn made_up(world: &World, how: u8, offset: u8) -> Commitment {
    let step = match offset {
        0..=9 => Step(world.core.model_step().0.saturating_add(u64::from(offset))),
        10..=127 => Step(u64::from(offset - 10)),
        _ => Step(u64::MAX - u64::from(offset - 128)),
    };
    let extreme = [0, 1, i64::MAX, i64::MIN][usize::from(offset & 3)];
    match how {
        0 | 1 => Commitment::Ready { step, root: Hash::default() },
        2 => Commitment::Benchmark { layer_us: u64::from(offset) << (offset % 57) },
        3 if offset & 1 == 0 => Commitment::Forward(Passed::Done { output: Hash::default() }),
        3 => Commitment::Benchmark { layer_us: u64::MAX },
        4..=6 => {
            let norms = vec![F32::from_bits(u32::from(offset) << 24); usize::from(how - 3)];
            let squared_norms = norms.try_into().expect("few norms");
            let tokens = extreme.unsigned_abs();
            Commitment::Batch(BatchOutcome::Done { loss_micro: extreme, tokens, squared_norms })
        }
        7 => Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange)),
        9 if offset & 1 == 0 => Commitment::Norms { step, squared_norms: None },
        8 | 9 => Commitment::Step { step, norm: F32::from_bits(u32::MAX) },
        10 => Commitment::Evaluation { step, loss_micro: Some(extreme), tokens: 0 },
        11 => Commitment::Evaluation { step, loss_micro: None, tokens: u64::MAX },
        _ => Commitment::Snapshot(world.snapshot(step, usize::from(how - 12))),
    }
}

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub(crate) fn heartbeat(network: NetworkId, peer: u8, time: Time) -> Verified {
    let key = key(peer);
    let node = NodeId::from_bytes(key.verifying_key().to_bytes());
    let message =
        Message::Heartbeat(Heartbeat { node, time, quorum: None, queue_depth: 0, free_bytes: 0, step: Step(0) });
    let sign = |digest: &Hash| Signature(key.sign(digest.as_bytes()).to_bytes());
    let frame = codec::encode(&Envelope::seal(network, &message, sign));
    Verified::open(&frame).expect("an honest frame opens")
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Stream;

    use super::*;

    #[test]
    fn random_schedules_hold() {
        for number in 0..150 {
            let mut stream = Stream::new(&Hash::of_blob(b"schedules"), "fuzz", number);
            let len = stream.below(300) as usize;
            let mut bytes = vec![0; len];
            stream.fill(0, &mut bytes);
            run(&bytes);
        }
    }
}
