//! Numbers for machines that watch: what `/metrics` shows, in the OpenMetrics text format.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use neuroshard_core::{Event, FetchFault, JobKind};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::net::Board;
use crate::status::Follower;

type Label = [(&'static str, &'static str); 1];
type Counters = Family<Label, Counter>;
type Real = Gauge<f64, AtomicU64>;

/// The numbers of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    step: Gauge,
    steps: Counter,
    tokens: Counter,
    loss: Real,
    held_out_loss: Real,
    tokens_per_second: Real,
    voids: Counter,
    snapshots: Counter,
    snapshot_bytes: Gauge,
    saved_step: Gauge,
    inputs: Counters,
    outputs: Counters,
    step_seconds: Histogram,
    job_seconds: Family<Label, Histogram>,
    job_faults: Counters,
    queues: Family<Label, Gauge>,
    store_bytes: Gauge,
    fetches: Counters,
    fetched_bytes: Counter,
    passing_bytes: Gauge,
    term: Gauge,
}

/// Lengths of the queues between a node's threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Answers and reports that wait for the node's loop.
    pub inbox: usize,
    /// Jobs that wait for the worker.
    pub jobs: usize,
    /// Records that wait for the disk.
    pub store: usize,
    /// Bytes in memory that pass between stages.
    pub passing_bytes: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("neuroshard"),
            step: Gauge::default(),
            steps: Counter::default(),
            tokens: Counter::default(),
            loss: Real::default(),
            held_out_loss: Real::default(),
            tokens_per_second: Real::default(),
            voids: Counter::default(),
            snapshots: Counter::default(),
            snapshot_bytes: Gauge::default(),
            saved_step: Gauge::default(),
            inputs: Counters::default(),
            outputs: Counters::default(),
            step_seconds: Histogram::new(exponential_buckets(1e-6, 4.0, 10)),
            job_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-3, 2.0, 18))),
            job_faults: Counters::default(),
            queues: Family::default(),
            store_bytes: Gauge::default(),
            fetches: Counters::default(),
            fetched_bytes: Counter::default(),
            passing_bytes: Gauge::default(),
            term: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// The numbers of a node, with those of its network if it has a part in one.
    pub fn new(board: Option<Board>) -> Self {
        let mut metrics = Self::default();
        if let Some(board) = board {
            metrics.registry.register_collector(Box::new(board));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("step", "Optimizer steps of the model since genesis", self.step.clone());
        registry.register("steps", "Optimizer steps taken by this process", self.steps.clone());
        registry.register("tokens", "Tokens trained on by this process", self.tokens.clone());
        registry.register("loss_nats", "Loss of the last batch, nats per token", self.loss.clone());
        let help = "Loss on held-out data, nats per token";
        registry.register("held_out_loss_nats", help, self.held_out_loss.clone());
        registry.register("tokens_per_second", "Training speed of the last seconds", self.tokens_per_second.clone());
        registry.register("void_batches", "Batches skipped because a value left its range", self.voids.clone());
        registry.register("snapshots", "Snapshots made durable by this process", self.snapshots.clone());
        let help = "Size of the last snapshot";
        registry.register_with_unit("snapshot", help, Unit::Bytes, self.snapshot_bytes.clone());
        registry.register("saved_step", "Step of the last durable snapshot", self.saved_step.clone());
        registry.register("core_inputs", "Inputs given to the core, by kind", self.inputs.clone());
        registry.register("core_outputs", "Outputs of the core, by kind", self.outputs.clone());
        let help = "Time the core takes for one input";
        registry.register_with_unit("core_step", help, Unit::Seconds, self.step_seconds.clone());
        registry.register_with_unit("job", "Time of a job, by kind", Unit::Seconds, self.job_seconds.clone());
        registry.register("job_faults", "Jobs that failed, by kind", self.job_faults.clone());
        registry.register("queue_length", "What waits between threads, by queue", self.queues.clone());
        registry.register_with_unit("store", "Size of all blobs", Unit::Bytes, self.store_bytes.clone());
        let help = "Blobs fetched from members of the quorum, by what came of it";
        registry.register("fetches", help, self.fetches.clone());
        let help = "Bytes fetched from members of the quorum";
        registry.register_with_unit("fetched", help, Unit::Bytes, self.fetched_bytes.clone());
        let help = "Blobs in memory that pass between stages";
        registry.register_with_unit("passing", help, Unit::Bytes, self.passing_bytes.clone());
        let help = "The quorum's count of beginnings that is in force";
        registry.register("quorum_term", help, self.term.clone());
    }

    pub(crate) fn on_step(&self, input: &'static str, outputs: impl Iterator<Item = &'static str>, took: Duration) {
        self.inputs.get_or_create(&[("kind", input)]).inc();
        for output in outputs {
            self.outputs.get_or_create(&[("kind", output)]).inc();
        }
        self.step_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn on_answer(&self, job: JobKind, ok: bool, took: Duration) {
        let label = [("kind", job_name(job))];
        self.job_seconds.get_or_create(&label).observe(took.as_secs_f64());
        if !ok {
            self.job_faults.get_or_create(&label).inc();
        }
    }

    pub(crate) fn on_fetched(&self, result: Result<u64, FetchFault>) {
        let label = match result {
            Ok(_) => "arrived",
            Err(FetchFault::Unreachable) => "unreachable",
            Err(FetchFault::Missing) => "missing",
            Err(FetchFault::Damaged) => "damaged",
            Err(FetchFault::Full) => "full",
        };
        self.fetches.get_or_create(&[("result", label)]).inc();
        self.fetched_bytes.inc_by(result.unwrap_or_default());
    }

    pub(crate) fn on_queues(&self, queues: Queues) {
        for (name, length) in [("inbox", queues.inbox), ("jobs", queues.jobs), ("store", queues.store)] {
            self.queues.get_or_create(&[("queue", name)]).set(whole(length as u64));
        }
        self.passing_bytes.set(whole(queues.passing_bytes));
    }

    /// Takes note of an event; the follower has done so before.
    pub(crate) fn on_event(&self, event: &Event, follower: &Follower, store_bytes: u64) {
        let status = &follower.status;
        self.step.set(whole(status.step));
        match event {
            Event::Stepped { tokens, .. } => {
                self.steps.inc();
                self.tokens.inc_by(*tokens);
                self.loss.set(status.loss.map_or(0.0, |loss| loss.nats));
                self.tokens_per_second.set(status.tokens_per_s.unwrap_or_default());
            }
            Event::HeldOut { .. } => {
                self.held_out_loss.set(status.held_out.map_or(0.0, |loss| loss.nats));
            }
            Event::QuorumBegan { term, .. } => {
                self.term.set(whole(*term));
            }
            Event::BatchVoid { .. } => {
                self.voids.inc();
            }
            Event::Saved { step, bytes, .. } => {
                self.snapshots.inc();
                self.snapshot_bytes.set(whole(*bytes));
                self.saved_step.set(whole(step.0));
                self.store_bytes.set(whole(store_bytes));
            }
            _ => {}
        }
    }

    /// All numbers as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A job's name in labels and lines.
pub fn job_name(job: JobKind) -> &'static str {
    match job {
        JobKind::Init => "init",
        JobKind::Load => "load",
        JobKind::Benchmark => "benchmark",
        JobKind::Train => "train",
        JobKind::Step => "step",
        JobKind::Evaluate => "evaluate",
        JobKind::Snapshot => "snapshot",
        JobKind::Forward => "forward",
        JobKind::Turn => "turn",
        JobKind::Backward => "backward",
        JobKind::Norms => "norms",
    }
}
