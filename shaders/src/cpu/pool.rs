//! Threads that wait for work: a fixed split of the work, whoever does a part.
//!
//! A part's result depends on the part alone, so neither the number of threads nor their timing changes a bit.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How often a thread looks for news before it sleeps: a few microseconds.
const SPINS: u32 = 400;

/// Work as the threads see it: called once on each with the thread's number.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

#[derive(Default)]
struct State {
    /// Counts the pieces of work given out.
    round: usize,
    work: Option<&'static Work<'static>>,
    /// Threads that have not finished the current work.
    busy: usize,
    panicked: bool,
    closing: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    given: Condvar,
    done: Condvar,
    /// Mirrors of `round` and `busy`, for looking without the lock.
    round: AtomicUsize,
    busy: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads of one engine. The caller is thread 0 and works too.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads`, the caller's counted; each new thread calls `start` first.
    ///
    /// Where the system grants fewer threads, the pool has fewer.
    pub(crate) fn new(threads: usize, start: fn()) -> Self {
        let shared = Arc::new(Shared::default());
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            let work = move || {
                start();
                serve(&shared, index);
            };
            std::thread::Builder::new().name(format!("compute-{index}")).spawn(work).ok()
        };
        let threads = (1..threads.max(1)).map_while(spawn).collect();
        Self { shared, threads }
    }

    /// Threads, the caller's counted.
    pub(crate) fn threads(&self) -> usize {
        self.threads.len() + 1
    }

    /// Hands every item to some thread, with the thread's number, and returns when all are done.
    ///
    /// # Panics
    /// If `work` panics.
    pub(crate) fn for_each<T: Send>(&self, items: Vec<T>, work: impl Fn(usize, T) + Sync) {
        if self.threads.is_empty() || items.len() <= 1 {
            return items.into_iter().for_each(|item| work(0, item));
        }
        let items = Items { items: ManuallyDrop::new(items), next: AtomicUsize::new(0) };
        self.broadcast(&|thread| {
            while let Some(item) = items.take() {
                work(thread, item);
            }
        });
        let Items { items, .. } = items;
        let mut items = ManuallyDrop::into_inner(items);
        // SAFETY: every item was taken; what is left is the allocation.
        unsafe { items.set_len(0) };
    }

    /// Runs `work` once on every thread.
    fn broadcast(&self, work: &Work<'_>) {
        // SAFETY: this function returns only after every thread has finished with the reference.
        let work = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        {
            let mut state = self.shared.lock();
            state.work = Some(work);
            state.busy = self.threads.len();
            state.round = state.round.wrapping_add(1);
            self.shared.busy.store(state.busy, Ordering::Relaxed);
            self.shared.round.store(state.round, Ordering::Release);
            self.shared.given.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        spin(|| self.shared.busy.load(Ordering::Acquire) == 0);
        let mut state = self.shared.lock();
        while state.busy > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.work = None;
        let panicked = std::mem::take(&mut state.panicked);
        drop(state);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!panicked, "a compute thread panicked; its message is above");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.round.fetch_add(1, Ordering::Release);
        self.shared.given.notify_all();
        for thread in self.threads.drain(..) {
            // A thread never panics outside the work, and the work's panics were reported.
            let _ = thread.join();
        }
    }
}

/// Items that are taken one by one, each once.
struct Items<T> {
    items: ManuallyDrop<Vec<T>>,
    next: AtomicUsize,
}

// SAFETY: an item is moved out by the one thread that drew its index.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    fn take(&self) -> Option<T> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the index is below the length and nobody draws it twice; the vector does not drop its items.
        (index < self.items.len()).then(|| unsafe { std::ptr::read(self.items.as_ptr().add(index)) })
    }
}

/// Looks a few times, then gives up.
fn spin(done: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
}

/// A thread's life: wait, work, report.
fn serve(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        spin(|| shared.round.load(Ordering::Acquire) != seen);
        let mut state = shared.lock();
        while state.round == seen && !state.closing {
            state = shared.given.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closing {
            return;
        }
        seen = state.round;
        let work = state.work;
        drop(state);
        let result = work.map(|work| catch_unwind(AssertUnwindSafe(|| work(index))));
        let mut state = shared.lock();
        state.panicked |= matches!(result, Some(Err(_)));
        state.busy -= 1;
        shared.busy.store(state.busy, Ordering::Release);
        if state.busy == 0 {
            shared.done.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_on_any_number_of_threads() {
        for threads in [1, 2, 7] {
            let pool = Pool::new(threads, || ());
            assert_eq!(pool.threads(), threads);
            for count in [0, 1, 2, 100] {
                let mut hits = vec![0_u32; count];
                pool.for_each(hits.iter_mut().collect(), |thread, hit| {
                    assert!(thread < threads);
                    *hit += 1;
                });
                assert!(hits.iter().all(|hit| *hit == 1));
            }
        }
    }

    #[test]
    fn a_panic_in_the_work_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3, || ());
        let failed = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each((0..50).collect(), |_, item: i32| assert_ne!(item, 37, "as asked"));
        }));
        assert!(failed.is_err());
        let sum = AtomicUsize::new(0);
        pool.for_each((0..50_usize).collect(), |_, item| {
            sum.fetch_add(item, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 1225);
    }

    #[test]
    fn new_threads_run_their_start_function() {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let pool = Pool::new(4, || {
            STARTED.fetch_add(1, Ordering::Relaxed);
        });
        drop(pool);
        assert_eq!(STARTED.load(Ordering::Relaxed), 3);
    }
}
