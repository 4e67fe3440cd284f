//! Files that survive a crash whole, and errors that name the file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// A file operation that failed: what was being done, to which path, and why.
#[derive(Debug)]
pub struct FileError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// For `map_err`: `fs::read(path).map_err(FileError::new("read", path))`.
    pub fn new(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.to_owned(), source }
    }

    /// The file does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// There is no room on the disk, or no permission to use more of it.
    pub fn is_full(&self) -> bool {
        is_full(&self.source)
    }
}

/// Whether an error says that no more bytes fit: a full disk, a quota, or the process's own limit on file sizes.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.doing, self.path.display(), self.source)
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The operator alone: keys and tokens.
    Owner,
    /// Whoever the system's defaults allow.
    Default,
}

/// Ending of files that are being written. One that is found at start was left by a crash.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Writes a file so that a crash leaves either nothing, what was there before, or all of `bytes`: a temporary file is
/// written and made durable, takes the name in one step, and the directory is made durable.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], access: Access) -> Result<(), FileError> {
    stream_durably(path, access, |file| file.write_all(bytes).map_err(FileError::new("write", path)))
}

/// As [`write_durably`], with bytes that come little by little. An error of `write` leaves the file as it was.
pub(crate) fn stream_durably<E: From<FileError>>(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut File) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = with_ending(path);
    let written =
        create(&temporary, access).map_err(FileError::new("write", path)).map_err(E::from).and_then(|mut file| {
            write(&mut file)?;
            Ok(file.sync_all().map_err(FileError::new("write", path))?)
        });
    if let Err(error) = written {
        // What was written is of no use; a start cleans up if this fails too.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path).map_err(FileError::new("write", path))?;
    Ok(sync_directory(parent(path))?)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), FileError> {
    // Windows makes names durable by itself and cannot open a directory as a file.
    if cfg!(unix) {
        let opened = File::open(directory).map_err(FileError::new("open", directory))?;
        opened.sync_all().map_err(FileError::new("make durable", directory))?;
    }
    Ok(())
}

/// Reads a file of at most `max` bytes; a longer one is an error before it is read.
pub(crate) fn read_limited(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::other(format!("longer than the {max} bytes it may have")));
        }
        Ok(bytes)
    };
    read().map_err(FileError::new("read", path))
}

fn create(path: &Path, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if access == Access::Owner {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
        // A leftover with wider permissions would keep them.
        let _ = fs::remove_file(path);
        options.create_new(true);
    }
    options.open(path)
}

fn with_ending(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(TEMPORARY);
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        write_durably(&path, b"a longer first text", Access::Default).unwrap();
        write_durably(&path, b"second", Access::Default).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        write_durably(&path, b"first", Access::Default).unwrap();
        let failed: Result<(), FileError> = stream_durably(&path, Access::Default, |file| {
            file.write_all(b"half of the sec").unwrap();
            Err(FileError::new("read", Path::new("the other half"))(io::Error::other("gone")))
        });
        assert_eq!(failed.unwrap_err().to_string(), "cannot read the other half: gone");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_secret_is_readable_by_its_owner_alone_even_over_a_leftover() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(dir.path().join("key.tmp"), b"left by a crash").unwrap();
        write_durably(&path, b"secret", Access::Owner).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_error_names_the_file_and_what_was_tried() {
        let error = read_limited(Path::new("/nowhere/at/all"), 10).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /nowhere/at/all: "), "{error}");
        assert!(error.is_missing());
    }

    #[test]
    fn a_file_over_its_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        fs::write(&path, [0; 11]).unwrap();
        assert!(read_limited(&path, 10).unwrap_err().to_string().contains("longer than the 10 bytes"));
        assert_eq!(read_limited(&path, 11).unwrap().len(), 11);
    }
}
