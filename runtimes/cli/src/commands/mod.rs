//! The commands beside `run`.

pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod keys;
pub(crate) mod params;
pub(crate) mod sim;
pub(crate) mod status;
pub(crate) mod trace;
