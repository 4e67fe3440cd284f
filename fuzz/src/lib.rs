//! Fuzzing: bytes become hostile messages, schedules, traces and texts, and what must always hold is asserted.
//!
//! Each target is an ordinary function that takes bytes and panics if something is wrong. The tests run every target over
//! its corpus in `fuzz/corpus`; `cargo-fuzz` looks for more:
//!
//! ```sh
//! cargo install cargo-fuzz
//! RUSTC_BOOTSTRAP=1 cargo fuzz run core --features libfuzzer -- -max_total_time=300
//! ```
//!
//! (`decode`, `core`, `agreement`, `apply`, `trace`, `tokenizer`; a nightly compiler needs no `RUSTC_BOOTSTRAP`, and with
//! `-s none` it runs faster: what is fuzzed has no unsafe code.) What the fuzzer finds lands in
//! the corpus under a name that git ignores. A crash becomes a regression test by giving its file a name that says what it
//! shows; `cargo xtask golden` writes the seeds anew when an encoding changes.

pub mod agreement;
pub mod apply;
pub mod decode;
pub mod memory;
pub mod node;
pub mod seeds;
pub mod tokenizer;
pub mod trace;
mod world;
