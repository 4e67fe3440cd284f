//! Every number of the protocol that a network may set at its genesis (PROTOCOL §12), and the small enums they speak of.

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::amount::{Amount, Ratio};
use crate::chain::VALIDATORS_MAX;
use crate::codec::Canonical;
use crate::mutant::mutant;
use crate::quorum::MEMBERS_MAX;

/// Longest epoch that a network may choose: a day.
const EPOCH_MS_MAX: u64 = 86_400_000;
/// Longest window of protocol time: a year.
const WINDOW_MS_MAX: u64 = 366 * EPOCH_MS_MAX;
/// Most epochs for which activity may count.
const EPOCHS_MAX: u64 = 1000;
/// Most attesters that may be drawn for a node.
const ATTESTERS_MAX: u32 = 16;

/// Bounds of the stake at which founders have faded, in units.
const FADE_MIN: u64 = 1_000_000;
const FADE_MAX: u64 = 1 << 62;

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
    /// What accounts pay, stake and wait (PROTOCOL §8, §11).
    pub money: MoneyParams,
    /// How nodes are admitted and seen (PROTOCOL §0.2, §3, §8).
    pub nodes: NodeParams,
    /// Who decides (PROTOCOL §11).
    pub validators: ValidatorParams,
    /// Who trains together, and for how long (PROTOCOL §4).
    pub quorums: QuorumParams,
}

/// What accounts pay, stake and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct MoneyParams {
    /// What a transfer costs on top, rounded up; it is burned (PROTOCOL §11).
    pub fee: Ratio,
    /// The least fee: what every wish of an account costs that is not a protocol message.
    pub fee_min: Amount,
    /// What a registration costs without a puzzle (PROTOCOL §8).
    pub registration_fee: Amount,
    /// The least bond that counts, for each node of an owner (PROTOCOL §8).
    pub bond_min: Amount,
    /// Protocol time from unbonding until the money is free: longer than any window (PROTOCOL §8).
    pub unbonding_ms: u64,
}

/// How nodes are admitted and seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct NodeParams {
    /// Leading zero bits of the puzzle that a registration without a fee must solve (PROTOCOL §8).
    pub puzzle_bits: u32,
    /// Epochs for which activity makes a node count in the network's size (PROTOCOL §0.2).
    pub activity_epochs: u64,
    /// Peers that the beacon draws a node and epoch to attest that it lives; two of them must.
    pub attesters: u32,
    /// Protocol messages an epoch: of a node without the least bond, for each least bond behind a node, and at most.
    pub messages_unbonded: u32,
    pub messages_per_bond: u32,
    pub messages_max: u32,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct ValidatorParams {
    /// Bonded validator stake at which the founders' power has faded to nothing.
    pub founders_fade: Amount,
    /// Most validators that all vote by bond; above, a committee is drawn.
    pub voters_max: u32,
    /// A committee's seats, and how many of them decide.
    pub seats: u32,
    pub seats_quorum: u32,
    /// Epochs for which a committee and an order of leaders hold.
    pub committee_epochs: u64,
    /// Epochs of silence after which a validator is removed.
    pub silence_epochs: u64,
    /// Epochs for which a validator that did not reveal may not commit to the beacon again.
    pub beacon_bar_epochs: u64,
}

