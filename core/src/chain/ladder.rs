//! The changes of seats since the genesis, for those who come later: each a step that a light client takes (PROTOCOL §11).
//!
//! Few of them are needed. A step may be left out if those who signed the next one hold more than a third of the seats that a
//! client trusts before it, and no more time lies between than a bond is held ([`crate::ledger::light`]). So a year with
//! the same validators is some fifty steps, however often their seats were drawn anew.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Advance, Decided, Header, NextSeats, Seats};
use neuroshard_proto::{Time, codec};
use serde::{Serialize, Serializer};

/// Most steps kept, and most bytes of them. Beyond, the oldest go: then who knows the genesis alone cannot follow.
const STEPS_KEPT_MAX: usize = 1024;
const STEPS_BYTES_MAX: u64 = 32 << 20;

/// Steps in order of their heights. Each names who decided it.
#[derive(Clone, Debug)]
pub(super) struct Ladder {
    /// The seats of the genesis, which everybody trusts.
    genesis: Arc<Seats>,
    /// The longest step over changes of seats.
    skip_ms_max: u64,
    steps: VecDeque<(u64, Arc<Advance>)>,
    bytes: u64,
}

impl Serialize for Ladder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let id = |step: Option<&(u64, Arc<Advance>)>| step.map(|(_, step)| step.header.id());
        (self.steps.len(), id(self.steps.front()), id(self.steps.back())).serialize(serializer)
    }
}

impl Ladder {
    pub(super) const fn new(genesis: Arc<Seats>, skip_ms_max: u64) -> Self {
        Self { genesis, skip_ms_max, steps: VecDeque::new(), bytes: 0 }
    }

