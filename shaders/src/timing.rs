//! The one place where engines look at a clock: the self-benchmark (PROTOCOL §2), and where time goes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use neuroshard_proto::Fault;
use neuroshard_proto::ops::Op;

/// The median of `runs` timed runs in microseconds, after `warmup` runs that do not count.
pub(crate) fn median_us(
    warmup: u32,
    runs: u32,
    mut run: impl FnMut() -> Result<Duration, Fault>,
) -> Result<u64, Fault> {
    for _ in 0..warmup {
        run()?;
    }
    let mut times = (0..runs.max(1)).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(u64::try_from(middle.as_micros()).unwrap_or(u64::MAX))
}

/// One thread's time, by operation. It stands still unless it was wound up.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    wound: bool,
    since: Option<Instant>,
    spent: BTreeMap<Op, Duration>,
}

impl Stopwatch {
    pub(crate) fn wind(&mut self) {
        self.wound = true;
    }

    /// Work begins.
    pub(crate) fn start(&mut self) {
        if self.wound {
            self.since = Some(Instant::now());
        }
    }

    /// What happened since the work began, or since the last lap, was this operation.
    pub(crate) fn lap(&mut self, op: Op) {
        if let Some(since) = &mut self.since {
            let now = Instant::now();
            *self.spent.entry(op).or_default() += now - std::mem::replace(since, now);
        }
    }

    /// Adds what was spent to `total`, and forgets it.
    pub(crate) fn take(&mut self, total: &mut BTreeMap<Op, Duration>) {
        for (op, spent) in std::mem::take(&mut self.spent) {
            *total.entry(op).or_default() += spent;
        }
    }
}
