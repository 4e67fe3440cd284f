//! The reference node: every command of NeuroShard on the smol runtime.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use neuroshard_host::runtime::Runtime;

// Simulated signatures can be made by anybody: a program that people run must not know them.
const _: () =
    assert!(neuroshard_host::keys::REAL_SIGNATURES, "a node needs real signatures: build without sim-signatures");

/// smol's global executor: one background thread, which is plenty for sockets and timers; computing and the disk have
/// threads of their own.
#[derive(Clone, Copy, Debug)]
struct Smol;

impl Runtime for Smol {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        smol::block_on(future)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(task).detach();
    }

    async fn sleep(&self, duration: Duration) {
        smol::Timer::after(duration).await;
    }
}

fn main() -> ExitCode {
    neuroshard_cli::main(Smol)
}
