//! Gathers the book: the project's own text, which a network without other data trains on.
//!
//! Every `*.md` under `docs/`, and every `*.rs`, `*.wgsl` and `*.toml` of the workspace, in the order of their paths and
//! without anything that differs between machines. Format: for each file, length of its path (4 bytes, little-endian), path,
//! length of its text (4 bytes), text.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no sources: build results, and inputs that fuzzers or tests made.
const SKIPPED: [&str; 4] = ["target", "corpus", "artifacts", "node_modules"];

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let root = root_of(&package);
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        // Cargo looks through a folder to the bottom, and the root's bottom is the build directory.
        if folder != root {
            println!("cargo::rerun-if-changed={}", folder.display());
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let kind = entry.file_type()?;
            if name.starts_with('.') || kind.is_symlink() || SKIPPED.contains(&&*name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if is_text_of_the_book(&path, &root) {
                files.push(path);
            }
        }
    }
    // Names of one workspace are valid UTF-8; slashes stand between their parts on every system.
    let mut named =
        files.into_iter().map(|path| Ok((name_of(&path, &root)?, path))).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    named.sort();
    let mut book = Vec::new();
    for (name, path) in named {
        println!("cargo::rerun-if-changed={}", path.display());
        // A checkout that turned line ends around still gives the same book.
        let text = fs::read_to_string(&path)?.replace("\r\n", "\n");
        for part in [name.as_bytes(), text.as_bytes()] {
            book.extend_from_slice(&u32::try_from(part.len())?.to_le_bytes());
            book.extend_from_slice(part);
        }
    }
    fs::write(PathBuf::from(std::env::var("OUT_DIR")?).join("book.bin"), book)?;
    Ok(())
}

/// The workspace around this package; the package itself where it was taken out of it.
fn root_of(package: &Path) -> PathBuf {
    let above = package.ancestors().nth(2).filter(|above| {
        fs::read_to_string(above.join("Cargo.toml")).is_ok_and(|manifest| manifest.contains("[workspace]"))
    });
    above.unwrap_or(package).to_owned()
}

fn is_text_of_the_book(path: &Path, root: &Path) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => path.starts_with(root.join("docs")) || path.parent() == Some(root),
        Some("rs" | "wgsl" | "toml") => true,
        _ => false,
    }
}

fn name_of(path: &Path, root: &Path) -> Result<String, Box<dyn Error>> {
    let parts =
        path.strip_prefix(root)?.components().map(|part| part.as_os_str().to_str().ok_or("a name is not UTF-8"));
    Ok(parts.collect::<Result<Vec<_>, _>>()?.join("/"))
}
