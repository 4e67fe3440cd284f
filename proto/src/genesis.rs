//! A network's first facts: its model, its rules, its data and who founds it. Their hash is the network's id.

use alloc::collections::BTreeSet;
use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::amount::Amount;
use crate::bounded::List;
use crate::codec::{self, Canonical};
use crate::hash::{Domain, Hash};
use crate::ids::{NetworkId, NodeId, OwnerId, Step};
use crate::job::Snapshot;
use crate::model::{ModelError, ModelSpec, TrainSpec};
use crate::params::Params;

/// Most shards in a manifest.
pub const SHARDS_MAX: u32 = 16_384;
/// Most tokens in a shard.
pub const SHARD_TOKENS_MAX: u32 = 1 << 22;
/// Most validators a genesis may name.
pub const FOUNDERS_MAX: u32 = 256;
/// Most accounts that a genesis may give money to.
pub const ALLOCATIONS_MAX: u32 = 4096;

/// A data shard: tokens as 16-bit little-endian numbers, addressed by the hash of those bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Shard {
    pub hash: Hash,
    /// Tokens in the shard.
    pub tokens: u32,
    /// Held-out shards are never trained on; they measure the loss.
    pub held_out: bool,
}

/// A sequence for training or evaluation: the tokens `offset..offset + sequence + 1` of a shard. The last one is only a
/// target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct Sample {
    pub shard: Hash,
    pub offset: u32,
}

/// The data of a network (PROTOCOL §13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Manifest {
    /// Hash of the tokenizer that made the tokens.
    pub tokenizer: Hash,
    /// Bytes of text behind all shards: losses per byte are losses per token times `tokens / text_bytes`.
    pub text_bytes: u64,
    pub shards: List<Shard, SHARDS_MAX>,
}

impl Canonical for Manifest {}

impl Manifest {
    /// The manifest's hash, which the genesis names.
    pub fn root(&self) -> Hash {
        Domain::Manifest.hash(&codec::encode(self))
    }

    /// Tokens in all shards.
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(|shard| u64::from(shard.tokens)).fold(0, u64::saturating_add)
    }

    /// The shards to train on, or those held out.
    pub fn shards(&self, held_out: bool) -> impl Iterator<Item = &Shard> + Clone {
        self.shards.iter().filter(move |shard| shard.held_out == held_out)
    }
}

/// One of the first validators. Its node is registered and its power, which is no money, falls to 0 as bonded stake grows
/// (PROTOCOL §11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Founder {
    pub owner: OwnerId,
    pub node: NodeId,
    /// Share of the vote among founders, above 0.
    pub power: u32,
}

impl Founder {
    /// A founder whose node key holds the account too: for tests and examples.
    pub const fn alone(node: NodeId) -> Self {
        Self { owner: OwnerId::from_bytes(*node.as_bytes()), node, power: 1 }
    }
}

/// Money given to an account at genesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Allocation {
    pub owner: OwnerId,
    pub amount: Amount,
}

/// A network's genesis. Nothing in it can change; its hash is the [`NetworkId`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Genesis {
    /// When time 0 was, in milliseconds of Unix time. For people and clocks; no rule reads it.
    pub created_unix_ms: u64,
    /// Seed of the first weights, unless they were brought along, and of everything random until there is a beacon.
    pub seed: Hash,
    pub model: ModelSpec,
    pub training: TrainSpec,
    pub params: Params,
    /// Root of the [`Manifest`].
    pub manifest: Hash,
    /// The first validators (PROTOCOL §11).
    pub founders: List<Founder, FOUNDERS_MAX>,
    /// Money that exists from the beginning: for tests and devnets. It counts as minted.
    pub allocations: List<Allocation, ALLOCATIONS_MAX>,
    /// The state at step 0, where the founder brought weights along; otherwise it is made from the seed.
    pub first: Option<Snapshot>,
}

impl Canonical for Genesis {}

/// Why a genesis cannot found a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GenesisError {
    Model(ModelError),
    /// No founder: nobody could finalize the first block.
    NoFounder,
    /// The manifest is not the one the genesis names.
    OtherManifest {
        expected: Hash,
        found: Hash,
    },
    /// No shard of this kind is long enough for one sequence.
    TooLittleData {
        held_out: bool,
        tokens: u64,
        sequence: u32,
    },
    /// A shard claims more tokens than a shard may have.
    ShardTooLarge {
        tokens: u32,
    },
    /// Tokens are 16-bit numbers in shards.
    VocabularyTooLarge {
        vocab: u32,
    },
    /// The table of phases is not in order or does not start at one node.
    Phases,
    /// A number of the ledger is outside what it can keep its promises with.
    Ledger,
    /// A founder has no power, or stands twice among the founders.
    Founder {
        node: NodeId,
    },
    /// The allocations come to more money than can be counted.
    TooMuchMoney,
    /// The first state is not one of step 0 with the model's stages and bytes.
    FirstState {
        step: Step,
        stages: u64,
        bytes: u64,
    },
}

