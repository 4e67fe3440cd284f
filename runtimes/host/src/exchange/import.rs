//! A checkpoint of another tool, or an export, becomes the first state of a new network.
//!
//! Everything is checked before anything is stored: shape, names, types, places, lengths, and at last every value. A header
//! is bounded, and a tensor is read only after its place was found to lie in the file, so no file makes this allocate
//! more than it has bytes.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use neuroshard_proto::{
    DType, LayerBlobs, LayerIndex, ModelSpec, Preset, Snapshot, Step, TensorKind, TensorSpec, TrainSpec, tile,
};
use neuroshard_shaders::canon::{exceeds, z};
use neuroshard_shaders::layout::LayerLayout;
use safetensors::tensor::{Dtype, Metadata};

use super::checkpoint::{HEADER_BYTES_MAX, LENGTH_BYTES, half, name, shape, tensors};
use super::{CONFIG, ExchangeError, JSON_BYTES_MAX, TOKENIZER, WEIGHTS, checkpoint, config, tokenizer};
use crate::files::{self, FileError};
use crate::store::Store;

/// Buffers that some older checkpoints carry and that follow from the shape.
const DERIVED: &str = "rotary_emb.inv_freq";

/// A checkpoint whose files were found to make a model.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    /// Where the tensors' bytes begin.
    start: u64,
    header: Metadata,
    shape: config::Shape,
}

impl Checkpoint {
    /// Opens a directory and checks everything in it, every value included.
    ///
    /// # Errors
    /// The first thing that no model here can be, and where.
    pub fn open(directory: &Path) -> Result<Self, ExchangeError> {
        let shape = read_config(directory)?;
        check_tokenizer(directory)?;
        let path = directory.join(WEIGHTS);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let hint = "Weights in several files, or of another format, are not read: save them in one file.";
                return Err(ExchangeError::Incomplete { path: directory.to_owned(), file: WEIGHTS, hint });
            }
            other => other.map_err(FileError::new("open", &path))?,
        };
        let (start, header) = read_header(&mut file, &path)?;
        let mut checkpoint = Self { path, file, start, header, shape };
        checkpoint.check_tensors()?;
        for layer in checkpoint.model().all_layers().iter() {
            checkpoint.stage(layer)?;
        }
        Ok(checkpoint)
    }

    /// The model's shape.
    pub const fn model(&self) -> &ModelSpec {
        &self.shape.model
    }

    /// The recipe to train it by: the one that the checkpoint brings along or, unless it does, that of the preset of the same
    /// shape or else closest in size, with sequences that fit into the context.
    pub fn training(&self) -> TrainSpec {
        let model = &self.shape.model;
        let distance = |preset: &Preset| {
            let (other, _) = preset.specs();
            (other != *model, other.parameters().abs_diff(model.parameters()))
        };
        let closest = Preset::ALL.into_iter().min_by_key(distance).unwrap_or(Preset::Nano);
        let (_, recipe) = closest.specs();
        let recipe = TrainSpec { sequence: recipe.sequence.min(model.context), ..recipe };
        self.shape.training.unwrap_or(recipe)
    }

    /// The weights of all stages, a vector each.
    ///
    /// # Errors
    /// If the file changed since it was opened.
    pub fn weights(&mut self) -> Result<Vec<Vec<f32>>, ExchangeError> {
        let model = *self.model();
        model.all_layers().iter().map(|layer| self.stage(layer)).collect()
    }

    /// Stores the weights and moments of zero as the state of step 0.
    ///
    /// # Errors
    /// If the disk is full or fails, or the file changed since it was opened.
    pub fn put(&mut self, store: &Store) -> Result<Snapshot, ExchangeError> {
        let model = *self.model();
        let mut layers = Vec::new();
        for layer in model.all_layers().iter() {
            let layout = LayerLayout::new(&model, layer);
            let bits: Vec<u32> = self.stage(layer)?.into_iter().map(f32::to_bits).collect();
            let zeros = vec![0; layout.elements];
            let mut commitments = Vec::new();
            for part in [&bits, &zeros, &zeros] {
                commitments.extend(layout.tensors.iter().map(|placed| {
                    let shape = tile::Shape { rows: placed.spec.rows, cols: placed.spec.cols };
                    tile::tensor(DType::F32, shape, &part[placed.range.clone()])
                }));
            }
            let weights: Vec<u8> = bits.into_iter().flat_map(u32::to_le_bytes).collect();
            let moments = vec![0; 2 * weights.len()];
            let root = tile::stage_state(&commitments);
            layers.push(LayerBlobs { root, weights: store.put(&weights)?, moments: store.put(&moments)? });
        }
        let layers = layers.try_into().expect("a model that was checked has few enough stages");
        Ok(Snapshot::of_stages(Step(0), layers, model.state_bytes()))
    }

    /// Every tensor of the model is there once with the right shape and a type that can be read, and nothing else is.
    fn check_tensors(&self) -> Result<(), ExchangeError> {
        let mut wanted = std::collections::BTreeSet::new();
        for (layer, tensor) in tensors(self.model()) {
            let name = name(tensor.kind, layer);
            wanted.insert(name.clone());
            let Some(info) = self.header.info(&name) else {
                if tensor.kind == TensorKind::HeadBias && !self.shape.bias {
                    continue;
                }
                return Err(ExchangeError::MissingTensor { path: self.path.clone(), name });
            };
            if !matches!(info.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16) {
                return Err(ExchangeError::Type { name, found: format!("{:?}", info.dtype) });
            }
            let expected = shape(&tensor);
            if info.shape != expected {
                return Err(ExchangeError::Shape { name, expected, found: info.shape.clone() });
            }
        }
        let mut names = self.header.offset_keys().into_iter();
        match names.find(|name| !wanted.contains(name) && !name.ends_with(DERIVED)) {
            Some(name) => Err(ExchangeError::ForeignTensor { path: self.path.clone(), name }),
            None => Ok(()),
        }
    }

    /// A stage's weights, tensors in canonical order.
    fn stage(&mut self, layer: LayerIndex) -> Result<Vec<f32>, ExchangeError> {
        let mut values = Vec::new();
        for tensor in self.shape.model.tensors(layer) {
            self.tensor(layer, &tensor, &mut values)?;
        }
        Ok(values)
    }

    fn tensor(&mut self, layer: LayerIndex, tensor: &TensorSpec, out: &mut Vec<f32>) -> Result<(), ExchangeError> {
        let name = name(tensor.kind, layer);
        let Some(info) = self.header.info(&name) else {
            // Only a bias may be missing.
            out.resize(out.len() + tensor.elements() as usize, 0.0);
            return Ok(());
        };
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let place = self.start + from as u64;
        let read = self.file.seek(SeekFrom::Start(place)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(FileError::new("read", &self.path))?;
        let first = out.len();
        let halves = || bytes.as_chunks().0.iter().map(|pair: &[u8; 2]| u16::from_le_bytes(*pair));
        match info.dtype {
            Dtype::BF16 => out.extend(halves().map(|bits| f32::from_bits(u32::from(bits) << 16))),
            Dtype::F16 => out.extend(halves().map(half)),
            _ => out.extend(bytes.as_chunks().0.iter().map(|word: &[u8; 4]| f32::from_le_bytes(*word))),
        }
        for (place, value) in out[first..].iter_mut().enumerate() {
            if exceeds(*value) {
                return Err(ExchangeError::Value { name, place, value: *value });
            }
            // Stored state has no tiny values (ARCHITECTURE §4).
            *value = z(*value);
        }
        Ok(())
    }
}

