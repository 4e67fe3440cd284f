//! What nodes say to each other.

use alloc::boxed::Box;
use alloc::vec::Vec;

use postcard_schema::Schema;
use postcard_schema::schema::NamedType;
use serde::{Deserialize, Serialize};

use crate::bounded::{List, Text};
use crate::chain::{
    Block, BlocksWanted, Certificate, Decided, Proposal, StatePiece, StateWanted, Steps, StepsWanted, Transaction, Vote,
};
use crate::codec::{self, Canonical};
use crate::envelope::{Reject, WIRE_VERSION, signing_bytes};
use crate::forming::FormingMessage;
use crate::hash::Hash;
use crate::ids::{NetworkId, NodeId, QuorumId, Step};
use crate::quorum::QuorumMessage;
use crate::shared::Shared;
use crate::time::Time;

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

/// Most addresses in a beacon, and most bytes of each.
pub const BEACON_ADDRESSES_MAX: u32 = 4;
pub const ADDRESS_BYTES_MAX: u32 = 128;

/// "Here is a node of this network": for those on the same local network who look for one. A hint, never authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Beacon {
    pub node: NodeId,
    /// Multiaddresses under which the node is reached from there.
    pub addresses: List<Text<ADDRESS_BYTES_MAX>, BEACON_ADDRESSES_MAX>,
}

impl Canonical for Beacon {
    // A length before each of the addresses, and their number.
    const BYTES_MAX: u32 = 32 + 1 + BEACON_ADDRESSES_MAX * (2 + ADDRESS_BYTES_MAX);
}

/// Whoever passes on what others signed, under its own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Carried<T> {
    pub node: NodeId,
    pub what: T,
}

impl<T: Canonical> Canonical for Carried<T> {
    const BYTES_MAX: u32 = T::BYTES_MAX + 32;
}

macro_rules! messages {
    ($($(#[$doc:meta])* $number:literal $kind:ident($payload:ty) by |$value:ident| $signer:expr;)*) => {
        /// A message's kind as it stands in the envelope. Numbers are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$kind => $number,)*
                }
            }

            /// The kind's name in tables and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                }
            }

            /// The shape of the kind's payload.
            pub const fn payload_schema(self) -> &'static NamedType {
                match self {
                    $(Self::$kind => <$payload>::SCHEMA,)*
                }
            }
        }

        /// The content of an envelope.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $kind($payload),)*
        }

        impl Message {
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// Who must have signed it.
            pub fn signer(&self) -> NodeId {
                match self {
                    $(Self::$kind($value) => $signer,)*
                }
            }

            /// The envelope's payload.
            pub fn payload(&self) -> Vec<u8> {
                match self {
                    $(Self::$kind(value) => codec::encode(value),)*
                }
            }

            /// Reads a payload of a kind.
            ///
            /// # Errors
            /// The rule of the encoding that the payload breaks.
            pub fn from_payload(kind: Kind, payload: &[u8]) -> Result<Self, Reject> {
                match kind {
                    $(Kind::$kind => codec::decode(payload).map(Self::$kind),)*
                }
                .map_err(Reject::Payload)
            }
        }
    };
}

messages! {
    /// A node lives.
    1 Heartbeat(Heartbeat) by |heartbeat| heartbeat.node;
    /// An account or a node wishes for a change of agreed state.
    2 Transaction(Transaction) by |transaction| transaction.signer();
    /// A validator votes.
    3 Vote(Vote) by |vote| vote.validator;
    /// A leader proposes a block.
    4 Proposal(Box<Proposal>) by |proposal| proposal.leader;
    /// How a view ended, for those who missed it.
    5 Certificate(Box<Carried<Certificate>>) by |carried| carried.node;
    /// A node asks for decided blocks.
    6 BlocksWanted(BlocksWanted) by |wanted| wanted.node;
    /// A decided block, for those who missed it.
    7 Decided(Box<Carried<Shared<Decided>>>) by |carried| carried.node;
    /// A node asks for the way to a later header.
    8 StepsWanted(StepsWanted) by |wanted| wanted.node;
    /// The way to a header whose state can be had.
    9 Steps(Box<Steps>) by |steps| steps.node;
    /// A node asks for a piece of the state.
    10 StateWanted(StateWanted) by |wanted| wanted.node;
    /// A piece of the state.
    11 StatePiece(Box<StatePiece>) by |piece| piece.node;
    /// A member of a quorum speaks to another one.
    12 Quorum(Box<QuorumMessage>) by |message| message.node;
    /// Nodes become a quorum.
    13 Forming(Box<FormingMessage>) by |message| message.node;
    /// A node calls for others on its local network.
    14 Beacon(Box<Beacon>) by |beacon| beacon.node;
}

impl Kind {
    /// The kind with this number.
    ///
    /// # Errors
    /// [`Reject::UnknownKind`] for numbers this version does not know.
    pub fn from_number(number: u16) -> Result<Self, Reject> {
        Self::ALL.iter().copied().find(|kind| kind.number() == number).ok_or(Reject::UnknownKind { number })
    }
}

impl Message {
    /// What its signer signs.
    pub fn digest(&self, network: NetworkId) -> Hash {
        signing_bytes(network, WIRE_VERSION, self.kind().number(), &self.payload())
    }

    /// Checks every signature that the message carries beside its sender's, so that who has a [`crate::Verified`] need not.
    /// [`Steps`] and [`StatePiece`] are excepted: whoever takes them checks them against what it trusts.
    pub(crate) fn check_inside(&self, network: NetworkId) -> Result<(), Reject> {
        match self {
            Self::Heartbeat(_) | Self::Transaction(_) | Self::Vote(_) | Self::BlocksWanted(_) => Ok(()),
            Self::StepsWanted(_) | Self::Steps(_) | Self::StateWanted(_) | Self::StatePiece(_) => Ok(()),
            Self::Quorum(_) | Self::Forming(_) | Self::Beacon(_) => Ok(()),
            Self::Proposal(proposal) => {
                check_block(&proposal.block, network)?;
                check_certificates(&proposal.entry, network)?;
                check_certificates(&proposal.lock, network)
            }
            Self::Certificate(carried) => check_certificates([&carried.what], network),
            Self::Decided(carried) => {
                check_block(&carried.what.block, network)?;
                check_certificates([&carried.what.certificate], network)
            }
        }
    }
}

fn check_block(block: &Block, network: NetworkId) -> Result<(), Reject> {
    if block.header.network != network {
        return Err(Reject::OtherNetwork { theirs: block.header.network });
    }
    match block.forged() {
        Some(signer) => Err(Reject::Signature { signer }),
        None => check_certificates(&block.finality, network),
    }
}

fn check_certificates<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    network: NetworkId,
) -> Result<(), Reject> {
    certificates.into_iter().try_for_each(|one| one.check_signatures(network).map_err(Reject::Certificate))
}
