//! Benchmarks: ours beside their peers, in ratios of one run.

pub mod peak;
pub mod products;

/// CPU time of this process, all threads together, in seconds.
pub fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to a place that lives.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the system counts CPU time");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The best of several rounds of at least `seconds` CPU time each: CPU-seconds of one call.
pub fn best_of(rounds: u32, seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    let mut round = || {
        let (start, mut calls) = (cpu_seconds(), 0.0);
        loop {
            call();
            calls += 1.0;
            let spent = cpu_seconds() - start;
            if spent >= seconds {
                return spent / calls;
            }
        }
    };
    (0..rounds).map(|_| round()).fold(f64::INFINITY, f64::min)
}