    /// Adds a change of seats, and leaves out the one before if a client can do without. One that is not newer is known.
    pub(super) fn push(&mut self, step: Arc<Advance>) {
        if self.steps.back().is_some_and(|(_, last)| last.header.height >= step.header.height) {
            return;
        }
        while self.steps.back().is_some() && self.is_near(&step) {
            let dropped = self.steps.pop_back();
            self.bytes = self.bytes.saturating_sub(dropped.map_or(0, |(bytes, _)| bytes));
        }
        let bytes = u64::try_from(codec::encode(&*step).len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(bytes);
        self.steps.push_back((bytes, step));
        while self.steps.len() > STEPS_KEPT_MAX || self.bytes > STEPS_BYTES_MAX {
            let dropped = self.steps.pop_front();
            self.bytes = self.bytes.saturating_sub(dropped.map_or(0, |(bytes, _)| bytes));
        }
    }

    /// Adds the step to a block, if others decide after it.
    pub(super) fn climb(&mut self, decided: &Decided, parent: Option<Header>, before: &Arc<Seats>, after: &Arc<Seats>) {
        if !Arc::ptr_eq(before, after) && before != after {
            self.push(Arc::new(step_to(decided, parent, before, after)));
        }
    }

    /// Whether who stands before the last step may go to this one at once.
    fn is_near(&self, step: &Advance) -> bool {
        let before = self.steps.len().checked_sub(2).and_then(|place| self.steps.get(place));
        let (since, trusted) = match before {
            Some((_, before)) => match &before.deciders {
                Some((_, deciders)) => (before.header.time, before.next.after(deciders)),
                None => return false,
            },
            None => (Time::ZERO, Seats::clone(&self.genesis)),
        };
        let weights = step.certificate.endorsements.iter().map(|one| trusted.weight(&one.validator));
        let common = u128::from(weights.fold(0, u64::saturating_add)).saturating_mul(3);
        step.deciders.is_some()
            && common > u128::from(trusted.total())
            && step.header.time.ms_since(since) <= self.skip_ms_max
    }

    /// The steps to headers above a height.
    pub(super) fn above(&self, height: u64) -> impl Iterator<Item = &Arc<Advance>> {
        self.steps.iter().map(|(_, step)| step).filter(move |step| step.header.height > height)
    }

    /// All steps, to be written down.
    pub(super) fn all(&self) -> Vec<Arc<Advance>> {
        self.above(0).cloned().collect()
    }
}

/// The step to a block, which these seats decided and after which those decide. The first block has no parent.
pub(super) fn step_to(decided: &Decided, parent: Option<Header>, before: &Seats, after: &Seats) -> Advance {
    let header = decided.block.header;
    let parent = parent.filter(|parent| parent.id() == header.parent);
    Advance {
        header,
        certificate: decided.certificate.clone(),
        deciders: parent.map(|parent| (parent, before.clone())),
        next: NextSeats::between(before, after),
    }
}

/// Whether others decide after a step than before.
pub(super) const fn is_change(step: &Advance) -> bool {
    !matches!(step.next, NextSeats::Same)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use neuroshard_proto::chain::{Certificate, Endorsement, Subject};
    use neuroshard_proto::{Hash, NetworkId, NodeId, Signature};

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn seats(nodes: &[u8], seed: u8) -> Seats {
        Seats::by_weight(nodes.iter().map(|n| (node(*n), 1)), Hash::from_bytes([seed; 32])).unwrap()
    }

    /// A change from these seats to those, signed by all who decided it.
    fn change(height: u64, day: u64, from: &Seats, to: &Seats) -> Arc<Advance> {
        let header = Header {
            network: NetworkId(Hash::default()),
            height,
            parent: Hash::default(),
            time: Time::from_ms(day * DAY_MS),
            proposer: node(1),
            transactions: Hash::default(),
            state: Hash::default(),
            seats: to.hash(),
            beacon: Hash::default(),
            finality: Hash::default(),
        };
        let signer = |validator| Endorsement { validator, lock: None, signature: Signature([0; 64]) };
        let endorsements = from.iter().map(|(node, _)| signer(*node)).collect::<Vec<_>>().try_into().unwrap();
        let subject = Subject::Finalized { height, view: 0, block: header.id() };
        let parent = Header { height: height - 1, ..header };
        Arc::new(Advance {
            header,
            certificate: Certificate { subject, endorsements },
            deciders: Some((parent, from.clone())),
            next: NextSeats::between(from, to),
        })
    }

    fn heights(ladder: &Ladder) -> Vec<u64> {
        ladder.above(0).map(|step| step.header.height).collect()
    }

    #[test]
    fn seats_drawn_anew_every_day_leave_a_step_a_week() {
        let four = |seed| seats(&[1, 2, 3, 4], seed);
        let mut ladder = Ladder::new(Arc::new(four(0)), 7 * DAY_MS);
        for day in 1..=28 {
            ladder.push(change(day, day, &four(day as u8 - 1), &four(day as u8)));
        }
        assert_eq!(heights(&ladder), [7, 14, 21, 28]);
        let again = ladder.all();
        let mut restored = Ladder::new(Arc::new(four(0)), 7 * DAY_MS);
        again.into_iter().for_each(|step| restored.push(step));
        assert_eq!(heights(&restored), heights(&ladder), "written down and read again it is the same");
    }

    #[test]
    fn a_change_that_no_third_of_the_older_seats_signed_keeps_the_one_before() {
        let (one, two, three) = (seats(&[1, 2, 3], 0), seats(&[3, 4, 5], 0), seats(&[6], 0));
        let mut ladder = Ladder::new(Arc::new(one.clone()), 7 * DAY_MS);
        ladder.push(change(1, 1, &one, &two));
        ladder.push(change(2, 1, &two, &three));
        assert_eq!(heights(&ladder), [1, 2], "one of three is not more than a third");
        ladder.push(change(2, 1, &one, &three));
        assert_eq!(heights(&ladder), [1, 2], "a known height changes nothing");
        let wide = seats(&[1, 2, 4, 5], 0);
        let mut ladder = Ladder::new(Arc::new(one.clone()), 7 * DAY_MS);
        ladder.push(change(1, 1, &one, &wide));
        ladder.push(change(2, 1, &wide, &three));
        assert_eq!(heights(&ladder), [2], "two of three signed");
        assert_eq!(ladder.above(2).count(), 0);
        assert_eq!(vec![2], heights(&ladder));
    }
}
