//! Models in and out of a data directory, in the form that other tools know: a directory with a Llama checkpoint
//! (PROTOCOL §13).
//!
//! | file | content |
//! |---|---|
//! | `config.json` | the shape, as a Llama model; the training recipe under `neuroshard` |
//! | `model.safetensors` | the weights as singles, under a checkpoint's names (module `checkpoint`) |
//! | `tokenizer.json`, `tokenizer_config.json` | the byte-level vocabulary (module `tokenizer`) |
//! | `generation_config.json` | where generation stops |
//!
//! `config.json` is written last: a directory that has one is complete. Nothing in the files depends on the network or the
//! step they come from, so an export of an imported export has the same bytes.

mod checkpoint;
mod config;
mod error;
mod export;
mod import;
mod saved;
mod tokenizer;

pub use self::error::ExchangeError;
pub use self::export::{Exported, export};
pub use self::import::Checkpoint;
pub use self::saved::SavedModel;
pub use self::tokenizer::tokenizer_json;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";

/// Longest text file that is read.
const JSON_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests;
