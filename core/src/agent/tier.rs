//! How fast this machine is (PROTOCOL §2): one layer's forward pass, timed by the host at the start and every hour.

use neuroshard_proto::{Commitment, Fault, Hash, Job, Stream, Tier};
use serde::{Deserialize, Serialize};

use crate::agent::answer::answer_name;
use crate::cx::{Cx, Local};
use crate::io::{Event, JobKind, Recovery, TimerKind};

/// A node that could not time itself yet tries again so soon.
const AGAIN_MS: u64 = 60_000;
/// Nodes that started together spread their hourly benchmarks over this long.
const JITTER_MS: u64 = 60_000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TierPart {
    tier: Option<Tier>,
    layer_us: u64,
    running: bool,
    jitter: Stream,
}

impl TierPart {
    pub(crate) fn new(seed: &Hash) -> Self {
        Self { tier: None, layer_us: 0, running: false, jitter: Stream::new(seed, "benchmark", 0) }
    }

    /// Starts a benchmark, unless one is under way.
    pub(crate) fn on_due(&mut self, cx: &mut Cx<'_>) {
        if self.running {
            return;
        }
        self.running = true;
        let genesis = &cx.config.genesis;
        let (params, model) = (genesis.params, genesis.model);
        let sequence = params.benchmark_sequence.min(model.context);
        let (warmup, runs) = (params.benchmark_warmup, params.benchmark_runs);
        cx.compute(Job::Benchmark { model, sequence, warmup, runs });
    }

    pub(crate) fn on_answer(&mut self, cx: &mut Cx<'_>, result: Result<Commitment, Fault>) {
        match result {
            Ok(Commitment::Benchmark { layer_us }) => {
                let tier = cx.config.genesis.params.tier(layer_us);
                (self.tier, self.layer_us) = (Some(tier), layer_us);
                cx.event(Event::TierMeasured { layer_us, tier });
            }
            Ok(other) => self.fail(cx, Fault::bad_job(answer_name(&other))),
            Err(fault) => self.fail(cx, fault),
        }
        self.settle(cx);
    }

    pub(crate) fn on_late(&mut self, cx: &mut Cx<'_>) {
        cx.event(Event::JobLate { job: JobKind::Benchmark });
        self.settle(cx);
    }

    /// Tells what is known now and plans the next benchmark.
    fn settle(&mut self, cx: &mut Cx<'_>) {
        self.running = false;
        let wait = self.period_ms(cx).saturating_add(self.jitter.below(JITTER_MS));
        cx.timers.set(TimerKind::Benchmark, Some(cx.now.after_ms(wait)));
        cx.tell(Local::Tier(self.tier));
        if let Some(tier) = self.tier {
            cx.tell(Local::Measured { layer_us: self.layer_us, tier });
        }
    }

    /// How long until the next benchmark, at least.
    fn period_ms(&self, cx: &Cx<'_>) -> u64 {
        if self.tier.is_some() { cx.config.genesis.params.benchmark_period_ms } else { AGAIN_MS }
    }

    fn fail(&self, cx: &mut Cx<'_>, fault: Fault) {
        let at = cx.now.after_ms(self.period_ms(cx));
        cx.event(Event::JobFailed { job: JobKind::Benchmark, fault, then: Recovery::Later { at } });
    }
}
