//! The NeuroShard protocol as one value: deterministic, without I/O, clock, thread, float or global.
//!
//! A [`Core`] is driven by a host. The host owns sockets, disk, clock and accelerator; the core owns every decision. One
//! call moves it, [`Core::step`]: an [`Input`] goes in, [`Output`]s come out, and what they mean stands at their
//! definitions. Because every influence is an input, a list of inputs replays a node bit for bit, and a simulator can run
//! a million nodes in one process.
//!
//! # A complete host
//!
//! This one is synchronous, keeps its journal in memory and does each job where it stands. Real hosts differ in *when*
//! they do what the core asks, never in what. `neuroshard-shaders` has the executor that `compute` would call.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use neuroshard_core::proto::{Commitment, Fault, Hash, Job, JournalSeq, Signature, Time};
//! use neuroshard_core::{Command, Config, Core, Event, Input, Misuse, Outbox, Output, RestoreError};
//!
//! /// Runs a node until it stops by itself, for example at the operator's step limit.
//! fn host(
//!     config: Config,
//!     seed: Hash,
//!     journal: &mut BTreeMap<JournalSeq, Vec<u8>>,
//!     mut clock: impl FnMut() -> Time,
//!     mut sign: impl FnMut(&Hash) -> Signature,
//!     mut compute: impl FnMut(&Job) -> Result<Commitment, Fault>,
//!     mut tell: impl FnMut(&Event),
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     // A fresh node is one whose journal is empty.
//!     let mut core = Core::restore(config, seed, journal.values())?;
//!     let (mut outbox, mut inputs) = (Outbox::default(), vec![Input::Tick]);
//!     loop {
//!         // Nothing to do: sleep until the core's deadline. (Here the clock is assumed to have moved.)
//!         let input = inputs.pop().unwrap_or(Input::Tick);
//!         core.step(clock(), input, &mut outbox)?;
//!         // Do what the core asks, in order.
//!         while let Some(output) = outbox.pop() {
//!             match output {
//!                 Output::Persist { seq, record } => {
//!                     journal.insert(seq, record.into_vec());
//!                     // A real host answers when its disk has synced; the core withholds what depends on it.
//!                     inputs.push(Input::Persisted { upto: seq });
//!                 }
//!                 Output::Trim { before } => journal.retain(|seq, _| *seq >= before),
//!                 Output::Compute { id, job, .. } => inputs.insert(0, Input::Computed { id, result: compute(&job) }),
//!                 Output::Cancel { .. } => {} // Done already: an answer nobody waits for is dropped by the core.
//!                 Output::Drop { .. } => {}   // Delete the blob of that hash.
//!                 Output::Sign { id, digest } => inputs.push(Input::Signed { id, signature: sign(&digest) }),
//!                 // There is nobody else; a real host hands these to its sockets.
//!                 Output::Send { .. } | Output::Publish { .. } | Output::Fetch { .. } => {}
//!                 Output::Event(event) => {
//!                     tell(&event);
//!                     if matches!(event, Event::Stopped { .. }) {
//!                         return Ok(());
//!                     }
//!                 }
//!             }
//!         }
//!     }
//! }
//! # use neuroshard_core::proto::*;
//! # let (model, training) = Preset::Nano.specs();
//! # let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 9999, held_out };
//! # let shards = vec![shard(b"a", false), shard(b"b", true)].try_into()?;
//! # let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 1, shards };
//! # let node = NodeId::from_bytes([1; 32]);
//! # let genesis = Genesis { created_unix_ms: 0, seed: Hash::default(), model, training, params: Params::DEFAULT,
//! #     manifest: manifest.root(), founders: vec![Founder::alone(node)].try_into()?, allocations: Default::default(), first: None };
//! # let mut operator = neuroshard_core::Operator::new(1 << 30, 1 << 30);
//! # operator.steps = Some(3);
//! # let config = Config::new(genesis, manifest, node, operator);
//! # let (mut now, mut steps) = (0, 0);
//! # host(config, Hash::default(), &mut BTreeMap::new(), || { now += 1; Time::from_ms(now) },
//! #     |_| Signature([0; 64]), |job| Ok(match job {
//! #     Job::Init { .. } => Commitment::Ready { step: Step(0), root: Hash::default() },
//! #     Job::Benchmark { .. } => Commitment::Benchmark { layer_us: 1 },
//! #     Job::Train { .. } => Commitment::Batch(BatchOutcome::Done { loss_micro: 1, tokens: 1,
//! #         squared_norms: vec![F32::ONE; 5].try_into().unwrap() }),
//! #     Job::Step { step, .. } => Commitment::Step { step: step.next(), norm: F32::ONE },
//! #     Job::Evaluate { step, .. } => Commitment::Evaluation { step: *step, loss_micro: None, tokens: 1 },
//! #     Job::Snapshot { step } => {
//! #         let stage = LayerBlobs { root: Hash::default(), weights: Hash::default(), moments: Hash::default() };
//! #         Commitment::Snapshot(Snapshot::of_stages(*step, vec![stage; 5].try_into().unwrap(), 1))
//! #     }
//! #     Job::Load { .. } => unreachable!("a fresh node"),
//! #     Job::Forward { .. } | Job::Turn { .. } | Job::Backward { .. } | Job::Norms { .. } =>
//! #         unreachable!("a node alone"),
//! # }), |event| if let Event::Stepped { .. } = event { steps += 1 })?;
//! # assert_eq!(steps, 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Rules for hosts
//!
//! * Time is milliseconds since the network's genesis and never goes back; equal times are fine.
//! * Outputs are done in the order given. Jobs may run elsewhere and be answered later, one after the other.
//! * `Persisted` is reported when a record would survive a crash, not before. Several records may be reported at once.
//! * [`Core::next_deadline`] says when to call with [`Input::Tick`]; early and repeated ticks are harmless.
//! * [`Misuse`] is the host's own mistake; the call changed nothing. What peers, disks and devices do is never an error
//!   of `step`: it becomes an [`Event`].
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::disallowed_types,
        clippy::float_arithmetic,
        reason = "tests compare the exact integer code with the hardware's floats"
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod agent;
pub mod agreement;
mod chain;
mod config;
mod count;
mod cx;
mod io;
mod journal;
mod lean;
pub mod ledger;
mod node;
mod part;
mod sampling;
pub mod schedule;
pub mod softfloat;
pub mod tokenizer;

