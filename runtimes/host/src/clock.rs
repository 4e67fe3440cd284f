//! Time as the core wants it: milliseconds since the network's genesis, never going back.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use neuroshard_proto::Time;

/// Read once from the system's clock, then carried on by the monotonic one: setting the clock cannot make time go back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    time_at_start: Time,
}

impl Clock {
    /// A clock for the network that was created at this Unix time. Before that moment it shows 0.
    pub fn start(created_unix_ms: u64) -> Self {
        let time_at_start = Time::from_ms(unix_ms().saturating_sub(created_unix_ms));
        Self { started: Instant::now(), time_at_start }
    }

    pub fn now(&self) -> Time {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.time_at_start.after_ms(ms)
    }

    /// How long until a moment; nothing if it has passed.
    pub fn until(&self, moment: Time) -> Duration {
        Duration::from_millis(moment.ms_since(self.now()))
    }

    /// How long this clock has run.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Milliseconds since 1970 by the system's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_from_the_genesis_and_starts_at_zero() {
        let hour_ago = Clock::start(unix_ms() - 3_600_000);
        assert!((3_600_000..3_610_000).contains(&hour_ago.now().as_ms()));
        let future = Clock::start(unix_ms() + 3_600_000);
        assert!(future.now().as_ms() < 10_000);
        assert_eq!(hour_ago.until(Time::ZERO), Duration::ZERO);
        assert!(hour_ago.until(hour_ago.now().after_ms(5000)) > Duration::from_secs(4));
    }
}
