//! Files and folders of text, in an order that depends on their names alone.
//!
//! Within a folder, entries are taken in the order of their names' bytes. Links are followed, except those that lead back
//! into a folder on the way. Hidden entries (names that start with a dot) are skipped unless they were named; so are files
//! that are not text: those with a zero byte in their first 64 KiB, or bytes there that are not UTF-8. Pipes, sockets and
//! devices are never opened.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{DataError, Measure, OnDocument, Text};
use crate::files::FileError;

/// Bytes looked at to tell text from other files.
const SNIFF_BYTES: usize = 64 << 10;

/// What was passed over, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Files that are not UTF-8 text.
    pub binary: u64,
    pub empty: u64,
    /// Files and folders whose name starts with a dot.
    pub hidden: u64,
    /// Links that lead nowhere or back to where they came from.
    pub links: u64,
    /// Pipes, sockets and devices.
    pub special: u64,
}

impl Skipped {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.binary, "not UTF-8 text"),
            (self.empty, "empty"),
            (self.hidden, "hidden"),
            (self.links, "broken or circular links"),
            (self.special, "neither files nor folders"),
        ];
        let mut first = true;
        for (count, what) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{}{count} {what}", if first { "" } else { ", " })?;
            first = false;
        }
        if first { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Files and folders that the operator named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files(pub Vec<PathBuf>);

impl Text for Files {
    fn measure(&self) -> Result<Measure, DataError> {
        let mut measure = Measure::default();
        self.visit(&mut measure.skipped, &mut |_, file, len| {
            // Reading counts what is there now; the length in the directory may be another for special file systems.
            drop(file);
            measure.documents += 1;
            measure.bytes = measure.bytes.saturating_add(len);
            Ok(())
        })?;
        if measure.documents == 0 {
            return Err(DataError::Empty { sources: self.to_string(), skipped: measure.skipped });
        }
        Ok(measure)
    }

    fn read(&self, document: &mut OnDocument<'_>) -> Result<(), DataError> {
        self.visit(&mut Skipped::default(), &mut |path, mut file, _| document(&path.to_string_lossy(), &mut file))
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "" } else { ", " }, path.display())?;
        }
        Ok(())
    }
}

/// What to do with a text: its path, its bytes from the start, and their number.
type OnText<'a> = dyn FnMut(&Path, Box<dyn Read>, u64) -> Result<(), DataError> + 'a;

/// A folder on the way down: its canonical path, and the names still to be visited, the next one last.
struct Folder {
    path: PathBuf,
    canonical: PathBuf,
    names: Vec<OsString>,
}

impl Files {
    fn visit(&self, skipped: &mut Skipped, on_text: &mut OnText<'_>) -> Result<(), DataError> {
        for path in &self.0 {
            match fs::metadata(path).map_err(FileError::new("read", path)) {
                Err(error) if error.is_missing() => return Err(DataError::Missing { path: path.clone() }),
                Err(error) => return Err(error.into()),
                Ok(metadata) if metadata.is_dir() => walk(path, skipped, on_text)?,
                Ok(metadata) => visit_file(path, &metadata, skipped, on_text)?,
            }
        }
        Ok(())
    }
}

fn walk(root: &Path, skipped: &mut Skipped, on_text: &mut OnText<'_>) -> Result<(), DataError> {
    let mut way = vec![open_folder(root)?];
    while let Some(folder) = way.last_mut() {
        let Some(name) = folder.names.pop() else {
            way.pop();
            continue;
        };
        if name.as_encoded_bytes().starts_with(b".") {
            skipped.hidden += 1;
            continue;
        }
        let path = folder.path.join(name);
        match fs::metadata(&path).map_err(FileError::new("read", &path)) {
            // A link to nothing; a plain file that vanished in this moment is no text either.
            Err(error) if error.is_missing() => skipped.links += 1,
            // A link to itself.
            Err(_) if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) => skipped.links += 1,
            Err(error) => return Err(error.into()),
            Ok(metadata) if metadata.is_dir() => {
                let next = open_folder(&path)?;
                if way.iter().any(|above| above.canonical == next.canonical) {
                    skipped.links += 1;
                } else {
                    way.push(next);
                }
            }
            Ok(metadata) => visit_file(&path, &metadata, skipped, on_text)?,
        }
    }
    Ok(())
}

fn open_folder(path: &Path) -> Result<Folder, FileError> {
    let listed = || {
        let mut names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        names.sort_unstable_by(|a, b| b.as_encoded_bytes().cmp(a.as_encoded_bytes()));
        Ok(Folder { path: path.to_owned(), canonical: fs::canonicalize(path)?, names })
    };
    listed().map_err(FileError::new("list", path))
}

