//! The checks, by name.

use crate::tree::{cargo, root};
use crate::{bindings, deps, tidy};

type Check = (&'static str, fn() -> Result<(), String>);

const CHECKS: [Check; 7] = [
    ("format", format),
    ("tidy", tidy::check),
    ("dependencies", deps::check),
    ("bindings", bindings::check),
    ("lints", lints),
    ("floats", floats),
    ("docs", docs),
];

/// Runs every check and names all that failed.
pub(crate) fn all() -> Result<(), String> {
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        println!("== {name}");
        if let Err(message) = check() {
            eprintln!("{message}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

pub(crate) fn one(wanted: &str) -> Result<(), String> {
    let found = CHECKS.iter().find(|(name, _)| *name == wanted);
    found.map_or_else(|| Err(format!("there is no check named {wanted}")), |(_, check)| check())
}

fn format() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"], &[])
}

fn lints() -> Result<(), String> {
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // The kernels and the command line also build for machines without a GPU.
    cargo(&["clippy", "-p", "neuroshard-shaders", "--no-default-features", "--", "-D", "warnings"], &[])
}

/// Deterministic crates hold no float, not even an inferred one: the compiler's own intermediate code says so.
fn floats() -> Result<(), String> {
    let target = root().join("target/mir");
    let folder = target.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for name in ["neuroshard-proto", "neuroshard-core"] {
        let file = name.replace('-', "_");
        // The output must be made anew, or there is nothing to read.
        cargo(&["clean", "-p", name, "--target-dir", &folder], &[])?;
        cargo(&["rustc", "-p", name, "--lib", "--target-dir", &folder, "--", "--emit=mir"], &[])?;
        let deps = target.join("debug/deps");
        let entries = std::fs::read_dir(&deps).map_err(|error| format!("{}: {error}", deps.display()))?;
        let mut read = 0;
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let own = path.file_name().is_some_and(|own| own.to_string_lossy().starts_with(&file));
            if !own || path.extension().is_none_or(|ending| ending != "mir") {
                continue;
            }
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            read += 1;
            found.extend(text.lines().filter(|line| has_float(line)).map(|line| format!("{name}: {}", line.trim())));
        }
        if read == 0 {
            return Err(format!("the compiler wrote no intermediate code for {name}"));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    found.truncate(20);
    Err(format!("floats in deterministic crates:\n{}", found.join("\n")))
}

/// Whether a line of intermediate code names a float type.
fn has_float(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.split(|c| !word(c)).any(|token| token == "f32" || token == "f64")
}

fn docs() -> Result<(), String> {
    cargo(&["doc", "--workspace", "--no-deps", "--quiet"], &[("RUSTDOCFLAGS", "-D warnings")])
}

/// Rewrites every golden file, the newest trace and the fuzzers' seeds from the code as it is.
pub(crate) fn golden() -> Result<(), String> {
    let bless = [("NEUROSHARD_BLESS", "1")];
    let tests = ["--test", "golden", "--test", "traces", "--test", "book"];
    cargo(&[&["test", "-p", "neuroshard-tests"], &tests[..]].concat(), &bless)?;
    bindings::write()?;
    cargo(&["test", "-p", "neuroshard-fuzz", "--test", "corpora", "the_seeds"], &bless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_seen_as_types_only() {
        assert!(has_float("    let _1: f32;"));
        assert!(has_float("_2 = const 0.5_f64 as f64 (FloatToFloat);"));
        assert!(!has_float("    _3 = F32::from_bits(move _4) // f32"));
        assert!(!has_float("fn to_f32(_1: &Fixed) -> F32 {"));
    }
}
