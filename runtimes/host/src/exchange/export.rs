//! A saved state becomes a directory that other tools load.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use neuroshard_core::tokenizer::Tokenizer;
use neuroshard_proto::{LayerIndex, NetworkId, Step};
use serde_json::Value;

use super::{
    CONFIG, ExchangeError, GENERATION_CONFIG, SavedModel, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS, checkpoint, config,
    tokenizer,
};
use crate::files::{self, Access, FileError};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    pub network: NetworkId,
    /// Steps the exported state has taken.
    pub step: Step,
    pub parameters: u64,
    /// Bytes of `model.safetensors`.
    pub bytes: u64,
    /// Whether the head has a bias: a Llama has no place for it, and a loader needs a line of its own.
    pub bias: bool,
}

/// Writes the newest durable state of a data directory to `out`, which is created if it does not exist. `replace` allows a
/// directory that is not empty: files of other names in it are left alone.
///
/// # Errors
/// If there is no state yet, something is damaged, or `out` is not empty or cannot be written.
pub fn export(root: &Path, out: &Path, replace: bool) -> Result<Exported, ExchangeError> {
    // What is wrong with the data directory is known before anything is written.
    SavedModel::open(root)?;
    fs::create_dir_all(out).map_err(FileError::new("create", out))?;
    let empty = fs::read_dir(out).map_err(FileError::new("list", out))?.next().is_none();
    if !empty && !replace {
        return Err(ExchangeError::NotEmpty { path: out.to_owned() });
    }
    // A directory with this file is complete; it becomes so again at the end.
    let config = out.join(CONFIG);
    if config.exists() {
        fs::remove_file(&config).map_err(FileError::new("remove", &config))?;
    }
    SavedModel::read(root, |saved| write(saved, root, out))
}

fn write(saved: &SavedModel, root: &Path, out: &Path) -> Result<Exported, ExchangeError> {
    let (model, genesis) = (saved.model(), &saved.network.genesis);
    if saved.network.manifest.tokenizer != Tokenizer::genesis().hash() {
        return Err(ExchangeError::OtherVocabulary { path: root.to_owned() });
    }
    let head = saved.stage_bytes(LayerIndex(model.layers))?;
    let bias_bytes = 4 * model.vocab as usize;
    let bias = head[head.len() - bias_bytes..].iter().any(|byte| *byte != 0);
    let header = checkpoint::header(model, bias);
    let skipped = if bias { 0 } else { bias_bytes };
    let path = out.join(WEIGHTS);
    files::stream_durably(&path, Access::Default, |file| {
        let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(FileError::new("write", &path));
        put(&header)?;
        for layer in (0..model.layers).map(LayerIndex) {
            put(&saved.stage_bytes(layer)?)?;
        }
        put(&head[..head.len() - skipped]).map_err(ExchangeError::from)
    })?;
    write_json(&out.join(TOKENIZER), &tokenizer::tokenizer_json())?;
    write_json(&out.join(TOKENIZER_CONFIG), &tokenizer::tokenizer_config_json(model.context))?;
    write_json(&out.join(GENERATION_CONFIG), &tokenizer::generation_config_json())?;
    write_json(&out.join(CONFIG), &config::to_json(model, &genesis.training, bias))?;
    Ok(Exported {
        network: genesis.network(),
        step: saved.snapshot.step,
        parameters: model.parameters(),
        bytes: header.len() as u64 + 4 * model.parameters() - skipped as u64,
        bias,
    })
}

fn write_json(path: &Path, value: &Value) -> Result<(), FileError> {
    let text = format!("{value:#}\n");
    files::write_durably(path, text.as_bytes(), Access::Default)
}
