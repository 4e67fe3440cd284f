//! The thread that writes the journal, so that waiting for a disk holds up nobody.
//!
//! Whatever has gathered since the last write goes into one durable transaction (group commit), then one report says up to
//! which record the journal is safe. A full disk is waited out: the records stay in order in memory and are tried again.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use neuroshard_proto::{Hash, JournalSeq};

use super::{Memory, Store, StoreError};

/// Orders that wait at most; a core has a handful under way.
const ORDERS_MAX: usize = 1024;
/// Records in one transaction at most.
const GROUP_MAX: usize = 256;
/// How long to wait before a full disk is tried again: doubling from the first to the second.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(15);

/// Something to be written, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOrder {
    /// Append a record to the journal.
    Persist { seq: JournalSeq, record: Vec<u8> },
    /// Remember what the own account did.
    Remember { entries: Vec<Memory> },
    /// Remove a blob.
    Drop { hash: Hash },
    /// Remove the journal's records before this one.
    Trim { before: JournalSeq },
}

/// What became of the orders.
#[derive(Debug)]
pub enum ScribeReport {
    /// Every record up to this one is durable.
    Persisted { upto: JournalSeq },
    /// The disk is full. Nothing is lost; the writing is tried again and again.
    Waiting { error: StoreError },
    /// There is room again.
    Recovered,
    /// The store failed for good. Nothing more is written.
    Failed { error: StoreError },
}

/// The writing thread. Dropping it waits until every order is carried out or has failed.
#[derive(Debug)]
pub struct Scribe {
    orders: async_channel::Sender<StoreOrder>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    /// Starts the thread. `report` is called on it.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(store: Arc<Store>, report: impl FnMut(ScribeReport) + Send + 'static) -> Result<Self, std::io::Error> {
        let (orders, inbox) = async_channel::bounded(ORDERS_MAX);
        let work = move || Writing { store, inbox, report }.run();
        let thread = thread::Builder::new().name("journal".into()).spawn(work)?;
        Ok(Self { orders, thread: Some(thread) })
    }

    /// Gives an order. Waits only if `ORDERS_MAX` are ahead of it.
    pub async fn order(&self, order: StoreOrder) {
        // The thread ends early only after it reported that the store failed.
        let _ = self.orders.send(order).await;
    }

    /// Orders that wait.
    pub fn waiting(&self) -> usize {
        self.orders.len()
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.orders.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Writing<R> {
    store: Arc<Store>,
    inbox: async_channel::Receiver<StoreOrder>,
    report: R,
}

impl<R: FnMut(ScribeReport)> Writing<R> {
    fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while let Ok(first) = self.inbox.recv_blocking() {
            group.push(first);
            while group.len() < GROUP_MAX
                && let Ok(next) = self.inbox.try_recv()
            {
                group.push(next);
            }
            if let Err(error) = self.write(&group) {
                self.inbox.close();
                (self.report)(ScribeReport::Failed { error });
                return;
            }
            group.clear();
        }
    }

    /// All records of a group become durable together; then what they made superfluous goes.
    fn write(&mut self, group: &[StoreOrder]) -> Result<(), StoreError> {
        let (mut records, mut dropped, mut trimmed, mut memories) = (Vec::new(), Vec::new(), None, Vec::new());
        for order in group {
            match order {
                StoreOrder::Persist { seq, record } => records.push((*seq, record.as_slice())),
                StoreOrder::Remember { entries } => memories.extend_from_slice(entries),
                StoreOrder::Drop { hash } => dropped.push(*hash),
                StoreOrder::Trim { before } => trimmed = trimmed.max(Some(*before)),
            }
        }
        if let Some((upto, _)) = records.last() {
            self.patiently(|store| store.append(records.iter().copied()))?;
            (self.report)(ScribeReport::Persisted { upto: *upto });
        }
        if !memories.is_empty() {
            self.patiently(|store| store.remember(&memories))?;
        }
        if !dropped.is_empty() {
            self.patiently(|store| store.remove(&dropped).map(|_| ()))?;
        }
        trimmed.map_or(Ok(()), |before| self.patiently(|store| store.trim(before)))
    }

    /// Does a piece of work, waiting out a full disk.
    fn patiently(&mut self, work: impl Fn(&Store) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut pause = RETRY_FIRST;
        let mut waited = false;
        loop {
            match work(&self.store) {
                Err(error) if error.is_full() && !self.inbox.is_closed() => {
                    if !waited {
                        (self.report)(ScribeReport::Waiting { error });
                    }
                    waited = true;
                    self.pause(pause);
                    pause = (2 * pause).min(RETRY_LONGEST);
                }
                Ok(()) if waited => {
                    (self.report)(ScribeReport::Recovered);
                    return Ok(());
                }
                done => return done,
            }
        }
    }

    /// Waits, but not for long once the node stops.
    fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        while Instant::now() < end && !self.inbox.is_closed() {
            thread::sleep(Duration::from_millis(20));
        }
    }
}
