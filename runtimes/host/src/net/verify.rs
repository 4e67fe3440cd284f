//! Opens frames on threads of its own: signatures take time, which neither sockets nor the node's loop wait for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use neuroshard_proto::{Reject, Verified};

/// Threads that verify: a block with thousands of signatures must not hold up votes.
const THREADS: usize = 2;
/// Frames that wait at most.
const WAITING_MAX: usize = 256;

/// A frame that was looked at, and how long it took.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) result: Result<Verified, Reject>,
    pub(super) took: Duration,
}

struct Order {
    frame: Vec<u8>,
    answer: async_channel::Sender<Looked>,
}

/// The way to the threads. They end when the last one is dropped.
#[derive(Clone, Debug)]
pub(super) struct Verifier(async_channel::Sender<Order>);

impl Verifier {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives none.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, inbox) = async_channel::bounded::<Order>(WAITING_MAX);
        for _ in 0..THREADS {
            let inbox = inbox.clone();
            let work = move || {
                while let Ok(Order { frame, answer }) = inbox.recv_blocking() {
                    let started = Instant::now();
                    let result = Verified::open(&frame);
                    // Who asked may have left.
                    let _ = answer.try_send(Looked { result, took: started.elapsed() });
                }
            };
            thread::Builder::new().name("verify".into()).spawn(work)?;
        }
        Ok(Self(orders))
    }

    /// Opens a frame; waits if many are ahead. `None` if the program ends.
    pub(super) async fn open(&self, frame: Vec<u8>) -> Option<Looked> {
        let (answer, looked) = async_channel::bounded(1);
        self.0.send(Order { frame, answer }).await.ok()?;
        looked.recv().await.ok()
    }
}

/// Bytes that may wait somewhere, shared by all who fill it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<AtomicUsize>);

/// A part of a [`Room`], given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    room: Room,
    bytes: usize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes so many bytes of it, if they are free.
    pub(super) fn take(&self, bytes: usize) -> Option<Held> {
        let taken = self.0.try_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(bytes));
        taken.is_ok().then(|| Held { room: self.clone(), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.0.fetch_add(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn garbage_is_told_from_a_message_on_another_thread() {
        let verifier = Verifier::start().unwrap();
        let looked = block_on(verifier.open(vec![7; 100])).unwrap();
        assert!(matches!(looked.result, Err(Reject::Envelope(_))));
    }

    #[test]
    fn a_room_takes_what_fits_and_has_it_again_later() {
        let room = Room::new(100);
        let held = room.take(60).unwrap();
        assert!(room.take(41).is_none());
        let rest = room.take(40).unwrap();
        assert!(room.take(1).is_none());
        drop((held, rest));
        assert!(room.take(100).is_some());
    }
}
