//! What one node believes and does: local state, never agreed upon (PROTOCOL §0.1).

pub(crate) mod answer;
pub(crate) mod liveness;
pub(crate) mod mode;
pub(crate) mod solo;
pub(crate) mod tier;
