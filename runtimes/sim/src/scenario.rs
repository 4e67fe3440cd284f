//! A world as data: everything that happens to it from outside, so that it can be kept, repeated and made smaller.
//!
//! The file is JSON, a line for the world and then a line for each act of the script, so that a person can leave lines out too.

use std::fmt;

use neuroshard_proto::FOUNDERS_MAX;
use serde::{Deserialize, Serialize};

use crate::options::{NODES_MAX, Strategy};

/// Version of the file.
pub const FORMAT: u32 = 1;
/// Longest a world's faults last: a year.
pub const DURATION_MS_MAX: u64 = 366 * 86_400_000;
/// Most acts of a script.
pub const ACTS_MAX: usize = 1 << 16;
/// Clock jumps of one node never come to more than this: a node whose clock is off by more is rightly not believed.
pub const JUMPS_MS_MAX: i64 = 30_000;

/// A world: its constants, its byzantine nodes, and the script of what goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    pub world: WorldSpec,
    /// What goes wrong, in order of time.
    pub acts: Vec<Act>,
}

/// The constants of a world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSpec {
    pub format: u32,
    /// Every draw depends on it.
    pub seed: u64,
    pub nodes: u32,
    /// Faults happen before this.
    pub duration_ms: u64,
    /// After the faults, all must converge within this.
    pub calm_ms: u64,
    /// Whether nodes train while they are alone.
    pub training: bool,
    /// Whether nodes of different speed and room form quorums and train together.
    #[serde(default)]
    pub quorums: bool,
    /// Where nodes train together: machines that are all alike, in the place of drawn ones.
    #[serde(default)]
    pub machines: Option<Machines>,
    /// Regions of the world; nodes lie in them by their number.
    pub regions: u32,
    /// One-way latency between the two regions farthest apart.
    pub latency_ms: u64,
    /// Most that a packet is slower than its link.
    pub jitter_ms: u64,
    /// How long a disk takes to sync, at most.
    pub sync_ms: u64,
    /// How long an executor takes for a batch.
    pub batch_ms: u64,
    /// Nodes start within this time.
    pub start_ms: u64,
    /// The first nodes, which decide; the others follow.
    pub founders: u32,
    /// Users want something this often, on average; never, if 0.
    pub wish_ms: u64,
    /// What byzantine nodes do.
    pub byzantine: Vec<Byzantine>,
}

/// Machines that are all alike, and what they train.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// What a layer's forward pass takes.
    pub layer_us: u64,
    /// Stages that each has room for.
    pub stages: u32,
    /// Layers of the model.
    pub layers: u32,
    /// Sequences of a batch.
    pub sequences: u32,
    /// Batches between two states that are saved and posted, at least.
    pub sync_interval: u32,
    /// How long a session lasts.
    pub session_s: u32,
}

impl Machines {
    /// Whether a network can be made of them.
    const fn can_be(&self) -> bool {
        self.layer_us > 0
            && self.layer_us <= 10_000_000
            && self.stages > 0
            && self.layers > 0
            && self.layers <= 1000
            && self.sequences > 0
            && self.sequences <= 64
            && self.sync_interval > 0
            && self.session_s > 0
    }
}

/// A node that does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Byzantine {
    pub node: u32,
    pub strategy: Strategy,
}

/// Something that goes wrong, from a moment on and for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    pub at_ms: u64,
    pub for_ms: u64,
    pub what: What,
}

/// What goes wrong. Chances are in parts per million of the packets; a salt tells the draws of acts apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// Each link is in a good or in a bad state, with its own loss in each. Every 50 ms it may change.
    Loss {
        good_ppm: u32,
        bad_ppm: u32,
        worsen_ppm: u32,
        improve_ppm: u32,
        salt: u32,
    },
    Duplicate {
        ppm: u32,
        salt: u32,
    },
    /// Packets that are struck come up to so much later.
    Reorder {
        ppm: u32,
        by_ms: u64,
        salt: u32,
    },
    Corrupt {
        ppm: u32,
        salt: u32,
    },
    /// Each node sends so many bytes a second at most.
    Bandwidth {
        bytes_per_s: u64,
    },
    /// Nothing passes between one side and the rest; if `one_way`, nothing leaves the side but it hears the others.
    Partition {
        side: Side,
        one_way: bool,
    },
    /// What is sent to the node comes when the act ends.
    Clog {
        node: u32,
    },
    /// The node falls and comes back when the act ends. Of the records that were not synced the first `keep` survive, and if
    /// `torn`, a piece of the next one. With `outputs`, the node falls in its next step after doing so many of its
    /// outputs.
    Crash {
        node: u32,
        keep: u32,
        torn: bool,
        outputs: Option<u32>,
    },
    /// The node's disk takes so much longer to sync; if `twice`, it reports what is durable again and again.
    Disk {
        node: u32,
        late_ms: u64,
        twice: bool,
    },
    /// The node's clock jumps at once. A clock that was put back stands still until its time comes.
    Jump {
        node: u32,
        ms: i64,
    },
    /// The node's clock runs fast (or slow) by so many millionths.
    Rate {
        node: u32,
        ppm: i32,
    },
    /// Jobs that are asked for do not come out as they should.
    Compute {
        node: u32,
        lie: Lie,
        salt: u32,
    },
    /// The node is stopped by its operator and started again when the act ends.
    Leave {
        node: u32,
    },
}

