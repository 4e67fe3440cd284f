//! Packed text as a directory: what `neuroshard data pack` writes and `--data` takes up again.
//!
//! The directory holds the manifest (canonical encoding, `manifest`) and each shard as a file named by its hash, so it
//! can be copied anywhere and checked with `b3sum`.

use std::fs;
use std::path::{Path, PathBuf};

use neuroshard_core::tokenizer::Tokenizer;
use neuroshard_proto::{Hash, Manifest, SHARD_TOKENS_MAX, codec};

use super::{DataError, OnShards, Packed, Text, pack};
use crate::files::{self, Access, FileError};
use crate::store::StoreError;

const MANIFEST_FILE: &str = "manifest";
const SHARD_BYTES_MAX: u64 = 2 * SHARD_TOKENS_MAX as u64;

/// A directory of packed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedDirectory {
    root: PathBuf,
    manifest: Manifest,
}

impl PackedDirectory {
    /// Packs text into a directory, which must be new or empty.
    ///
    /// # Errors
    /// As [`pack`], or if the directory holds anything.
    pub fn create(
        root: &Path,
        text: &dyn Text,
        sequence: u32,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Packed, DataError> {
        fs::create_dir_all(root).map_err(FileError::new("create", root))?;
        if fs::read_dir(root).map_err(FileError::new("list", root))?.next().is_some() {
            return Err(DataError::NotEmpty { path: root.to_owned() });
        }
        let write = &mut |shards: &[&[u8]]| -> Result<Vec<Hash>, StoreError> {
            let one = |shard: &&[u8]| {
                let hash = Hash::of_blob(shard);
                files::write_durably(&root.join(hash.to_string()), shard, Access::Default)?;
                Ok(hash)
            };
            shards.iter().map(one).collect()
        };
        let packed = pack(text, sequence, write, progress)?;
        // The manifest comes last: a directory that has one is complete.
        files::write_durably(&root.join(MANIFEST_FILE), &codec::encode(&packed.manifest), Access::Default)?;
        Ok(packed)
    }

    /// Opens a directory of packed text; `None` if it is none.
    ///
    /// # Errors
    /// If there is a manifest and it is damaged, or made with another tokenizer.
    pub fn open(root: &Path) -> Result<Option<Self>, DataError> {
        let path = root.join(MANIFEST_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = files::read_limited(&path, u64::from(codec::CONTROL_BYTES_MAX))?;
        // Any text file may be called `manifest`; one that is none is text to be packed.
        let Ok(manifest) = codec::decode::<Manifest>(&bytes) else { return Ok(None) };
        if manifest.tokenizer != Tokenizer::genesis().hash() {
            let why = "its tokenizer is not the first one of a network".to_owned();
            return Err(DataError::Packed { path: root.to_owned(), why });
        }
        Ok(Some(Self { root: root.to_owned(), manifest }))
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Hands the shards to a store, each checked against its hash first.
    ///
    /// # Errors
    /// If a shard is missing or damaged, or the store fails.
    pub fn load(&self, store: &mut OnShards<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<(), DataError> {
        let total = self.manifest.shards.len() as u64;
        for (done, shard) in self.manifest.shards.iter().enumerate() {
            let damaged = |why: &str| {
                let why = format!("shard {:.16} is {why}", shard.hash);
                DataError::Packed { path: self.root.clone(), why }
            };
            let bytes = match files::read_limited(&self.root.join(shard.hash.to_string()), SHARD_BYTES_MAX) {
                Err(error) if error.is_missing() => return Err(damaged("missing")),
                other => other?,
            };
            if bytes.len() as u64 != 2 * u64::from(shard.tokens) || Hash::of_blob(&bytes) != shard.hash {
                return Err(damaged("damaged"));
            }
            store(&[&bytes])?;
            progress(done as u64 + 1, total);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Embedded;

    fn directory() -> (tempfile::TempDir, Packed) {
        let dir = tempfile::tempdir().unwrap();
        let text = vec![b'x'; 20_000];
        let packed = PackedDirectory::create(dir.path(), &Embedded(vec![("x", &text)]), 128, &mut |_, _| {}).unwrap();
        (dir, packed)
    }

    fn load(dir: &Path) -> Result<u64, DataError> {
        let mut bytes = 0;
        let store = &mut |shards: &[&[u8]]| {
            bytes += shards.iter().map(|shard| shard.len() as u64).sum::<u64>();
            Ok(Vec::new())
        };
        PackedDirectory::open(dir)?.expect("a manifest").load(store, &mut |_, _| {})?;
        Ok(bytes)
    }

    #[test]
    fn a_packed_directory_reads_back_whole() {
        let (dir, packed) = directory();
        assert_eq!(*PackedDirectory::open(dir.path()).unwrap().unwrap().manifest(), packed.manifest);
        assert_eq!(load(dir.path()).unwrap(), 2 * 20_002);
    }

    #[test]
    fn a_damaged_or_missing_shard_is_named() {
        let (dir, packed) = directory();
        let name = packed.manifest.shards[3].hash.to_string();
        let path = dir.path().join(&name);
        let mut bytes = fs::read(&path).unwrap();
        bytes[7] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&name[..16]) && error.contains("damaged"), "{error}");
        fs::remove_file(&path).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn a_folder_of_text_with_a_file_called_manifest_is_text() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(PackedDirectory::open(dir.path()).unwrap(), None);
        fs::write(dir.path().join("manifest"), "We hold these truths to be self-evident").unwrap();
        assert_eq!(PackedDirectory::open(dir.path()).unwrap(), None);
    }

    #[test]
    fn nothing_is_packed_into_a_directory_in_use() {
        let (dir, _) = directory();
        let error = PackedDirectory::create(dir.path(), &Embedded(vec![]), 128, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
    }
}
