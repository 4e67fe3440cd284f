//! What must hold, looked at after every event. Each checker is a file, has a name that failures carry, and sees the world from
//! outside: inputs, outputs, disks and what cores show of themselves.
//!
//! Byzantine nodes are held only to what their core can do nothing about; checkers skip them unless they say otherwise.

mod bounds;
mod chain;
mod deadlines;
mod durable;
mod peers;
mod restore;
mod training;
mod votes;

use std::collections::BTreeSet;
use std::fmt::Debug;

use neuroshard_core::{Core, Input, Output};
use neuroshard_proto::{NodeId, Time};

use crate::disk::Disk;
use crate::mesh::Mesh;

/// A step that was taken, before its outputs are done.
#[derive(Debug)]
pub(crate) struct Stepped<'a> {
    pub(crate) at: u64,
    pub(crate) host: u32,
    pub(crate) honest: bool,
    /// What the node's clock read.
    pub(crate) now: Time,
    pub(crate) input: &'a Input,
    /// What it asked for, as far as it will be done: a node that falls in the middle of a step does only a part.
    pub(crate) outputs: &'a [Output],
    pub(crate) core: &'a Core,
    pub(crate) disk: &'a Disk,
}

/// A node that has just been restored.
#[derive(Debug)]
pub(crate) struct Started<'a> {
    pub(crate) host: u32,
    pub(crate) core: &'a Core,
    /// The same start a second time.
    pub(crate) again: &'a Core,
    pub(crate) disk: &'a Disk,
}

/// A node in the calm.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) host: u32,
    pub(crate) core: &'a Core,
}

/// The world in the calm: the honest nodes, all of which are up again.
#[derive(Debug)]
pub(crate) struct Calm<'a> {
    pub(crate) nodes: &'a [Standing<'a>],
    pub(crate) mesh: &'a Mesh,
    pub(crate) training: bool,
    /// Whether nodes train together, and nobody lies to them.
    pub(crate) together: bool,
}

/// Something that must always hold, and what is to be reached in the calm.
pub(crate) trait Checker: Debug {
    /// What failures are called.
    fn name(&self) -> &'static str;

    /// A step was taken.
    ///
    /// # Errors
    /// What does not hold.
    fn stepped(&mut self, _step: &Stepped<'_>) -> Result<(), String> {
        Ok(())
    }

    /// A node was restored.
    ///
    /// # Errors
    /// What does not hold.
    fn started(&mut self, _start: &Started<'_>) -> Result<(), String> {
        Ok(())
    }

    /// The faults are over; what is reached from here on counts.
    fn healed(&mut self, _calm: &Calm<'_>) {}

    /// What the calm has not brought about yet.
    fn missing(&self, _calm: &Calm<'_>) -> Option<String> {
        None
    }
}

/// Every checker there is, for a world of so many hosts in which these nodes lie.
pub(crate) fn all(hosts: u32, liars: BTreeSet<NodeId>) -> Vec<Box<dyn Checker>> {
    vec![
        Box::<bounds::Bounds>::default(),
        Box::new(chain::Chain::new(hosts, liars)),
        Box::new(deadlines::Deadlines::new(hosts)),
        Box::new(durable::Durable),
        Box::new(peers::Peers::new(hosts)),
        Box::new(restore::Restore),
        Box::<training::Training>::default(),
        Box::<votes::Votes>::default(),
    ]
}
