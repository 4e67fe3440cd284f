//! Every number of the protocol that a network may set at its genesis (PROTOCOL §12), and the small enums they speak of.

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::amount::Ratio;
use crate::codec::Canonical;
use crate::mutant::mutant;

/// A speed tier: how long one layer takes (PROTOCOL §2). T1 is the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum Tier {
    T1,
    T2,
    T3,
    T4,
    T5,
}

impl Tier {
    pub const ALL: [Self; 5] = [Self::T1, Self::T2, Self::T3, Self::T4, Self::T5];

    /// Whether nodes of these tiers may share a pipeline. Symmetric; T5 never does.
    pub const fn compatible(self, other: Self) -> bool {
        match (self, other) {
            (Self::T1, Self::T1 | Self::T2)
            | (Self::T2, Self::T1 | Self::T2 | Self::T3)
            | (Self::T3, Self::T2 | Self::T3 | Self::T4)
            | (Self::T4, Self::T3 | Self::T4) => true,
            (Self::T1, Self::T3 | Self::T4 | Self::T5)
            | (Self::T2, Self::T4 | Self::T5)
            | (Self::T3, Self::T1 | Self::T5)
            | (Self::T4, Self::T1 | Self::T2 | Self::T5)
            | (Self::T5, _) => false,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::T1 => "T1",
            Self::T2 => "T2",
            Self::T3 => "T3",
            Self::T4 => "T4",
            Self::T5 => "T5",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How a node contributes (PROTOCOL §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub enum Mode {
    /// Trains the whole model alone; only while it is the only node.
    Solo,
    /// Member of a quorum's pipeline.
    Pipeline,
    /// Trains alone and submits to a later round.
    Async,
    /// Stores and serves data shards.
    Data,
    /// Audits full time.
    Verify,
    /// Serves inference.
    Inference,
    Idle,
}

impl Mode {
    pub const ALL: [Self; 7] =
        [Self::Solo, Self::Pipeline, Self::Async, Self::Data, Self::Verify, Self::Inference, Self::Idle];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Solo => "solo",
            Self::Pipeline => "pipeline",
            Self::Async => "async",
            Self::Data => "data",
            Self::Verify => "verify",
            Self::Inference => "inference",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The stages of a network's growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum Phase {
    Genesis,
    Micro,
    Small,
    Medium,
    Growing,
    Large,
    Massive,
}

impl Phase {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Micro => "micro",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Growing => "growing",
            Self::Large => "large",
            Self::Massive => "massive",
        }
    }
}

/// One column of PROTOCOL §12: what holds from `nodes` nodes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct PhaseRow {
    /// Smallest agreed network size for which this row holds.
    pub nodes: u64,
    pub phase: Phase,
    /// Fewest members of a quorum.
    pub quorum_size: u32,
    /// Fewest live replicas of a layer or shard.
    pub replicas: u32,
    /// Batches between two cross-quorum rounds.
    pub sync_interval: u32,
    /// Least share of a claim's leaves that is audited; at least one leaf always is.
    pub audit_floor: Ratio,
    /// Length of a quorum's session, in seconds.
    pub session_s: u32,
}

/// The protocol's numbers as one network has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Params {
    /// PROTOCOL §12, by network size.
    pub phases: [PhaseRow; 8],
    /// Upper bounds of T1 to T4 in microseconds a layer, exclusive (PROTOCOL §2).
    pub tier_bounds_us: [u64; 4],
    /// The self-benchmark (PROTOCOL §2): its period, sequence length, warm-up runs and timed runs.
    pub benchmark_period_ms: u64,
    pub benchmark_sequence: u32,
    pub benchmark_warmup: u32,
    pub benchmark_runs: u32,
    /// Share of the configured memory that held layers may take (PROTOCOL §2).
    pub holding_share: Ratio,
    /// A heartbeat's period, and the ages at which its sender counts as degraded and as offline (PROTOCOL §3).
    pub heartbeat_ms: u64,
    pub degraded_ms: u64,
    pub offline_ms: u64,
    /// An epoch, and the longest step of block time that protocol time follows (PROTOCOL §0.2).
    pub epoch_ms: u64,
    pub block_time_step_ms: u64,
}