/// Some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Nodes(Vec<u32>),
    /// All of these regions.
    Regions(Vec<u32>),
}

/// What an executor does instead of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// The answer comes when nobody waits for it any more.
    Late,
    /// No answer comes.
    Lost,
    /// The answer is a fault, or that of another job.
    Wrong,
}

impl What {
    /// The node that it concerns, if it is one.
    pub fn node(&self) -> Option<u32> {
        match self {
            Self::Clog { node }
            | Self::Crash { node, .. }
            | Self::Disk { node, .. }
            | Self::Jump { node, .. }
            | Self::Rate { node, .. }
            | Self::Compute { node, .. }
            | Self::Leave { node } => Some(*node),
            Self::Loss { .. }
            | Self::Duplicate { .. }
            | Self::Reorder { .. }
            | Self::Corrupt { .. }
            | Self::Bandwidth { .. }
            | Self::Partition { .. } => None,
        }
    }

    fn fits(&self, nodes: u32) -> bool {
        let million = |ppm: &u32| u64::from(*ppm) <= crate::draw::MILLION;
        let node_fits = self.node().is_none_or(|node| node < nodes);
        node_fits
            && match self {
                Self::Loss { good_ppm, bad_ppm, worsen_ppm, improve_ppm, .. } => {
                    [good_ppm, bad_ppm, worsen_ppm, improve_ppm].into_iter().all(million)
                }
                Self::Duplicate { ppm, .. } | Self::Reorder { ppm, .. } | Self::Corrupt { ppm, .. } => million(ppm),
                Self::Bandwidth { bytes_per_s } => *bytes_per_s > 0,
                Self::Rate { ppm, .. } => (-500_000..=500_000).contains(ppm),
                Self::Jump { ms, .. } => (-JUMPS_MS_MAX..=JUMPS_MS_MAX).contains(ms),
                Self::Partition { side: Side::Nodes(side), .. } => side.iter().all(|node| *node < nodes),
                Self::Partition { side: Side::Regions(_), .. }
                | Self::Clog { .. }
                | Self::Crash { .. }
                | Self::Disk { .. }
                | Self::Compute { .. }
                | Self::Leave { .. } => true,
            }
    }
}

impl Act {
    /// Whether the act lasts at this moment.
    pub const fn lasts_at(&self, us: u64) -> bool {
        us >= self.at_ms * 1000 && us < self.end_us()
    }

    pub(crate) const fn end_us(&self) -> u64 {
        self.at_ms.saturating_add(self.for_ms) * 1000
    }
}

/// Why a file is no scenario.
#[derive(Debug)]
#[non_exhaustive]
pub enum ScenarioError {
    /// There is no line for the world.
    Empty,
    /// A line, counted from 1, cannot be read.
    Line { line: usize, error: serde_json::Error },
    /// The file is of another format.
    Format { found: u32 },
    /// A line says something that cannot be.
    Impossible { line: usize },
    /// More acts than a script may have.
    TooLong,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty; its first line describes the world"),
            Self::Line { line, error } => write!(f, "line {line}: {error}"),
            Self::Format { found } => write!(f, "the script has format {found}, this build reads format {FORMAT}"),
            Self::Impossible { line } => {
                write!(f, "line {line} names a node, chance or time that cannot be in this world")
            }
            Self::TooLong => write!(f, "the script has more than {ACTS_MAX} acts"),
        }
    }
}

