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

use neuroshard_proto::Fault;

use crate::selftest::{self, Refusal, Report};

/// Why an adapter is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The driver refuses, or fails.
    Fault(Fault),
    /// Its results are not the protocol's.
    Refused(Refusal),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens an adapter and tests it: the way a node takes up a GPU. If matrix products fail with bare accumulators, they are
/// tried again with shielded ones, which cost about a third of the speed.
///
/// # Errors
/// If the adapter cannot be opened or fails the self-test both ways; the refusal is that of the last try.
pub fn open_tested(adapter: &Adapter, options: Options) -> Result<(GpuEngine, Report), OpenError> {
    let engine = GpuEngine::open(adapter, options).map_err(OpenError::Fault)?;
    match selftest::admit(engine) {
        Ok(admitted) => Ok(admitted),
        Err(_) if options.shield_chains.is_none() && !adapter.description().reassociates() => {
            open_tested(adapter, Options { shield_chains: Some(true), ..options })
        }
        Err(refusal) => Err(OpenError::Refused(refusal)),
    }
}
