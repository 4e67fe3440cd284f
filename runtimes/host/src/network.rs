//! Founding a network, and finding it again: its genesis and data manifest in the data directory.
//!
//! The file is written last, when every shard is durable: a data directory either has a complete network or none.

use std::fmt;
use std::path::PathBuf;

use neuroshard_proto::codec::{self, Canonical, DecodeError};
use neuroshard_proto::{
    ALLOCATIONS_MAX, Allocation, FOUNDERS_MAX, Founder, Genesis, GenesisError, Hash, List, Manifest, ModelSpec, Params,
    Preset, Snapshot, Text, TrainSpec,
};
use serde::{Deserialize, Serialize};

use crate::clock::unix_ms;
use crate::data::{DataError, Embedded, Files, Packed, PackedDirectory, Skipped, Synthetic, pack};
use crate::directory::Paths;
use crate::files::{self, Access, FileError};
use crate::store::Store;

/// Longest description of what data was packed from.
const SOURCE_BYTES_MAX: u32 = 4096;
const HASH_BYTES: usize = 32;
/// Most bytes of a network's file.
pub const FILE_BYTES_MAX: u64 = Network::BYTES_MAX as u64 + HASH_BYTES as u64;

/// A network as its data directory knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub genesis: Genesis,
    pub manifest: Manifest,
    /// What the data was packed from, in the operator's words.
    pub source: Text<SOURCE_BYTES_MAX>,
}

impl Canonical for Network {
    const BYTES_MAX: u32 = 2 << 20;
}

/// Where a network's data comes from.
#[derive(Clone, Debug)]
pub enum Source<'a> {
    /// Text that is part of the program.
    Book(Embedded<'a>),
    /// See [`Synthetic`].
    Synthetic,
    /// Files, folders, or one directory that `neuroshard data pack` made.
    Paths(Vec<PathBuf>),
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Book(_) => f.write_str("book"),
            Self::Synthetic => f.write_str("synthetic"),
            Self::Paths(paths) => Files(paths.clone()).fmt(f),
        }
    }
}

/// What a new network is made of.
#[derive(Clone, Debug)]
pub struct Founding<'a> {
    pub model: ModelSpec,
    pub training: TrainSpec,
    pub params: Params,
    pub seed: Hash,
    pub source: Source<'a>,
    /// The first validators.
    pub founders: List<Founder, FOUNDERS_MAX>,
    /// Money that exists from the beginning.
    pub allocations: List<Allocation, ALLOCATIONS_MAX>,
    /// The state at step 0, if its weights were brought along. Its blobs are in the store.
    pub first: Option<Snapshot>,
}

/// What the operator asks of a network that exists already. What is `None` may be anything.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub model: Option<(ModelSpec, TrainSpec)>,
    pub seed: Option<Hash>,
    pub source: Option<String>,
}

/// Why there is no network to work on.
#[derive(Debug)]
pub enum NetworkError {
    File(FileError),
    /// The network's file is damaged.
    Damaged {
        path: PathBuf,
        why: String,
    },
    /// The network has another model.
    OtherModel {
        path: PathBuf,
        present: String,
        wanted: String,
    },
    /// The network was founded with another seed.
    OtherSeed {
        path: PathBuf,
    },
    /// The network has other data.
    OtherSource {
        path: PathBuf,
        present: String,
        wanted: String,
    },
    Data(DataError),
    Genesis(GenesisError),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Damaged { path, why } => write!(
                f,
                "the network's file {} is damaged: {why}. Without it the saved weights have no meaning. Copy a backup of it \
                 back, or start anew with another --data-dir.",
                path.display()
            ),
            Self::OtherModel { path, present, wanted } => write!(
                f,
                "the weights in {} are of the model `{present}`, and `{wanted}` was asked for. A network keeps its \
                 model: leave out --preset to go on with it, or name a new directory with --data-dir.",
                path.display()
            ),
            Self::OtherSeed { path } => write!(
                f,
                "the network in {} was founded with another seed. Leave out --seed to go on with it, or name a new \
                 directory with --data-dir.",
                path.display()
            ),
            Self::OtherSource { path, present, wanted } => write!(
                f,
                "the network in {} trains on `{present}`, and `{wanted}` was asked for. A network keeps its data: leave \
                 out --data to go on with it, or name a new directory with --data-dir.",
                path.display()
            ),
            Self::Data(error) => error.fmt(f),
            Self::Genesis(error) => write!(f, "this cannot found a network: {error}"),
        }
    }
}

impl std::error::Error for NetworkError {}

impl From<DataError> for NetworkError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

