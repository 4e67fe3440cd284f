//! What nodes say to each other.

use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Canonical};
use crate::envelope::Reject;
use crate::ids::{NodeId, QuorumId, Step};
use crate::time::Time;

/// A message's kind as it stands in the envelope. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Heartbeat,
}

impl Kind {
    pub const ALL: [Self; 1] = [Self::Heartbeat];

    pub const fn number(self) -> u16 {
        match self {
            Self::Heartbeat => 1,
        }
    }

    /// The kind with this number.
    ///
    /// # Errors
    /// [`Reject::UnknownKind`] for numbers this version does not know.
    pub fn from_number(number: u16) -> Result<Self, Reject> {
        Self::ALL.into_iter().find(|kind| kind.number() == number).ok_or(Reject::UnknownKind { number })
    }
}

/// "I am here": sent every 30 s to quorum and cohort neighbours (PROTOCOL §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Heartbeat {
    pub node: NodeId,
    /// The sender's time.
    pub time: Time,
    /// The quorum the sender trains in.
    pub quorum: Option<QuorumId>,
    /// Microbatches that wait.
    pub queue_depth: u32,
    /// Memory the sender could still give, in bytes.
    pub free_bytes: u64,
    /// The sender's optimizer step.
    pub step: Step,
}

impl Canonical for Heartbeat {
    const BYTES_MAX: u32 = 128;
}

/// The content of an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Heartbeat(Heartbeat),
}

impl Message {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Heartbeat(_) => Kind::Heartbeat,
        }
    }

    /// Who must have signed it.
    pub const fn signer(&self) -> NodeId {
        match self {
            Self::Heartbeat(heartbeat) => heartbeat.node,
        }
    }

    /// The envelope's payload.
    pub fn payload(&self) -> alloc::vec::Vec<u8> {
        match self {
            Self::Heartbeat(heartbeat) => codec::encode(heartbeat),
        }
    }

    /// Reads a payload of a kind.
    ///
    /// # Errors
    /// The rule of the encoding that the payload breaks.
    pub fn from_payload(kind: Kind, payload: &[u8]) -> Result<Self, Reject> {
        match kind {
            Kind::Heartbeat => codec::decode(payload).map(Self::Heartbeat).map_err(Reject::Payload),
        }
    }
}
