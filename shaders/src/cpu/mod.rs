//! The CPU engine: hand-packed bfloat16 products and vectorised row kernels, to the bit as [`crate::reference`] has it.
//!
//! * `isa`: instruction sets, and one macro that compiles a function for each of them;
//! * `gemm` and `tiles`: matrix products in the canonical order;
//! * `rows`, `attention`, `attention_backward`: everything else, a row or a head at a time;
//! * `state`: weights, moments, gradients, AdamW;
//! * `pass`, `forward`, `backward`: a training step in blocks of tokens that stay in the caches;
//! * `decode`: the forward pass of a sequence that grows;
//! * `table`: the same kernels behind single calls of the operation table;
//! * `measure`: a product alone, for benchmarks;
//! * `pool`: threads. Work is cut the same way whatever their number, so their number never changes a bit.

mod attention;
mod attention_backward;
mod backward;
pub(crate) mod decode;
mod engine;
mod forward;
mod gemm;
mod isa;
pub mod measure;
mod memory;
mod pass;
mod pool;
mod priority;
mod resident;
mod rows;
mod state;
mod table;
mod tiles;

pub use engine::{CpuEngine, Options, THREADS_MAX};
pub use isa::Isa;
pub use priority::lower_priority;
