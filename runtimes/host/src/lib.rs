//! What every async host of NeuroShard shares.

pub mod agreed;
pub mod api;
pub mod clock;
pub mod codes;
pub mod data;
pub mod directory;
pub mod exchange;
mod fetches;
pub mod files;
pub mod generate;
pub mod home;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod net;
pub mod network;
pub mod node;
pub mod peers;
mod plan;
pub mod registration;
pub mod runtime;
pub mod status;
pub mod store;
pub mod throttle;
pub mod training;
pub mod why;
pub mod worker;
