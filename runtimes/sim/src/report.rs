//! What a world has to say when it ends.

use std::fmt;

use serde::Serialize;

use crate::scenario::WorldSpec;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident $text:literal,)*) => {
        /// Something that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count {
            $($(#[$doc])* $name,)*
        }

        impl Count {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The count's name in tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

counts! {
    /// Events that the world took from its queue.
    Events "events",
    /// Inputs that cores took.
    Steps "steps of cores",
    Ticks "ticks",
    Sent "packets sent",
    /// All packets but heartbeats and those of quorums: what deciding costs.
    SentToAgree "packets sent to agree",
    /// What becoming a quorum costs.
    SentToForm "packets sent to form quorums",
    /// What training in one costs, but for what is fetched.
    SentToTrain "packets sent to train together",
    Fetched "blobs fetched",
    FetchesFailed "fetches that failed",
    Quorums "quorums joined",
    /// Of all executors, in passes of pipelines.
    WorkedMs "milliseconds of passes",
    Delivered "packets delivered",
    Refused "frames refused on arrival",
    ToNobody "packets to a node that is down",
    Lost "packets lost",
    Blocked "packets blocked by a partition",
    Duplicated "packets duplicated",
    Reordered "packets reordered",
    Corrupted "packets corrupted",
    Clogged "packets clogged",
    Throttled "packets that waited for a line",
    Relayed "messages passed on",
    Crashes "crashes",
    CrashesInside "crashes inside a step",
    RecordsLost "records lost in crashes",
    RecordsTorn "records torn in crashes",
    RecordsKept "unsynced records that survived",
    Syncs "disk syncs",
    SyncsLate "late disk syncs",
    ReportsTwice "repeated reports of durability",
    Jumps "clock jumps",
    Turns "changes of a clock's rate",
    Jobs "jobs done",
    JobsLate "jobs answered late",
    JobsLost "jobs never answered",
    JobsWrong "jobs answered wrongly",
    Leaves "operator stops",
    Restarts "restarts",
    Signed "signatures made",
    Hidden "packets hidden by twins",
    Silenced "packets withheld by liars",
    Forged "packets made up by liars",
    Trained "training steps",
    Wishes "wishes of users",
    Blocks "blocks decided",
    Transactions "transactions decided",
    Accused "accusations of two voices",
    StatesTaken "states taken from others",
}

/// Every count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Default for Counts {
    fn default() -> Self {
        Self(vec![0; Count::ALL.len()])
    }
}

impl Counts {
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    pub(crate) fn add(&mut self, count: Count, more: u64) {
        self.0[count as usize] += more;
    }

    /// Adds another world's counts.
    pub fn absorb(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own += other);
    }

    /// All that are not 0, by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Count::ALL.iter().map(|count| (count.name(), self.get(*count))).filter(|(_, number)| *number > 0)
    }
}

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The checker's name; `panic`, `misuse` and `replay` are checkers too.
    pub checker: String,
    /// Microseconds of the world's time.
    pub at_us: u64,
    /// The node at which it was seen, if it was at one.
    pub node: Option<u32>,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] at {}", self.checker, Clocked(self.at_us))?;
        if let Some(node) = self.node {
            write!(f, ", node {node}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Failure {}

/// A moment of the world, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocked(pub(crate) u64);

impl fmt::Display for Clocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The fingerprint of a run: every step's place, input and outputs, and every node's last state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    a: u64,
    b: u64,
}

impl Chain {
    pub(crate) fn add(&mut self, value: u64) {
        self.a = crate::draw::mix(self.a ^ value);
        self.b = crate::draw::mix(self.b.wrapping_add(value).rotate_left(23) ^ 0x5bd1_e995);
    }

    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.add(u64::from_le_bytes(word));
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.a, self.b)
    }
}

/// A world that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub world: WorldSpec,
    pub chain: Chain,
    /// When it ended, in microseconds of its time.
    pub ended_us: u64,
    /// How long the calm took to bring all together, unless it did not.
    pub converged_us: Option<u64>,
    /// The last step that any node took.
    pub furthest: u64,
    pub counts: Counts,
    /// The first thing that did not hold.
    pub failure: Option<Failure>,
}

/// The summary table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number) in self.counts.named() {
            writeln!(f, "  {name:<36} {number:>14}")?;
        }
        writeln!(f, "  {:<36} {:>14}", "world ended at", Clocked(self.ended_us).to_string())?;
        if let Some(converged) = self.converged_us {
            writeln!(f, "  {:<36} {:>14}", "calm until all agreed", Clocked(converged).to_string())?;
        }
        writeln!(f, "  chain {}", self.chain)?;
        match &self.failure {
            Some(failure) => writeln!(f, "  FAILED {failure}"),
            None => writeln!(f, "  every invariant held"),
        }
    }
}
