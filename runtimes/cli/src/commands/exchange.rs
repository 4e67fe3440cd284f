//! `neuroshard export` and `neuroshard import`: models out of a data directory and into a new one.

use std::path::Path;

use neuroshard_host::exchange::{self, Checkpoint};
use neuroshard_host::home::Home;
use neuroshard_host::network::Founding;
use neuroshard_host::store::ByteCount;
use serde_json::json;

use crate::display::{count, short_path};
use crate::failure::Failure;
use crate::run::{seed, source};
use crate::say::out;
use crate::settings::Settings;

pub(crate) fn export(settings: &Settings, out: &Path, force: bool) -> Result<(), Failure> {
    let written = exchange::export(&settings.data_dir()?, out, force)?;
    if settings.json.unwrap_or(false) {
        let line = json!({
            "event": "exported",
            "dir": out.display().to_string(),
            "network": written.network.to_string(),
            "step": written.step.0,
            "parameters": written.parameters,
            "bytes": written.bytes,
            "lm_head_bias": written.bias,
        });
        out!("{line}");
        return Ok(());
    }
    out!("exported  step {} of network {:.16} to {}", written.step, written.network, out.display());
    out!("model     {} parameters as singles, {}", count(written.parameters), ByteCount(written.bytes));
    if written.bias {
        out!("note      the head has a bias, which a Llama has not: transformers reports it as UNEXPECTED and leaves");
        out!("          it out. The line that puts it in is in the book, under \"Models in and out\".");
    }
    Ok(())
}

pub(crate) fn import(settings: &Settings, from: &Path) -> Result<(), Failure> {
    let mut checkpoint = Checkpoint::open(from)?;
    let (model, training) = (*checkpoint.model(), settings.recipe(checkpoint.training()));
    training.check(&model).map_err(|error| Failure::new(format!("{} with this recipe: {error}", from.display())))?;
    let seed = seed(settings)?;
    let (home, network) = Home::open(&settings.data_dir()?, settings.disk_bytes())?;
    let root = home.paths().root().to_owned();
    if let Some(network) = network {
        return Err(Failure::new(format!(
            "{} holds network {:.16} already, and weights cannot be put under it. Name a new directory with --data-dir.",
            root.display(),
            network.genesis.network()
        )));
    }
    let first = checkpoint.put(&home.store)?;
    let (state, source, params, me) = (first.root, source(settings), settings.params(), home.founder());
    let allocations = settings.allocations(me.owner).map_err(Failure::usage)?;
    let founders = settings.founders(me).map_err(Failure::usage)?;
    let founding = Founding { model, training, params, seed, source, founders, allocations, first: Some(first) };
    let (network, skipped) = home.found(&founding, &mut |_, _| {})?;
    let id = network.genesis.network();
    if settings.json.unwrap_or(false) {
        let line = json!({
            "event": "imported",
            "dir": from.display().to_string(),
            "data_dir": root.display().to_string(),
            "network": id.to_string(),
            "preset": network.model_name(),
            "parameters": model.parameters(),
            "root": state.to_string(),
            "data": network.source.to_string(),
        });
        out!("{line}");
        return Ok(());
    }
    out!("imported  {} into {}", from.display(), short_path(&root.display().to_string()));
    out!("founded   network {id:.16}, whose first weights these are");
    out!("model     {}: {} parameters, root {state:.16}", network.model_name(), count(model.parameters()));
    out!("text      {}, {}", network.source, ByteCount(network.manifest.text_bytes));
    if !skipped.is_nothing() {
        out!("skipped   {skipped}");
    }
    out!("Train them with: neuroshard run --data-dir {}", root.display());
    Ok(())
}
