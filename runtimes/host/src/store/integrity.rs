//! A look at the database before it is used: LMDB maps its file and trusts what it finds, so a page that a failing disk
//! changed could end the process without a word. This reads the pages as bytes and checks every number LMDB would follow.
//!
//! What is checked (names of LMDB's own file format, data version 1): magic, version and page size of both meta pages; from
//! the newer one the three kinds of trees (free list, directory of databases, databases): that each page is the one its
//! parent means, lies inside the file, is reached once, has its entries inside its bounds and in order; that each leaf is at
//! the tree's depth and each tree has the entries it claims; and that no page in use is listed as free. Values are not
//! looked at: they carry BLAKE3 hashes of their own.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::StoreError;
use crate::files::FileError;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
/// A page's header: number (8), key size (2), flags (2), bounds of free space (2 + 2) or number of pages (4).
const HEADER: usize = 16;
/// A node's header: data size or child page (4), flags or the child's top bits (2), key size (2).
const NODE: usize = 8;
/// A database's record: see [`Tree`].
const TREE: usize = 48;
/// LMDB's own limit on the height of a tree.
const DEPTH_MAX: u16 = 32;
const NO_PAGE: u64 = u64::MAX;

const PAGE_BRANCH: u16 = 0x01;
const PAGE_LEAF: u16 = 0x02;
const PAGE_OVERFLOW: u16 = 0x04;
const PAGE_META: u16 = 0x08;
const NODE_LARGE: u16 = 0x01;
const NODE_TREE: u16 = 0x02;

/// Checks a database file. A file that does not exist or is empty is a database that is yet to be made.
///
/// # Errors
/// [`StoreError::Structure`] says what is wrong.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    // The layout is the one of 64-bit little-endian machines; LMDB refuses files of others.
    if cfg!(not(all(target_pointer_width = "64", target_endian = "little"))) {
        return Ok(());
    }
    let mut file = match File::open(path).map_err(FileError::new("open", path)) {
        Err(error) if error.is_missing() => return Ok(()),
        other => other?,
    };
    let len = file.metadata().map_err(FileError::new("read", path))?.len();
    if len == 0 {
        return Ok(());
    }
    let meta = newest_meta(&mut file, len).and_then(|meta| Walk::new(&mut file, len, &meta)?.run(&meta));
    meta.map_err(|problem| match problem {
        Problem::Damage(why) => StoreError::Structure { path: path.to_owned(), why },
        Problem::Io(error) => FileError::new("read", path)(error).into(),
    })
}

enum Problem {
    Damage(String),
    Io(std::io::Error),
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn damage<T>(why: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Damage(why.into()))
}

/// A tree of pages: a database, or the free list.
#[derive(Clone, Copy)]
struct Tree {
    depth: u16,
    entries: u64,
    root: u64,
}

impl Tree {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self { depth: u16_at(bytes, 6)?, entries: u64_at(bytes, 32)?, root: u64_at(bytes, 40)? })
    }
}

struct Meta {
    page_size: usize,
    free: Tree,
    main: Tree,
    last_page: u64,
    transaction: u64,
}

/// LMDB keeps the two latest states and uses the newer one.
fn newest_meta(file: &mut File, len: u64) -> Result<Meta, Problem> {
    let first = read_meta(file, len, 0)?;
    let second = read_meta(file, len, first.page_size as u64)?;
    if second.page_size != first.page_size {
        return damage("its two head pages disagree about the page size");
    }
    Ok(if second.transaction > first.transaction { second } else { first })
}

fn read_meta(file: &mut File, len: u64, at: u64) -> Result<Meta, Problem> {
    let mut bytes = [0; HEADER + 136];
    if at + bytes.len() as u64 > len {
        return damage(format!("the file ends after {len} bytes, inside its head pages"));
    }
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    let fields = || {
        let body = bytes.get(HEADER..)?;
        let head = (u16_at(&bytes, 10)?, u32_at(body, 0)?, u32_at(body, 4)?);
        let free = body.get(24..24 + TREE)?;
        let meta = Meta {
            page_size: usize::try_from(u32_at(free, 0)?).ok()?,
            free: Tree::read(free)?,
            main: Tree::read(body.get(72..72 + TREE)?)?,
            last_page: u64_at(body, 120)?,
            transaction: u64_at(body, 128)?,
        };
        Some((head, meta))
    };
    let Some(((flags, magic, version), meta)) = fields() else { return damage("a head page is cut short") };
    if flags & PAGE_META == 0 || magic != MAGIC {
        return damage("a head page is not one of LMDB");
    }
    if version != VERSION {
        return damage(format!("it has LMDB's data version {version}, this program reads version {VERSION}"));
    }
    if !meta.page_size.is_power_of_two() || !(512..=32_768).contains(&meta.page_size) {
        return damage(format!("a page size of {} bytes", meta.page_size));
    }
    Ok(meta)
}