impl Network {
    /// The network of a data directory, if it has one.
    ///
    /// # Errors
    /// If its file is damaged.
    pub fn read(paths: &Paths) -> Result<Option<Self>, NetworkError> {
        let path = paths.network();
        let bytes = match files::read_limited(&path, FILE_BYTES_MAX) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other.map_err(NetworkError::File)?,
        };
        Self::from_file(&bytes).map(Some).map_err(|why| NetworkError::Damaged { path, why })
    }

    /// Reads the content of a network's file, wherever it came from.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_file(bytes: &[u8]) -> Result<Self, String> {
        let (body, stored) = bytes.split_last_chunk::<HASH_BYTES>().ok_or("it is cut short")?;
        if Hash::of_blob(body).as_bytes() != stored {
            return Err("its bytes do not have the hash they should have".into());
        }
        let network: Self = codec::decode(body).map_err(|error: DecodeError| error.to_string())?;
        network.genesis.check(&network.manifest).map_err(|error| error.to_string())?;
        Ok(network)
    }

    /// The content of the network's file.
    pub fn to_file(&self) -> Vec<u8> {
        let body = codec::encode(self);
        let hash = Hash::of_blob(&body);
        [&body[..], hash.as_bytes()].concat()
    }

    /// Writes the network's file. Everything it names must be durable already.
    pub(crate) fn write(&self, paths: &Paths) -> Result<(), NetworkError> {
        files::write_durably(&paths.network(), &self.to_file(), Access::Default).map_err(NetworkError::File)
    }

    /// Founds a network: packs its data into the store and writes its genesis. `progress` hears how much of how much data
    /// is packed.
    ///
    /// # Errors
    /// If the data cannot be packed, or model and data do not go together.
    pub fn found(
        paths: &Paths,
        store: &Store,
        founding: &Founding<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Self, Skipped), NetworkError> {
        // What is wrong with the model is known before hours of packing.
        founding.model.check().map_err(|error| NetworkError::Genesis(GenesisError::Model(error)))?;
        founding.training.check(&founding.model).map_err(|error| NetworkError::Genesis(GenesisError::Model(error)))?;
        let (manifest, skipped) = gather(store, founding, progress)?;
        let genesis = Genesis {
            created_unix_ms: unix_ms(),
            seed: founding.seed,
            model: founding.model,
            training: founding.training,
            params: founding.params,
            manifest: manifest.root(),
            founders: founding.founders.clone(),
            allocations: founding.allocations.clone(),
            first: founding.first.clone(),
        };
        genesis.check(&manifest).map_err(NetworkError::Genesis)?;
        let mut source = founding.source.to_string();
        source.truncate(source.floor_char_boundary(SOURCE_BYTES_MAX as usize));
        let network = Self { genesis, manifest, source: source.try_into().unwrap_or_default() };
        network.write(paths)?;
        Ok((network, skipped))
    }

    /// Whether the network is what the operator asks for.
    ///
    /// # Errors
    /// The first thing that is not.
    pub fn check(&self, paths: &Paths, expected: &Expected) -> Result<(), NetworkError> {
        let path = paths.root().to_owned();
        let present = (self.genesis.model, self.genesis.training);
        if let Some(wanted) = expected.model.filter(|wanted| *wanted != present) {
            let (present, wanted) = (describe(&present), describe(&wanted));
            return Err(NetworkError::OtherModel { path, present, wanted });
        }
        if let Some(wanted) = expected.source.as_ref().filter(|wanted| **wanted != *self.source) {
            let (present, wanted) = (self.source.to_string(), wanted.clone());
            return Err(NetworkError::OtherSource { path, present, wanted });
        }
        if expected.seed.is_some_and(|wanted| wanted != self.genesis.seed) {
            return Err(NetworkError::OtherSeed { path });
        }
        Ok(())
    }

    /// The preset, or `custom`.
    pub fn model_name(&self) -> &'static str {
        preset(&(self.genesis.model, self.genesis.training)).map_or("custom", Preset::name)
    }
}

fn gather(
    store: &Store,
    founding: &Founding<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Manifest, Skipped), NetworkError> {
    let put = &mut |shards: &[&[u8]]| store.put_all(shards);
    let sequence = founding.training.sequence;
    let packed = match &founding.source {
        Source::Book(text) => pack(text, sequence, put, progress),
        Source::Synthetic => pack(&Synthetic::new(founding.seed), sequence, put, progress),
        Source::Paths(paths) => {
            if let [path] = &paths[..]
                && let Some(packed) = PackedDirectory::open(path)?
            {
                packed.load(put, progress)?;
                return Ok((packed.manifest().clone(), Skipped::default()));
            }
            pack(&Files(paths.clone()), sequence, put, progress)
        }
    };
    let Packed { manifest, skipped, .. } = packed?;
    Ok((manifest, skipped))
}

fn preset(specs: &(ModelSpec, TrainSpec)) -> Option<Preset> {
    Preset::ALL.into_iter().find(|preset| preset.specs() == *specs)
}

fn describe(specs: &(ModelSpec, TrainSpec)) -> String {
    match preset(specs) {
        Some(preset) => preset.name().to_owned(),
        None => {
            let (model, training) = specs;
            format!(
                "{} layers x {}, {} heads, batches of {} x {}",
                model.layers, model.hidden, model.heads, training.batch, training.sequence
            )
        }
    }
}