pub use config::{Config, Operator};
pub use io::{
    Command, DROP_WORDS_MAX, DropReason, Event, FetchFault, Input, JobKind, MAX_OUTPUTS, Misuse, ModeReason, Outbox,
    Output, PeerFault, RECORD_BYTES_MAX, Recovery, TimerKind, Topic,
};
pub use journal::{JournalFact, Progress, Record, SNAPSHOTS_MAX, SavedState};
pub use neuroshard_proto as proto;
pub use node::{Core, RestoreError};
pub use sampling::Sampler;

/// This crate's types that are stored, recorded, or shown to others; see [`proto::schema`].
pub fn schema_types() -> [proto::schema::Named; 21] {
    use proto::schema::Named;
    use proto::{Commitment, Fault, LayerIndex, NodeId, OwnerId, QuorumId};
    [
        Named::of::<Config>(),
        Named::of::<Input>(),
        Named::of::<Output>(),
        Named::of::<Record>(),
        Named::part::<agreement::Ballot>("Ballot"),
        Named::part::<Result<Commitment, Fault>>("Answer"),
        Named::part::<Result<(), FetchFault>>("Arrival"),
        Named::of::<ledger::sync::Chunk>(),
        Named::part::<ledger::tree::Piece<OwnerId, ledger::Account>>("AccountsPiece"),
        Named::part::<ledger::tree::Piece<NodeId, ledger::Node>>("NodesPiece"),
        Named::part::<ledger::tree::Piece<NodeId, ledger::Candidate>>("CandidatesPiece"),
        Named::part::<ledger::tree::Piece<QuorumId, ledger::Quorum>>("QuorumsPiece"),
        Named::part::<ledger::tree::Piece<LayerIndex, ledger::Stage>>("StagesPiece"),
        Named::generic::<ledger::StateProof<OwnerId, ledger::Account>>("AccountProof"),
        Named::generic::<ledger::StateProof<NodeId, ledger::Node>>("NodeProof"),
        Named::part::<ledger::tree::Proof<OwnerId, ledger::Account>>("AccountPath"),
        Named::part::<ledger::tree::Proof<NodeId, ledger::Node>>("NodePath"),
        Named::generic::<ledger::StateProof<QuorumId, ledger::Quorum>>("QuorumProof"),
        Named::generic::<ledger::StateProof<LayerIndex, ledger::Stage>>("StageProof"),
        Named::part::<ledger::tree::Proof<QuorumId, ledger::Quorum>>("QuorumPath"),
        Named::part::<ledger::tree::Proof<LayerIndex, ledger::Stage>>("StagePath"),
    ]
}
