//! A host for unit tests: it drives a real core, with made-up answers to its jobs, and records it.

use std::collections::VecDeque;
use std::io::Write;

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::{Config, Core, Input, Operator, Outbox, Output};
use neuroshard_proto::{
    BatchOutcome, Commitment, Envelope, F32, Founder, Genesis, Hash, Heartbeat, Job, JournalSeq, LayerBlobs, List,
    Manifest, Message, Mode, NetworkId, NodeId, Params, Preset, RequestId, Shard, Signature, Snapshot, Step, Time,
    Verified, codec,
};

use crate::{Detail, Header, Recorder};

pub(crate) const ORIGIN: Time = Time::from_ms(500);

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
        founders: List::try_from(vec![Founder::alone(node)]).unwrap(),
        allocations: Default::default(),
        first: None,
    };
    // Strangers that greet it do not make this node look for a quorum.
    let operator = Operator { mode: Some(Mode::Async), ..Operator::new(1 << 30, 1 << 30) };
    Config::new(genesis, manifest, node, operator)
}

/// What a step was, as the host saw it.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(crate) time: Time,
    pub(crate) input: Input,
    pub(crate) outputs: Vec<Output>,
    pub(crate) state: Hash,
    pub(crate) parts: Vec<Hash>,
}

pub(crate) struct Host {
    pub(crate) core: Core,
    pub(crate) log: Vec<Logged>,
    /// Nats a token that jobs answer, in thousandths.
    pub(crate) milli_loss: i64,
    outbox: Outbox,
    now: Time,
    jobs: VecDeque<(RequestId, Job)>,
    unsigned: VecDeque<RequestId>,
    written: Option<JournalSeq>,
}

impl Host {
    pub(crate) fn new(config: Config) -> Self {
        let core = Core::restore(config, Hash::of_blob(b"node"), [] as [&[u8]; 0]).unwrap();
        let (outbox, jobs, unsigned) = (Outbox::default(), VecDeque::new(), VecDeque::new());
        Self { core, log: Vec::new(), milli_loss: 5000, outbox, now: ORIGIN, jobs, unsigned, written: None }
    }

    pub(crate) fn header(&self, detail: Detail) -> Header {
        Header::new(&self.core, Hash::of_blob(b"node"), [] as [&[u8]; 0], ORIGIN, detail).unwrap()
    }

    /// What happens next: durability first, now and then a stranger's message, answers in order.
    pub(crate) fn next(&mut self) -> (Time, Input) {
        let input = if let Some(upto) = self.written.take() {
            Input::Persisted { upto }
        } else if self.log.len() % 40 == 39 {
            stranger(self.now)
        } else if let Some(id) = self.unsigned.pop_front() {
            Input::Signed { id, signature: Signature([9; 64]) }
        } else if let Some((id, job)) = self.jobs.pop_front() {
            self.now = self.now.after_ms(12);
            Input::Computed { id, result: Ok(self.answer(&job)) }
        } else {
            self.now = self.now.after_ms(1);
            Input::Tick
        };
        (self.now, input)
    }

    /// Takes so many steps and records them.
    pub(crate) fn run<W: Write>(&mut self, recorder: &mut Recorder<W>, steps: u64) {
        for _ in 0..steps {
            let (time, input) = self.next();
            recorder.step(&mut self.core, time, input.clone(), &mut self.outbox).unwrap();
            let outputs: Vec<Output> = std::iter::from_fn(|| self.outbox.pop()).collect();
            outputs.iter().for_each(|output| self.obey(output));
            let (state, parts) = (self.core.state_hash(), self.core.part_hashes().map(|(_, digest)| digest).to_vec());
            self.log.push(Logged { time, input, outputs, state, parts });
        }
    }

    fn obey(&mut self, output: &Output) {
        match output {
            Output::Persist { seq, .. } => self.written = Some(*seq),
            Output::Compute { id, job, .. } => self.jobs.push_back((*id, job.clone())),
            Output::Cancel { id } => self.jobs.retain(|(open, _)| open != id),
            Output::Sign { id, .. } => self.unsigned.push_back(*id),
            Output::Drop { .. } | Output::Trim { .. } | Output::Event(_) => {}
            Output::Send { .. } | Output::Publish { .. } | Output::Fetch { .. } => {}
        }
    }

    fn answer(&self, job: &Job) -> Commitment {
        match job {
            Job::Init { .. } => Commitment::Ready { step: Step(0), root: Hash::default() },
            Job::Load { snapshot, .. } => Commitment::Ready { step: snapshot.step, root: snapshot.root },
            Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 900 },
            Job::Train { batch, .. } => Commitment::Batch(BatchOutcome::Done {
                loss_micro: self.milli_loss * 1_024_000 - batch.0 as i64,
                tokens: 1024,
                squared_norms: vec![F32::from_bits(0x3f80_0000 + batch.0 as u32); 5].try_into().unwrap(),
            }),
            Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } => {
                panic!("a node alone trains whole batches")
            }
            Job::Step { step, .. } => Commitment::Step { step: step.next(), norm: F32::ONE },
            Job::Evaluate { step, .. } => Commitment::Evaluation { step: *step, loss_micro: None, tokens: 4096 },
            Job::Snapshot { step } => {
                let hash = Hash::of_blob(&step.0.to_le_bytes());
                let layers = vec![LayerBlobs { root: hash, weights: hash, moments: hash }; 5].try_into().unwrap();
                Commitment::Snapshot(Snapshot { step: *step, root: hash, layers, bytes: 1000 })
            }
        }
    }
}

/// A heartbeat from a node of another network.
fn stranger(time: Time) -> Input {
    let key = SigningKey::from_bytes(&[9; 32]);
    let node = NodeId::from_bytes(key.verifying_key().to_bytes());
    let heartbeat = Heartbeat { node, time, quorum: None, queue_depth: 0, free_bytes: 0, step: Step(1) };
    let network = NetworkId(Hash::of_blob(b"another network"));
    let sign = |digest: &Hash| Signature(key.sign(digest.as_bytes()).to_bytes());
    let frame = codec::encode(&Envelope::seal(network, &Message::Heartbeat(heartbeat), sign));
    Input::Message(Verified::open(&frame).unwrap())
}

/// A finished trace of so many steps, and what the host saw.
pub(crate) fn record(steps: u64, detail: Detail) -> (Vec<u8>, Vec<Logged>) {
    let (mut out, mut host) = (Vec::new(), Host::new(config()));
    let mut recorder = Recorder::new(&mut out, &host.header(detail), &host.core).unwrap();
    host.run(&mut recorder, steps);
    recorder.finish().unwrap();
    (out, host.log)
}

pub(crate) fn trace(steps: u64, detail: Detail) -> Vec<u8> {
    record(steps, detail).0
}
