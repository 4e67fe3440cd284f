//! A world of one core: a synchronous host whose executor answers at once with made-up numbers, and whose disk keeps what
//! it was told to. It stands for any host; the arithmetic behind the answers is not the core's concern.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the world")]

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::proto::{
    BatchOutcome, Commitment, F32, Fault, Founder, Genesis, Hash, Job, JournalSeq, LayerBlobs, Manifest, NodeId,
    Params, Preset, RequestId, Shard, Signature, Snapshot, Step, Time,
};
use neuroshard_core::{Command, Config, Core, Event, Input, Operator, Outbox, Output};

pub fn config() -> Config {
    let (model, training) = Preset::Nano.specs();
    let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 65_536, held_out };
    let shards = vec![shard(b"a", false), shard(b"b", false), shard(b"c", true)].try_into().unwrap();
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 190_000, shards };
    let node = NodeId::from_bytes(key().verifying_key().to_bytes());
    let genesis = Genesis {
        created_unix_ms: 1_800_000_000_000,
        seed: Hash::of_blob(b"genesis"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        founders: vec![Founder::alone(node)].try_into().unwrap(),
        allocations: Default::default(),
        first: None,
    };
    Config::new(genesis, manifest, node, Operator::new(1 << 30, 1 << 30))
}

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk {
    pub journal: BTreeMap<JournalSeq, Vec<u8>>,
    pub blobs: BTreeSet<Hash>,
}

pub struct World {
    pub config: Config,
    pub core: Core,
    pub now: Time,
    pub disk: Disk,
    pub events: Vec<Event>,
    /// Everything the core asked for and did not yet get.
    pub jobs: Vec<(RequestId, Job)>,
    pub unpersisted: Option<JournalSeq>,
    /// Every job ever asked for, by what it depends on.
    pub asked: Vec<Job>,
    /// What the core wants signed.
    pub unsigned: Vec<(RequestId, Hash)>,
    outbox: Outbox,
}

/// The node's key.
fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

impl World {
    pub fn new(config: Config) -> Self {
        Self::restart(config, Disk::default(), Time::ZERO)
    }

    pub fn restart(config: Config, disk: Disk, now: Time) -> Self {
        let core = Core::restore(config.clone(), Hash::of_blob(b"node"), disk.journal.values()).unwrap();
        assert!(core.pinned().is_subset(&disk.blobs), "every blob a fact names survived");
        let mut world = Self {
            config,
            core,
            now,
            disk,
            events: Vec::new(),
            jobs: Vec::new(),
            unpersisted: None,
            asked: Vec::new(),
            unsigned: Vec::new(),
            outbox: Outbox::default(),
        };
        world.input(Input::Tick);
        world
    }

    pub fn input(&mut self, input: Input) {
        self.core.step(self.now, input, &mut self.outbox).unwrap();
        while let Some(output) = self.outbox.pop() {
            match output {
                Output::Persist { seq, record } => {
                    self.disk.journal.insert(seq, record.into_vec());
                    self.unpersisted = Some(seq);
                }
                Output::Compute { id, job, .. } => {
                    self.asked.push(job.clone());
                    self.jobs.push((id, job));
                }
                Output::Cancel { id } => self.jobs.retain(|(open, _)| *open != id),
                Output::Drop { hash } => assert!(self.disk.blobs.remove(&hash), "only stored blobs are dropped"),
                Output::Trim { before } => self.disk.journal.retain(|seq, _| *seq >= before),
                Output::Sign { id, digest } => self.unsigned.push((id, digest)),
                Output::Send { .. } | Output::Publish { .. } | Output::Fetch { .. } => {}
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    pub fn persist(&mut self) {
        if let Some(upto) = self.unpersisted.take() {
            self.input(Input::Persisted { upto });
        }
    }

    /// Signs what the core wants signed, and keeps its records, until it wants nothing of the kind.
    pub fn sign(&mut self) {
        while !self.unsigned.is_empty() {
            let (id, digest) = self.unsigned.remove(0);
            let signature = Signature(key().sign(digest.as_bytes()).to_bytes());
            self.input(Input::Signed { id, signature });
            self.persist();
        }
    }

    /// Answers the oldest job honestly, `ms` later.
    pub fn answer(&mut self, ms: u64) {
        let (id, job) = self.jobs.remove(0);
        self.now = self.now.after_ms(ms);
        let answer = self.honest(&job);
        self.input(Input::Computed { id, result: Ok(answer) });
    }

    pub fn fail(&mut self, fault: Fault) {
        let (id, _) = self.jobs.remove(0);
        self.input(Input::Computed { id, result: Err(fault) });
    }

    pub fn command(&mut self, command: Command) {
        self.input(Input::Command(command));
    }

    /// Runs until the core has taken `steps` steps, persisting as it goes.
    pub fn train_to(&mut self, steps: u64) {
        while self.core.model_step() < Step(steps) && !self.jobs.is_empty() {
            self.answer(20);
            self.persist();
        }
    }

    pub fn honest(&mut self, job: &Job) -> Commitment {
        let stages = self.config.genesis.model.layers as usize + 1;
        match job {
            Job::Init { .. } => Commitment::Ready { step: Step(0), root: Hash::default() },
            Job::Load { snapshot, .. } => Commitment::Ready { step: snapshot.step, root: snapshot.root },
            Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 900 },
            Job::Train { batch, samples, .. } => Commitment::Batch(BatchOutcome::Done {
                loss_micro: 5_000_000 - i64::try_from(batch.0).unwrap(),
                tokens: 128 * samples.len() as u64,
                squared_norms: vec![F32::ONE; stages].try_into().unwrap(),
            }),
            Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } => {
                panic!("a node alone trains whole batches")
            }
            Job::Step { step, .. } => Commitment::Step { step: step.next(), norm: F32::ONE },
            Job::Evaluate { step, .. } => {
                Commitment::Evaluation { step: *step, loss_micro: Some(5_000_000), tokens: 4096 }
            }
            Job::Snapshot { step } => {
                let blob = |name: String| Hash::of_blob(name.as_bytes());
                let layers: Vec<_> = (0..stages)
                    .map(|layer| LayerBlobs {
                        root: blob(format!("r {layer} {step}")),
                        weights: blob(format!("w {layer} {step}")),
                        // One blob is the same in every snapshot, as moments of an untouched layer would be.
                        moments: blob(if layer == 0 { "m same".into() } else { format!("m {layer} {step}") }),
                    })
                    .collect();
                self.disk.blobs.extend(layers.iter().flat_map(|layer| [layer.weights, layer.moments]));
                let root = blob(format!("root {step}"));
                Commitment::Snapshot(Snapshot { step: *step, root, layers: layers.try_into().unwrap(), bytes: 1000 })
            }
        }
    }

    pub fn saved_steps(&self) -> Vec<u64> {
        let saved = |event: &Event| match event {
            Event::Saved { step, .. } => Some(step.0),
            _ => None,
        };
        self.events.iter().filter_map(saved).collect()
    }

    /// The batches asked for, in order.
    pub fn batches(&self) -> Vec<Job> {
        self.asked.iter().filter(|job| matches!(job, Job::Train { .. })).cloned().collect()
    }
}
