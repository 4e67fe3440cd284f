//! What the reference node's tests want of nodes that train together, with this node in its place.

#[path = "../../smol/tests/quorums.rs"]
mod quorums;