fn read_config(directory: &Path) -> Result<config::Shape, ExchangeError> {
    let path = directory.join(CONFIG);
    let bytes = match files::read_limited(&path, JSON_BYTES_MAX) {
        Err(error) if error.is_missing() => {
            let hint = "Name a directory that `neuroshard export` or `save_pretrained` wrote.";
            return Err(ExchangeError::Incomplete { path: directory.to_owned(), file: CONFIG, hint });
        }
        other => other?,
    };
    config::parse(&bytes).map_err(|why| ExchangeError::Config { path, why })
}

/// Weights mean something only with the vocabulary they were trained with.
fn check_tokenizer(directory: &Path) -> Result<(), ExchangeError> {
    let path = directory.join(TOKENIZER);
    let bytes = match files::read_limited(&path, JSON_BYTES_MAX) {
        Err(error) if error.is_missing() => {
            let hint =
                "Without it nobody knows what the model's 266 tokens are; an export's is right for bytes at 10 to 265.";
            return Err(ExchangeError::Incomplete { path: directory.to_owned(), file: TOKENIZER, hint });
        }
        other => other?,
    };
    let fail = |why: String| ExchangeError::Config { path: path.clone(), why };
    let found = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
    match tokenizer::difference(&found) {
        Some(part) => Err(fail(format!(
            "its {part} is not that of a network's first vocabulary, so the model's tokens mean something else"
        ))),
        None => Ok(()),
    }
}

/// Where the tensors begin, and what the header says of them.
fn read_header(file: &mut File, path: &Path) -> Result<(u64, Metadata), ExchangeError> {
    let damaged = |why: String| ExchangeError::Header { path: path.to_owned(), why };
    let found = file.metadata().map_err(FileError::new("read", path))?.len();
    let mut length = [0; LENGTH_BYTES];
    if found < LENGTH_BYTES as u64 {
        return Err(damaged(format!("the file has {found} bytes")));
    }
    file.read_exact(&mut length).map_err(FileError::new("read", path))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Err(damaged(format!("it claims {length} bytes, at most {HEADER_BYTES_MAX} are read")));
    }
    let start = LENGTH_BYTES as u64 + length;
    if start > found {
        return Err(damaged(format!("it claims {length} bytes, and the file has {found}")));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(FileError::new("read", path))?;
    let header = checkpoint::parse(&json).map_err(damaged)?;
    let expected = start.saturating_add(header.data_len() as u64);
    if expected != found {
        return Err(ExchangeError::Length { path: path.to_owned(), expected, found });
    }
    Ok((start, header))
}
