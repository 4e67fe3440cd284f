//! Our agreement beside a second implementation, in one world, under one set of checkers.
//!
//! A [`Protocol`] makes validators of a height; a [`Schedule`] says what goes wrong; [`run`] lets the height happen and says
//! what it came to, or what must hold and did not: one block at most is decided, by a quorum; somebody made it; no honest
//! validator contradicts itself over all its lives; and when calm returns all honest ones decide. A run is a pure
//! function of protocol, schedule and seed.
//!
//! Messages go straight to each other validator, and each copy has a delay and a fate of its own. Who has decided tells those
//! who have not when it hears of them, whatever the protocol. Blocks are names here: both protocols leave bodies to the host.

#[cfg(test)]
mod checklist;
mod context;
mod host;
mod tendermint;
mod world;

use std::fmt;
use std::sync::Arc;

use neuroshard_core::agreement::{Agreement, Simplex};
use neuroshard_core::proto::NodeId;
use neuroshard_core::proto::chain::Seats;

pub use host::{HEIGHT, Host, Letters, To, Told, Validator};
pub use tendermint::{AsItComes, Hasty, Tendermint};
pub use world::{Cut, Outcome, Schedule, node, run};

/// A protocol that decides a height, by name.
#[derive(Clone, Copy)]
pub struct Protocol {
    pub name: &'static str,
    /// Makes the host at a place.
    pub begin: fn(NodeId, usize, &Arc<Seats>) -> Box<dyn Validator>,
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn begin<A: Agreement + 'static>(node: NodeId, place: usize, seats: &Arc<Seats>) -> Box<dyn Validator> {
    Box::new(Host::<A>::new(node, place, seats))
}

/// Ours.
pub const SIMPLEX: Protocol = Protocol { name: "Simplex", begin: begin::<Simplex> };
/// The library, with a first round of at most a second.
pub const HASTY: Protocol = Protocol { name: "Malachite, hasty", begin: begin::<Hasty> };
/// The library with the timeouts it comes with.
pub const AS_IT_COMES: Protocol = Protocol { name: "Malachite", begin: begin::<AsItComes> };
