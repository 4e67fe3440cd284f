//! The smallest runtime: this thread, and one thread for each task.

use std::future::Future;
use std::time::Duration;

use neuroshard_host::runtime::Runtime;

#[derive(Clone)]
pub(crate) struct Threads;

impl Runtime for Threads {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        async_io::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        std::thread::spawn(|| async_io::block_on(task));
    }

    async fn sleep(&self, duration: Duration) {
        async_io::Timer::after(duration).await;
    }
}