impl std::error::Error for ScenarioError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Line { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Scenario {
    /// Reads a file's text.
    ///
    /// # Errors
    /// The first line that cannot be, and why.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let mut lines = (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty());
        let (line, first) = lines.next().ok_or(ScenarioError::Empty)?;
        let world: WorldSpec = serde_json::from_str(first).map_err(|error| ScenarioError::Line { line, error })?;
        if world.format != FORMAT {
            return Err(ScenarioError::Format { found: world.format });
        }
        if !world.can_be() {
            return Err(ScenarioError::Impossible { line });
        }
        let mut acts = Vec::new();
        for (line, text) in lines {
            let act: Act = serde_json::from_str(text).map_err(|error| ScenarioError::Line { line, error })?;
            if act.at_ms > DURATION_MS_MAX || act.for_ms > DURATION_MS_MAX || !act.what.fits(world.nodes) {
                return Err(ScenarioError::Impossible { line });
            }
            if acts.len() == ACTS_MAX {
                return Err(ScenarioError::TooLong);
            }
            acts.push(act);
        }
        acts.sort_by_key(|act| act.at_ms);
        Ok(Self { world, acts })
    }
}

impl WorldSpec {
    fn can_be(&self) -> bool {
        (1..=NODES_MAX).contains(&self.nodes)
            && (1..=DURATION_MS_MAX).contains(&self.duration_ms)
            && self.calm_ms <= DURATION_MS_MAX
            && (1..=self.nodes.min(FOUNDERS_MAX)).contains(&self.founders)
            && (1..=64).contains(&self.regions)
            && [self.latency_ms, self.jitter_ms, self.sync_ms, self.start_ms, self.wish_ms]
                .iter()
                .all(|ms| *ms <= 3_600_000)
            && (1..=3_600_000).contains(&self.batch_ms)
            && self.machines.is_none_or(|machines| machines.can_be())
            && self.byzantine.iter().all(|byzantine| byzantine.node < self.nodes)
    }

    /// What a node does if it is byzantine.
    pub fn strategy(&self, node: u32) -> Option<Strategy> {
        self.byzantine.iter().find(|byzantine| byzantine.node == node).map(|byzantine| byzantine.strategy)
    }
}

/// The file's text.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |value: Result<String, serde_json::Error>| value.map_err(|_| fmt::Error);
        writeln!(f, "{}", line(serde_json::to_string(&self.world))?)?;
        self.acts.iter().try_for_each(|act| writeln!(f, "{}", line(serde_json::to_string(act))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn drawn() -> Scenario {
        let options = Options { byzantine_ppm: 300_000, every_fault: true, ..Options::default() };
        Scenario::draw(&options, 5).unwrap()
    }

    #[test]
    fn a_script_reads_back_as_it_was_written() {
        let scenario = drawn();
        assert!(scenario.acts.len() > 20, "every kind of fault is there");
        assert_eq!(Scenario::parse(&scenario.to_string()).unwrap(), scenario);
    }

    #[test]
    fn lines_can_be_left_out_by_hand() {
        let scenario = drawn();
        let text = scenario.to_string();
        let kept: Vec<&str> = text.lines().enumerate().filter(|(at, _)| *at == 0 || at % 3 == 1).map(|l| l.1).collect();
        let parsed = Scenario::parse(&kept.join("\n\n")).unwrap();
        assert_eq!(parsed.acts.len(), kept.len() - 1);
    }

    #[test]
    fn a_script_that_cannot_be_is_refused_with_its_line() {
        let text = drawn().to_string();
        let world = text.lines().next().unwrap();
        let error = |text: String| Scenario::parse(&text).unwrap_err().to_string();
        assert!(error(String::new()).contains("first line describes the world"));
        assert!(error(world.replace("\"format\":1", "\"format\":9")).contains("format 9"));
        assert!(error(world.replace("\"nodes\":7", "\"nodes\":0")).contains("line 1"));
        let act = |what: &str| error(format!("{world}\n{{\"at_ms\":1,\"for_ms\":1,\"what\":{what}}}"));
        assert!(act("{\"clog\":{\"node\":7}}").contains("line 2 names a node"));
        assert!(act("{\"duplicate\":{\"ppm\":1000001,\"salt\":0}}").contains("line 2"));
        assert!(act("{\"jump\":{\"node\":0,\"ms\":30001}}").contains("line 2"));
        assert!(act("{\"bandwidth\":{\"bytes_per_s\":0}}").contains("line 2"));
        assert!(act("\"sleep\"").contains("line 2: unknown variant"));
    }
}
