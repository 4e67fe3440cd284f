//! Why a model cannot leave or enter, in words that name the file, the tensor, and what was expected.

use std::fmt;
use std::path::PathBuf;

use neuroshard_proto::{LayerRange, TensorKind};

use crate::files::FileError;
use crate::home::HomeError;
use crate::store::StoreError;

/// Why a model could not be read, written or taken up.
#[derive(Debug)]
pub enum ExchangeError {
    Home(HomeError),
    Store(StoreError),
    File(FileError),
    /// The network has not saved a state yet.
    NoWeights {
        path: PathBuf,
    },
    /// The node runs only some stages of the model.
    Part {
        path: PathBuf,
        stages: LayerRange,
        all: LayerRange,
    },
    /// The network's tokenizer is one that cannot be written yet.
    OtherVocabulary {
        path: PathBuf,
    },
    /// Nothing is written into a directory that holds anything.
    NotEmpty {
        path: PathBuf,
    },
    /// A directory without a `config.json`, or without weights in one file.
    Incomplete {
        path: PathBuf,
        file: &'static str,
        hint: &'static str,
    },
    /// A text file is no JSON, or says something that no model here can be.
    Config {
        path: PathBuf,
        why: String,
    },
    /// The weights' header is damaged.
    Header {
        path: PathBuf,
        why: String,
    },
    /// The weights' file is longer or shorter than its header says.
    Length {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    /// A tensor of the model is not there.
    MissingTensor {
        path: PathBuf,
        name: String,
    },
    /// A tensor is there that the model does not have.
    ForeignTensor {
        path: PathBuf,
        name: String,
    },
    Shape {
        name: String,
        expected: Vec<usize>,
        found: Vec<usize>,
    },
    Type {
        name: String,
        found: String,
    },
    /// A weight is no number, or too large to compute with.
    Value {
        name: String,
        place: usize,
        value: f32,
    },
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Home(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::NoWeights { path } => write!(
                f,
                "the network in {} has no saved weights yet. A node saves for the first time after 30 seconds or 100 \
                 steps, and when it is stopped with Ctrl-C.",
                path.display()
            ),
            Self::Part { path, stages, all } => write!(
                f,
                "the node in {} trains the stages {stages} of {all}, and has no weights of the others. They lie \
                 with the other members; putting a model together from several is not there yet.",
                path.display()
            ),
            Self::OtherVocabulary { path } => write!(
                f,
                "the network in {} has merged tokens, and this version writes the vocabulary of bytes alone",
                path.display()
            ),
            Self::NotEmpty { path } => write!(
                f,
                "{} is not empty, and nothing was written into it. Name a new or an empty directory, or replace an \
                 earlier export with --force.",
                path.display()
            ),
            Self::Incomplete { path, file, hint } => {
                write!(f, "{} has no {file}, so it is not a whole checkpoint. {hint}", path.display())
            }
            Self::Config { path, why } => write!(f, "{}: {why}", path.display()),
            Self::Header { path, why } => write!(
                f,
                "the header of {} is damaged: {why}. Copy the file again from where it came from.",
                path.display()
            ),
            Self::Length { path, expected, found } => write!(
                f,
                "{} has {found} bytes, and its header speaks of {expected}: it is {}. Copy it again from where it came \
                 from.",
                path.display(),
                if found < expected { "cut short" } else { "followed by something else" }
            ),
            Self::MissingTensor { path, name } if name == TensorKind::HeadBias.checkpoint_name() => write!(
                f,
                "{} has no tensor {name}, and config.json says that the head has a bias. A program that leaves it out loses \
                 a part of the model; if that is meant, set lm_head_bias to false.",
                path.display()
            ),
            Self::MissingTensor { path, name } => write!(f, "{} has no tensor {name}", path.display()),
            Self::ForeignTensor { path, name } => {
                write!(f, "{} has a tensor {name}, for which the model has no place", path.display())
            }
            Self::Shape { name, expected, found } => write!(
                f,
                "tensor {name} has the shape {found:?}, and a model of this config.json needs {expected:?} there"
            ),
            Self::Type { name, found } => {
                write!(f, "tensor {name} has elements of type {found}; F32, BF16 and F16 can be read")
            }
            Self::Value { name, place, value } => write!(
                f,
                "element {place} of tensor {name} is {value}: weights must be numbers of a magnitude below 2^50"
            ),
        }
    }
}

impl std::error::Error for ExchangeError {}

impl From<HomeError> for ExchangeError {
    fn from(error: HomeError) -> Self {
        Self::Home(error)
    }
}

impl From<StoreError> for ExchangeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FileError> for ExchangeError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}
