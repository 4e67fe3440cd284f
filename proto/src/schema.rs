//! The wire schema as data (PROTOCOL §1): every type that is sent, signed, stored or recorded, by name.
//!
//! `cargo xtask schema` writes it to `proto/schema.json`; a test holds that file to this list.

use alloc::vec;
use alloc::vec::Vec;

use postcard_schema::Schema;
use postcard_schema::schema::NamedType;

use crate::envelope::Envelope;
use crate::genesis::{Genesis, Manifest};
use crate::job::{Commitment, Fault, Job};
use crate::message::Heartbeat;
use crate::params::Params;

/// The schemas of this crate's top-level types.
pub fn types() -> Vec<&'static NamedType> {
    vec![
        Envelope::SCHEMA,
        Heartbeat::SCHEMA,
        Genesis::SCHEMA,
        Manifest::SCHEMA,
        Params::SCHEMA,
        Job::SCHEMA,
        Commitment::SCHEMA,
        Fault::SCHEMA,
    ]
}
