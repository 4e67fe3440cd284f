//! What every async host of NeuroShard shares.

pub mod data;
pub mod directory;
pub mod files;
pub mod keys;
pub mod runtime;
pub mod store;
