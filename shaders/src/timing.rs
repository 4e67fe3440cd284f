//! The one place where an engine looks at a clock: the self-benchmark (PROTOCOL §2).

use std::time::Duration;

use neuroshard_proto::Fault;

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
