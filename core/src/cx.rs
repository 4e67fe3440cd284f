//! What a part of the core may touch while it handles an event.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use neuroshard_proto::chain::{Action, SignedTransaction};
use neuroshard_proto::{
    Commitment, Fault, FormingMessage, Hash, Heartbeat, Job, JournalSeq, Message, Mode, NodeId, QuorumId,
    QuorumMessage, RequestId, Signature, Tier, Time, Verified,
};
use serde::{Deserialize, Serialize, Serializer};

use crate::agent::liveness::Liveness;
use crate::agent::quorum::Assignment;
use crate::config::Config;
use crate::io::{Command, Event, FetchFault, JobKind, Outbox, Output, TimerKind};
use crate::journal::{Journal, JournalFact};
use crate::lean;
use crate::part::Part;

/// Most requests that wait for an answer.
const REQUESTS_MAX: usize = 16;
/// Most events that parts may cause in one step.
const LOCAL_MAX: usize = 32;
/// An answer that takes longer is given up. The slowest tier needs minutes for a batch of the largest preset.
const JOB_DEADLINE_MS: u64 = 3_600_000;

/// What parts hear: inputs taken apart, and what other parts found out. Each concerns one part, and no part calls
/// another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    Start,
    Timer(TimerKind),
    Heartbeat(Heartbeat),
    Answer {
        id: RequestId,
        job: JobKind,
        result: Result<Commitment, Fault>,
    },
    Late {
        job: JobKind,
    },
    /// [`Command::Save`], [`Command::Stop`] or [`Command::Leave`].
    Command(Command),
    /// The first tick, for the chain.
    Begin,
    /// A message about the agreed world.
    Chain(Box<Verified>),
    Submit(Box<SignedTransaction>),
    Signed {
        id: RequestId,
        signature: Signature,
    },
    /// A message for a node, to be signed.
    Say {
        to: NodeId,
        message: Box<Message>,
    },
    /// A member of the quorum spoke.
    Quorum(Box<QuorumMessage>),
    Fetched {
        id: RequestId,
        result: Result<(), FetchFault>,
    },
    /// The agreed state is written down anew: older records would only be kept for the model's.
    Rewrite,
    /// The self-benchmark's verdict, for the chain.
    Measured {
        layer_us: u64,
        tier: Tier,
    },
    /// A wish of this node's, once a record is durable.
    Act {
        action: Box<Action>,
        after: Option<JournalSeq>,
    },
    /// This node's signature under terms, for itself or for who proposed them.
    Consent {
        quorum: QuorumId,
        digest: Hash,
        to: NodeId,
    },
    /// This node signed its own terms.
    Accepted {
        quorum: QuorumId,
        signature: Signature,
    },
    /// Nodes speak of quorums that could be.
    Forming(Box<FormingMessage>),
    /// Others are live than before.
    Neighbours,
    /// A block was decided, or the agreed state was taken up.
    Head,
    /// This node is a member of this quorum from now on, or of none.
    Assigned(Option<Assignment>),
    /// Members of the quorum that do not answer.
    Silent(Vec<NodeId>),
    /// So many other nodes of the network are live.
    Peers {
        live: u32,
    },
    /// The self-benchmark's verdict; `None` if it failed.
    Tier(Option<Tier>),
    Mode(Mode),
}

/// Open requests: what was asked and when the answer lapses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Requests {
    next: RequestId,
    open: BTreeMap<RequestId, (JobKind, Time)>,
    /// Answers that nobody waited for.
    pub(crate) unknown: u64,
}

impl Requests {
    /// The next id, for a question that its asker keeps.
    pub(crate) fn issue(&mut self) -> RequestId {
        let id = self.next;
        self.next = id.next();
        id
    }

    pub(crate) fn take(&mut self, id: RequestId) -> Option<JobKind> {
        let found = lean::remove(&mut self.open, &id).map(|(job, _)| job);
        self.unknown = self.unknown.saturating_add(u64::from(found.is_none()));
        found
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.open.values().map(|(_, deadline)| *deadline).min()
    }

