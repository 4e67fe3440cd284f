//! Large blobs: one file each, named by its hash.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use neuroshard_proto::Hash;

use super::{Collected, Damage, StoreError};
use crate::directory::create_private;
use crate::files::{Access, FileError, read_limited, sync_directory, write_durably};

/// The files under `blobs/`, spread over 256 directories by the first byte of their hash.
#[derive(Debug)]
pub(super) struct BlobFiles {
    root: PathBuf,
}

impl BlobFiles {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        self.root.join(format!("{hash:.2}")).join(hash.to_string())
    }

    pub(super) fn write(&self, hash: &Hash, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(hash);
        let directory = path.parent().unwrap_or(&self.root);
        if !directory.exists() {
            create_private(directory)?;
            sync_directory(&self.root)?;
        }
        write_durably(&path, bytes, Access::Default).map_err(|error| {
            if error.is_full() { StoreError::Full { path, needed: bytes.len() as u64 } } else { error.into() }
        })
    }

    /// The file's bytes, which must be `len`. Their hash is the caller's to check.
    pub(super) fn read(&self, hash: &Hash, len: u64) -> Result<Vec<u8>, StoreError> {
        let path = self.path(hash);
        let damaged = |what| StoreError::Blob { hash: *hash, what };
        match fs::metadata(&path).map_err(FileError::new("read", &path)) {
            Ok(metadata) if metadata.len() != len => return Err(damaged(Damage::Length)),
            Ok(_) => {}
            Err(error) if error.is_missing() => return Err(damaged(Damage::Missing)),
            Err(error) => return Err(error.into()),
        }
        let bytes = read_limited(&path, len)?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err(damaged(Damage::Length)) }
    }

    pub(super) fn remove(&self, hash: &Hash) -> Result<(), StoreError> {
        remove(&self.path(hash)).map_err(StoreError::from)
    }

    /// Removes every file but these: temporary ones, and blobs that never reached the index.
    pub(super) fn remove_all_but(&self, kept: &BTreeSet<Hash>) -> Result<Collected, StoreError> {
        let mut removed = Collected::default();
        for directory in entries(&self.root)?.iter().filter(|path| path.is_dir()) {
            for file in entries(directory)? {
                let hash = file.file_name().and_then(|name| Hash::from_hex(name.to_str()?));
                if hash.is_some_and(|hash| kept.contains(&hash)) || !file.is_file() {
                    continue;
                }
                removed.bytes += fs::metadata(&file).map_or(0, |metadata| metadata.len());
                removed.blobs += 1;
                remove(&file)?;
            }
        }
        Ok(removed)
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path).map_err(FileError::new("remove", path)) {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let listed = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>();
    listed().map_err(FileError::new("list", directory))
}
