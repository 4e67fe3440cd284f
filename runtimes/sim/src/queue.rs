//! What happens next: events in order of (time, destination, source, sequence), whatever order they were put in.
//!
//! A radix heap: events lie in 65 buckets by the highest bit in which their time differs from that of the event taken last.
//! Time never goes back in a world, which is the one thing that it asks for; taking and putting cost the same with ten events
//! as with ten million.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Where an event stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Microseconds of world time.
    pub(crate) at: u64,
    pub(crate) to: u32,
    pub(crate) from: u32,
    /// The source's own count.
    pub(crate) sequence: u64,
}

/// Events that an empty bucket keeps room for.
const ROOM_KEPT: usize = 256;
/// Events in one piece of memory. A crowd lies in many, which are let go one by one while it moves to other buckets.
const SEGMENT: usize = 4096;

/// An event and its place: the first in order is the greatest, as a heap wants it.
#[derive(Debug)]
struct Queued<T>(Place, T);

impl<T> PartialEq for Queued<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Queued<T> {}

impl<T> PartialOrd for Queued<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Queued<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

/// Events in no order.
#[derive(Debug)]
struct Bucket<T> {
    /// All but the last are full.
    segments: Vec<Vec<Queued<T>>>,
}

impl<T> Bucket<T> {
    fn push(&mut self, event: Queued<T>) {
        match self.segments.last_mut() {
            Some(last) if last.len() < SEGMENT => last.push(event),
            Some(_) => {
                let mut segment = Vec::with_capacity(SEGMENT);
                segment.push(event);
                self.segments.push(segment);
            }
            None => self.segments.push(vec![event]),
        }
    }

    fn is_empty(&self) -> bool {
        self.segments.first().is_none_or(Vec::is_empty)
    }

    /// The earliest time.
    fn earliest(&self) -> Option<u64> {
        self.segments.iter().flatten().map(|queued| queued.0.at).min()
    }
}

/// Events by place.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// The events of the time `last`.
    now: BinaryHeap<Queued<T>>,
    /// Later ones, in no order; bucket 0 stays empty.
    later: [Bucket<T>; 65],
    last: u64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { now: BinaryHeap::new(), later: std::array::from_fn(|_| Bucket { segments: Vec::new() }), last: 0 }
    }

    /// Puts an event.
    ///
    /// # Panics
    /// If it lies before the one taken last: the world would have to go back in time.
    pub(crate) fn put(&mut self, place: Place, event: T) {
        assert!(place.at >= self.last, "nothing happens in the past");
        match bucket(self.last, place.at) {
            0 => self.now.push(Queued(place, event)),
            index => self.later[index].push(Queued(place, event)),
        }
    }

    /// Takes the next event.
    pub(crate) fn take(&mut self) -> Option<(Place, T)> {
        if self.now.is_empty() {
            let first = self.later.iter().position(|bucket| !bucket.is_empty())?;
            self.last = self.later[first].earliest().unwrap_or(self.last);
            let mut segments = std::mem::take(&mut self.later[first].segments);
            while let Some(mut events) = segments.pop() {
                for Queued(place, event) in events.drain(..) {
                    self.put(place, event);
                }
                if segments.is_empty() {
                    // Its room is kept for the next events, but not that of a crowd.
                    events.shrink_to(ROOM_KEPT);
                    self.later[first].segments = vec![events];
                }
            }
            self.now.shrink_to(ROOM_KEPT);
        }
        self.now.pop().map(|Queued(place, event)| (place, event))
    }
}

const fn bucket(last: u64, at: u64) -> usize {
    (u64::BITS - (last ^ at).leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    #[test]
    fn events_come_in_order_of_place_whatever_order_they_are_put_in() {
        let draw = Draw::new(3, "queue");
        let (mut queue, mut model) = (Queue::new(), std::collections::BTreeMap::new());
        let (mut now, mut sequence) = (0, 0);
        for round in 0..20_000_u64 {
            let draw = draw.of(round);
            if draw.of(0).below(5) < 3 {
                sequence += 1;
                let at = now + draw.of(1).pick(&[0, 0, 1, 5, 1000, 90_000, 1 << 33]);
                let to = draw.of(2).below(4) as u32;
                let place = Place { at, to, from: draw.of(3).below(3) as u32, sequence };
                queue.put(place, round);
                model.insert(place, round);
            } else {
                let taken = queue.take();
                assert_eq!(taken, model.pop_first());
                now = taken.map_or(now, |(place, _)| place.at);
            }
        }
        while let Some(next) = model.pop_first() {
            assert_eq!(queue.take(), Some(next));
        }
        assert_eq!(queue.take(), None);
    }

    #[test]
    #[should_panic(expected = "nothing happens in the past")]
    fn an_event_in_the_past_is_refused() {
        let mut queue = Queue::new();
        queue.put(Place { at: 10, to: 0, from: 0, sequence: 0 }, ());
        queue.take();
        queue.put(Place { at: 9, to: 0, from: 0, sequence: 1 }, ());
    }
}
