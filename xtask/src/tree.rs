//! The source tree: where it is, what is in it, and how to run cargo in it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Runs cargo in the root and wants it to succeed.
pub(crate) fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<(), String> {
    let shown = arguments.join(" ");
    println!("$ cargo {shown}");
    let status =
        Command::new(env!("CARGO")).args(arguments).envs(environment.iter().copied()).current_dir(root()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`cargo {shown}` failed: {status}")),
        Err(error) => Err(format!("`cargo {shown}` did not start: {error}")),
    }
}

/// Runs cargo in the root and returns what it printed.
pub(crate) fn cargo_output(arguments: &[&str]) -> Result<String, String> {
    let shown = arguments.join(" ");
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output();
    let output = output.map_err(|error| format!("`cargo {shown}` did not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("`cargo {shown}` failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A file of the tree, by its path from the root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every file with one of these endings that git would track, in order of their paths.
pub(crate) fn sources(endings: &[&str]) -> Result<Vec<Source>, String> {
    let mut paths = Vec::new();
    collect(&root(), &mut paths)?;
    paths.sort();
    let wanted = |path: &PathBuf| endings.iter().any(|ending| path.to_string_lossy().ends_with(ending));
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let relative = path.strip_prefix(root()).unwrap_or(&path);
        Ok(Source { path: relative.to_string_lossy().into_owned(), text })
    };
    paths.into_iter().filter(wanted).map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if !["target", ".git", "site", "corpus", "artifacts"].contains(&name.as_str()) {
                collect(&path, paths)?;
            }
        } else {
            paths.push(path);
        }
    }
    Ok(())
}
