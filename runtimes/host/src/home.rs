//! A node's belongings, opened together: directory, keys, store, network and, out of the journal, its core.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use neuroshard_core::{Config, Core, Operator, RestoreError};
use neuroshard_proto::{Founder, Hash, LayerRange, Plan, Shared};

use crate::data::Skipped;
use crate::directory::{DataDirectory, DirectoryError, Paths};
use crate::keys::{KeyError, Keys, entropy};
use crate::network::{Founding, Network, NetworkError};
use crate::plan::{self, KeptError};
use crate::status::{AgreedStatus, Status};
use crate::store::{ByteCount, Collected, Opening, Store, StoreError};

/// Why a node's belongings cannot be used.
#[derive(Debug)]
pub enum HomeError {
    Directory(DirectoryError),
    Keys(KeyError),
    Store(StoreError),
    Network(NetworkError),
    /// The journal and the network do not make a core.
    Restore {
        path: PathBuf,
        error: RestoreError,
    },
    /// A data directory in which no network was founded yet.
    NoNetwork {
        path: PathBuf,
    },
    /// The kept plan cannot be read.
    Plan {
        path: PathBuf,
        why: String,
    },
    /// A plan gives this node other stages than those whose weights it has.
    OtherStages {
        path: PathBuf,
        present: LayerRange,
        wanted: LayerRange,
    },
}

