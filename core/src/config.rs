//! What a core is told at its birth: the network's facts and the operator's wishes.

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Genesis, LayerRange, Manifest, Mode, NodeId, Plan, Ratio, Shared};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

/// Everything a [`crate::Core`] needs to know before its first step. Two cores with equal configurations, seeds and
/// inputs are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Config {
    pub genesis: Shared<Genesis>,
    pub manifest: Shared<Manifest>,
    /// This node's public key.
    pub node: NodeId,
    pub operator: Operator,
    /// A pipeline that operators agreed on by hand (PROTOCOL §4), until nodes form quorums by themselves.
    pub plan: Option<Shared<Plan>>,
}

impl Config {
    /// A configuration without a plan.
    pub fn new(
        genesis: impl Into<Shared<Genesis>>,
        manifest: impl Into<Shared<Manifest>>,
        node: NodeId,
        operator: Operator,
    ) -> Self {
        Self { genesis: genesis.into(), manifest: manifest.into(), node, operator, plan: None }
    }

    /// The stages that this node trains: those of the plan, or all.
    pub fn stages(&self) -> LayerRange {
        let planned = self.plan.as_ref().and_then(|plan| plan.members.iter().find(|member| member.node == self.node));
        planned.map_or(self.genesis.model.all_layers(), |member| member.stages)
    }
}

impl Canonical for Config {}

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
