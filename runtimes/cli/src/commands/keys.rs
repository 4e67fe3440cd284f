//! `neuroshard keys`: a backup of the secret keys, and the way back.

use std::path::Path;

use neuroshard_host::directory::{DataDirectory, Paths};
use neuroshard_host::keys::Keys;

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

pub(crate) fn restore(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let directory = DataDirectory::open(&settings.data_dir()?)?;
    let keys = Keys::restore(file, &directory.paths().keys()).map_err(Failure::new)?;
    out!("restored the keys of node {:.16} to {}", keys.node_id(), directory.paths().keys().display());
    Ok(())
}
