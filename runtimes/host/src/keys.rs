//! The node's and its owner's secret keys (PROTOCOL §1): made from the system's entropy, readable by the operator alone,
//! never printed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signer as _, SigningKey};
pub use neuroshard_proto::REAL_SIGNATURES;
use neuroshard_proto::{Hash, NodeId, OwnerId, Signature};

use crate::files::{self, Access, FileError};

/// A key file: the 32 secret bytes and the 32 public ones that follow from them.
const KEY_BYTES: usize = 64;
const BACKUP_HEADER: &str = "neuroshard keys, format 1. Whoever has this file is you: keep it secret.";
const BACKUP_BYTES_MAX: u64 = 1024;

/// Why keys cannot be used.
#[derive(Debug)]
pub enum KeyError {
    File(FileError),
    /// The system gave no random bytes.
    Entropy {
        why: String,
    },
    /// The public half does not follow from the secret one.
    Damaged {
        path: PathBuf,
    },
    /// Other users could read the key.
    Exposed {
        path: PathBuf,
        mode: u32,
    },
    /// The data directory has other keys, which restoring would overwrite.
    Occupied {
        path: PathBuf,
    },
    /// A backup would overwrite a file.
    BackupExists {
        path: PathBuf,
    },
    /// The file is not a backup of keys.
    NotABackup {
        path: PathBuf,
        why: &'static str,
    },
    /// There are no keys.
    Missing {
        path: PathBuf,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Entropy { why } => {
                write!(f, "the system gave no random bytes for new keys ({why}). Nothing was created; try again later.")
            }
            Self::Damaged { path } => write!(
                f,
                "the key file {} is damaged: its two halves do not belong together. Put a backup in its place with \
                 `neuroshard keys restore FILE` after moving the damaged file away.",
                path.display()
            ),
            Self::Exposed { path, mode } => write!(
                f,
                "the key file {0} has mode {mode:04o}, so other users may read it. Run `chmod 600 {0}` if you trust that \
                 nobody did.",
                path.display()
            ),
            Self::Occupied { path } => write!(
                f,
                "there are other keys in {} already. Nothing was changed. Back them up and move them away first, or \
                 restore into another directory with --data-dir.",
                path.display()
            ),
            Self::BackupExists { path } => {
                write!(f, "{} exists already. Nothing was changed. Name a new file for the backup.", path.display())
            }
            Self::NotABackup { path, why } => {
                write!(f, "{} is not a backup made by `neuroshard keys backup`: {why}", path.display())
            }
            Self::Missing { path } => {
                write!(f, "there are no keys in {} yet. `neuroshard run` creates them.", path.display())
            }
        }
    }
}

impl std::error::Error for KeyError {}

impl From<FileError> for KeyError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// Random bytes of the operating system.
///
/// # Errors
/// If the system has none to give.
pub fn entropy() -> Result<Hash, KeyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| KeyError::Entropy { why: error.to_string() })?;
    Ok(Hash::from_bytes(bytes))
}

/// The secret keys of a node and of its owner.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    node: SigningKey,
    owner: SigningKey,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("node", &self.node_id()).field("owner", &self.owner_id()).finish_non_exhaustive()
    }
}

impl Keys {
    /// New keys from the system's entropy.
    ///
    /// # Errors
    /// If the system has no entropy to give.
    pub fn generate() -> Result<Self, KeyError> {
        let key = || Ok::<_, KeyError>(SigningKey::from_bytes(entropy()?.as_bytes()));
        Ok(Self { node: key()?, owner: key()? })
    }

    /// The keys of a data directory; new ones if it has none.
    ///
    /// # Errors
    /// If a key file is damaged, missing beside the other, or readable by other users.
    pub fn open_or_create(directory: &Path) -> Result<Self, KeyError> {
        match Self::open(directory) {
            Err(KeyError::Missing { .. }) => {
                let keys = Self::generate()?;
                keys.write(directory)?;
                Ok(keys)
            }
            other => other,
        }
    }

