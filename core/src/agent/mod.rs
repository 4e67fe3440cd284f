//! What one node believes and does: local state, never agreed upon (PROTOCOL §0.1).

pub(crate) mod answer;
pub(crate) mod flow;
pub(crate) mod forming;
pub(crate) mod holding;
mod leaving;
pub(crate) mod liveness;
mod member;
pub(crate) mod mode;
mod pace;
pub(crate) mod partition;
pub(crate) mod quorum;
pub(crate) mod shelf;
pub(crate) mod solo;
pub(crate) mod tier;