fn visit_file(
    path: &Path,
    metadata: &fs::Metadata,
    skipped: &mut Skipped,
    on_text: &mut OnText<'_>,
) -> Result<(), DataError> {
    if !metadata.is_file() {
        skipped.special += 1;
        return Ok(());
    }
    let mut file = File::open(path).map_err(FileError::new("read", path))?;
    let mut head = Vec::new();
    let read = (&mut file).take(SNIFF_BYTES as u64).read_to_end(&mut head);
    read.map_err(FileError::new("read", path))?;
    if head.is_empty() {
        skipped.empty += 1;
        return Ok(());
    }
    let whole = head.len() < SNIFF_BYTES;
    if !is_text(&head, whole) {
        skipped.binary += 1;
        return Ok(());
    }
    let len = if whole { head.len() as u64 } else { metadata.len() };
    let text: Box<dyn Read> = if whole { Box::new(std::io::Cursor::new(head)) } else { chained(head, file) };
    on_text(path, text, len)
}

fn chained(head: Vec<u8>, rest: File) -> Box<dyn Read> {
    Box::new(std::io::Cursor::new(head).chain(rest))
}

/// Whether a file that starts like this is text. The last character may be cut if the file goes on.
fn is_text(head: &[u8], whole: bool) -> bool {
    if head.contains(&0) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none() && !whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(paths: &[&Path]) -> (Vec<(String, usize)>, Skipped) {
        let files = Files(paths.iter().map(|path| path.to_path_buf()).collect());
        let measure = files.measure().unwrap();
        let mut found = Vec::new();
        let collect = &mut |name: &str, text: &mut dyn Read| {
            let mut bytes = Vec::new();
            text.read_to_end(&mut bytes).unwrap();
            let name = Path::new(name).strip_prefix(paths[0]).unwrap_or(Path::new(name));
            found.push((name.to_string_lossy().into_owned(), bytes.len()));
            Ok(())
        };
        files.read(collect).unwrap();
        assert_eq!(measure.documents, found.len() as u64);
        assert_eq!(measure.bytes, found.iter().map(|(_, len)| *len as u64).sum::<u64>());
        (found, measure.skipped)
    }

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, len) in [("b.txt", 2), ("a/z", 3), ("a/b/c", 4), ("B", 5), ("ab", 6)] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'x'; len]).unwrap();
        }
        let (found, skipped) = documents(&[dir.path()]);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["B", "a/b/c", "a/z", "ab", "b.txt"]);
        assert!(skipped.is_nothing());
    }

    #[test]
    fn files_that_are_not_text_are_skipped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let long = [vec![b'x'; SNIFF_BYTES - 1], "é and more".into()].concat();
        let cases: [(&str, &[u8]); 7] = [
            ("text", "plain, ünïcode".as_bytes()),
            ("cut-at-the-block", &long),
            ("zero", b"a\0b"),
            ("latin1", b"caf\xe9 au lait"),
            ("ends-inside-a-character", b"caf\xc3"),
            ("empty", b""),
            (".hidden", b"text"),
        ];
        for (name, bytes) in cases {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let (found, skipped) = documents(&[dir.path()]);
        assert_eq!(found, [("cut-at-the-block".to_owned(), long.len()), ("text".to_owned(), 16)]);
        assert_eq!(skipped, Skipped { binary: 3, empty: 1, hidden: 1, ..Skipped::default() });
        assert_eq!(skipped.to_string(), "3 not UTF-8 text, 1 empty, 1 hidden");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_unless_they_lead_back() {
        use std::os::unix::fs::symlink;

        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("text"), "far away").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/near"), "here").unwrap();
        symlink(dir.path(), dir.path().join("sub/loop")).unwrap();
        symlink("self", dir.path().join("self")).unwrap();
        symlink("/nowhere/at/all", dir.path().join("broken")).unwrap();
        symlink(elsewhere.path(), dir.path().join("away")).unwrap();
        let (found, skipped) = documents(&[dir.path()]);
        assert_eq!(found, [("away/text".to_owned(), 8), ("sub/near".to_owned(), 4)]);
        assert_eq!(skipped, Skipped { links: 3, ..Skipped::default() });
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_never_opened() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        fs::write(dir.path().join("text"), "x").unwrap();
        let (found, skipped) = documents(&[dir.path()]);
        assert_eq!((found.len(), skipped.special), (1, 1));
    }

    #[test]
    fn a_missing_path_and_a_folder_without_text_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Files(vec![dir.path().join("nothing")]);
        let error = missing.measure().unwrap_err();
        assert!(matches!(error, DataError::Missing { .. }));
        assert!(error.to_string().contains("there is nothing at"), "{error}");
        fs::write(dir.path().join("image"), [0, 1, 2]).unwrap();
        let error = Files(vec![dir.path().to_owned()]).measure().unwrap_err();
        assert!(error.to_string().ends_with(": skipped 1 not UTF-8 text"), "{error}");
    }
}
