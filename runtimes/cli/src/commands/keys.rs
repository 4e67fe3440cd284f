//! `neuroshard keys`: a backup of the secret keys, the way back, what others call this node, and the code of a founder.

use std::path::Path;

use neuroshard_host::codes::founder_code;
use neuroshard_host::directory::{DataDirectory, Paths};
use neuroshard_host::keys::Keys;
use neuroshard_proto::Founder;

use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;

pub(crate) fn backup(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let paths = Paths::of_existing(&settings.data_dir()?)?;
    let keys = Keys::open(&paths.keys()).map_err(Failure::new)?;
    keys.back_up(file).map_err(Failure::new)?;
    out!("wrote the keys of node {:.16} to {}", keys.node_id(), file.display());
    out!("Whoever has this file is you: keep it where nobody else can read it.");
    Ok(())
}

/// The keys of the data directory, made if there are none.
fn keys(settings: &Settings) -> Result<Keys, Failure> {
    let root = settings.data_dir()?;
    // Keys that are there can be read beside a running node; new ones need the directory for a moment.
    let existing = Paths::of_existing(&root).ok().and_then(|paths| Keys::open(&paths.keys()).ok());
    match existing {
        Some(keys) => Ok(keys),
        None => Keys::open_or_create(&DataDirectory::open(&root)?.paths().keys()).map_err(Failure::new),
    }
}

/// Prints what others call this node and its owner.
pub(crate) fn show(settings: &Settings) -> Result<(), Failure> {
    let keys = keys(settings)?;
    if settings.json.unwrap_or(false) {
        out!("{}", serde_json::json!({ "node": keys.node_id(), "owner": keys.owner_id() }));
    } else {
        out!("node      {}", keys.node_id());
        out!("owner     {}", keys.owner_id());
    }
    Ok(())
}

/// Prints the code by which another node names this one a founder.
pub(crate) fn founder(settings: &Settings) -> Result<(), Failure> {
    let keys = keys(settings)?;
    let code = founder_code(&Founder { owner: keys.owner_id(), node: keys.node_id(), power: 1 });
    if settings.json.unwrap_or(false) {
        out!("{}", serde_json::json!({ "founder": code, "node": keys.node_id(), "owner": keys.owner_id() }));
    } else {
        out!("{code}");
    }
    Ok(())
}

pub(crate) fn restore(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let directory = DataDirectory::open(&settings.data_dir()?)?;
    let keys = Keys::restore(file, &directory.paths().keys()).map_err(Failure::new)?;
    out!("restored the keys of node {:.16} to {}", keys.node_id(), directory.paths().keys().display());
    Ok(())
}
