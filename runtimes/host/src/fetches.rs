//! Blobs that the core waits for. Whatever the network does, each fetch is answered once: in time, and if it failed not so soon
//! that asking again at once would make the node spin.

use std::collections::BTreeMap;

use neuroshard_core::FetchFault;
use neuroshard_proto::{RequestId, Time};

/// Fetches that are open at a time; then the oldest one is given up.
const FETCHES_MAX: usize = 256;
/// How long a blob may take that passes between stages.
pub(crate) const PASSING_MS: u64 = 10_000;
/// How long a stage's state may take. Who gives it is given up much earlier if nothing comes.
pub(crate) const STATE_MS: u64 = 1_800_000;
/// How long after the question a fault is told at the earliest.
const FAULT_MS: u64 = 250;

/// The open fetches.
#[derive(Debug, Default)]
pub(crate) struct Fetches(BTreeMap<RequestId, Open>);

#[derive(Debug)]
struct Open {
    asked: Time,
    /// When it ends as a failure, unless the blob comes before.
    ends: Time,
    fault: FetchFault,
}

impl Fetches {
    /// The core asks.
    pub(crate) fn begin(&mut self, now: Time, id: RequestId, patience_ms: u64) {
        if self.0.len() >= FETCHES_MAX
            && let Some(mut oldest) = self.0.first_entry()
        {
            oldest.get_mut().ends = now;
        }
        let open = Open { asked: now, ends: now.after_ms(patience_ms), fault: FetchFault::Unreachable };
        self.0.insert(id, open);
    }

    /// The blob is in the store; whether the core still waits for it.
    pub(crate) fn arrived(&mut self, id: RequestId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// The blob will not come.
    pub(crate) fn failed(&mut self, id: RequestId, fault: FetchFault) {
        if let Some(open) = self.0.get_mut(&id) {
            open.fault = fault;
            open.ends = open.ends.min(open.asked.after_ms(FAULT_MS));
        }
    }

    /// Ends a fetch whose time is over.
    pub(crate) fn due(&mut self, now: Time) -> Option<(RequestId, FetchFault)> {
        let (id, _) = self.0.iter().find(|(_, open)| open.ends <= now)?;
        let id = *id;
        self.0.remove(&id).map(|open| (id, open.fault))
    }

    /// When [`Self::due`] has something to tell.
    pub(crate) fn wake(&self) -> Option<Time> {
        self.0.values().map(|open| open.ends).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_ms(1_000_000);

    #[test]
    fn what_nobody_answers_ends_as_unreachable_when_its_time_is_over() {
        let mut fetches = Fetches::default();
        fetches.begin(START, RequestId(1), PASSING_MS);
        let end = fetches.wake().unwrap();
        assert_eq!(end, START.after_ms(PASSING_MS));
        assert_eq!(fetches.due(START.after_ms(PASSING_MS - 1)), None);
        assert_eq!(fetches.due(end), Some((RequestId(1), FetchFault::Unreachable)));
        assert_eq!((fetches.due(end), fetches.wake()), (None, None));
        assert!(!fetches.arrived(RequestId(1)), "what comes too late is not waited for");
    }

    #[test]
    fn a_fault_is_told_with_its_reason_after_a_pause_and_a_blob_at_once() {
        let mut fetches = Fetches::default();
        (1..=3).for_each(|id| fetches.begin(START, RequestId(id), PASSING_MS));
        fetches.failed(RequestId(2), FetchFault::Missing);
        assert!(fetches.arrived(RequestId(1)) && !fetches.arrived(RequestId(1)));
        assert_eq!(fetches.due(START), None, "no answer so soon that asking again would spin");
        assert_eq!(fetches.due(START.after_ms(FAULT_MS)), Some((RequestId(2), FetchFault::Missing)));
        assert_eq!(fetches.wake(), Some(START.after_ms(PASSING_MS)));
        fetches.failed(RequestId(2), FetchFault::Missing);
        assert_eq!(fetches.due(START.after_ms(FAULT_MS)), None, "one answer each");
    }

    #[test]
    fn too_many_at_a_time_end_the_oldest() {
        let mut fetches = Fetches::default();
        let all = FETCHES_MAX as u64 + 3;
        let mut ended = Vec::new();
        for id in 0..all {
            fetches.begin(START, RequestId(id), PASSING_MS);
            ended.extend(fetches.due(START).map(|(id, _)| id.0));
            assert!(fetches.0.len() <= FETCHES_MAX);
        }
        assert_eq!(ended, [0, 1, 2]);
    }
}
