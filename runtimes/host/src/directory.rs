//! The data directory: where everything of a node lies, its format's version, and the lock against a second process.
//!
//! ```text
//! format          the version of this layout
//! lock            held by the process that uses the directory; holds its id
//! network         the network's genesis and data manifest
//! plan            the plan of the quorum that the node trains in, if it has one
//! peers           addresses of nodes that were met, a multiaddress a line
//! keys/node       secret key of the node           (readable by its owner alone)
//! keys/owner      secret key of the account        (readable by its owner alone)
//! db/             LMDB: the journal, small blobs and the index of all blobs
//! blobs/ab/...    blobs above 1 MiB, each named by its BLAKE3 hash (any `b3sum` can check them)
//! api             address and access token of the local HTTP API while a node runs
//! ```

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::files::{self, Access, FileError, TEMPORARY};

/// The version of the layout that this code reads and writes.
pub const FORMAT: u32 = 1;

/// How long to wait for a reader that checks the database, or for a node that is just ending.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";
/// The format file in full; a file of another kind that happens to be called `format` is not mistaken for it.
const FORMAT_PREFIX: &str = "neuroshard data directory, format ";
const FORMAT_BYTES_MAX: u64 = 256;

/// Why a directory cannot be used.
#[derive(Debug)]
pub enum DirectoryError {
    /// The path is a file.
    NotADirectory {
        path: PathBuf,
    },
    /// The directory holds other things and no format file.
    Foreign {
        path: PathBuf,
        found: String,
    },
    /// There is no data directory at this path.
    Missing {
        path: PathBuf,
    },
    /// The layout has another version.
    Format {
        path: PathBuf,
        found: String,
    },
    /// Another process uses the directory.
    InUse {
        path: PathBuf,
        process: Option<u32>,
    },
    /// The file system cannot lock files, so a second process could not be kept out.
    NoLocks {
        path: PathBuf,
        source: std::io::Error,
    },
    File(FileError),
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory { path } => {
                write!(
                    f,
                    "{} is a file, not a directory. Name a directory with --data-dir; it is created if missing.",
                    path.display()
                )
            }
            Self::Foreign { path, found } => write!(
                f,
                "{} is not a data directory of NeuroShard, and it is not empty (it holds `{found}`). Nothing was \
                 changed. Name an empty or a new directory with --data-dir.",
                path.display()
            ),
            Self::Missing { path } => write!(
                f,
                "there is no data directory at {} yet. `neuroshard run` creates it; --data-dir names another one.",
                path.display()
            ),
            Self::Format { path, found } => write!(
                f,
                "{} has the format {found}, this version of neuroshard reads format {FORMAT}. Nothing was changed. Use \
                 the version that wrote it, or name another directory with --data-dir.",
                path.display()
            ),
            Self::InUse { path, process: Some(process) } => write!(
                f,
                "the data directory {} is in use by process {process}. Stop that node first (Ctrl-C saves), or name \
                 another directory with --data-dir.",
                path.display()
            ),
            Self::InUse { path, process: None } => write!(
                f,
                "the data directory {} is in use by another process. Stop that node first (Ctrl-C saves), or name \
                 another directory with --data-dir.",
                path.display()
            ),
            Self::NoLocks { path, source } => write!(
                f,
                "the file system of {} cannot lock files ({source}), so a second node could damage the data. Name a \
                 directory on a local disk with --data-dir.",
                path.display()
            ),
            Self::File(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DirectoryError {}

impl From<FileError> for DirectoryError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// A data directory, for one process. Dropping it lets the next process in.
#[derive(Debug)]
pub struct DataDirectory {
    paths: Paths,
    /// Locked as long as this is open; the system lets go of it even if the process is killed.
    _lock: File,
}

impl DataDirectory {
    /// Opens a data directory for this process alone, creating it if it does not exist.
    ///
    /// # Errors
    /// If another process uses it, if it is not one, or if its format is another.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        create_private(root)?;
        let found = check_format(root)?;
        let lock = lock(root)?;
        if found == Layout::Empty {
            let text = format!("{FORMAT_PREFIX}{FORMAT}\n");
            files::write_durably(&root.join(FORMAT_FILE), text.as_bytes(), Access::Default)?;
        }
        let paths = Paths { root: root.to_owned() };
        for directory in [paths.keys(), paths.database(), paths.blobs()] {
            create_private(&directory)?;
        }
        for directory in [root.to_owned(), paths.keys()] {
            remove_temporary_files(&directory)?;
        }
        files::sync_directory(root)?;
        Ok(Self { paths, _lock: lock })
    }

    pub fn paths(&self) -> &Paths {
        &self.paths
    }
}

/// Where things lie in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The paths of an existing data directory, for reading beside the process that uses it.
    ///
    /// # Errors
    /// If there is none at `root`, or its format is another.
    pub fn of_existing(root: &Path) -> Result<Self, DirectoryError> {
        if !root.exists() || check_format(root)? == Layout::Empty {
            return Err(DirectoryError::Missing { path: root.to_owned() });
        }
        Ok(Self { root: root.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps nodes from starting here as long as the answer lives; `None` if one runs.
    pub fn hold_off_nodes(&self) -> Option<File> {
        let file = File::open(self.root.join(LOCK_FILE)).ok()?;
        file.try_lock_shared().ok().map(|()| file)
    }

    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }

    pub fn plan(&self) -> PathBuf {
        self.root.join("plan")
    }

    pub fn peers(&self) -> PathBuf {
        self.root.join("peers")
    }

    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join("db")
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub fn api(&self) -> PathBuf {
        self.root.join("api")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Empty,
    Current,
}

/// Looks at a directory without changing it.
fn check_format(root: &Path) -> Result<Layout, DirectoryError> {
    if !root.is_dir() {
        return Err(DirectoryError::NotADirectory { path: root.to_owned() });
    }
    let path = root.join(FORMAT_FILE);
    let bytes = match files::read_limited(&path, FORMAT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return empty_or_foreign(root),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&bytes);
    match text.strip_prefix(FORMAT_PREFIX).map(str::trim_end) {
        Some(version) if version == FORMAT.to_string() => Ok(Layout::Current),
        Some(version) => Err(DirectoryError::Format { path: root.to_owned(), found: printable(version) }),
        None => Err(DirectoryError::Foreign { path: root.to_owned(), found: FORMAT_FILE.to_owned() }),
    }
}

/// A directory without a format file may be used only if nothing of anybody else's lies there.
fn empty_or_foreign(root: &Path) -> Result<Layout, DirectoryError> {
    for entry in fs::read_dir(root).map_err(FileError::new("list", root))? {
        let name = entry.map_err(FileError::new("list", root))?.file_name();
        let own = name == LOCK_FILE || name.to_string_lossy() == format!("{FORMAT_FILE}{TEMPORARY}");
        if !own {
            return Err(DirectoryError::Foreign { path: root.to_owned(), found: printable(&name.to_string_lossy()) });
        }
    }
    Ok(Layout::Empty)
}

fn printable(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn lock(root: &Path) -> Result<File, DirectoryError> {
    let path = root.join(LOCK_FILE);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(FileError::new("open", &path))?;
    let end = Instant::now() + LOCK_PATIENCE;
    let mut locked = file.try_lock();
    while matches!(locked, Err(TryLockError::WouldBlock)) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // The other process may be about to write its id; then the message does without it.
            let _ = file.take(32).read_to_string(&mut text);
            return Err(DirectoryError::InUse { path: root.to_owned(), process: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(DirectoryError::NoLocks { path: root.to_owned(), source }),
    }
    let mut write = || {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // A full disk takes nothing but the id from a later message.
    if let Err(error) = write() {
        tracing::debug!(%error, "the lock file does not hold the process id");
    }
    Ok(file)
}

fn remove_temporary_files(directory: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(directory).map_err(FileError::new("list", directory))? {
        let path = entry.map_err(FileError::new("list", directory))?.path();
        if path.to_string_lossy().ends_with(TEMPORARY) {
            fs::remove_file(&path).map_err(FileError::new("remove", &path))?;
        }
    }
    Ok(())
}

/// Creates a directory that only its owner may enter, and those above it.
pub(crate) fn create_private(path: &Path) -> Result<(), FileError> {
    if path.exists() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(path).map_err(FileError::new("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_new_directory_is_created_and_opens_again() {
        let dir = scratch();
        let root = dir.path().join("a/b");
        drop(DataDirectory::open(&root).unwrap());
        let again = DataDirectory::open(&root).unwrap();
        assert_eq!(Paths::of_existing(&root).unwrap(), *again.paths());
    }

    #[test]
    fn a_second_user_is_told_who_the_first_one_is() {
        let dir = scratch();
        let _first = DataDirectory::open(dir.path()).unwrap();
        let error = DataDirectory::open(dir.path()).unwrap_err();
        let process = std::process::id();
        assert!(matches!(error, DirectoryError::InUse { process: Some(found), .. } if found == process), "{error}");
        assert!(error.to_string().contains(&format!("in use by process {process}")));
    }

    #[test]
    fn a_reader_holds_off_nodes_only_as_long_as_it_looks() {
        let dir = scratch();
        let node = DataDirectory::open(dir.path()).unwrap();
        assert!(node.paths().hold_off_nodes().is_none());
        let paths = node.paths().clone();
        drop(node);
        let reader = paths.hold_off_nodes().unwrap();
        assert!(matches!(DataDirectory::open(dir.path()), Err(DirectoryError::InUse { .. })));
        drop(reader);
        DataDirectory::open(dir.path()).unwrap();
    }

    #[test]
    fn another_format_is_refused_and_left_alone() {
        let dir = scratch();
        drop(DataDirectory::open(dir.path()).unwrap());
        let file = dir.path().join(FORMAT_FILE);
        fs::write(&file, format!("{FORMAT_PREFIX}2\n")).unwrap();
        let error = DataDirectory::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("has the format 2, this version of neuroshard reads format 1"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{FORMAT_PREFIX}2\n"));
    }

    #[test]
    fn a_directory_with_other_peoples_files_is_not_taken_over() {
        let dir = scratch();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = DataDirectory::open(dir.path()).unwrap_err();
        assert!(matches!(&error, DirectoryError::Foreign { found, .. } if found == "thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_start_that_crashed_before_the_format_was_written_can_be_repeated() {
        let dir = scratch();
        fs::write(dir.path().join(LOCK_FILE), "1\n").unwrap();
        fs::write(dir.path().join("format.tmp"), "neuro").unwrap();
        DataDirectory::open(dir.path()).unwrap();
        assert!(!dir.path().join("format.tmp").exists());
    }

    #[test]
    fn reading_needs_a_directory_that_exists() {
        let dir = scratch();
        let nothing = dir.path().join("nothing");
        assert!(matches!(Paths::of_existing(&nothing), Err(DirectoryError::Missing { .. })));
        assert!(matches!(Paths::of_existing(dir.path()), Err(DirectoryError::Missing { .. })));
        assert!(!nothing.exists());
        fs::write(&nothing, "").unwrap();
        assert!(matches!(DataDirectory::open(&nothing), Err(DirectoryError::NotADirectory { .. })));
    }
}
