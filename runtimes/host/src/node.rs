//! The node's loop: one task owns the core. Answers, reports, commands and the clock go in; what the core asks for is done
//! in order.
//!
//! The loop itself never waits for a disk or a device. Jobs go to the [`Worker`], records to the [`Scribe`]; both answer
//! through the same inbox as the operator's commands.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_lite::future;
use neuroshard_core::{Command, Core, Event, FetchFault, Input, Misuse, Outbox, Output, Progress};
use neuroshard_proto::{Envelope, Hash, Heartbeat, Message, OwnerId, Signature, Step, Time};
use neuroshard_shaders::engine::Engine;

use crate::agreed::Agreed;
use crate::clock::Clock;
use crate::fetches::{Fetches, PASSING_MS, STATE_MS};
use crate::metrics::{Metrics, Queues};
use crate::net::{Board, Heard, NetEvent};
use crate::peers::{Fetch, Keep, Link, Network};
use crate::runtime::Runtime;
use crate::status::{Follower, Status};
use crate::store::{Scribe, ScribeReport, Store, StoreBlobs, StoreError, StoreOrder};
use crate::throttle::Throttle;
use crate::worker::{Answer, EngineFactory, Worker};

/// Messages that wait for the loop at most.
const INBOX_MAX: usize = 256;
/// Reports that wait for a slow reader; then the oldest are lost, and counted.
const REPORTS_MAX: usize = 4096;
/// How long a stop waits for a disk that is full.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Something that takes the core's steps in the loop's stead: a recorder.
pub trait Tap: Send {
    /// Takes a step of the core.
    ///
    /// # Errors
    /// Those of [`Core::step`], and no others.
    fn step(&mut self, core: &mut Core, now: Time, input: Input, out: &mut Outbox) -> Result<(), Misuse>;

    /// When [`Self::flush`] should be called even if nothing happens before.
    fn flush_due(&self) -> Option<Time>;

    /// Writes what has gathered.
    fn flush(&mut self);

    /// Why the recording ended early; answers once.
    fn trouble(&mut self) -> Option<String>;

    /// The node ends: nothing more will come.
    fn finish(&mut self);
}

/// What the loop tells whoever watches.
#[derive(Clone, Debug)]
pub enum Report {
    /// The core told something, and so far training had come.
    Event { at: Time, event: Event, progress: Progress },
    /// The journal waits for room on the disk.
    StoreWaits { why: String },
    /// There is room again.
    StoreRecovered,
    /// The recording of the trace ended early.
    RecordingEnded { why: String },
    /// Something happened between this node and others.
    Net(NetEvent),
    /// So many reports before this one were lost, because their reader was too slow.
    Lost { reports: u64 },
}

/// How a node's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Steps the model had taken.
    pub step: Step,
    /// The last durable step.
    pub saved: Option<Step>,
    /// Why it ended, unless it was asked to.
    pub cause: Cause,
}

/// Why a node's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was asked to, or reached its step limit.
    Done,
    /// A job failed for good; a report said which.
    Failed,
    /// The model lost its way.
    Diverged,
}

/// Why a node could not go on.
#[derive(Debug)]
pub enum NodeError {
    /// The store failed; `saved` is the last durable step.
    Store { error: StoreError, saved: Option<Step> },
    /// The operator wants to stop, and the disk has no room to save.
    CannotSave { why: String, saved: Option<Step> },
    /// The loop broke the core's contract.
    Misuse(Misuse),
    /// The system gives no threads.
    Thread(std::io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let saved = |saved: &Option<Step>| match saved {
            Some(step) => format!("Step {step} is the last one that is safe."),
            None => "Nothing was saved yet.".to_owned(),
        };
        match self {
            Self::Store { error, saved: step } => write!(f, "the journal cannot be written: {error}. {}", saved(step)),
            Self::CannotSave { why, saved: step } => write!(f, "could not save: {why}. {}", saved(step)),
            Self::Misuse(misuse) => write!(f, "this program broke its own rule, please report it: {misuse}"),
            Self::Thread(error) => write!(f, "the system gives no more threads: {error}"),
        }
    }
}

impl std::error::Error for NodeError {}