impl Canonical for Params {}

const fn row(
    nodes: u64,
    phase: Phase,
    (quorum_size, replicas): (u32, u32),
    sync_interval: u32,
    audit_floor_ppm: u32,
    session_s: u32,
) -> PhaseRow {
    PhaseRow {
        nodes,
        phase,
        quorum_size,
        replicas,
        sync_interval,
        audit_floor: Ratio::from_ppm(audit_floor_ppm),
        session_s,
    }
}

impl Params {
    /// The normative numbers.
    pub const DEFAULT: Self = Self {
        phases: [
            row(1, Phase::Genesis, (1, 1), 100, 0, 1800),
            row(2, Phase::Micro, (1, 1), 100, 0, 1800),
            row(5, Phase::Small, (2, 2), 100, 0, 1800),
            row(10, Phase::Small, (2, 2), 500, 0, 1800),
            row(20, Phase::Medium, (3, 3), 500, 10_000, 3600),
            row(100, Phase::Growing, (3, 3), 1000, 30_000, 3600),
            row(500, Phase::Large, (3, 3), 1000, 50_000, 3600),
            row(5000, Phase::Massive, (3, 3), 1000, 50_000, 3600),
        ],
        tier_bounds_us: [10_000, 50_000, 200_000, 1_000_000],
        benchmark_period_ms: 3_600_000,
        benchmark_sequence: 128,
        benchmark_warmup: 3,
        benchmark_runs: 10,
        holding_share: Ratio::from_ppm(800_000),
        heartbeat_ms: 30_000,
        degraded_ms: 60_000,
        offline_ms: 120_000,
        epoch_ms: 60_000,
        block_time_step_ms: 10_000,
    };

    /// The row that holds at an agreed network size.
    pub fn at(&self, nodes: u64) -> &PhaseRow {
        let [first, rest @ ..] = &self.phases;
        rest.iter().rev().find(|row| row.nodes <= nodes).unwrap_or(first)
    }

    /// The tier of a node whose layer takes this long.
    pub fn tier(&self, layer_us: u64) -> Tier {
        let inclusive = u64::from(mutant("tier bounds inclusive"));
        let reached = |bound: &&u64| layer_us >= bound.saturating_add(inclusive);
        let slower = self.tier_bounds_us.iter().filter(reached).count();
        Tier::ALL.get(slower).copied().unwrap_or(Tier::T5)
    }

    pub(crate) fn phases_in_order(&self) -> bool {
        let sizes = self.phases.iter().map(|row| row.nodes);
        self.phases.first().is_some_and(|row| row.nodes == 1)
            && sizes.clone().zip(sizes.skip(1)).all(|(small, large)| small < large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_are_half_open_intervals() {
        let params = Params::DEFAULT;
        let cases = [
            (0, Tier::T1),
            (9_999, Tier::T1),
            (10_000, Tier::T2),
            (49_999, Tier::T2),
            (50_000, Tier::T3),
            (200_000, Tier::T4),
            (999_999, Tier::T4),
            (1_000_000, Tier::T5),
            (u64::MAX, Tier::T5),
        ];
        for (layer_us, tier) in cases {
            assert_eq!(params.tier(layer_us), tier, "{layer_us}");
        }
    }

    #[test]
    fn compatibility_is_symmetric_and_excludes_t5() {
        for a in Tier::ALL {
            for b in Tier::ALL {
                assert_eq!(a.compatible(b), b.compatible(a), "{a} {b}");
            }
            assert!(!a.compatible(Tier::T5));
        }
    }

    #[test]
    fn each_network_size_has_its_row() {
        let params = Params::DEFAULT;
        let cases = [(0, 1), (1, 1), (2, 2), (4, 2), (5, 5), (19, 10), (20, 20), (4999, 500), (u64::MAX, 5000)];
        for (nodes, row) in cases {
            assert_eq!(params.at(nodes).nodes, row, "{nodes}");
        }
        assert!(params.phases_in_order());
    }
}
