//! What a person fixes about a world; the seed draws the rest.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most nodes of a world.
pub const NODES_MAX: u32 = 4_000_000;

/// A kind of fault that a world may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Packets vanish, in bursts.
    Loss,
    /// Packets come twice.
    Duplicate,
    /// Packets come long after later ones.
    Reorder,
    /// Bytes of packets change.
    Corrupt,
    /// Links carry few bytes a second.
    Bandwidth,
    /// Some nodes cannot reach the others, or are not reached by them.
    Partition,
    /// Everything for a node comes late, and then at once.
    Clog,
    /// Nodes fall at any moment, in the middle of a step too, and lose what the disk had not synced.
    Crash,
    /// Disks sync late and report twice.
    Disk,
    /// Clocks jump, run fast or slow, or stand still.
    Clock,
    /// Executors answer late, never, or wrongly.
    Compute,
    /// Nodes leave and come back.
    Churn,
}

impl Fault {
    pub const ALL: [Self; 12] = [
        Self::Loss,
        Self::Duplicate,
        Self::Reorder,
        Self::Corrupt,
        Self::Bandwidth,
        Self::Partition,
        Self::Clog,
        Self::Crash,
        Self::Disk,
        Self::Clock,
        Self::Compute,
        Self::Churn,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Corrupt => "corrupt",
            Self::Bandwidth => "bandwidth",
            Self::Partition => "partition",
            Self::Clog => "clog",
            Self::Crash => "crash",
            Self::Disk => "disk",
            Self::Clock => "clock",
            Self::Compute => "compute",
            Self::Churn => "churn",
        }
    }
}

/// How a byzantine node behaves: each strategy is a file in `byzantine/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Two cores with one key, each shown to a part of the others.
    Twins,
    /// Some kinds of messages never reach some peers.
    Silence,
    /// Old messages, its own and others', are sent again.
    Stale,
    /// Certificates with too few signers, forged ones, or ones that contradict themselves.
    Certificates,
    /// Bytes that mean nothing, and messages with bytes changed.
    Garbage,
    /// Steps and pieces of the state that are none: changed, of another height, of another place, or withheld.
    States,
}

impl Strategy {
    pub const ALL: [Self; 6] =
        [Self::Twins, Self::Silence, Self::Stale, Self::Certificates, Self::Garbage, Self::States];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Twins => "twins",
            Self::Silence => "silence",
            Self::Stale => "stale",
            Self::Certificates => "certificates",
            Self::Garbage => "garbage",
            Self::States => "states",
        }
    }
}

/// What a person fixes about a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub nodes: u32,
    /// How long faults last, in milliseconds of the world's time. A calm follows in which all must converge.
    pub duration_ms: u64,
    /// Faults that may exist. Each seed first draws which of them do.
    pub faults: Vec<Fault>,
    /// Whether all of [`Self::faults`] exist in every seed.
    pub every_fault: bool,
    /// Byzantine nodes, in parts per million of all; rounded down.
    pub byzantine_ppm: u32,
    /// What byzantine nodes may do; the seed draws one for each.
    pub strategies: Vec<Strategy>,
    /// Whether nodes train while they are alone. Worlds that only listen are cheaper by far.
    pub training: bool,
    /// Whether nodes of different speed and room form quorums and train together.
    pub quorums: bool,
}

impl Default for Options {
    /// Seven nodes for ten minutes, with everything that can go wrong.
    fn default() -> Self {
        Self {
            nodes: 7,
            duration_ms: 600_000,
            faults: Fault::ALL.to_vec(),
            every_fault: false,
            byzantine_ppm: 0,
            strategies: Strategy::ALL.to_vec(),
            training: true,
            quorums: false,
        }
    }
}

impl Options {
    /// A world in which nothing goes wrong.
    pub fn calm(nodes: u32, duration_ms: u64) -> Self {
        Self { nodes, duration_ms, faults: Vec::new(), ..Self::default() }
    }

    /// Byzantine nodes among all.
    pub fn byzantine(&self) -> u32 {
        (u64::from(self.nodes) * u64::from(self.byzantine_ppm) / crate::draw::MILLION) as u32
    }

    /// Checks that a world can be made of them.
    ///
    /// # Errors
    /// Which option is out of range, and its range.
    pub fn check(&self) -> Result<(), OptionsError> {
        if !(1..=NODES_MAX).contains(&self.nodes) {
            return Err(OptionsError::Nodes { nodes: self.nodes });
        }
        if !(1..=crate::scenario::DURATION_MS_MAX).contains(&self.duration_ms) {
            return Err(OptionsError::Duration { ms: self.duration_ms });
        }
        if u64::from(self.byzantine_ppm) > crate::draw::MILLION {
            return Err(OptionsError::Byzantine { ppm: self.byzantine_ppm });
        }
        if self.byzantine() > 0 && self.strategies.is_empty() {
            return Err(OptionsError::NoStrategy);
        }
        Ok(())
    }
}

/// Why no world can be made of some options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OptionsError {
    Nodes {
        nodes: u32,
    },
    Duration {
        ms: u64,
    },
    Byzantine {
        ppm: u32,
    },
    /// Byzantine nodes without anything to do.
    NoStrategy,
}

impl fmt::Display for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes { nodes } => write!(f, "a world has 1 to {NODES_MAX} nodes, not {nodes}"),
            Self::Duration { ms } => {
                let days = crate::scenario::DURATION_MS_MAX / 86_400_000;
                write!(f, "a world lasts from 1 ms to {days} days, not {ms} ms")
            }
            Self::Byzantine { ppm } => write!(f, "{ppm} millionths of the nodes are more than all of them"),
            Self::NoStrategy => f.write_str("byzantine nodes need at least one strategy"),
        }
    }
}

impl std::error::Error for OptionsError {}

macro_rules! from_name {
    ($type:ty, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.into_iter().find(|one| one.name() == text);
                found.ok_or_else(|| {
                    let names = Self::ALL.map(Self::name).join(", ");
                    format!("`{text}` is no {}; there are {names}", $what)
                })
            }
        }
    };
}

from_name!(Fault, "kind of fault");
from_name!(Strategy, "strategy");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_wrong_ones_answered_with_the_right_ones() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        for strategy in Strategy::ALL {
            assert_eq!(strategy.name().parse(), Ok(strategy));
        }
        assert!("los".parse::<Fault>().unwrap_err().contains("there are loss, duplicate"));
    }

    #[test]
    fn options_out_of_range_are_refused_with_the_range() {
        let options = |edit: fn(&mut Options)| {
            let mut options = Options::default();
            edit(&mut options);
            options.check()
        };
        assert_eq!(options(|_| {}), Ok(()));
        assert_eq!(options(|o| o.nodes = 0), Err(OptionsError::Nodes { nodes: 0 }));
        assert_eq!(options(|o| o.duration_ms = 0), Err(OptionsError::Duration { ms: 0 }));
        assert_eq!(options(|o| o.byzantine_ppm = 1_000_001), Err(OptionsError::Byzantine { ppm: 1_000_001 }));
        let none = options(|o| (o.byzantine_ppm, o.strategies) = (500_000, Vec::new()));
        assert_eq!(none, Err(OptionsError::NoStrategy));
        assert_eq!(Options { byzantine_ppm: 300_000, ..Options::default() }.byzantine(), 2);
    }
}
