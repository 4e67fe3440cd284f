//! A node's clock: it follows the world's time at a rate of its own, may jump, and never goes back.

use neuroshard_proto::Time;

use crate::scenario::JUMPS_MS_MAX;

const MILLION: i128 = 1_000_000;

/// What a node believes the time to be. World time is in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Since this moment of the world ...
    since: u64,
    /// ... at which the clock would have shown this many microseconds ...
    shown: i64,
    /// ... it gains so many microseconds a second.
    ppm: i32,
    /// All jumps so far.
    jumped_ms: i32,
    /// The latest time that was read: a clock that is put back stands still.
    read: Time,
}

impl Clock {
    pub(crate) const fn new() -> Self {
        Self { since: 0, shown: 0, ppm: 0, jumped_ms: 0, read: Time::ZERO }
    }

    fn shows(&self, world: u64) -> i128 {
        let gone = i128::from(world - self.since);
        i128::from(self.shown) + gone * (MILLION + i128::from(self.ppm)) / MILLION
    }

    /// Reads the clock.
    pub(crate) fn read(&mut self, world: u64) -> Time {
        let ms = u64::try_from(self.shows(world).max(0) / 1000).unwrap_or(u64::MAX);
        self.read = self.read.max(Time::from_ms(ms));
        self.read
    }

    /// The earliest moment of the world, not before `world`, at which the clock reads `time` or later.
    pub(crate) fn when(&self, time: Time, world: u64) -> u64 {
        if time <= self.read {
            return world;
        }
        let missing = i128::from(time.as_ms()) * 1000 - i128::from(self.shown);
        let rate = MILLION + i128::from(self.ppm);
        let after = (missing * MILLION + rate - 1).div_euclid(rate).max(0);
        let at = u64::try_from(after).unwrap_or(u64::MAX).saturating_add(self.since);
        at.max(world)
    }

    /// Lets the clock jump; answers by how much it did, so that all jumps together stay within the limit.
    pub(crate) fn jump(&mut self, world: u64, ms: i64) -> i64 {
        let total = (i64::from(self.jumped_ms) + ms).clamp(-JUMPS_MS_MAX, JUMPS_MS_MAX);
        let ms = total - i64::from(self.jumped_ms);
        self.jumped_ms = total as i32;
        self.turn(world, self.ppm);
        self.shown += ms * 1000;
        ms
    }

    /// Changes the clock's rate.
    pub(crate) fn turn(&mut self, world: u64, ppm: i32) {
        self.shown = i64::try_from(self.shows(world)).unwrap_or(i64::MAX);
        (self.since, self.ppm) = (world, ppm);
    }

    /// Sets the clock right; one that was ahead stands until the time comes.
    pub(crate) fn heal(&mut self, world: u64) {
        *self = Self { since: 0, shown: 0, ppm: 0, jumped_ms: 0, read: self.read };
        self.read(world);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_clock_reads_the_time_of_the_world() {
        let mut clock = Clock::new();
        assert_eq!(clock.read(1_999), Time::from_ms(1));
        assert_eq!(clock.when(Time::from_ms(7), 1_999), 7_000);
        assert_eq!(clock.when(Time::from_ms(1), 1_999), 1_999, "that was");
    }

    #[test]
    fn the_moment_of_a_time_is_the_first_at_which_it_is_read() {
        for ppm in [-20_000, -3, 0, 7, 20_000] {
            let mut clock = Clock::new();
            clock.turn(12_345, ppm);
            clock.jump(20_000, 3_333);
            for ms in [3_400, 5_000, 77_777, 1_000_000] {
                let at = clock.when(Time::from_ms(ms), 20_000);
                assert!(clock.read(at - 1) < Time::from_ms(ms), "{ppm} {ms}");
                assert_eq!(clock.read(at), Time::from_ms(ms), "{ppm} {ms}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_put_back_stands_and_then_goes_on() {
        let mut clock = Clock::new();
        assert_eq!(clock.read(60_000_000), Time::from_ms(60_000));
        assert_eq!(clock.jump(60_000_000, -10_000), -10_000);
        assert_eq!(clock.read(65_000_000), Time::from_ms(60_000));
        assert_eq!(clock.read(71_000_000), Time::from_ms(61_000));
        clock.heal(71_000_000);
        assert_eq!(clock.read(71_000_000), Time::from_ms(71_000));
    }

    #[test]
    fn jumps_stay_within_their_limit_in_sum() {
        let mut clock = Clock::new();
        assert_eq!(clock.jump(0, 20_000), 20_000);
        assert_eq!(clock.jump(0, 20_000), 10_000);
        assert_eq!(clock.jump(0, 5), 0);
        assert_eq!(clock.read(0), Time::from_ms(30_000));
    }
}
