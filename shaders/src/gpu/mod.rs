//! The GPU engine: hand-written WGSL over wgpu, giving the bits of [`crate::reference`] on any vendor's device.
//!
//! [`adapters`] lists what is there and [`choose`] picks one; [`GpuEngine::open`] makes an engine of it, which
//! [`crate::selftest::admit`] must pass before anything it computes is believed. Model state stays on the device; what
//! comes back each step is losses, norms and two flags.

mod attention;
mod device;
mod engine;
pub mod kernels;
mod pipelines;
mod plan;
mod probe;
mod profile;
mod program;
mod record;
mod state;
mod tensor;

pub use device::{Adapter, AdapterDescription, AdapterKind, NoAdapter, Wish, adapters, choose};
pub use engine::{GpuEngine, Options};
#[doc(hidden)]
pub use probe::Probe;
pub use profile::KernelTime;