/// Who trains together, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct QuorumParams {
    /// Quorums that may be active at one time: 1 for as long as nothing merges what several have learned.
    pub active_max: u32,
    /// Longest time from a quorum's first session to the end of its last one, over all that succeed it.
    pub lifetime_ms: u64,
    /// Share of a session from which on the same members may begin a new one, and which makes it a success.
    pub renewal: Ratio,
    /// Longest time for which a member's signature under terms holds.
    pub acceptance_ms: u64,
    /// Least uptime of a member (PROTOCOL §2).
    pub uptime: Ratio,
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
        money: MoneyParams {
            fee: Ratio::from_ppm(50_000),
            fee_min: Amount::from_units(1000),
            registration_fee: Amount::from_units(10_000_000),
            bond_min: Amount::from_units(10 * Amount::NEURO),
            unbonding_ms: 7 * 24 * 3_600_000,
        },
        nodes: NodeParams {
            puzzle_bits: 22,
            activity_epochs: 60,
            attesters: 4,
            messages_unbonded: 2,
            messages_per_bond: 16,
            messages_max: 256,
        },
        validators: ValidatorParams {
            founders_fade: Amount::from_units(1000 * Amount::NEURO),
            voters_max: 200,
            seats: 512,
            seats_quorum: 359,
            committee_epochs: 360,
            silence_epochs: 60,
            beacon_bar_epochs: 60,
        },
        quorums: QuorumParams {
            active_max: 1,
            lifetime_ms: 14_400_000,
            renewal: Ratio::from_ppm(800_000),
            acceptance_ms: 60_000,
            uptime: Ratio::from_ppm(900_000),
        },
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

    /// Whether the ledger can keep its promises with these numbers.
    pub(crate) fn ledger_is_sound(&self) -> bool {
        let (money, nodes, validators) = (&self.money, &self.nodes, &self.validators);
        // At most one epoch ends a block, and idle networks still count time.
        let time = (1..=self.epoch_ms).contains(&self.block_time_step_ms) && self.epoch_ms <= EPOCH_MS_MAX;
        let money = money.bond_min > Amount::ZERO && money.fee <= Ratio::ONE && money.unbonding_ms <= WINDOW_MS_MAX;
        let nodes = nodes.puzzle_bits <= 64
            && (1..=EPOCHS_MAX).contains(&nodes.activity_epochs)
            && (2..=ATTESTERS_MAX).contains(&nodes.attesters);
        let seats = (1..=VALIDATORS_MAX).contains(&validators.seats)
            && validators.voters_max <= VALIDATORS_MAX / 2
            && validators.seats_quorum <= validators.seats
            // More than two thirds, or two quorums might share no honest seat.
            && u64::from(validators.seats_quorum).saturating_mul(3) > u64::from(validators.seats).saturating_mul(2);
        // Enough that every founder's share is some weight, and little enough that all weights can be added.
        let fade = (FADE_MIN..=FADE_MAX).contains(&validators.founders_fade.units());
        let epochs = validators.committee_epochs >= 3 && validators.silence_epochs >= 1;
        time && money && nodes && seats && fade && epochs && self.quorums_are_sound()
    }

    fn quorums_are_sound(&self) -> bool {
        let (quorums, sizes) = (&self.quorums, 1..=MEMBERS_MAX);
        (1..=WINDOW_MS_MAX).contains(&quorums.lifetime_ms)
            && quorums.acceptance_ms <= WINDOW_MS_MAX
            && quorums.renewal <= Ratio::ONE
            && quorums.uptime <= Ratio::ONE
            && self.phases.iter().all(|row| row.session_s > 0 && sizes.contains(&row.quorum_size))
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
    fn a_ledger_that_could_not_keep_its_promises_is_refused() {
        assert!(Params::DEFAULT.ledger_is_sound());
        let unsound: [fn(&mut Params); 15] = [
            |params| params.block_time_step_ms = params.epoch_ms + 1,
            |params| params.block_time_step_ms = 0,
            |params| params.money.bond_min = Amount::ZERO,
            |params| params.nodes.attesters = 1,
            |params| params.nodes.puzzle_bits = 65,
            |params| params.validators.seats_quorum = 341,
            |params| params.validators.seats = 513,
            |params| params.validators.founders_fade = Amount::from_units(1000),
            |params| params.validators.committee_epochs = 2,
            |params| params.quorums.lifetime_ms = 0,
            |params| params.quorums.acceptance_ms = u64::MAX,
            |params| params.quorums.renewal = Ratio::from_ppm(1_000_001),
            |params| params.quorums.uptime = Ratio::from_ppm(1_000_001),
            |params| params.phases[3].session_s = 0,
            |params| params.phases[7].quorum_size = MEMBERS_MAX + 1,
        ];
        for (place, edit) in unsound.iter().enumerate() {
            let mut params = Params::DEFAULT;
            edit(&mut params);
            assert!(!params.ledger_is_sound(), "{place}");
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