/// What a loop starts with.
#[allow(missing_debug_implementations, reason = "engines and taps have none")]
pub struct Setup {
    pub core: Core,
    pub clock: Clock,
    pub store: Arc<Store>,
    pub engine: Box<dyn Engine>,
    /// Makes the next engine if this one breaks.
    pub factory: EngineFactory,
    /// Slows the device down.
    pub throttle: Throttle,
    pub tap: Option<Box<dyn Tap>>,
    pub follower: Follower,
    /// Whose account the status shows.
    pub owner: OwnerId,
    /// Signs in the node's name. It never waits.
    pub signer: Box<dyn FnMut(&Hash) -> Signature + Send>,
    pub link: Link,
}

/// What display and API read while the node runs.
#[derive(Debug)]
pub struct Live {
    pub metrics: Metrics,
    clock: Clock,
    pub(crate) store: Arc<Store>,
    follower: Mutex<Follower>,
    pub agreed: Agreed,
    /// How the network stands, if there is one.
    pub board: Option<Board>,
}

impl Live {
    /// A copy of how things stand.
    pub fn snapshot(&self) -> Follower {
        let mut follower = self.follower().clone();
        follower.status.uptime_ms = Some(u64::try_from(self.clock.uptime().as_millis()).unwrap_or(u64::MAX));
        follower.on_time(self.clock.now());
        follower.status.store_bytes = self.store.bytes_used();
        follower.status.agreed = Some(self.agreed.status());
        follower.status.net = self.board.as_ref().map(Board::status);
        follower
    }

    /// The status alone.
    pub fn status(&self) -> Status {
        self.snapshot().status
    }

    /// The network's time.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    fn follower(&self) -> std::sync::MutexGuard<'_, Follower> {
        self.follower.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way to speak to a running loop.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: async_channel::Sender<Incoming>,
    pub live: Arc<Live>,
}

impl Handle {
    /// Whether the loop reads no more.
    pub fn has_ended(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Gives the operator's command; false if the loop has ended or is too busy to hear it.
    pub fn command(&self, command: Command) -> bool {
        self.inbox.try_send(Incoming::Command(command)).is_ok()
    }
}

#[derive(Debug)]
enum Incoming {
    Answer(Answer),
    Scribe(ScribeReport),
    Command(Command),
    Heard(Heard),
}

/// A node that is about to run.
pub struct Node {
    core: Core,
    outbox: Outbox,
    tap: Option<Box<dyn Tap>>,
    worker: Worker,
    scribe: Scribe,
    inbox: async_channel::Receiver<Incoming>,
    live: Arc<Live>,
    reports: Reports,
    saved: Option<Step>,
    cause: Cause,
    ended: Option<Ended>,
    /// Why the journal waits, while it does.
    waiting: Option<String>,
    stop_asked: Option<Instant>,
    signer: Box<dyn FnMut(&Hash) -> Signature + Send>,
    /// Answers that the core does not have yet. They go in before anything else.
    answers: VecDeque<Input>,
    network: Box<dyn Network>,
    heard: async_channel::Receiver<Heard>,
    fetches: Fetches,
    /// When the neighbours are told next that this node lives.
    heartbeat_at: Time,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("core", &self.core).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts the node's threads. Nothing happens before [`Self::run`].
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new(setup: Setup) -> Result<(Self, Handle, async_channel::Receiver<Report>), NodeError> {
        let Setup { core, clock, store, engine, factory, throttle, tap, follower, owner, signer, link } = setup;
        let Link { network, heard, board } = link;
        let (sender, inbox) = async_channel::bounded(INBOX_MAX);
        let (answers, scribe_reports) = (sender.clone(), sender.clone());
        let blobs = StoreBlobs(Arc::clone(&store));
        // A loop that has ended reads no answers.
        let on_answer = move |answer| drop(answers.send_blocking(Incoming::Answer(answer)));
        let worker = Worker::start(engine, factory, throttle, blobs, on_answer).map_err(NodeError::Thread)?;
        let on_report = move |report| drop(scribe_reports.send_blocking(Incoming::Scribe(report)));
        let scribe = Scribe::start(Arc::clone(&store), on_report).map_err(NodeError::Thread)?;
        let (reports, receiver) = Reports::new();
        let (metrics, agreed) = (Metrics::new(board.clone()), Agreed::new(&core, owner));
        let follower = Mutex::new(follower);
        let live = Arc::new(Live { metrics, clock, store, follower, agreed, board });
        let saved = core.saved_states().last().map(|state| state.snapshot.step);
        let node = Self {
            core,
            outbox: Outbox::default(),
            tap,
            worker,
            scribe,
            inbox,
            live: Arc::clone(&live),
            reports,
            saved,
            cause: Cause::Done,
            ended: None,
            waiting: None,
            stop_asked: None,
            signer,
            answers: VecDeque::new(),
            network,
            heard,
            fetches: Fetches::default(),
            heartbeat_at: Time::ZERO,
        };
        Ok((node, Handle { inbox: sender, live }, receiver))
    }

