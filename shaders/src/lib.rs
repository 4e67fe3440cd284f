//! The model's arithmetic: hand-written WGSL and CPU kernels that give the same bits on every machine, and the executor
//! that runs the core's jobs on them.

pub mod canon;
pub mod cpu;
pub mod engine;
pub mod executor;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod infer;
pub mod layout;
pub mod optimizer;
pub mod reference;
pub mod sample;
pub mod selftest;
mod timing;
pub mod values;
