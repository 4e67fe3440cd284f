//! The commands beside `run`.

pub(crate) mod data;
pub(crate) mod devnet;
pub(crate) mod doctor;
pub(crate) mod exchange;
pub(crate) mod generate;
pub(crate) mod invite;
pub(crate) mod keys;
pub(crate) mod leave;
pub(crate) mod logits;
pub(crate) mod network;
pub(crate) mod params;
pub(crate) mod sim;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod wallet;