    /// Runs until the core stops: on command, at the step limit, or because it cannot go on.
    ///
    /// # Errors
    /// If the store fails. What was durable before stays so.
    pub async fn run(mut self, runtime: &impl Runtime) -> Result<Ended, NodeError> {
        self.live.follower().status.running = true;
        let ended = self.work(runtime).await;
        self.live.follower().status.running = false;
        if let Some(mut tap) = self.tap.take() {
            tap.finish();
            if let Some(why) = tap.trouble() {
                self.reports.send(Report::RecordingEnded { why });
            }
        }
        ended
    }

    async fn work(&mut self, runtime: &impl Runtime) -> Result<Ended, NodeError> {
        // Of the last blocks a crash may have taken it, and the journal has them all.
        self.remember(0).await;
        loop {
            if let Some(input) = self.next_input(runtime).await? {
                self.step(input).await?;
            }
            if let Some(ended) = self.ended {
                return Ok(ended);
            }
        }
    }

    /// Waits for whatever comes first; `None` if it is nothing for the core.
    async fn next_input(&mut self, runtime: &impl Runtime) -> Result<Option<Input>, NodeError> {
        if let Some(answer) = self.answers.pop_front() {
            return Ok(Some(answer));
        }
        let now = self.live.now();
        if let Some((id, fault)) = self.fetches.due(now) {
            self.live.metrics.on_fetched(Err(fault));
            return Ok(Some(Input::Fetched { id, result: Err(fault) }));
        }
        let tick = self.core.next_deadline().map(|(at, _)| at);
        if tick.is_some_and(|at| at <= now) {
            return Ok(Some(Input::Tick));
        }
        if self.live.board.is_some() && self.heartbeat_at <= now {
            self.heartbeat(now);
        }
        let heartbeat = self.live.board.is_some().then_some(self.heartbeat_at);
        let flush = self.tap.as_ref().and_then(|tap| tap.flush_due());
        let patience = self.patience_ends().map(|left| now.after_ms(left.as_millis() as u64));
        let wake = [tick, flush, patience, heartbeat, self.fetches.wake()].into_iter().flatten().min();
        let incoming = match self.inbox.try_recv() {
            Ok(incoming) => Some(incoming),
            Err(_) => self.wait(runtime, wake).await,
        };
        match incoming {
            Some(incoming) => self.on_incoming(incoming).await,
            None => self.on_woken(),
        }
    }

    /// Waits for whatever comes first; the node's own threads and operator before other nodes. `None` when the clock says so.
    async fn wait(&self, runtime: &impl Runtime, wake: Option<Time>) -> Option<Incoming> {
        let own = async { self.inbox.recv().await.ok() };
        let others = async {
            match self.heard.recv().await {
                Ok(heard) => Some(Incoming::Heard(heard)),
                Err(_) => future::pending().await,
            }
        };
        let sleep = async {
            match wake {
                Some(wake) => runtime.sleep(self.live.clock.until(wake)).await,
                None => future::pending().await,
            }
            None
        };
        future::or(own, future::or(others, sleep)).await
    }

