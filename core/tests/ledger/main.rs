//! The ledger as others see it: blocks go in, and what they promise holds.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests say at once what they did not expect"
)]

mod anchors;
mod nodes;
mod proofs;
mod quorums;
mod random;
mod rules;
mod validators;
mod world;
