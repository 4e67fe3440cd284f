//! The world: hosts with real cores, a network between them, and a clock that jumps from event to event.

mod acts;
mod blobs;
mod host;
mod net;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use neuroshard_core::{FetchFault, Outbox, Output};
use neuroshard_proto::{Hash, JournalSeq, RequestId, Step};

use crate::byzantine;
use crate::draw::Draw;
use crate::genesis::{self, Founding};
use crate::invariants::{self, Calm, Checker, Standing};
use crate::keys::Keys;
use crate::link::Network;
use crate::mesh::Mesh;
use crate::message::Body;
use crate::options::Strategy;
use crate::queue::{Place, Queue};
use crate::report::{Chain, Count, Counts, Failure, Report};
use crate::scenario::{Act, Scenario, WorldSpec};
use crate::sharing::Pool;
use host::Host;

/// Who puts events that are no node's doing.
const WORLD: u32 = u32::MAX;
/// In the calm, so often it is looked whether all agree.
const LOOK_US: u64 = 5_000_000;

/// Something that happens to a host, or to the world. What belongs to one life of a host names it: a host that has fallen since
/// knows nothing of it.
#[derive(Debug)]
enum Next {
    Start,
    Timer {
        generation: u32,
    },
    Deliver(Rc<Body>),
    Synced {
        life: u32,
        upto: JournalSeq,
    },
    /// What is durable already is reported once more.
    Reported {
        life: u32,
        upto: JournalSeq,
    },
    /// The job at hand is done.
    Worked {
        life: u32,
    },
    /// An answer that was held back is given.
    Released {
        life: u32,
        id: RequestId,
    },
    Signed {
        life: u32,
    },
    /// A node is asked for a blob.
    Asked(Box<blobs::Question>),
    /// A blob has come, or will not.
    Fetched {
        life: u32,
        id: RequestId,
        result: Result<(), FetchFault>,
    },
    Heartbeat {
        life: u32,
    },
    /// A user wants something.
    Wish,
    Begin {
        act: u32,
    },
    End {
        act: u32,
    },
    Heal,
    Look,
}

/// What is recorded of a world's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    #[default]
    Nothing,
    /// The inputs of every life of every node are replayed alone when it ends, and must lead to the same states.
    Proof,
    /// As [`Recording::Proof`], and the traces are kept: see [`World::traces`].
    Kept,
}

/// A trace of one life of a node, as `neuroshard-replay` reads it.
#[derive(Clone, Debug)]
pub struct LifeTrace {
    pub node: u32,
    pub life: u32,
    pub bytes: Vec<u8>,
}

/// A world of nodes under virtual time. [`World::run`] lets it happen.
pub struct World {
    spec: WorldSpec,
    acts: Vec<Act>,
    /// Microseconds since the network's genesis.
    now: u64,
    queue: Queue<Next>,
    /// The world's own count of events.
    sequence: u64,
    hosts: Vec<Host>,
    /// The second host of each node that has a twin.
    twins: BTreeMap<u32, u32>,
    keys: Keys,
    founding: Founding,
    pool: Pool,
    network: Network,
    mesh: Mesh,
    /// Acts on the network that last.
    weather: Vec<Act>,
    /// Acts on disks and executors that last, by host.
    afflictions: BTreeMap<u32, Vec<u32>>,
    draws: Draws,
    /// Packets that the event at hand has sent.
    ordinal: u32,
    /// The highest block that was decided.
    height: u64,
    calm: bool,
    converged: Option<u64>,
    checkers: Vec<Box<dyn Checker>>,
    failure: Option<Failure>,
    /// The host whose step is being taken.
    acting: Option<u32>,
    counts: Counts,
    chain: Chain,
    /// When the node that has stopped in the step at hand starts again.
    ended: Option<u64>,
    outbox: Outbox,
    outputs: Vec<Output>,
    recording: Recording,
    traces: Vec<LifeTrace>,
    /// Each stage's weights after each step, whoever computed them.
    states: BTreeMap<Step, BTreeMap<u32, Hash>>,
    furthest: Step,
    log: Option<Box<dyn Write>>,
}

/// The draws of what hosts do.
#[derive(Clone, Copy, Debug)]
struct Draws {
    start: Draw,
    heartbeat: Draw,
    sync: Draw,
    work: Draw,
    sign: Draw,
    corrupt: Draw,
    conduct: Draw,
    twins: Draw,
    wish: Draw,
}