    /// Tells the neighbours that this node lives (PROTOCOL §3).
    fn heartbeat(&mut self, now: Time) {
        let config = self.core.config();
        let (genesis, memory) = (&config.genesis, config.operator.memory_bytes);
        let held = genesis.model.training_bytes(genesis.model.all_layers());
        let heartbeat = Heartbeat {
            node: config.node,
            time: now,
            quorum: None,
            queue_depth: 0,
            free_bytes: genesis.params.holding_share.of(memory).saturating_sub(held),
            step: self.core.model_step(),
        };
        self.heartbeat_at = now.after_ms(genesis.params.heartbeat_ms);
        let (network, signer) = (self.core.network(), &mut self.signer);
        self.network.greet(Envelope::seal(network, &Message::Heartbeat(heartbeat), signer));
    }

    async fn on_incoming(&mut self, incoming: Incoming) -> Result<Option<Input>, NodeError> {
        match incoming {
            Incoming::Answer(Answer { id, job, result, took }) => {
                self.live.metrics.on_answer(job, result.is_ok(), took);
                Ok(Some(Input::Computed { id, result }))
            }
            Incoming::Command(command) => {
                if command == Command::Stop {
                    self.stop_asked.get_or_insert_with(Instant::now);
                }
                Ok(Some(Input::Command(command)))
            }
            Incoming::Heard(heard) => Ok(self.on_heard(heard).await),
            Incoming::Scribe(ScribeReport::Persisted { upto }) => Ok(Some(Input::Persisted { upto })),
            Incoming::Scribe(ScribeReport::Waiting { error }) => {
                let why = error.to_string();
                self.live.follower().status.trouble = Some(why.clone());
                self.waiting = Some(why.clone());
                self.reports.send(Report::StoreWaits { why });
                Ok(None)
            }
            Incoming::Scribe(ScribeReport::Recovered) => {
                self.waiting = None;
                self.live.follower().status.trouble = None;
                self.reports.send(Report::StoreRecovered);
                Ok(None)
            }
            Incoming::Scribe(ScribeReport::Failed { error }) => Err(NodeError::Store { error, saved: self.saved }),
        }
    }

    async fn on_heard(&mut self, heard: Heard) -> Option<Input> {
        match heard {
            Heard::Message(message, _) => Some(Input::Message(message)),
            Heard::Event(event) => {
                self.reports.send(Report::Net(event));
                None
            }
            Heard::Fetched { id, result: Ok(bytes), .. } if self.fetches.arrived(id) => {
                self.live.metrics.on_fetched(Ok(bytes));
                Some(Input::Fetched { id, result: Ok(()) })
            }
            // The core was told that it would not come, and asks again if it needs it.
            Heard::Fetched { hash, result: Ok(_), .. } => {
                self.scribe.order(StoreOrder::Drop { hash }).await;
                None
            }
            Heard::Fetched { id, result: Err(fault), .. } => {
                self.fetches.failed(id, fault);
                None
            }
        }
    }

    /// The clock reached something that is not the core's, or nothing yet.
    fn on_woken(&mut self) -> Result<Option<Input>, NodeError> {
        if let Some(tap) = self.tap.as_mut()
            && tap.flush_due().is_some_and(|due| due <= self.live.now())
        {
            tap.flush();
        }
        if self.patience_ends() == Some(Duration::ZERO)
            && let Some(why) = self.waiting.take()
        {
            return Err(NodeError::CannotSave { why, saved: self.saved });
        }
        Ok(None)
    }

    /// How long a stop still waits for a full disk, while it does.
    fn patience_ends(&self) -> Option<Duration> {
        let asked = self.stop_asked.filter(|_| self.waiting.is_some())?;
        Some(STOP_PATIENCE.saturating_sub(asked.elapsed()))
    }

    /// One step of the core, and what it asks for.
    async fn step(&mut self, input: Input) -> Result<(), NodeError> {
        let (now, name, started) = (self.live.now(), input.name(), Instant::now());
        let stepped = match self.tap.as_mut() {
            Some(tap) => tap.step(&mut self.core, now, input, &mut self.outbox),
            None => self.core.step(now, input, &mut self.outbox),
        };
        stepped.map_err(NodeError::Misuse)?;
        self.live.metrics.on_step(name, self.outbox.iter().map(Output::name), started.elapsed());
        if let Some(why) = self.tap.as_mut().and_then(|tap| tap.trouble()) {
            self.reports.send(Report::RecordingEnded { why });
        }
        while let Some(output) = self.outbox.pop() {
            self.perform(now, output).await;
        }
        let (inbox, jobs, store) = (self.inbox.len(), self.worker.waiting(), self.scribe.waiting());
        let passing_bytes = self.live.store.transient_bytes();
        self.live.metrics.on_queues(Queues { inbox, jobs, store, passing_bytes });
        Ok(())
    }

