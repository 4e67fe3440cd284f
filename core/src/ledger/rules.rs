//! The rules in force: what the genesis says, and later what votes change.

use neuroshard_proto::codec::Canonical;
use neuroshard_proto::{Genesis, NetworkId, Params};
use serde::{Deserialize, Serialize};

use super::part::Module;

/// What `apply` must know and no transaction changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    pub(super) network: NetworkId,
    pub(super) params: Params,
    /// Layers that a node may hold: those of the model, with the head (PROTOCOL §0.2).
    pub(super) stages: u32,
}

impl Canonical for Rules {}

impl Module for Rules {
    const NAME: &'static str = "rules";
}

impl Rules {
    pub(super) fn genesis(genesis: &Genesis) -> Self {
        Self { network: genesis.network(), params: genesis.params, stages: genesis.model.all_layers().end }
    }
}