    /// The keys of a data directory.
    ///
    /// # Errors
    /// As [`Self::open_or_create`], and [`KeyError::Missing`] if there are none.
    pub fn open(directory: &Path) -> Result<Self, KeyError> {
        // The node's key is written last, so that where it is the other one is too.
        let node = match read_key(&directory.join("node")) {
            Err(KeyError::File(error)) if error.is_missing() => {
                return Err(KeyError::Missing { path: directory.to_owned() });
            }
            other => other?,
        };
        Ok(Self { node, owner: read_key(&directory.join("owner"))? })
    }

    fn write(&self, directory: &Path) -> Result<(), KeyError> {
        for (name, key) in [("owner", &self.owner), ("node", &self.node)] {
            files::write_durably(&directory.join(name), &key.to_keypair_bytes(), Access::Owner)?;
        }
        Ok(())
    }

    /// The node's public key.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.node.verifying_key().to_bytes())
    }

    /// The owner's public key.
    pub fn owner_id(&self) -> OwnerId {
        OwnerId::from_bytes(self.owner.verifying_key().to_bytes())
    }

    /// The owner's signature over a transaction's digest.
    pub fn sign_for_account(&self, digest: &Hash) -> Signature {
        Signature(self.owner.sign(digest.as_bytes()).to_bytes())
    }

    /// A signer in the node's name, for the loop that owns the core.
    pub fn signer(&self) -> impl FnMut(&Hash) -> Signature + Send + use<> {
        let key = self.node.clone();
        move |digest| Signature(key.sign(digest.as_bytes()).to_bytes())
    }

    /// The node's key, as the network's handshakes need it.
    pub(crate) fn network_identity(&self) -> libp2p::identity::Keypair {
        crate::net::names::keypair(self.node.to_bytes())
    }

    /// The node's signature over a digest (see [`neuroshard_proto::signing_bytes`]).
    pub fn sign(&self, digest: &Hash) -> Signature {
        Signature(self.node.sign(digest.as_bytes()).to_bytes())
    }

    /// Writes both keys to a new file that only the operator may read.
    ///
    /// # Errors
    /// If the file exists or cannot be written.
    pub fn back_up(&self, path: &Path) -> Result<(), KeyError> {
        if path.exists() {
            return Err(KeyError::BackupExists { path: path.to_owned() });
        }
        let hex = |key: &SigningKey| Hash::from_bytes(key.to_bytes());
        let public = (self.node_id(), self.owner_id());
        let text = format!(
            "{BACKUP_HEADER}\nnode {} {}\nowner {} {}\n",
            hex(&self.node),
            public.0,
            hex(&self.owner),
            public.1
        );
        Ok(files::write_durably(path, text.as_bytes(), Access::Owner)?)
    }

    /// Reads a backup and puts its keys into a data directory that has none.
    ///
    /// # Errors
    /// If the file is no backup, or the directory has other keys.
    pub fn restore(backup: &Path, directory: &Path) -> Result<Self, KeyError> {
        let keys = Self::parse_backup(backup)?;
        match Self::open(directory) {
            Ok(present) if present == keys => return Ok(keys),
            Err(KeyError::Missing { .. }) if !directory.join("owner").exists() => {}
            _ => return Err(KeyError::Occupied { path: directory.to_owned() }),
        }
        keys.write(directory)?;
        Ok(keys)
    }

    fn parse_backup(path: &Path) -> Result<Self, KeyError> {
        let not = |why| KeyError::NotABackup { path: path.to_owned(), why };
        let bytes = files::read_limited(path, BACKUP_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| not("it is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(BACKUP_HEADER) {
            return Err(not("its first line is another"));
        }
        let mut key = |name: &'static str| {
            let line = lines.next().ok_or_else(|| not("it ends early"))?;
            let mut words = line.split(' ');
            let (Some(found), Some(seed), Some(public)) = (words.next(), words.next(), words.next()) else {
                return Err(not("a line is incomplete"));
            };
            let seed = Hash::from_hex(seed).filter(|_| found == name).ok_or_else(|| not("a line is garbled"))?;
            let key = SigningKey::from_bytes(seed.as_bytes());
            if Hash::from_bytes(key.verifying_key().to_bytes()).to_string() != public {
                return Err(not("a key is damaged: its public half is another"));
            }
            Ok(key)
        };
        Ok(Self { node: key("node")?, owner: key("owner")? })
    }
}

