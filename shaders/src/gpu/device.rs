//! Adapters, the choice among them, and a device whose failures are faults with a text a person can act on.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use neuroshard_proto::Fault;

/// What an adapter is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// A part of the processor, sharing its memory.
    Integrated,
    /// A share of a device, lent by a hypervisor.
    Virtual,
    /// The driver does not say.
    Unknown,
    /// A driver that runs on the processor: right, but 20 to 100 times slower than the CPU engine.
    Software,
}

/// An adapter in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterDescription {
    pub name: String,
    /// `Vulkan`, `Metal` or `DirectX 12`.
    pub backend: &'static str,
    /// The driver and its version, as it names itself.
    pub driver: String,
    pub kind: AdapterKind,
}

impl AdapterDescription {
    /// Whether the adapter is a driver that runs on the processor.
    pub fn is_software(&self) -> bool {
        self.kind == AdapterKind::Software
    }

    /// Whether the compiler behind this backend is known to reassociate long sums, so that accumulators are shielded.
    pub(crate) fn reassociates(&self) -> bool {
        self.backend != VULKAN
    }
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let software = if self.is_software() { ", software" } else { "" };
        write!(f, "{} ({}, {}{software})", self.name, self.backend, self.driver)
    }
}

const VULKAN: &str = "Vulkan";

/// An adapter that can be opened.
#[derive(Clone, Debug)]
pub struct Adapter {
    inner: wgpu::Adapter,
    description: AdapterDescription,
}

impl Adapter {
    pub fn description(&self) -> &AdapterDescription {
        &self.description
    }
}

/// Everything that can compute here, the best first: hardware before software, cards before processors' own, Vulkan and
/// Metal before Direct3D. Asks the drivers anew each time.
pub fn adapters() -> Vec<Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags: wgpu::InstanceFlags::empty(),
        // Refuse to fill the last of the memory: what shares it with the processor would stop the machine.
        memory_budget_thresholds: wgpu::MemoryBudgetThresholds {
            for_resource_creation: Some(95),
            ..wgpu::MemoryBudgetThresholds::default()
        },
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut found: Vec<Adapter> =
        pollster::block_on(instance.enumerate_adapters(backends)).into_iter().map(describe).collect();
    found.sort_by_key(|adapter| (adapter.description.kind, adapter.description.backend == "DirectX 12"));
    found
}

fn describe(inner: wgpu::Adapter) -> Adapter {
    let info = inner.get_info();
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
        wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
        wgpu::DeviceType::Other => AdapterKind::Unknown,
        wgpu::DeviceType::Cpu => AdapterKind::Software,
    };
    let backend = match info.backend {
        wgpu::Backend::Vulkan => VULKAN,
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DirectX 12",
        wgpu::Backend::Gl | wgpu::Backend::BrowserWebGpu | wgpu::Backend::Noop => "unknown",
    };
    let driver = [info.driver.as_str(), info.driver_info.as_str()];
    let driver = driver.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let driver = if driver.is_empty() { "driver unknown".to_owned() } else { driver };
    let description = AdapterDescription { name: info.name, backend, driver, kind };
    Adapter { inner, description }
}

/// Which adapter an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The best hardware; none is fine.
    Auto,
    /// The best hardware; none is an error.
    Hardware,
    /// The first whose name, driver or backend holds this text, whatever its case. Only so is a software driver chosen.
    Named(String),
}

/// Why no adapter was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAdapter {
    wish: Wish,
    found: Vec<AdapterDescription>,
}

impl fmt::Display for NoAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.wish {
            Wish::Named(name) => write!(f, "no GPU's name, driver or backend holds \"{name}\"")?,
            Wish::Auto | Wish::Hardware => f.write_str("no GPU was found")?,
        }
        if self.found.is_empty() {
            return f.write_str(": no driver is installed; install your GPU's Vulkan driver, or use the CPU");
        }
        f.write_str("; found: ")?;
        for (index, adapter) in self.found.iter().enumerate() {
            write!(f, "{}{adapter}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str(". Name one of these, or use the CPU")
    }
}

impl std::error::Error for NoAdapter {}

/// The place in `found` of the adapter that is wished for; `None` if there is no hardware and none was demanded.
///
/// # Errors
/// If an adapter was demanded and is not there.
pub fn choose(found: &[AdapterDescription], wish: &Wish) -> Result<Option<usize>, NoAdapter> {
    let chosen = match wish {
        Wish::Auto | Wish::Hardware => found.iter().position(|adapter| !adapter.is_software()),
        Wish::Named(name) => {
            let name = name.to_lowercase();
            let holds = |text: &str| text.to_lowercase().contains(&name);
            found.iter().position(|adapter| holds(&adapter.name) || holds(&adapter.driver) || holds(adapter.backend))
        }
    };
    if chosen.is_none() && *wish != Wish::Auto {
        return Err(NoAdapter { wish: wish.clone(), found: found.to_vec() });
    }
    Ok(chosen)
}

/// What went wrong on a device since it was last asked.
#[derive(Debug, Default)]
struct Trouble {
    /// The first error; what follows from it is noise.
    error: Option<String>,
    /// Why the device went away: from then on it is of no use.
    lost: Option<String>,
}

/// An open device and its queue.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) description: AdapterDescription,
    trouble: Arc<Mutex<Trouble>>,
}

