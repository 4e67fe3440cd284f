//! What tests of several crates share.

#[cfg(doctest)]
mod book;
pub mod duel;
pub mod golden;
pub mod toy;
