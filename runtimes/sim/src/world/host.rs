//! A machine of the world: a node's process, if it runs, and what outlives it.

use std::collections::VecDeque;

use neuroshard_core::Core;
use neuroshard_proto::{Hash, RequestId};
use neuroshard_replay::Recorder;

use crate::byzantine::Conduct;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::executor::Executor;
use crate::passing::Passing;

/// A machine. What few of them have is boxed: a world may have a million.
#[derive(Debug)]
pub(super) struct Host {
    /// The process, while it runs.
    pub(super) core: Option<Box<Core>>,
    /// Starts so far.
    pub(super) life: u32,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    /// The executor, from its first job on.
    pub(super) executor: Option<Box<Executor>>,
    /// Streams and gradients in memory.
    pub(super) passing: Passing,
    /// What waits for a signature, in order.
    pub(super) signing: VecDeque<(RequestId, Hash)>,
    /// When the signer has done what it was asked.
    pub(super) signs_until: u64,
    /// When the timer in the queue goes off, and which of them is live.
    pub(super) timer: Option<u64>,
    pub(super) generation: u32,
    /// The host's own count of events.
    pub(super) sequence: u64,
    /// Until when its line is busy.
    pub(super) line_busy_until: u64,
    pub(super) end: End,
    pub(super) conduct: Option<Box<dyn Conduct>>,
    pub(super) recorder: Option<Box<Recorder<Vec<u8>>>>,
}

/// How a process is about to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    #[default]
    NotInSight,
    /// Its operator stopped it and will start it again at this time.
    Leaving { until: u64 },
    /// It falls in its next step after so many outputs, as an act says.
    Falling { outputs: u32, act: u32 },
}

impl Host {
    pub(super) const fn new(conduct: Option<Box<dyn Conduct>>) -> Self {
        Self {
            core: None,
            life: 0,
            clock: Clock::new(),
            disk: Disk::new(),
            executor: None,
            passing: Passing::new(),
            signing: VecDeque::new(),
            signs_until: 0,
            timer: None,
            generation: 0,
            sequence: 0,
            line_busy_until: 0,
            end: End::NotInSight,
            conduct,
            recorder: None,
        }
    }

    /// Whether an event belongs to the process that runs now.
    pub(super) const fn lives(&self, life: u32) -> bool {
        self.core.is_some() && self.life == life
    }
}