impl Gpu {
    /// Opens an adapter with the limits of base WebGPU, but for the sizes of buffers, which are the adapter's own.
    pub(crate) fn open(adapter: &Adapter) -> Result<Self, Fault> {
        let own = adapter.inner.limits();
        let required_limits = wgpu::Limits {
            max_buffer_size: own.max_buffer_size,
            max_storage_buffer_binding_size: own.max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        let required_features = adapter.inner.features() & wgpu::Features::TIMESTAMP_QUERY;
        let descriptor =
            wgpu::DeviceDescriptor { required_limits, required_features, ..wgpu::DeviceDescriptor::default() };
        let (device, queue) = pollster::block_on(adapter.inner.request_device(&descriptor))
            .map_err(|error| Fault::device(&format!("{} cannot be opened: {error}", adapter.description.name)))?;
        let trouble = Arc::new(Mutex::new(Trouble::default()));
        let (errors, losses) = (Arc::clone(&trouble), Arc::clone(&trouble));
        let name = adapter.description.name.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            errors.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(explain(&name, &error));
        }));
        let name = adapter.description.name.clone();
        device.set_device_lost_callback(move |reason, message| {
            let why = if message.is_empty() { format!("{reason:?}") } else { message };
            let text = format!(
                "{name} went away and its state is lost ({}): restart to go on from the last snapshot, or use the CPU",
                first_line(&why)
            );
            losses.lock().unwrap_or_else(PoisonError::into_inner).lost.get_or_insert(text);
        });
        Ok(Self { device, queue, description: adapter.description.clone(), trouble })
    }

    /// Whether kernels can be timed.
    pub(crate) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// The first error since the last call, if any; a lost device stays lost.
    pub(crate) fn outcome(&self) -> Result<(), Fault> {
        // Learn of a loss before speaking of what follows from it.
        let polled = self.device.poll(wgpu::PollType::Poll);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = polled {
            trouble.error.get_or_insert_with(|| format!("{} does not answer: {error}", self.description.name));
        }
        let error = trouble.error.take();
        trouble.lost.clone().or(error).map_or(Ok(()), |why| Err(Fault::device(&why)))
    }

    /// Waits until everything submitted is done.
    pub(crate) fn wait(&self) -> Result<(), Fault> {
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.outcome()?;
        polled.map(|_| ()).map_err(|error| {
            Fault::device(&format!("{} does not answer ({error}): use the CPU", self.description.name))
        })
    }

    /// The bytes of a buffer that can be mapped, after everything submitted is done.
    pub(crate) fn mapped<T>(
        &self,
        buffer: &wgpu::Buffer,
        bytes: u64,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, Fault> {
        let slice = buffer.slice(..bytes);
        let result = Arc::new(Mutex::new(None));
        let done = Arc::clone(&result);
        slice.map_async(wgpu::MapMode::Read, move |mapped| {
            *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(mapped);
        });
        self.wait()?;
        let failed = |why: &str| Fault::device(&format!("{} gave no results back: {why}", self.description.name));
        match result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(failed(&error.to_string())),
            None => return Err(failed("the mapping never finished")),
        }
        let view = slice.get_mapped_range().map_err(|error| failed(&error.to_string()))?;
        let value = read(&view);
        drop(view);
        buffer.unmap();
        Ok(value)
    }
}

fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason given")
}

fn explain(name: &str, error: &wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => format!(
            "{name} is out of memory: choose a smaller model or batch, close what else uses the GPU, or use the CPU"
        ),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            // The last cause is the precise one.
            let cause = description.lines().map(str::trim).rfind(|line| !line.is_empty());
            format!("{name} refused a command: use the CPU, and report this: {}", cause.unwrap_or("no reason given"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: AdapterKind) -> AdapterDescription {
        AdapterDescription { name: name.into(), backend: VULKAN, driver: "Mesa 25".into(), kind }
    }

    #[test]
    fn auto_never_picks_a_software_driver() {
        let software = adapter("llvmpipe", AdapterKind::Software);
        assert_eq!(choose(std::slice::from_ref(&software), &Wish::Auto), Ok(None));
        assert_eq!(choose(&[software.clone(), adapter("RX", AdapterKind::Discrete)], &Wish::Auto), Ok(Some(1)));
        let refusal = choose(&[software], &Wish::Hardware).unwrap_err().to_string();
        assert!(refusal.contains("llvmpipe (Vulkan, Mesa 25, software)"), "{refusal}");
    }

    #[test]
    fn a_name_picks_any_adapter_by_a_part_of_it_whatever_its_case() {
        let found = [adapter("NVIDIA H100", AdapterKind::Discrete), adapter("llvmpipe", AdapterKind::Software)];
        assert_eq!(choose(&found, &Wish::Named("LLVM".into())), Ok(Some(1)));
        assert_eq!(choose(&found, &Wish::Named("h100".into())), Ok(Some(0)));
        let refusal = choose(&found, &Wish::Named("arc".into())).unwrap_err().to_string();
        assert!(refusal.starts_with("no GPU's name, driver or backend holds \"arc\""), "{refusal}");
        assert!(choose(&[], &Wish::Hardware).unwrap_err().to_string().contains("no driver is installed"));
    }

    #[test]
    fn an_error_says_what_happened_and_what_to_do() {
        let text = explain("RX", &wgpu::Error::OutOfMemory { source: "".into() });
        assert!(text.contains("out of memory") && text.contains("use the CPU"));
        let description = "In a call\n  caused by:\n    too many bindings\n".to_owned();
        let text = explain("RX", &wgpu::Error::Validation { source: "".into(), description });
        assert!(text.ends_with("too many bindings"), "{text}");
    }
}
