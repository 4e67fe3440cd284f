//! What every async host of NeuroShard shares.

pub mod directory;
pub mod files;
pub mod keys;
pub mod runtime;
pub mod store;
