//! What formatters and lints do not see: sizes, leftovers, words that must not stand in deterministic code, dead links.

use std::path::Path;

use crate::mutants;
use crate::tree::{Source, root, sources};

/// Lines a module may have; a longer one says why in a line `// tidy: long because ...`.
const LINES_MAX: usize = 600;

/// Words that must not stand in any Rust source. Written in halves, so that this file may name them.
const LEFTOVERS: [(&str, &str); 5] = [("FIX", "ME"), ("XX", "X:"), ("TO", "DO"), ("#[ig", "nore"), ("Lorem ", "ipsum")];

/// Words that must not stand in deterministic crates, whatever the lints say.
const GLOBALS: [(&str, &str); 6] = [
    ("static", " mut"),
    ("thread_", "local"),
    ("Once", "Lock"),
    ("Lazy", "Lock"),
    ("std::", "time"),
    ("get", "random"),
];

pub(crate) fn check() -> Result<(), String> {
    let mut problems = Vec::new();
    let code = sources(&[".rs", ".wgsl"])?;
    for source in &code {
        check_source(source, &mut problems);
    }
    mutants::check_places(&code, &mut problems);
    for page in sources(&[".md"])? {
        check_links(&page, &mut problems);
    }
    check_summary(&mut problems)?;
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn check_source(source: &Source, problems: &mut Vec<String>) {
    let Source { path, text } = source;
    let lines = text.lines().count();
    if lines > LINES_MAX && !text.contains("// tidy: long because ") {
        problems.push(format!("{path} has {lines} lines, more than {LINES_MAX}: split it, or say why it is one story"));
    }
    let deterministic = ["core/src/", "proto/src/"].iter().any(|room| path.starts_with(room));
    for (number, line) in (1..).zip(text.lines()) {
        let mut found = |words: &[(&str, &str)], why: &str| {
            for (head, tail) in words {
                let word = format!("{head}{tail}");
                if line.contains(&word) {
                    problems.push(format!("{path}:{number}: `{word}` {why}"));
                }
            }
        };
        found(&LEFTOVERS, "is a leftover");
        if deterministic {
            found(&GLOBALS, "must not stand in deterministic code");
        }
        if line.chars().count() > 140 && !line.contains("http") {
            problems.push(format!("{path}:{number}: a line of {} characters", line.chars().count()));
        }
        if line.ends_with(' ') {
            problems.push(format!("{path}:{number}: white space at the end of the line"));
        }
    }
}

/// Every relative link of a page leads to a file.
fn check_links(page: &Source, problems: &mut Vec<String>) {
    let folder = Path::new(&page.path).parent().map(Path::to_path_buf).unwrap_or_default();
    for part in page.text.split("](").skip(1) {
        let Some(target) = part.split(')').next() else { continue };
        let file = target.split('#').next().unwrap_or_default();
        if file.is_empty() || file.contains("://") || file.contains(' ') || file.starts_with("mailto:") {
            continue;
        }
        if !root().join(&folder).join(file).exists() {
            problems.push(format!("{}: the link to {target} leads nowhere", page.path));
        }
    }
}

/// Every page of the book is in its table of contents.
fn check_summary(problems: &mut Vec<String>) -> Result<(), String> {
    let pages = sources(&[".md"])?;
    let summary = pages.iter().find(|page| page.path == "docs/src/SUMMARY.md");
    let Some(summary) = summary else { return Err("docs/src/SUMMARY.md is missing".into()) };
    for page in &pages {
        let Some(name) = page.path.strip_prefix("docs/src/") else { continue };
        if name != "SUMMARY.md" && !summary.text.contains(&format!("({name})")) {
            problems.push(format!("{} is not in docs/src/SUMMARY.md", page.path));
        }
    }
    Ok(())
}
