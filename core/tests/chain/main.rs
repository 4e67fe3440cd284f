//! Nodes agree: alone, together, cut off, behind, and after crashes between any two outputs.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test may stop at what it did not expect"
)]

mod crashes;
mod newcomers;
mod together;
mod world;
