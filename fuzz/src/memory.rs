//! How much memory a piece of code takes at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a tally for each thread.
#[derive(Debug)]
struct Tally;

#[global_allocator]
static ALLOCATOR: Tally = Tally;

thread_local! {
    /// Bytes this thread holds and the most it held since the last [`peak`] began. A thread may free what another
    /// allocated, so the first can be negative.
    static HELD: Cell<(i64, i64)> = const { Cell::new((0, 0)) };
}

fn count(bytes: i64) {
    // A thread that is ending has no tally any more.
    let _ = HELD.try_with(|held| {
        let (now, peak) = held.get();
        let now = now.saturating_add(bytes);
        held.set((now, peak.max(now)));
    });
}

fn size(layout: Layout) -> i64 {
    i64::try_from(layout.size()).unwrap_or(i64::MAX)
}

// SAFETY: every call is passed on to the system's allocator unchanged; the tally neither allocates nor unwinds.
unsafe impl GlobalAlloc for Tally {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: the pointer came from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work` and answers, beside its result, the most bytes that it held at once.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let result = work();
    let peak = HELD.with(|held| held.get().1);
    (result, u64::try_from(peak - before).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let ((), bytes) = peak(|| {
            for _ in 0..10 {
                drop(vec![0_u8; 1000]);
            }
            let both = (vec![0_u8; 3000], vec![0_u8; 2000]);
            drop(both);
        });
        assert_eq!(bytes, 5000);
    }
}