struct Walk<'a> {
    file: &'a mut File,
    page_size: usize,
    /// Whole pages in the file.
    pages: u64,
    last_page: u64,
    /// One bit a page that was reached.
    used: Vec<u64>,
}

/// A page that a parent points to.
#[derive(Clone, Copy)]
struct Visit {
    page: u64,
    /// Levels from the root, counted from 1.
    level: u16,
}

/// What to do with a leaf entry's key and data.
type OnEntry<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Problem> + 'a;

enum Kind {
    Free,
    Main,
    Data,
}

impl<'a> Walk<'a> {
    fn new(file: &'a mut File, len: u64, meta: &Meta) -> Result<Self, Problem> {
        let pages = len / meta.page_size as u64;
        let words = usize::try_from(pages.div_ceil(64)).map_err(|_| Problem::Damage("a file too large".into()))?;
        Ok(Self { file, page_size: meta.page_size, pages, last_page: meta.last_page, used: vec![0; words] })
    }

    fn run(mut self, meta: &Meta) -> Result<(), Problem> {
        let mut databases = Vec::new();
        self.tree(meta.main, &Kind::Main, &mut |_, data| {
            databases.extend(Tree::read(data));
            Ok(())
        })?;
        for database in databases {
            self.tree(database, &Kind::Data, &mut |_, _| Ok(()))?;
        }
        // The free list comes last: what it names must not be in use.
        let mut free = Vec::new();
        self.tree(meta.free, &Kind::Free, &mut |_, data| {
            let count = u64_at(data, 0).and_then(|count| usize::try_from(count).ok());
            if count.and_then(|count| count.checked_add(1)?.checked_mul(8)).is_none_or(|need| need > data.len()) {
                return damage("a list of free pages is longer than its record");
            }
            let pages = data.chunks_exact(8).skip(1).take(count.unwrap_or_default());
            free.extend(pages.filter_map(|page| u64_at(page, 0)));
            Ok(())
        })?;
        let last = self.last_page;
        for page in free {
            if page < 2 || page > last {
                return damage(format!("page {page} is listed as free and does not exist"));
            }
            // The file may end before pages that are free.
            if page < self.pages && self.is_used(page) {
                return damage(format!("page {page} is listed as free and in use at once"));
            }
        }
        Ok(())
    }

    /// Visits every page of a tree and hands each leaf entry's key and data to `entry`.
    fn tree(&mut self, tree: Tree, kind: &Kind, entry: &mut OnEntry<'_>) -> Result<(), Problem> {
        if tree.root == NO_PAGE {
            return if tree.entries == 0 { Ok(()) } else { damage("a tree has entries and no root") };
        }
        if tree.depth == 0 || tree.depth > DEPTH_MAX {
            return damage(format!("a tree of {} levels", tree.depth));
        }
        let mut entries = 0_u64;
        // The tree's first key on each path must not go down: keys are compared across neighbouring leaves.
        let mut last_key: Option<Vec<u8>> = None;
        let mut open = vec![Visit { page: tree.root, level: 1 }];
        while let Some(Visit { page, level }) = open.pop() {
            let bytes = self.page(page, 1)?;
            let flags = u16_at(&bytes, 10).unwrap_or_default() & 0x0f;
            let expected = if level == tree.depth { PAGE_LEAF } else { PAGE_BRANCH };
            if flags != expected {
                return damage(format!("page {page} has the kind {flags}, {expected} was expected"));
            }
            let nodes = nodes(page, &bytes)?;
            if expected == PAGE_BRANCH {
                let children = nodes.iter().rev().map(|node| Visit { page: node.child, level: level + 1 });
                open.extend(children);
                continue;
            }
            for node in &nodes {
                let key = bytes.get(node.key.clone()).unwrap_or_default();
                let in_order = last_key.as_deref().is_none_or(|last| match kind {
                    Kind::Free => u64_at(last, 0) < u64_at(key, 0),
                    Kind::Main | Kind::Data => last < key,
                });
                if !in_order {
                    return damage(format!("the keys of page {page} are not in order"));
                }
                last_key = Some(key.to_vec());
                entries += 1;
                self.leaf_entry(page, kind, node, &bytes, entry)?;
            }
        }
        if entries == tree.entries {
            Ok(())
        } else {
            damage(format!("a tree has {entries} entries and should have {}", tree.entries))
        }
    }

