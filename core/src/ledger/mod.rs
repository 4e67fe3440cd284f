//! Agreed state (PROTOCOL §0.1).

pub mod tree;