impl fmt::Display for GenesisError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(error) => error.fmt(f),
            Self::NoFounder => f.write_str("the genesis names no founder"),
            Self::OtherManifest { expected, found } => {
                write!(f, "the data manifest has root {found:.16}, the genesis names {expected:.16}")
            }
            Self::TooLittleData { held_out, tokens, sequence } => {
                let kind = if *held_out { "held-out" } else { "training" };
                write!(f, "no {kind} shard holds the {sequence} + 1 tokens of a sequence ({tokens} tokens in all)")
            }
            Self::ShardTooLarge { tokens } => {
                write!(f, "a shard of {tokens} tokens, at most {SHARD_TOKENS_MAX} are allowed")
            }
            Self::VocabularyTooLarge { vocab } => write!(f, "{vocab} tokens do not fit in 16 bits"),
            Self::Phases => f.write_str("the table of phases is not in order"),
            Self::Ledger => f.write_str(
                "a parameter of the ledger is out of bounds: block time steps within an epoch, a quorum above two thirds of the \
                 seats, and at least two attesters are needed",
            ),
            Self::Founder { node } => write!(f, "founder {node:.16} has no power, or is named twice"),
            Self::TooMuchMoney => f.write_str("the allocations come to more than 2^63 units of money"),
            Self::FirstState { step, stages, bytes } => write!(
                f,
                "the first state has step {step}, {stages} stages and {bytes} bytes, which is not the beginning of this model"
            ),
        }
    }
}

impl core::error::Error for GenesisError {}

impl Genesis {
    /// The network this genesis founds.
    pub fn network(&self) -> NetworkId {
        NetworkId(Domain::Genesis.hash(&codec::encode(self)))
    }

    /// Checks the genesis against itself and against its manifest.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self, manifest: &Manifest) -> Result<(), GenesisError> {
        self.model.check().map_err(GenesisError::Model)?;
        self.training.check(&self.model).map_err(GenesisError::Model)?;
        if self.founders.is_empty() {
            return Err(GenesisError::NoFounder);
        }
        let mut names = BTreeSet::new();
        if let Some(founder) = self.founders.iter().find(|one| one.power == 0 || !names.insert(one.node)) {
            return Err(GenesisError::Founder { node: founder.node });
        }
        let money = self.allocations.iter().try_fold(0_u64, |sum, one| sum.checked_add(one.amount.units()));
        if money.is_none_or(|money| money > 1 << 63_u32) {
            return Err(GenesisError::TooMuchMoney);
        }
        if !self.params.phases_in_order() {
            return Err(GenesisError::Phases);
        }
        if !self.params.ledger_is_sound() {
            return Err(GenesisError::Ledger);
        }
        if self.model.vocab > 1 << 16 {
            return Err(GenesisError::VocabularyTooLarge { vocab: self.model.vocab });
        }
        if let Some(Snapshot { step, layers, bytes, .. }) = &self.first {
            let stages = u64::try_from(layers.len()).unwrap_or(u64::MAX);
            let whole = self.model.state_bytes() == *bytes && u64::from(self.model.layers).saturating_add(1) == stages;
            if *step != Step(0) || !whole {
                return Err(GenesisError::FirstState { step: *step, stages, bytes: *bytes });
            }
        }
        let found = manifest.root();
        if found != self.manifest {
            return Err(GenesisError::OtherManifest { expected: self.manifest, found });
        }
        if let Some(shard) = manifest.shards.iter().find(|shard| shard.tokens > SHARD_TOKENS_MAX) {
            return Err(GenesisError::ShardTooLarge { tokens: shard.tokens });
        }
        for held_out in [false, true] {
            let sequence = self.training.sequence;
            if !manifest.shards(held_out).any(|shard| shard.tokens > sequence) {
                let tokens =
                    manifest.shards(held_out).map(|shard| u64::from(shard.tokens)).fold(0, u64::saturating_add);
                return Err(GenesisError::TooLittleData { held_out, tokens, sequence });
            }
        }
        Ok(())
    }
}
