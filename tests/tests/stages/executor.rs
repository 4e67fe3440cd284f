//! The executor of the CPU, as the world of members calls it. Bytes lie in one pool, because a hash names the same ones
//! everywhere; which of them a node may read is what the world keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use neuroshard_core::proto::{Commitment, Fault, Hash, Job, LayerRange};
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::executor as shaders;

static POOL: Mutex<BTreeMap<Hash, Vec<u8>>> = Mutex::new(BTreeMap::new());

/// Names of the blobs that a node has.
pub(crate) type Blobs = BTreeSet<Hash>;

/// Puts bytes where every node can read them: shards.
pub(crate) fn publish(bytes: Vec<u8>) -> Hash {
    let hash = Hash::of_blob(&bytes);
    POOL.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, bytes);
    hash
}

/// What a node reads and writes.
struct Shelf<'a> {
    own: &'a mut Blobs,
    shards: &'a BTreeSet<Hash>,
}

impl shaders::Blobs for Shelf<'_> {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        let may = self.own.contains(hash) || self.shards.contains(hash);
        let pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        pool.get(hash).filter(|_| may).cloned().ok_or(Fault::BlobMissing { hash: *hash })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault> {
        let hash = publish(bytes.to_vec());
        self.own.insert(hash);
        Ok(hash)
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        self.put(&bytes)
    }
}

/// One machine.
pub(crate) struct Executor {
    executor: shaders::Executor,
    shards: BTreeSet<Hash>,
    /// The stages held, and the root of each after the last step.
    range: Option<LayerRange>,
    state: Vec<Hash>,
    /// Batches in which a value leaves its range here; no test with real numbers has one.
    pub(crate) voids: BTreeSet<u64>,
}

impl Default for Executor {
    fn default() -> Self {
        let engine = CpuEngine::new(Options { threads: 1, ..Options::default() }).expect("a CPU");
        Self {
            executor: shaders::Executor::new(Box::new(engine)),
            shards: crate::shards(),
            range: None,
            state: Vec::new(),
            voids: BTreeSet::new(),
        }
    }
}

impl Executor {
    /// The stages held, by number.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (u32, Hash)> {
        self.range.into_iter().flat_map(|range| range.start..range.end).zip(self.state.iter().copied())
    }

    pub(crate) fn run(&mut self, job: &Job, blobs: &mut Blobs) -> Result<Commitment, Fault> {
        let done = self.executor.run(job, &mut Shelf { own: blobs, shards: &self.shards })?;
        if let Job::Init { range, .. } | Job::Load { range, .. } = job {
            self.range = Some(*range);
        }
        if let Commitment::Step { step, .. } = &done {
            let look = Job::Snapshot { step: *step };
            let mut aside = Blobs::new();
            let snapshot = self.executor.run(&look, &mut Shelf { own: &mut aside, shards: &self.shards })?;
            let Commitment::Snapshot(snapshot) = snapshot else { panic!("a snapshot is one") };
            self.state = snapshot.layers.iter().map(|layer| layer.root).collect();
        }
        Ok(done)
    }
}
