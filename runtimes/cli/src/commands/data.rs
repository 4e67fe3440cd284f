//! `neuroshard data pack`: text becomes a directory of shards that `--data` takes.

use std::path::{Path, PathBuf};

use neuroshard_host::data::{Files, PackedDirectory};
use neuroshard_host::store::ByteCount;
use neuroshard_proto::Preset;

use crate::display::count;
use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;
use crate::values::PresetName;

pub(crate) fn pack(
    settings: &Settings,
    paths: &[PathBuf],
    out: &Path,
    preset: Option<PresetName>,
) -> Result<(), Failure> {
    let (_, training) = preset.map_or(Preset::Genesis, |name| name.0).specs();
    let text = Files(paths.to_vec());
    let packed = PackedDirectory::create(out, &text, training.sequence, &mut |_, _| {}).map_err(Failure::new)?;
    let (manifest, held_out) = (&packed.manifest, packed.manifest.shards(true).count());
    if settings.json.unwrap_or(false) {
        let line = serde_json::json!({
            "manifest": manifest.root().to_string(),
            "documents": packed.documents,
            "text_bytes": manifest.text_bytes,
            "tokens": manifest.tokens(),
            "shards": manifest.shards.len(),
            "held_out_shards": held_out,
            "skipped": packed.skipped.to_string(),
        });
        out!("{line}");
        return Ok(());
    }
    out!("packed {} documents, {} of text", packed.documents, ByteCount(manifest.text_bytes));
    out!("into {} shards, {held_out} of them held out; {} tokens", manifest.shards.len(), count(manifest.tokens()));
    if !packed.skipped.is_nothing() {
        out!("skipped {}", packed.skipped);
    }
    out!("Train on it with: neuroshard run --data {} --data-dir NEW", out.display());
    Ok(())
}