impl fmt::Display for HomeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(error) => error.fmt(f),
            Self::Keys(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Restore { error: RestoreError::DiskBudget { needed, allowed }, .. } => write!(
                f,
                "two snapshots of this model take {}, and the disk budget leaves {} for them. Allow more with --disk.",
                ByteCount(*needed),
                ByteCount(*allowed)
            ),
            Self::Restore { path, error: error @ RestoreError::OtherNode { .. } } => write!(
                f,
                "the keys in {} are not those that wrote its journal: {error}. Put the right ones back with `neuroshard \
                 keys restore FILE`.",
                path.display()
            ),
            Self::Restore { path, error } => {
                write!(
                    f,
                    "the node in {} cannot be restored: {error}. Copy a backup of the directory back, or start anew with \
                     another --data-dir.",
                    path.display()
                )
            }
            Self::Plan { path, why } => write!(
                f,
                "the plan kept in {} cannot be read: {why}. Say --plan with the file that all members were given.",
                path.display()
            ),
            Self::OtherStages { path, present, wanted } => write!(
                f,
                "the plan gives this node the stages {wanted}, and {} holds trained weights of the stages {present}. \
                 Give it those, or begin anew with another --data-dir.",
                path.display()
            ),
            Self::NoNetwork { path } => {
                write!(
                    f,
                    "there is no network in {} yet. `neuroshard run` founds one, `neuroshard join` joins one.",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for HomeError {}

impl From<DirectoryError> for HomeError {
    fn from(error: DirectoryError) -> Self {
        Self::Directory(error)
    }
}

impl From<KeyError> for HomeError {
    fn from(error: KeyError) -> Self {
        Self::Keys(error)
    }
}

impl From<StoreError> for HomeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<NetworkError> for HomeError {
    fn from(error: NetworkError) -> Self {
        Self::Network(error)
    }
}

/// A node's belongings, for the one process that runs it.
#[derive(Debug)]
pub struct Home {
    directory: DataDirectory,
    pub keys: Keys,
    pub store: Arc<Store>,
}

impl Home {
    /// Opens a data directory for this process alone, creating it and its keys if it is new. `budget` limits the bytes of
    /// all blobs. The network is `None` if none was founded yet.
    ///
    /// # Errors
    /// Whatever is in use, damaged or contradictory.
    pub fn open(root: &Path, budget: u64) -> Result<(Self, Option<Network>), HomeError> {
        let directory = DataDirectory::open(root)?;
        let network = Network::read(directory.paths())?;
        // A network's keys are never made anew: without the old ones the node is another.
        let keys = match network {
            Some(_) => Keys::open(&directory.paths().keys())?,
            None => Keys::open_or_create(&directory.paths().keys())?,
        };
        let store = Arc::new(Store::open(directory.paths(), Opening::Exclusive, budget)?);
        Ok((Self { directory, keys, store }, network))
    }

    pub fn paths(&self) -> &Paths {
        self.directory.paths()
    }

    /// This node and its owner, as the first validator of a network.
    pub fn founder(&self) -> Founder {
        Founder { owner: self.keys.owner_id(), node: self.keys.node_id(), power: 1 }
    }

    /// Founds a network here.
    ///
    /// # Errors
    /// As [`Network::found`].
    pub fn found(
        &self,
        founding: &Founding<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Network, Skipped), HomeError> {
        Ok(Network::found(self.paths(), &self.store, founding, progress)?)
    }

    /// The plan that is kept here.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn plan(&self) -> Result<Option<Plan>, HomeError> {
        kept_plan(self.paths())
    }

    /// Keeps a plan, from which the node takes its stages from now on.
    ///
    /// # Errors
    /// If it is no plan for the network's model, or the weights that are here are of other stages.
    pub fn take_plan(&self, network: &Network, plan: Plan) -> Result<(), HomeError> {
        // A damaged one is replaced.
        let kept = kept_plan(self.paths()).ok().flatten();
        if kept.as_ref() == Some(&plan) {
            return Ok(());
        }
        let try_on = |plan: Option<Plan>| {
            let operator = Operator::new(u64::MAX, u64::MAX);
            restore(&self.store, self.paths(), network, &self.keys, (operator, plan)).map(|(core, ..)| core)
        };
        let before = try_on(kept)?;
        let config = Config { plan: Some(plan.clone().into()), ..before.config().clone() };
        let (present, wanted) = (before.config().stages(), config.stages());
        if present != wanted && !before.saved_states().is_empty() {
            return Err(HomeError::OtherStages { path: self.paths().root().to_owned(), present, wanted });
        }
        try_on(Some(plan.clone()))?;
        plan::write(self.paths(), &plan).map_err(|error| HomeError::Network(NetworkError::File(error)))
    }

    /// Restores the core from the journal, and removes blobs that neither it nor the network's data names.
    ///
    /// # Errors
    /// If the journal is damaged or belongs to another node or network.
    pub fn restore(&self, network: &Network, operator: Operator) -> Result<(Core, Start), HomeError> {
        let plan = kept_plan(self.paths())?;
        let (core, seed, journal) = restore(&self.store, self.paths(), network, &self.keys, (operator, plan))?;
        let mut named = core.pinned();
        named.extend(network.manifest.shards.iter().map(|shard| shard.hash));
        let collected = self.store.collect(&named)?;
        if collected != Collected::default() {
            tracing::info!(blobs = collected.blobs, bytes = collected.bytes, "removed what a crash had left behind");
        }
        Ok((core, Start { seed, journal }))
    }
}

/// What a core was restored with, beside its configuration: a trace begins with it.
#[derive(Clone, Debug)]
pub struct Start {
    pub seed: Hash,
    pub journal: Vec<Vec<u8>>,
}

/// A node's belongings as a reader sees them, beside the process that may be running it.
#[derive(Debug)]
pub struct Visit {
    pub paths: Paths,
    pub keys: Keys,
    pub network: Network,
    pub store: Store,
    pub core: Core,
}

impl Visit {
    /// Looks into a data directory without changing anything in it.
    ///
    /// # Errors
    /// If there is no network yet, or something is damaged.
    pub fn open(root: &Path) -> Result<Self, HomeError> {
        let paths = Paths::of_existing(root)?;
        let Some(network) = Network::read(&paths)? else {
            return Err(HomeError::NoNetwork { path: root.to_owned() });
        };
        let keys = Keys::open(&paths.keys())?;
        let store = Store::open(&paths, Opening::ReadOnly, 0)?;
        let operator = Operator::new(u64::MAX, u64::MAX);
        let plan = kept_plan(&paths)?;
        let (core, _, _) = restore(&store, &paths, &network, &keys, (operator, plan))?;
        Ok(Self { paths, keys, network, store, core })
    }

    /// How things stood when the last state became durable.
    pub fn status(&self) -> Status {
        let mut status =
            Status::new(&self.network, self.keys.node_id().to_string(), self.paths.root().display().to_string());
        status.store_bytes = self.store.bytes_used();
        status.on_restored(self.core.saved_states().last());
        status.on_plan(self.core.config());
        status.agreed = Some(AgreedStatus::new(self.core.ledger(), self.keys.owner_id()));
        status
    }
}

fn kept_plan(paths: &Paths) -> Result<Option<Plan>, HomeError> {
    let fail = |why| HomeError::Plan { path: paths.plan(), why };
    plan::read(paths).map_err(|error| match error {
        KeptError::File(error) => fail(error.to_string()),
        KeptError::Damaged { why } => fail(why),
    })
}

fn restore(
    store: &Store,
    paths: &Paths,
    network: &Network,
    keys: &Keys,
    (operator, plan): (Operator, Option<Plan>),
) -> Result<(Core, Hash, Vec<Vec<u8>>), HomeError> {
    // The core trims its journal, so it is short.
    let mut journal = Vec::new();
    store.records(|_, record| {
        journal.push(record.to_vec());
        ControlFlow::Continue(())
    })?;
    let Network { genesis, manifest, .. } = network.clone();
    let config = Config::new(genesis, manifest, keys.node_id(), operator);
    let config = Config { plan: plan.map(Shared::from), ..config };
    let seed = entropy()?;
    let core = Core::restore(config, seed, &journal);
    let core = core.map_err(|error| HomeError::Restore { path: paths.root().to_owned(), error })?;
    Ok((core, seed, journal))
}