    async fn perform(&mut self, now: Time, output: Output) {
        match output {
            Output::Persist { seq, record } => {
                self.scribe.order(StoreOrder::Persist { seq, record: record.into_vec() }).await;
            }
            Output::Trim { before } => self.scribe.order(StoreOrder::Trim { before }).await,
            Output::Drop { hash } => self.scribe.order(StoreOrder::Drop { hash }).await,
            Output::Compute { id, job, .. } => self.worker.order(id, job).await,
            Output::Cancel { id } => self.worker.cancel(id),
            Output::Event(event) => self.on_event(now, event).await,
            Output::Sign { id, digest } => {
                let signature = (self.signer)(&digest);
                self.answers.push_back(Input::Signed { id, signature });
            }
            Output::Fetch { id, hash, from, keep } => {
                let (keep, patience_ms) = if keep { (Keep::Disk, STATE_MS) } else { (Keep::Memory, PASSING_MS) };
                self.fetches.begin(now, id, patience_ms);
                if !self.network.fetch(Fetch { id, hash, from, keep }) {
                    self.fetches.failed(id, FetchFault::Unreachable);
                }
            }
            Output::Send { to, message } => self.network.send(to, *message),
            Output::Publish { topic, message } => self.network.publish(topic, *message),
        }
    }

    /// Has what the owner's account did in blocks from this height on remembered.
    async fn remember(&mut self, from: u64) {
        let entries = self.live.agreed.memories(from);
        if !entries.is_empty() {
            self.scribe.order(StoreOrder::Remember { entries }).await;
        }
    }

    async fn on_event(&mut self, now: Time, event: Event) {
        let progress = self.core.progress();
        {
            let mut follower = self.live.follower();
            follower.on_event(now, &event, &progress);
            self.live.metrics.on_event(&event, &follower, self.live.store.bytes_used());
        }
        self.live.agreed.on_event(&self.core, &event);
        match &event {
            Event::BlockDecided { height, .. } => self.remember(*height).await,
            Event::Saved { step, .. } => self.saved = Some(*step),
            Event::JobFailed { then: neuroshard_core::Recovery::Stop, .. } => self.cause = Cause::Failed,
            Event::Diverged { .. } => self.cause = Cause::Diverged,
            Event::QuorumJoined { .. } | Event::QuorumLeft => {
                let quorum = self.core.ledger().quorum_of(&self.core.config().node);
                let members = quorum.iter().flat_map(|(_, quorum)| quorum.plan.members.iter());
                self.network.companions(members.map(|member| member.node).collect());
            }
            Event::Stopped { step, saved } => {
                self.ended = Some(Ended { step: *step, saved: *saved, cause: self.cause });
            }
            _ => {}
        }
        self.reports.send(Report::Event { at: now, event, progress });
    }
}

/// The way to whoever watches. It never holds up the node: a reader that falls behind loses the oldest reports and is told
/// how many.
#[derive(Debug)]
struct Reports {
    sender: async_channel::Sender<Report>,
    lost: u64,
}

impl Reports {
    fn new() -> (Self, async_channel::Receiver<Report>) {
        let (sender, receiver) = async_channel::bounded(REPORTS_MAX);
        (Self { sender, lost: 0 }, receiver)
    }

    fn send(&mut self, report: Report) {
        if self.lost > 0 && !self.sender.is_full() {
            let lost = std::mem::take(&mut self.lost);
            self.push(Report::Lost { reports: lost });
        }
        self.push(report);
    }

    fn push(&mut self, report: Report) {
        match self.sender.force_send(report) {
            Ok(Some(Report::Lost { reports })) => self.lost += reports,
            Ok(Some(_)) => self.lost += 1,
            Ok(None) | Err(_) => {}
        }
    }
}
