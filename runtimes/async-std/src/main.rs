//! The same node on async-std: every command of NeuroShard, with another executor under it.
//!
//! async-std is discontinued upstream, and nobody need prefer this program to the reference node on smol. It is here because a
//! second adapter keeps the first one honest: neither the core nor the host may come to rest on what one runtime
//! happens to do. Nodes of both kinds train together.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use neuroshard_host::runtime::Runtime;

// Simulated signatures can be made by anybody: a program that people run must not know them.
const _: () =
    assert!(neuroshard_host::keys::REAL_SIGNATURES, "a node needs real signatures: build without sim-signatures");

/// async-std's global executor, with a thread for each core.
#[derive(Clone, Copy, Debug)]
struct AsyncStd;

impl Runtime for AsyncStd {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        async_std::task::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // A task whose handle is dropped runs on.
        drop(async_std::task::spawn(task));
    }

    async fn sleep(&self, duration: Duration) {
        async_std::task::sleep(duration).await;
    }
}

fn main() -> ExitCode {
    neuroshard_cli::main(AsyncStd)
}
