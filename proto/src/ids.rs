//! Names of things. Each id is a type of its own, so that one cannot stand where another is meant.

use core::fmt;

use postcard_schema::Schema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::Hash;
use crate::hex;

macro_rules! key_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Schema)]
        pub struct $name([u8; 32]);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                hex::serialize_array(&self.0, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                hex::deserialize_array(deserializer).map(Self)
            }
        }

        impl $name {
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex::pad(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

key_id! {
    /// A node: its ed25519 public key, which also is its libp2p identity (PROTOCOL §1).
    NodeId
}

key_id! {
    /// An owner: the cold ed25519 public key that holds the account (PROTOCOL §1).
    OwnerId
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
        pub struct $name(pub Hash);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

hash_id! {
    /// A network: the hash of its genesis. It is part of every signed message, so nothing signed for one network holds in
    /// another.
    NetworkId
}

hash_id! {
    /// A quorum: the hash of its certificate (PROTOCOL §4).
    QuorumId
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
        pub struct $name(pub u64);

        impl $name {
            /// The next one; a 64-bit counter that moved a billion times a second would last 500 years.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A question the core asked its host. Answers to unknown or lapsed ids are dropped and counted.
    RequestId
}

counter! {
    /// A record's place in the journal.
    JournalSeq
}

counter! {
    /// Optimizer steps since genesis: the step that will be, or was, taken.
    Step
}

counter! {
    /// Batches drawn since genesis.
    BatchId
}

/// A layer of the model in `0..=L`: layer 0 carries the embedding, index `L` is the final norm and head (PROTOCOL §0.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Schema)]
pub struct LayerIndex(pub u32);

impl fmt::Display for LayerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
