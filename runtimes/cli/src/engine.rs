//! Which device computes, and why.

use std::fmt;

use neuroshard_host::worker::EngineFactory;
use neuroshard_proto::Fault;
use neuroshard_shaders::cpu::{CpuEngine, Options, lower_priority};
use neuroshard_shaders::engine::Engine;

use crate::values::Adapter;

/// A device that was chosen.
pub(crate) struct Chosen {
    pub(crate) engine: Box<dyn Engine>,
    /// Makes another one like it.
    pub(crate) factory: EngineFactory,
    /// The device, for people.
    pub(crate) description: String,
    /// Why this one.
    pub(crate) reason: String,
}

/// Why there is no device.
#[derive(Debug)]
pub(crate) enum EngineError {
    /// A GPU was demanded, and this program cannot use one.
    NoGpuSupport { wish: Adapter },
    /// The device does not work.
    Fault(Fault),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGpuSupport { wish } => write!(
                f,
                "--adapter {wish} asks for a GPU, and this program was built without support for one. Use --adapter cpu."
            ),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for EngineError {}

/// Chooses a device and opens it.
///
/// # Errors
/// If what was demanded is not there.
pub(crate) fn choose(wish: &Adapter, threads: Option<usize>) -> Result<Chosen, EngineError> {
    let reason = match wish {
        Adapter::Auto => "no GPU with a driver of its own was found",
        Adapter::Cpu => "as asked for",
        Adapter::Gpu(_) => return Err(EngineError::NoGpuSupport { wish: wish.clone() }),
    };
    let mut factory: EngineFactory = Box::new(move || cpu(threads));
    let engine = factory().map_err(EngineError::Fault)?;
    Ok(Chosen { description: engine.describe(), engine, factory, reason: reason.to_owned() })
}

fn cpu(threads: Option<usize>) -> Result<Box<dyn Engine>, Fault> {
    let all = Options::default();
    let options = Options { threads: threads.unwrap_or(all.threads), thread_start: lower_priority, ..all };
    Ok(Box::new(CpuEngine::new(options)?))
}