    /// Removes what has lapsed.
    pub(crate) fn lapsed(&mut self, now: Time) -> Vec<(RequestId, JobKind)> {
        let late: Vec<_> =
            self.open.iter().filter(|(_, (_, at))| *at <= now).map(|(id, (job, _))| (*id, *job)).collect();
        for (id, _) in &late {
            lean::remove(&mut self.open, id);
        }
        late
    }
}

/// When each timer is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timers(BTreeMap<TimerKind, Time>);

impl Timers {
    pub(crate) fn set(&mut self, kind: TimerKind, at: Option<Time>) {
        match at {
            Some(at) => self.0.insert(kind, at),
            None => self.0.remove(&kind),
        };
    }

    pub(crate) fn get(&self, kind: TimerKind) -> Option<Time> {
        self.0.get(&kind).copied()
    }

    /// The earliest timer; of equal ones the first kind.
    pub(crate) fn next(&self) -> Option<(Time, TimerKind)> {
        self.0.iter().map(|(kind, at)| (*at, *kind)).min()
    }

    /// Removes and returns a timer that is due.
    pub(crate) fn due(&mut self, now: Time) -> Option<TimerKind> {
        let (at, kind) = self.next()?;
        if at > now {
            return None;
        }
        self.0.remove(&kind);
        Some(kind)
    }
}

/// What `step` lends to a part.
pub(crate) struct Cx<'a> {
    pub(crate) now: Time,
    pub(crate) config: &'a Config,
    pub(crate) journal: &'a mut Part<Journal>,
    pub(crate) requests: &'a mut Part<Requests>,
    pub(crate) timers: &'a mut Part<Timers>,
    pub(crate) liveness: &'a mut Part<Liveness>,
    pub(crate) local: &'a mut VecDeque<Local>,
    pub(crate) out: &'a mut Outbox,
}

impl Cx<'_> {
    pub(crate) fn event(&mut self, event: Event) {
        self.out.push(Output::Event(event));
    }

    /// Tells the other parts.
    pub(crate) fn tell(&mut self, event: Local) {
        assert!(self.local.len() < LOCAL_MAX, "a step causes few events");
        self.local.push_back(event);
    }

    pub(crate) fn persist(&mut self, fact: JournalFact) -> JournalSeq {
        self.journal.persist(fact, self.out)
    }

    /// Emits an output once a record is durable.
    pub(crate) fn after(&mut self, until: JournalSeq, output: Output) {
        self.journal.hold(until, output);
    }

    /// Sets a timer, or stops it.
    pub(crate) fn arm(&mut self, kind: TimerKind, at: Option<Time>) {
        if self.timers.get(kind) != at {
            self.timers.set(kind, at);
        }
    }

    /// Tells once that the agreed world may have moved on.
    pub(crate) fn head(&mut self) {
        if !self.local.contains(&Local::Head) {
            self.tell(Local::Head);
        }
    }

    /// Asks the executor for a job.
    pub(crate) fn compute(&mut self, job: Job) -> RequestId {
        assert!(self.requests.open.len() < REQUESTS_MAX, "parts wait for answers before they ask for more");
        let id = self.requests.issue();
        let deadline = self.now.after_ms(JOB_DEADLINE_MS);
        self.requests.open.insert(id, (JobKind::from(&job), deadline));
        self.out.push(Output::Compute { id, job, deadline });
        id
    }

    /// Gives up a request.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        if lean::remove(&mut self.requests.open, &id).is_some() {
            self.out.push(Output::Cancel { id });
        }
    }
}

/// A map as a list of pairs: to the digest it is the same, and a text whose keys must be strings can hold it too.
pub(crate) fn as_pairs<K: Serialize, V: Serialize, S: Serializer>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(map)
}
