//! What a node costs a large world. A test of its own, because it counts every byte of its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use neuroshard_sim::{Act, Count, Options, Scenario, What, World};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
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

/// What may be held for a node that listens, knows its neighbours and has a ledger of its own. ARCHITECTURE §6 wants 4 KiB for
/// one that has nothing yet; the neighbours, the journal and what waits for a block come on top.
const BYTES_A_LISTENER_MAX: usize = 5632;

#[test]
fn ten_thousand_nodes_that_listen_fit_in_the_bytes_they_are_given() {
    let nodes = 10_000;
    let mut scenario =
        Scenario::draw(&Options { training: false, ..Options::calm(nodes, 40_000) }, 1).expect("a world");
    // Who decides is down, and nobody waits for the calm: what is measured is a node at its first blocks.
    (scenario.world.start_ms, scenario.world.calm_ms, scenario.world.wish_ms) = (0, 0, 0);
    scenario.acts = (0..scenario.world.founders)
        .map(|node| Act { at_ms: 0, for_ms: 86_400_000, what: What::Leave { node } })
        .chain((0..scenario.world.founders).map(|node| Act {
            at_ms: 1,
            for_ms: 86_400_000,
            what: What::Crash { node, keep: 0, torn: false, outputs: None },
        }))
        .collect();
    let before = HELD.load(Ordering::Relaxed);
    let mut world = World::new(&scenario);
    let report = world.run();
    assert!(report.counts.get(Count::Delivered) > 4 * u64::from(nodes), "they hear each other");
    let each = (HELD.load(Ordering::Relaxed) - before) / nodes as usize;
    println!("{each} bytes a node, {} of them the core itself", size_of::<neuroshard_core::Core>());
    assert!(each <= BYTES_A_LISTENER_MAX, "{each} bytes a node");
    drop(world);
}
