//! What every part of NeuroShard means by a word: wire types, the one canonical encoder, limits, ids, units, the model's
//! shape, the operation table, and the jobs and commitments that core and executor exchange.
//!
//! Everything here is `no_std`, free of floats, clocks and I/O, and encodes to the same bytes on every machine.
//!
//! ```
//! use neuroshard_proto::{codec, ModelSpec, Preset};
//!
//! let (model, _training) = Preset::Genesis.specs();
//! assert_eq!(model.parameters_without_bias(), 42_096_128); // PROTOCOL §13
//!
//! // Everything that is signed, hashed, stored or sent goes through one encoder, and decoding accepts nothing else.
//! let bytes = codec::encode(&model);
//! assert_eq!(codec::decode::<ModelSpec>(&bytes), Ok(model));
//! let mut padded = bytes;
//! padded.push(0);
//! assert_eq!(codec::decode::<ModelSpec>(&padded), Err(codec::DecodeError::TrailingBytes { extra: 1 }));
//! ```
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

mod amount;
mod bounded;
pub mod chain;
pub mod codec;
mod envelope;
pub mod fixed;
mod float;
mod forming;
mod genesis;
mod hash;
mod hex;
mod ids;
mod job;
pub mod merkle;
mod message;
mod model;
mod mutant;
pub mod ops;
mod params;
mod quorum;
pub mod schema;
mod shared;
mod stream;
mod tensor;
pub mod tile;
mod time;

pub use amount::{Amount, Ratio};
pub use bounded::{Bytes, List, Text, TooLong};
#[cfg(feature = "sim-signatures")]
pub use envelope::sim_sign;
pub use envelope::{
    Envelope, REAL_SIGNATURES, Reject, Signature, Verified, WIRE_VERSION, is_usable, signing_bytes, verify,
};
pub use float::F32;
pub use forming::{Decline, FormingMessage, FormingWord};
pub use genesis::{
    ALLOCATIONS_MAX, Allocation, FOUNDERS_MAX, Founder, Genesis, GenesisError, Manifest, SHARD_TOKENS_MAX, SHARDS_MAX,
    Sample, Shard,
};
pub use hash::{Domain, Hash, Hasher};
pub use ids::{BatchId, JournalSeq, LayerIndex, NetworkId, NodeId, OwnerId, QuorumId, RequestId, Step};
pub use job::{
    BatchOutcome, Commitment, Fault, HELD_MAX, Job, LayerBlobs, MICROBATCHES_MAX, Micro, Passed, Returned, STAGES_MAX,
    Schedule, Snapshot, TensorRef, Turned, VoidReason,
};
pub use message::{ADDRESS_BYTES_MAX, BEACON_ADDRESSES_MAX, Beacon, Carried, Heartbeat, Kind, Message};
pub use model::{CONTEXT_MAX, LAYERS_MAX, LayerRange, ModelError, ModelSpec, Preset, TrainSpec, WIDTH_MAX};
pub use mutant::mutant;
pub use params::{Mode, MoneyParams, NodeParams, Params, Phase, PhaseRow, QuorumParams, Tier, ValidatorParams};
pub use quorum::{
    BATCHES_MAX, MEMBERS_MAX, Member, POSTED_MAX, Plan, PlanError, Position, QuorumMessage, REPORTED_MAX, Terms, Word,
};
pub use shared::Shared;
pub use stream::Stream;
pub use tensor::{DType, TensorInit, TensorKind, TensorSpec};
pub use time::Time;
