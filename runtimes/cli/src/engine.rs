//! Which device computes, and why. Whatever it is, it passes the self-test first (ARCHITECTURE §4): a GPU that fails is not
//! used, and the node computes on the CPU instead unless that very GPU was demanded.

use std::fmt;

use neuroshard_host::worker::EngineFactory;
use neuroshard_proto::Fault;
use neuroshard_shaders::cpu::{CpuEngine, Options, lower_priority};
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::selftest::{self, Refusal, Report};

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
    /// How it did in the self-test.
    pub(crate) report: Report,
}

/// Why there is no device.
#[derive(Debug)]
pub(crate) enum EngineError {
    /// A GPU was demanded, and there is none that can be used.
    NoGpu { wish: Adapter, why: String },
    /// The CPU's own results are wrong.
    Refused(Refusal),
    /// The device does not work.
    Fault(Fault),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGpu { wish, why } => write!(f, "--adapter {wish}: {why}"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for EngineError {}

/// Keeps Mesa's device-select layer out of this process: it asks a window system which device comes first, complains on
/// standard error where there is none, and the order is chosen here anyway.
pub(crate) fn leave_drivers_order_alone() {
    const SWITCH: &str = "NODEVICE_SELECT";
    if cfg!(target_os = "linux") && std::env::var_os(SWITCH).is_none() {
        // SAFETY: this is the first thing the program does, while no other thread can read the environment.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}

/// Chooses a device, opens and tests it.
///
/// # Errors
/// If what was demanded is not there or fails its test.
pub(crate) fn choose(wish: &Adapter, threads: Option<usize>) -> Result<Chosen, EngineError> {
    match wish {
        Adapter::Cpu => cpu(threads, "as asked for".to_owned()),
        Adapter::Auto => match gpu(wish) {
            Ok(Some(chosen)) => Ok(chosen),
            Ok(None) => cpu(threads, "no GPU with a driver of its own was found".to_owned()),
            Err(why) => cpu(threads, why),
        },
        Adapter::Gpu(_) => match gpu(wish) {
            Ok(Some(chosen)) => Ok(chosen),
            Ok(None) => Err(EngineError::NoGpu { wish: wish.clone(), why: "no GPU was found".to_owned() }),
            Err(why) => Err(EngineError::NoGpu { wish: wish.clone(), why }),
        },
    }
}

fn cpu(threads: Option<usize>, reason: String) -> Result<Chosen, EngineError> {
    let all = Options::default();
    let options = Options { threads: threads.unwrap_or(all.threads), thread_start: lower_priority, ..all };
    let engine = CpuEngine::new(options).map_err(EngineError::Fault)?;
    let (engine, report) = selftest::admit(engine).map_err(EngineError::Refused)?;
    let factory: EngineFactory = Box::new(move || Ok(Box::new(CpuEngine::new(options)?)));
    Ok(Chosen { description: engine.describe(), engine: Box::new(engine), factory, reason, report })
}

/// The GPU that is wished for; `None` if there is none and none was demanded. The error says why one is not used.
#[cfg(feature = "gpu")]
fn gpu(wish: &Adapter) -> Result<Option<Chosen>, String> {
    use neuroshard_shaders::gpu::{Options, Wish, adapters, choose, open_tested};

    let (wanted, reason) = match wish {
        Adapter::Cpu => return Ok(None),
        Adapter::Auto => (Wish::Auto, "the best GPU with a driver of its own"),
        Adapter::Gpu(None) => (Wish::Hardware, "as asked for"),
        Adapter::Gpu(Some(name)) => (Wish::Named(name.clone()), "as asked for"),
    };
    let mut found = adapters();
    let descriptions: Vec<_> = found.iter().map(|adapter| adapter.description().clone()).collect();
    let Some(place) = choose(&descriptions, &wanted).map_err(|error| error.to_string())? else { return Ok(None) };
    let adapter = found.swap_remove(place);
    let (engine, report) = open_tested(&adapter, Options::default()).map_err(|error| error.to_string())?;
    let description = engine.describe();
    let reopen = move || {
        let (engine, _) =
            open_tested(&adapter, Options::default()).map_err(|error| Fault::device(&error.to_string()))?;
        Ok(Box::new(engine) as Box<dyn Engine>)
    };
    let (engine, factory, reason) = (Box::new(engine), Box::new(reopen), reason.to_owned());
    Ok(Some(Chosen { description, engine, factory, reason, report }))
}

#[cfg(not(feature = "gpu"))]
fn gpu(wish: &Adapter) -> Result<Option<Chosen>, String> {
    match wish {
        Adapter::Auto | Adapter::Cpu => Ok(None),
        Adapter::Gpu(_) => Err("this program was built without support for GPUs; use --adapter cpu".to_owned()),
    }
}
