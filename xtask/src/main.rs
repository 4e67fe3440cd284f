//! The project's chores, so that a laptop and CI do exactly the same: `cargo xtask help`.

mod bindings;
mod check;
mod deps;
mod mutants;
mod tidy;
mod tree;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <command>

  check          everything CI checks beside the tests: format, lints, determinism, dependencies, tidiness, docs
  check <name>   one of: format, lints, floats, dependencies, bindings, tidy, docs
  bindings       rewrite the Python bindings from proto/schema.json
  golden         rewrite the golden files after a deliberate change of the wire, the schema or the arithmetic
  mutants [word] build each deliberate mistake (the word is in its name or its test's) and want the test to notice it
  help           this text";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["check"] => check::all(),
        ["check", name] => check::one(name),
        ["bindings"] => bindings::write(),
        ["golden"] => check::golden(),
        ["mutants"] => mutants::run(""),
        ["mutants", word] => mutants::run(word),
        ["help" | "--help" | "-h"] | [] => {
            println!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown command {words:?}\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