    fn leaf_entry(
        &mut self,
        page: u64,
        kind: &Kind,
        node: &Node,
        bytes: &[u8],
        entry: &mut OnEntry<'_>,
    ) -> Result<(), Problem> {
        let key = bytes.get(node.key.clone()).unwrap_or_default();
        let expected = if matches!(kind, Kind::Main) { NODE_TREE } else { 0 };
        if node.flags & !NODE_LARGE != expected {
            return damage(format!("an entry of page {page} has the kind {}", node.flags));
        }
        let start = node.key.end;
        if node.flags & NODE_LARGE == 0 {
            let Some(data) = bytes.get(start..start + node.size) else {
                return damage(format!("an entry of page {page} reaches past its end"));
            };
            if matches!(kind, Kind::Main) && data.len() != TREE {
                return damage(format!("a database record of {} bytes", data.len()));
            }
            return entry(key, data);
        }
        let Some(first) = u64_at(bytes.get(start..).unwrap_or_default(), 0) else {
            return damage(format!("an entry of page {page} reaches past its end"));
        };
        let count = (HEADER - 1 + node.size) / self.page_size + 1;
        let large = match kind {
            // Only the free list is read; other values check themselves.
            Kind::Free => self.page(first, count)?,
            Kind::Main | Kind::Data => self.page_head(first, count)?,
        };
        let held = u32_at(&large, 12).unwrap_or_default();
        if u16_at(&large, 10).unwrap_or_default() & 0x0f != PAGE_OVERFLOW || u64::from(held) < count as u64 {
            return damage(format!("page {first} does not hold the {} bytes it should", node.size));
        }
        entry(key, large.get(HEADER..HEADER + node.size).unwrap_or_default())
    }

    /// Reads `count` pages and marks them as used.
    fn page(&mut self, page: u64, count: usize) -> Result<Vec<u8>, Problem> {
        self.read(page, count, count * self.page_size)
    }

    /// Marks `count` pages as used and reads the first one's header.
    fn page_head(&mut self, page: u64, count: usize) -> Result<Vec<u8>, Problem> {
        self.read(page, count, HEADER)
    }

    fn read(&mut self, page: u64, count: usize, len: usize) -> Result<Vec<u8>, Problem> {
        let end = page.checked_add(count as u64);
        if page < 2 || end.is_none_or(|end| end > self.pages || end - 1 > self.last_page) {
            return damage(format!("page {page} is not in the file, which has {} pages", self.pages));
        }
        for number in page..page + count as u64 {
            if self.is_used(number) {
                return damage(format!("page {number} is used twice"));
            }
            if let Some(word) = self.used.get_mut((number / 64) as usize) {
                *word |= 1 << (number % 64);
            }
        }
        let mut bytes = vec![0; len];
        self.file.seek(SeekFrom::Start(page * self.page_size as u64))?;
        self.file.read_exact(&mut bytes)?;
        match u64_at(&bytes, 0) {
            Some(found) if found == page => Ok(bytes),
            _ => damage(format!("page {page} does not bear its own number")),
        }
    }

    fn is_used(&self, page: u64) -> bool {
        self.used.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }
}

/// An entry of a branch or leaf page.
struct Node {
    flags: u16,
    key: std::ops::Range<usize>,
    /// Bytes of data, in a leaf.
    size: usize,
    /// The page below, in a branch.
    child: u64,
}

/// The entries of a page, each inside it.
fn nodes(page: u64, bytes: &[u8]) -> Result<Vec<Node>, Problem> {
    let (lower, upper) = (u16_at(bytes, 12).unwrap_or_default(), u16_at(bytes, 14).unwrap_or_default());
    let (lower, upper) = (usize::from(lower), usize::from(upper));
    if lower < HEADER || lower % 2 != 0 || lower > upper || upper > bytes.len() {
        return damage(format!("page {page} has impossible bounds"));
    }
    let offsets = bytes.get(HEADER..lower).unwrap_or_default();
    if offsets.is_empty() {
        return damage(format!("page {page} is empty"));
    }
    let node = |offset: usize| {
        let head = bytes.get(offset..offset.checked_add(NODE)?).filter(|_| offset >= upper)?;
        let (low, flags) = (u32_at(head, 0)?, u16_at(head, 4)?);
        let key = offset + NODE..offset + NODE + usize::from(u16_at(head, 6)?);
        bytes.get(key.clone())?;
        let child = u64::from(low) | (u64::from(flags) << 32);
        Some(Node { flags, key, size: low as usize, child })
    };
    let read = offsets.chunks_exact(2).map(|offset| node(usize::from(u16_at(offset, 0)?)));
    match read.collect() {
        Some(nodes) => Ok(nodes),
        None => damage(format!("an entry of page {page} lies outside of it")),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
