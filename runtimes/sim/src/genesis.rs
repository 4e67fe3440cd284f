//! The network that a world's nodes belong to: the smallest preset, data that nobody reads, and the first nodes as its founders.

use std::sync::Arc;

use neuroshard_core::{Config, Core, Operator, RestoreError};
use neuroshard_proto::{
    Amount, Founder, Genesis, Hash, LayerRange, Manifest, Mode, ModelSpec, NetworkId, Params, Preset, Shard, Shared,
};

use crate::draw::Draw;
use crate::executor::Pace;
use crate::keys::{Keys, seed_bytes};
use crate::scenario::{Machines, WorldSpec};
use crate::sharing::SharedLedgers;

/// What a benchmark says where nodes train alone.
const SPEEDS_US: [u64; 4] = [900, 15_000, 120_000, 700_000];
/// And where they train together: most are of speeds that go together, and one is too slow for any quorum.
const SHARED_SPEEDS_US: [u64; 6] = [500, 1000, 4000, 9000, 15_000, 1_500_000];

/// The first machines can do everything, so that some quorum is possible in every world.
const ABLE: u32 = 2;

/// What all nodes of a world are told at their birth.
#[derive(Clone, Debug)]
pub(crate) struct Founding {
    seed: u64,
    batch_ms: u64,
    quorums: bool,
    machines: Option<Machines>,
    genesis: Shared<Genesis>,
    manifest: Shared<Manifest>,
    operator: Operator,
    ledgers: Arc<SharedLedgers>,
    names: Vec<neuroshard_proto::NodeId>,
    pub(crate) network: NetworkId,
}

/// The network of a world.
pub(crate) fn found(world: &WorldSpec, keys: &Keys) -> Founding {
    let (mut model, mut training) = Preset::Nano.specs();
    match world.machines {
        Some(machines) => (model.layers, training.batch) = (machines.layers, machines.sequences),
        None if world.quorums => {
            training.batch = Draw::new(world.seed, "sequences of a batch").pick(&[1, 4, 8, 16]);
        }
        None => {}
    }
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
        params: params(world),
        manifest: manifest.root(),
        allocations: allocations.collect::<Vec<_>>().try_into().expect("as few as founders"),
        founders: founders.try_into().expect("at most as many as a genesis may name"),
        first: None,
    };
    // A node without memory holds no layers, so it listens and does not train.
    let memory = if world.training { 1 << 40 } else { 0 };
    let mode = Some(Mode::Async).filter(|_| !world.quorums);
    let operator =
        Operator { snapshot_every_ms: 20_000, snapshot_every_steps: 20, mode, ..Operator::new(memory, 1 << 40) };
    let network = genesis.network();
    let ledgers = Arc::new(SharedLedgers::default());
    let hosts = keys.len();
    let names = (0..hosts).map(|host| keys.name(host)).collect();
    Founding {
        seed: world.seed,
        batch_ms: world.batch_ms,
        quorums: world.quorums,
        machines: world.machines,
        genesis: genesis.into(),
        manifest: manifest.into(),
        operator,
        ledgers,
        names,
        network,
    }
}

/// The protocol's numbers; where nodes train together, sessions end and states are saved often enough to be seen.
fn params(world: &WorldSpec) -> Params {
    let mut params = Params::DEFAULT;
    if world.quorums {
        let draw = Draw::new(world.seed, "sessions");
        let drawn = (draw.of(0).pick(&[120, 300, 1200]), draw.of(1).pick(&[3, 10, 100]));
        let (session_s, sync_interval) =
            world.machines.map_or(drawn, |machines| (machines.session_s, machines.sync_interval));
        for row in &mut params.phases {
            (row.session_s, row.sync_interval) = (session_s, sync_interval);
        }
        params.nodes.puzzle_bits = 0;
    }
    params
}

impl Founding {
    /// How fast a machine is.
    pub(crate) fn pace(&self, host: u32) -> Pace {
        let speeds: &[u64] = if self.quorums { &SHARED_SPEEDS_US } else { &SPEEDS_US };
        let draw = Draw::new(self.seed, "speed of a machine").of(u64::from(host));
        let drawn = if self.quorums && host < ABLE { SHARED_SPEEDS_US[1] } else { draw.pick(speeds) };
        let layer_us = self.machines.map_or(drawn, |machines| machines.layer_us);
        Pace { layer_us, batch_ms: self.batch_ms, shared: self.quorums }
    }

    /// What an operator lets a machine do. Where nodes train together, every third has room for a part of the model only.
    fn operator(&self, host: u32) -> Operator {
        let all = self.genesis.model.all_layers();
        let draw = Draw::new(self.seed, "room of a machine").of(u64::from(host));
        let drawn = || draw.of(1).between(1, u64::from(all.end) - 1) as u32;
        let stages = match self.machines {
            _ if !self.quorums || self.operator.memory_bytes == 0 => return self.operator,
            Some(machines) => machines.stages.min(all.end),
            None if host < ABLE || draw.of(0).below(3) > 0 => return self.operator,
            None => drawn(),
        };
        let ranges = (0..=all.end - stages).map(|start| LayerRange { start, end: start + stages });
        let part = ranges.map(|range| self.genesis.model.training_bytes(range)).max().unwrap_or_default();
        // More than the part needs by the memory rule's share (PROTOCOL §2).
        Operator { memory_bytes: part * 5 / 4 + 1000, ..self.operator }
    }

    pub(crate) fn model(&self) -> &ModelSpec {
        &self.genesis.model
    }

    /// Sequences of a batch.
    pub(crate) fn sequences(&self) -> u64 {
        u64::from(self.genesis.training.batch)
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
        let config = Config::new(self.genesis.clone(), self.manifest.clone(), node, self.operator(host));
        Core::restore_sharing(config, self.seed(host, life), journal, self.ledgers.clone())
    }
}