impl World {
    /// The world of a scenario, before its first event.
    ///
    /// # Panics
    /// If the scenario was not made by [`Scenario::draw`] or [`Scenario::parse`] and cannot be.
    pub fn new(scenario: &Scenario) -> Self {
        let (spec, acts) = (scenario.world.clone(), scenario.acts.clone());
        let twin = |byzantine: &&crate::scenario::Byzantine| byzantine.strategy == Strategy::Twins;
        let twins: BTreeMap<u32, u32> =
            spec.byzantine.iter().filter(twin).map(|byzantine| byzantine.node).zip(spec.nodes..).collect();
        let keys = Keys::new(spec.seed, (0..spec.nodes).chain(twins.keys().copied()));
        let hosts = (0..keys.len()).map(|host| Host::new(spec.strategy(host).and_then(byzantine::conduct)));
        let draw = |purpose| Draw::new(spec.seed, purpose);
        let draws = Draws {
            start: draw("start of a node"),
            heartbeat: draw("phase of heartbeats"),
            sync: draw("time of a sync"),
            work: draw("time of a job"),
            sign: draw("time of a signature"),
            corrupt: draw("corrupted bytes"),
            conduct: draw("conduct"),
            twins: draw("which twin"),
            wish: draw("wishes of users"),
        };
        let mut world = Self {
            now: 0,
            queue: Queue::new(),
            sequence: 0,
            hosts: hosts.collect(),
            founding: genesis::found(&spec, &keys),
            pool: Pool::default(),
            network: Network::new(&spec),
            mesh: Mesh::new(spec.seed, spec.nodes),
            weather: Vec::new(),
            afflictions: BTreeMap::new(),
            draws,
            ordinal: 0,
            height: 0,
            calm: false,
            converged: None,
            checkers: invariants::all(keys.len(), spec.byzantine.iter().map(|liar| keys.name(liar.node)).collect()),
            failure: None,
            acting: None,
            counts: Counts::default(),
            chain: Chain::default(),
            ended: None,
            outbox: Outbox::default(),
            outputs: Vec::new(),
            recording: Recording::Nothing,
            traces: Vec::new(),
            states: BTreeMap::new(),
            furthest: Step(0),
            log: None,
            keys,
            twins,
            spec,
            acts,
        };
        world.plan();
        world
    }

    /// Records the world's nodes.
    #[must_use]
    pub fn recording(mut self, recording: Recording) -> Self {
        self.recording = recording;
        self
    }

    /// Writes a line for every step and for every packet that does not arrive as it was sent.
    #[must_use]
    pub fn logging(mut self, log: impl Write + 'static) -> Self {
        self.log = Some(Box::new(log));
        self
    }

    /// Lets the world happen: the faults, then the calm, until all agree or something does not hold.
    pub fn run(&mut self) -> Report {
        let ended = catch_unwind(AssertUnwindSafe(|| while self.turn() {}));
        if let Err(panic) = ended {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            self.fail("panic", self.acting, text.unwrap_or_else(|| "a panic without a message".to_owned()));
        }
        self.finish()
    }

    /// The traces that were kept, after [`World::run`].
    pub fn traces(&self) -> &[LifeTrace] {
        &self.traces
    }

    fn finish(&mut self) -> Report {
        for host in 0..self.hosts.len() as u32 {
            if let Some(core) = &self.hosts[host as usize].core
                && self.failure.is_none()
            {
                self.chain.add_bytes(core.state_hash().as_bytes());
            }
            self.end_recording(host);
        }
        if let Some(log) = &mut self.log {
            // A log that cannot be written any more is not the world's concern.
            let _ = log.flush();
        }
        Report {
            world: self.spec.clone(),
            chain: self.chain,
            ended_us: self.now,
            converged_us: self.converged,
            furthest: self.furthest.0,
            counts: self.counts.clone(),
            failure: self.failure.clone(),
        }
    }

