//! Who may be linked in: the deterministic crates' dependencies are a list of decisions, and nobody links tokio.

use std::collections::BTreeSet;

use crate::tree::{cargo_output, root};

/// Deterministic crates and the file that lists what they may link.
const ALLOWED: &str = "xtask/allowed-dependencies.txt";

/// Crates that must not be anywhere in the workspace, and why.
const BANNED: [(&str, &str); 2] = [
    ("tokio", "the runtimes are smol and async-std; one executor's types must not leak into the other"),
    ("openssl-sys", "a fresh machine has no OpenSSL headers"),
];

pub(crate) fn check() -> Result<(), String> {
    let mut problems = Vec::new();
    let text = std::fs::read_to_string(root().join(ALLOWED)).map_err(|error| format!("{ALLOWED}: {error}"))?;
    let allowed: BTreeSet<&str> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .collect();
    let mut seen = BTreeSet::new();
    for name in ["neuroshard-proto", "neuroshard-core"] {
        let tree = cargo_output(&["tree", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"])?;
        for line in tree.lines() {
            let Some(dependency) = line.split_whitespace().next() else { continue };
            if !allowed.contains(dependency) && seen.insert(dependency.to_owned()) {
                problems.push(format!("{name} links {dependency}, which is not in {ALLOWED}"));
            }
            seen.insert(dependency.to_owned());
        }
    }
    problems.extend(
        allowed.iter().filter(|name| !seen.contains(**name)).map(|name| format!("{ALLOWED} lists {name} for nothing")),
    );
    let everything = cargo_output(&["tree", "--workspace", "--target", "all", "--prefix", "none", "--format", "{p}"])?;
    for (name, why) in BANNED {
        if everything.lines().any(|line| line.split_whitespace().next() == Some(name)) {
            problems.push(format!("{name} is in the tree (cargo tree --workspace --target all -i {name}): {why}"));
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}
