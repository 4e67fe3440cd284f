//! Golden files: what the code makes is held to what is checked in, and rewritten only on purpose.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Compares `text` with the golden file at `path` from the workspace's root.
///
/// With `NEUROSHARD_BLESS` in the environment the file is written instead (`cargo xtask golden`).
///
/// # Panics
/// If the file differs, with the first line that does.
pub fn check(path: &str, text: &str) {
    let file = root().join(path);
    if std::env::var_os("NEUROSHARD_BLESS").is_some() {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).expect("the golden folder can be made");
        }
        std::fs::write(&file, text).expect("the golden file can be written");
        return;
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    if golden == text {
        return;
    }
    let place = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    let place = place.unwrap_or_else(|| golden.lines().count().min(text.lines().count()));
    let line = |text: &str| text.lines().nth(place).unwrap_or("(nothing)").to_owned();
    panic!(
        "{path} differs at line {}:\n  checked in: {}\n  now:        {}\nIf this is meant, it changes what every node agrees \
         on: raise the version it belongs to and run `cargo xtask golden`.",
        place + 1,
        line(&golden),
        line(text)
    );
}

/// `name = hexadecimal`, a line each.
pub fn lines<'a>(entries: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> String {
    let mut text = String::new();
    for (name, bytes) in entries {
        text.push_str(name);
        text.push_str(" = ");
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
