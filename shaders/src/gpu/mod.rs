//! The GPU engine: hand-written WGSL over wgpu, giving the bits of [`crate::reference`] on any vendor's device.
//!
//! [`adapters`] lists what is there, [`choose`] picks one, and [`open_tested`] makes an engine of it, after the
//! self-test found every bit as it must be. Model state stays on the device; what comes back each step is losses, norms
//! and two flags.
//!
//! ```no_run
//! use neuroshard_shaders::gpu::{self, Options, Wish};
//!
//! let found = gpu::adapters();
//! let descriptions: Vec<_> = found.iter().map(|adapter| adapter.description().clone()).collect();
//! if let Some(place) = gpu::choose(&descriptions, &Wish::Auto)? {
//!     let (engine, report) = gpu::open_tested(&found[place], Options::default())?;
//!     println!("{}\n{report}", engine.adapter());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! How it is made: `tensor` says how values lie in memory, `record` and `attention` turn calls of the operation table
//! into dispatches, `program` replays them, `plan` holds a batch shape's activations and programs, `state` the model's,
//! and `engine` puts them together. The kernels themselves are in `wgsl/`, listed in [`kernels`].

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

use std::fmt;

use kernels::Kernel;
use neuroshard_proto::Fault;

pub use device::{Adapter, AdapterDescription, AdapterKind, NoAdapter, Wish, adapters, choose};
pub use engine::{GpuEngine, Options};
#[doc(hidden)]
pub use probe::Probe;
pub use profile::KernelTime;

use crate::selftest::{self, Refusal, Report};

/// Why an adapter is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The driver refuses, or fails.
    Fault(Fault),
    /// Its results are not the protocol's.
    Refused(Refusal),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens an adapter and tests it: the way a node takes up a GPU. One that fails with bare accumulators in its matrix
/// products is tried again with shielded ones, which add an integer operation to each multiply-add.
///
/// # Errors
/// If the adapter cannot be opened, or fails the self-test both ways; the refusal is that of the last try.
pub fn open_tested(adapter: &Adapter, options: Options) -> Result<(GpuEngine, Report), OpenError> {
    open_tested_altered(adapter, options, Kernel::text)
}

/// As [`open_tested`], with kernels that are altered: for tests.
#[doc(hidden)]
pub fn open_tested_altered(
    adapter: &Adapter,
    options: Options,
    alter: fn(&Kernel) -> String,
) -> Result<(GpuEngine, Report), OpenError> {
    let test = |options| {
        let engine = GpuEngine::open_altered(adapter, options, alter).map_err(OpenError::Fault)?;
        selftest::admit(engine).map_err(OpenError::Refused)
    };
    let bare = options.shield_chains.is_none() && !adapter.description().reassociates();
    match test(options) {
        Err(OpenError::Refused(_)) if bare => test(Options { shield_chains: Some(true), ..options }),
        outcome => outcome,
    }
}
