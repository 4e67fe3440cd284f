//! The network that a world's nodes belong to: the smallest preset, data that nobody reads, and the first nodes as its founders.

use std::sync::Arc;

use neuroshard_core::{Config, Core, Operator, RestoreError};
use neuroshard_proto::{
    Amount, Founder, Genesis, Hash, Manifest, Mode, ModelSpec, NetworkId, Params, Preset, Shard, Shared,
};

use crate::keys::{Keys, seed_bytes};
use crate::scenario::WorldSpec;
use crate::sharing::SharedLedgers;

/// What all nodes of a world are told at their birth.
#[derive(Clone, Debug)]
pub(crate) struct Founding {
    seed: u64,
    genesis: Shared<Genesis>,
    manifest: Shared<Manifest>,
    operator: Operator,
    ledgers: Arc<SharedLedgers>,
    names: Vec<neuroshard_proto::NodeId>,
    pub(crate) network: NetworkId,
}

/// The network of a world.
pub(crate) fn found(world: &WorldSpec, keys: &Keys) -> Founding {
    let (model, training) = Preset::Nano.specs();
    let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 65_536, held_out };
    let shards = vec![shard(b"a", false), shard(b"b", false), shard(b"c", true)];
    let shards = shards.try_into().expect("three shards are few");
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 190_000, shards };
    let founders: Vec<Founder> = (0..world.founders).map(|node| Founder::alone(keys.name(node))).collect();
    let allocations = founders.iter().map(|founder| neuroshard_proto::Allocation {
        owner: founder.owner,
        amount: Amount::from_units(1_000_000_000_000),
    });
    let genesis = Genesis {
        created_unix_ms: 0,
        seed: Hash::from_bytes(seed_bytes(world.seed, "genesis", 0)),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest.root(),
        allocations: allocations.collect::<Vec<_>>().try_into().expect("as few as founders"),
        founders: founders.try_into().expect("at most as many as a genesis may name"),
        first: None,
    };
    // A node without memory holds no layers, so it listens and does not train.
    let memory = if world.training { 1 << 40 } else { 0 };
    // Simulated executors train whole models only, so nobody takes part in quorums here.
    let mode = Some(Mode::Async);
    let operator =
        Operator { snapshot_every_ms: 20_000, snapshot_every_steps: 20, mode, ..Operator::new(memory, 1 << 40) };
    let network = genesis.network();
    let ledgers = Arc::new(SharedLedgers::default());
    let hosts = keys.len();
    let names = (0..hosts).map(|host| keys.name(host)).collect();
    Founding { seed: world.seed, genesis: genesis.into(), manifest: manifest.into(), operator, ledgers, names, network }
}

impl Founding {
    pub(crate) fn model(&self) -> &ModelSpec {
        &self.genesis.model
    }

    pub(crate) fn params(&self) -> &Params {
        &self.genesis.params
    }

    pub(crate) fn founders(&self) -> u32 {
        self.genesis.founders.len() as u32
    }

    /// The seed of a node's own randomness in one of its lives.
    pub(crate) fn seed(&self, host: u32, life: u32) -> Hash {
        Hash::from_bytes(seed_bytes(self.seed, "core", (u64::from(host) << 32) | u64::from(life)))
    }

    /// A node from its journal.
    ///
    /// # Errors
    /// If the core refuses what a core wrote.
    pub(crate) fn restore<'a>(
        &self,
        host: u32,
        life: u32,
        journal: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Core, RestoreError> {
        let node = self.names[host as usize];
        let config = Config::new(self.genesis.clone(), self.manifest.clone(), node, self.operator);
        Core::restore_sharing(config, self.seed(host, life), journal, self.ledgers.clone())
    }
}