fn read_key(path: &Path) -> Result<SigningKey, KeyError> {
    let bytes = files::read_limited(path, KEY_BYTES as u64)?;
    check_mode(path)?;
    let damaged = || KeyError::Damaged { path: path.to_owned() };
    let pair = <&[u8; KEY_BYTES]>::try_from(bytes.as_slice()).map_err(|_| damaged())?;
    SigningKey::from_keypair_bytes(pair).map_err(|_| damaged())
}

#[cfg(unix)]
fn check_mode(path: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt as _;

    let mode = fs::metadata(path).map_err(FileError::new("read", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 { Err(KeyError::Exposed { path: path.to_owned(), mode }) } else { Ok(()) }
}

#[cfg(not(unix))]
fn check_mode(_path: &Path) -> Result<(), KeyError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open_or_create(dir.path()).unwrap();
        assert_eq!(Keys::open_or_create(dir.path()).unwrap(), keys);
        assert_ne!(keys.node_id().as_bytes(), keys.owner_id().as_bytes());
        assert!(Keys::generate().unwrap() != keys);
    }

    #[test]
    fn no_secret_is_printed() {
        let keys = Keys::generate().unwrap();
        let secret = Hash::from_bytes(keys.node.to_bytes()).to_string();
        assert!(!format!("{keys:?}").contains(&secret[..16]));
        assert!(format!("{keys:?}").contains(&keys.node_id().to_string()));
    }

    #[test]
    fn one_flipped_bit_in_a_key_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        drop(Keys::open_or_create(dir.path()).unwrap());
        let path = dir.path().join("node");
        for (byte, name) in [(0, "secret"), (40, "public")] {
            let mut bytes = fs::read(&path).unwrap();
            bytes[byte] ^= 4;
            fs::write(&path, &bytes).unwrap();
            assert!(matches!(Keys::open(dir.path()), Err(KeyError::Damaged { .. })), "{name}");
            bytes[byte] ^= 4;
            fs::write(&path, &bytes).unwrap();
        }
        fs::write(&path, [1; 63]).unwrap();
        assert!(matches!(Keys::open_or_create(dir.path()), Err(KeyError::Damaged { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn keys_that_others_may_read_are_refused_with_the_remedy() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        drop(Keys::open_or_create(dir.path()).unwrap());
        let path = dir.path().join("owner");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = Keys::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("mode 0640"), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_backup_restores_into_an_empty_directory_and_never_overwrites() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let keys = Keys::open_or_create(dir.path()).unwrap();
        let file = other.path().join("backup");
        keys.back_up(&file).unwrap();
        assert!(matches!(keys.back_up(&file), Err(KeyError::BackupExists { .. })));

        let fresh = tempfile::tempdir().unwrap();
        assert_eq!(Keys::restore(&file, fresh.path()).unwrap(), keys);
        assert_eq!(Keys::open(fresh.path()).unwrap(), keys);
        assert_eq!(Keys::restore(&file, fresh.path()).unwrap(), keys);

        let occupied = tempfile::tempdir().unwrap();
        let others = Keys::open_or_create(occupied.path()).unwrap();
        assert!(matches!(Keys::restore(&file, occupied.path()), Err(KeyError::Occupied { .. })));
        assert_eq!(Keys::open(occupied.path()).unwrap(), others);
    }

    #[test]
    fn a_backup_with_a_wrong_digit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        Keys::generate().unwrap().back_up(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let digit = BACKUP_HEADER.len() + 10;
        let wrong = if text.as_bytes()[digit] == b'0' { "1" } else { "0" };
        let mut garbled = text.clone();
        garbled.replace_range(digit..=digit, wrong);
        for bad in [garbled.as_str(), &text[..100], "hello", ""] {
            fs::write(&file, bad).unwrap();
            assert!(matches!(Keys::parse_backup(&file), Err(KeyError::NotABackup { .. })), "{bad}");
        }
    }
}
