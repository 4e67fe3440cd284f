//! Events a CPU second and bytes a node, for worlds of growing size: nodes that listen, follow the ledger and say that they live.
//!
//! `cargo bench -p neuroshard-sim [-- NODES...]`; with `--features sim-signatures` for the speed of campaigns. Without numbers: 10 to
//! 1,000 nodes. `--idle` lets nobody pay anybody, so that blocks are those that are due.
//! A million: `cargo bench -p neuroshard-sim --features sim-signatures -- 1000000 --idle`; it wants 6 GB.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use neuroshard_sim::{Count, Options, Scenario, World};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let given: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    // Under the test runner this only shows that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    // Nobody pays anybody: the blocks are those that are due.
    let idle = std::env::args().any(|argument| argument == "--idle");
    let sizes = match given.is_empty() {
        _ if quick => vec![10],
        true => vec![10, 100, 1000],
        false => given,
    };
    println!("| nodes | events | events/CPU-s | bytes a node | at most | blocks |\n|---:|---:|---:|---:|---:|---:|");
    for nodes in sizes {
        let options = Options { training: false, ..Options::calm(nodes, 60_000) };
        let mut scenario = Scenario::draw(&options, 1).expect("a world");
        scenario.world.wish_ms = if idle { 0 } else { 2000 };
        let before = HELD.load(Ordering::Relaxed);
        let (started, mut world) = (cpu_seconds(), World::new(&scenario));
        let report = world.run();
        assert_eq!(report.failure, None);
        let events = report.counts.get(Count::Events);
        let rate = events as f64 / (cpu_seconds() - started);
        let each = |bytes: &AtomicUsize| (bytes.load(Ordering::Relaxed) - before) / nodes as usize;
        let (blocks, held, peak) = (report.counts.get(Count::Blocks), each(&HELD), each(&PEAK));
        println!("| {nodes} | {events} | {rate:.0} | {held} | {peak} | {blocks} |");
    }
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives through the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of this process can be read");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
