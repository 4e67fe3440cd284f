//! What a core is told at its birth: the network's facts and the operator's wishes.

use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Genesis, Manifest, Mode, NodeId, Ratio};
use postcard_schema::Schema;
use postcard_schema::schema::NamedType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Everything a [`crate::Core`] needs to know before its first step. Two cores with equal configurations, seeds and
/// inputs are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Config {
    pub genesis: Shared<Genesis>,
    pub manifest: Shared<Manifest>,
    /// This node's public key.
    pub node: NodeId,
    pub operator: Operator,
}

impl Canonical for Config {}

/// A value that its clones share until one of them is changed: a process may hold a million nodes of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared<T>(Arc<T>);

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

// It encodes as what it shares.
impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

impl<T: Schema> Schema for Shared<T> {
    const SCHEMA: &'static NamedType = T::SCHEMA;
}

/// The operator's choices. The protocol does not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Operator {
    /// Memory the node may use, in bytes; held layers take at most 80 % of it (PROTOCOL §2).
    pub memory_bytes: u64,
    /// Disk the node's snapshots may use, in bytes.
    pub disk_bytes: u64,
    /// The mode the operator wants, where the node qualifies (PROTOCOL §2).
    pub mode: Option<Mode>,
    /// Stop after this many optimizer steps since genesis.
    pub steps: Option<u64>,
    /// A snapshot is taken after this long or this many steps, whichever comes first ...
    pub snapshot_every_ms: u64,
    pub snapshot_every_steps: u64,
    /// ... but so rarely that snapshots cost at most this share of the time.
    pub snapshot_share: Ratio,
    /// Snapshots kept; older ones are collected.
    pub snapshots_kept: u32,
    /// The held-out loss is measured every so many steps, but costs at most [`Self::evaluate_share`] of the time.
    pub evaluate_every_steps: u64,
    pub evaluate_share: Ratio,
}

impl Operator {
    /// Defaults for everything but memory and disk.
    pub const fn new(memory_bytes: u64, disk_bytes: u64) -> Self {
        Self {
            memory_bytes,
            disk_bytes,
            mode: None,
            steps: None,
            snapshot_every_ms: 30_000,
            snapshot_every_steps: 100,
            snapshot_share: Ratio::from_ppm(50_000),
            snapshots_kept: 2,
            evaluate_every_steps: 50,
            evaluate_share: Ratio::from_ppm(20_000),
        }
    }
}