    /// Puts what is known from the start.
    fn plan(&mut self) {
        for host in 0..self.hosts.len() as u32 {
            let at = self.draws.start.of(u64::from(host)).below(self.spec.start_ms * 1000 + 1);
            self.put(at, host, Next::Start);
        }
        for act in 0..self.acts.len() as u32 {
            self.put_own(self.acts[act as usize].at_ms * 1000, Next::Begin { act });
        }
        if self.spec.wish_ms > 0 {
            self.put_own(self.spec.wish_ms * 1000, Next::Wish);
        }
        self.put_own(self.spec.duration_ms * 1000, Next::Heal);
    }

    /// Puts an event of a host's own doing.
    fn put(&mut self, at: u64, host: u32, next: Next) {
        self.put_from(at, host, host, next);
    }

    fn put_from(&mut self, at: u64, host: u32, from: u32, next: Next) {
        let sequence = &mut self.hosts[from as usize].sequence;
        *sequence += 1;
        self.queue.put(Place { at, to: host, from, sequence: *sequence }, next);
    }

    /// Puts an event of the world's own.
    fn put_own(&mut self, at: u64, next: Next) {
        self.sequence += 1;
        self.queue.put(Place { at, to: WORLD, from: WORLD, sequence: self.sequence }, next);
    }

    /// Takes the next event; answers whether the world goes on.
    fn turn(&mut self) -> bool {
        if self.failure.is_some() || self.converged.is_some() {
            return false;
        }
        let Some((place, next)) = self.queue.take() else { return false };
        self.now = place.at;
        self.ordinal = 0;
        self.counts.add(Count::Events, 1);
        let host = place.to;
        match next {
            Next::Start => self.start(host),
            Next::Timer { generation } => self.on_timer(host, generation),
            Next::Deliver(body) => self.deliver(host, place.from, &body),
            Next::Synced { life, upto } => self.on_synced(host, life, upto),
            Next::Reported { life, upto } => self.on_reported(host, life, upto),
            Next::Worked { life } => self.on_worked(host, life),
            Next::Released { life, id } => self.on_released(host, life, id),
            Next::Signed { life } => self.on_signed(host, life),
            Next::Asked(question) => self.on_asked(host, *question),
            Next::Fetched { life, id, result } => self.on_fetched(host, life, id, result),
            Next::Heartbeat { life } => self.on_heartbeat(host, life),
            Next::Wish => self.on_wish(),
            Next::Begin { act } => self.begin(act),
            Next::End { act } => self.end(act),
            Next::Heal => self.heal(),
            Next::Look => self.look(),
        }
        true
    }

    fn fail(&mut self, checker: &str, node: Option<u32>, what: String) {
        let failure = Failure { checker: checker.to_owned(), at_us: self.now, node, what };
        self.failure.get_or_insert(failure);
    }

    /// A line of the log: when, where, and what.
    fn note(&mut self, host: u32, what: fmt::Arguments<'_>) {
        if let Some(log) = &mut self.log {
            let (s, us) = (self.now / 1_000_000, self.now % 1_000_000);
            if writeln!(log, "{s:>6}.{us:06} {host:>4} {what}").is_err() {
                self.log = None;
            }
        }
    }

    /// The number of the node that a host is: a twin bears its node's.
    fn node_of(&self, host: u32) -> u32 {
        if host < self.spec.nodes {
            return host;
        }
        self.twins.iter().find(|(_, second)| **second == host).map_or(host, |(node, _)| *node)
    }

    fn is_honest(&self, host: u32) -> bool {
        host < self.spec.nodes && self.spec.byzantine.iter().all(|byzantine| byzantine.node != host)
    }

    fn calm<'a>(&'a self, nodes: &'a [Standing<'a>]) -> Calm<'a> {
        let WorldSpec { training, quorums, byzantine, .. } = &self.spec;
        Calm { nodes, mesh: &self.mesh, training: *training, together: *quorums && *training && byzantine.is_empty() }
    }

    /// Whether all agree; what is missing if not.
    fn missing(&self) -> Option<(&'static str, String)> {
        let honest = (0..self.spec.nodes).filter(|host| self.is_honest(*host));
        let mut nodes = Vec::new();
        for host in honest {
            match &self.hosts[host as usize].core {
                Some(core) => nodes.push(Standing { host, core }),
                None => return Some(("calm", format!("node {host} is down"))),
            }
        }
        let calm = self.calm(&nodes);
        self.checkers.iter().find_map(|checker| Some((checker.name(), checker.missing(&calm)?)))
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("spec", &self.spec).field("now", &self.now).finish_non_exhaustive()
    }
}
