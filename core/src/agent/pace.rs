//! How often training is interrupted.

use neuroshard_proto::{Ratio, Step, Time};
use serde::{Deserialize, Serialize};

/// How often something that interrupts training is done: after so many steps or so long, but within a share of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    /// Step and time of the last one; `None` before the first.
    pub(super) last: Option<(Step, Time)>,
    /// What the last one cost.
    pub(super) cost_ms: u64,
    /// Not before this.
    pub(super) not_before: Time,
}

impl Pace {
    pub(super) fn done(&mut self, step: Step, started: Time, now: Time) {
        self.cost_ms = now.ms_since(started);
        self.last = Some((step, now));
    }

    /// Whether `share` of the time since the last one pays for the next.
    pub(super) fn affordable(&self, now: Time, share: Ratio) -> bool {
        let Some((_, last)) = self.last else { return now >= self.not_before };
        now >= self.not_before && share.of(now.ms_since(last)) >= self.cost_ms
    }

    pub(super) fn steps_since(&self, step: Step) -> u64 {
        self.last.map_or(u64::MAX, |(last, _)| step.0.saturating_sub(last.0))
    }

    pub(super) fn ms_since(&self, now: Time) -> u64 {
        self.last.map_or(0, |(_, last)| now.ms_since(last))
    }
}
