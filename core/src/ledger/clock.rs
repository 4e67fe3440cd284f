//! Protocol time and epochs (PROTOCOL §0.2, §11).
//!
//! Protocol time is the sum over blocks of `min(block time - previous block time, 10 s)`, so a halt of finality expires
//! nothing. An epoch is 60 s of it. A block ends at most one epoch, because its step is never longer than an epoch.
//!
//! An idle network makes no blocks, and then protocol time would stand still and no epoch would ever end. So a block
//! without transactions is due, and only then allowed, where an epoch ends or where the step is exhausted: an idle network
//! makes one every 10 s, six an epoch.

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Params, Time, mutant};
use serde::{Deserialize, Serialize};

use super::part::Module;

/// Where the chain stands in time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Clock {
    pub(super) height: u64,
    /// Block time of the head.
    pub(super) time: Time,
    /// Protocol time since genesis.
    pub(super) protocol_ms: u64,
    /// The epoch that the next block belongs to.
    pub(super) epoch: u64,
    /// Whether the head ended an epoch, so that the next block begins one.
    pub(super) fresh: bool,
}

impl Canonical for Clock {}

impl Module for Clock {
    const NAME: &'static str = "clock";
}

impl Clock {
    /// Moves to a block of this time, which is later than the head's.
    pub(super) fn advance(&mut self, time: Time, params: &Params) {
        let most = if mutant("a halt lets time pass") { u64::MAX } else { params.block_time_step_ms };
        let step = time.ms_since(self.time).min(most);
        self.height = self.height.saturating_add(1);
        self.time = time;
        self.protocol_ms = self.protocol_ms.saturating_add(step);
        self.fresh = false;
    }

    /// Protocol time until the epoch ends.
    pub(super) fn epoch_rest_ms(&self, params: &Params) -> u64 {
        let end = self.epoch.saturating_add(1).saturating_mul(params.epoch_ms);
        end.saturating_sub(self.protocol_ms)
    }

    /// When a block is due even without transactions.
    pub(super) fn next_due(&self, params: &Params) -> Time {
        self.time.after_ms(self.epoch_rest_ms(params).clamp(1, params.block_time_step_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_of_a_year_takes_ten_seconds_of_protocol_time() {
        let (mut clock, params) = (Clock::default(), Params::DEFAULT);
        clock.advance(Time::from_ms(4_000), &params);
        assert_eq!((clock.protocol_ms, clock.height), (4_000, 1));
        clock.advance(Time::from_ms(365 * 86_400_000), &params);
        assert_eq!(clock.protocol_ms, 14_000);
    }

    #[test]
    fn an_idle_network_ends_an_epoch_in_six_blocks() {
        let (mut clock, params) = (Clock::default(), Params::DEFAULT);
        let times: std::vec::Vec<u64> = (0..6)
            .map(|_| {
                let due = clock.next_due(&params);
                clock.advance(due, &params);
                due.as_ms()
            })
            .collect();
        assert_eq!(times, [10_000, 20_000, 30_000, 40_000, 50_000, 60_000]);
        assert_eq!(clock.epoch_rest_ms(&params), 0);
        clock.advance(Time::from_ms(63_000), &params);
        clock.epoch = 1;
        assert_eq!(clock.epoch_rest_ms(&params), 57_000);
        clock.advance(Time::from_ms(119_900), &params);
        clock.protocol_ms = 119_900;
        assert_eq!(clock.next_due(&params), Time::from_ms(120_000), "the epoch's end comes before the step's");
    }
}
