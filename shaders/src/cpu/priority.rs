//! Making room for others on the machine.

/// Gives the calling thread the lowest priority, so that it computes with what nobody else wants. For threads of the
/// engine it is a [`super::Options::thread_start`]; the thread that drives the engine computes too and calls it itself.
///
/// Where the system has no such notion or refuses, nothing happens.
#[cfg(unix)]
pub fn lower_priority() {
    const NICEST: libc::c_int = 19;
    // SAFETY: plain system calls on the calling thread. On Linux both are a thread's own; elsewhere they are the whole
    // process', which computes for others anyway.
    unsafe {
        let _ = libc::setpriority(libc::PRIO_PROCESS, 0, NICEST);
        #[cfg(target_os = "linux")]
        let _ = libc::sched_setscheduler(0, libc::SCHED_BATCH, &libc::sched_param { sched_priority: 0 });
    }
}

/// Nothing: this system has no priorities that are known here.
#[cfg(not(unix))]
pub fn lower_priority() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_calling_thread_becomes_the_nicest() {
        let nice = || {
            lower_priority();
            // SAFETY: reads the calling thread's own priority.
            unsafe { (libc::getpriority(libc::PRIO_PROCESS, 0), libc::sched_getscheduler(0)) }
        };
        assert_eq!(std::thread::spawn(nice).join().unwrap(), (19, libc::SCHED_BATCH));
        // SAFETY: as above.
        assert!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) } < 19, "other threads keep theirs");
    }
}
