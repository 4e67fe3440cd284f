//! What a host needs of an async runtime: three functions. Sockets and timers of the host itself go through `async-io`,
//! whose reactor every runtime here shares.

use std::future::Future;
use std::time::Duration;

/// An async runtime, as thin as it can be.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Drives a future to its end on this thread, with the runtime's other tasks beside it.
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T;

    /// Runs a task in the background. A task that panics ends alone.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);

    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}
