//! The ledger as others see it: blocks go in, and what they promise holds.

mod rules;
mod world;
