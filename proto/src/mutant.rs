//! Deliberate mistakes, to see that the tests can fail.

/// Whether this build makes the named mistake on purpose.
///
/// Always `false` unless the crate is built with the feature `mutants`, which only `cargo xtask mutants` does: it builds
/// one mistake at a time and wants a named test to fail.
#[must_use]
pub const fn mutant(name: &str) -> bool {
    match CHOSEN {
        Some(chosen) => equal(chosen.as_bytes(), name.as_bytes()),
        None => false,
    }
}

const CHOSEN: Option<&str> = if cfg!(feature = "mutants") { option_env!("NEUROSHARD_MUTANT") } else { None };

const fn equal(mut a: &[u8], mut b: &[u8]) -> bool {
    loop {
        match (a, b) {
            ([], []) => return true,
            ([x, rest @ ..], [y, others @ ..]) if *x == *y => (a, b) = (rest, others),
            _ => return false,
        }
    }
}
