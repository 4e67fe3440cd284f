//! Compiled kernels, made when first used and kept.

use std::collections::BTreeMap;
use std::fmt;

use super::device::Gpu;
use super::kernels::{Kernel, Tile};

/// What a kernel is compiled with beside its text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Variant {
    /// The tile of a tiled kernel.
    pub(crate) tile: Option<Tile>,
    /// Of [`super::kernels::ROPE`]: turn back.
    pub(crate) inverse: bool,
}

/// Where a kernel's text comes from: [`Kernel::text`], but for tests that alter it.
pub(crate) type Sources = Box<dyn Fn(&Kernel) -> String + Send>;

/// The cache.
pub(crate) struct Pipelines {
    sources: Sources,
    shield_chains: bool,
    modules: BTreeMap<&'static str, wgpu::ShaderModule>,
    pipelines: BTreeMap<(&'static str, Variant), wgpu::ComputePipeline>,
}

impl fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipelines").field("compiled", &self.pipelines.keys()).finish_non_exhaustive()
    }
}

impl Pipelines {
    pub(crate) fn new(sources: Sources, shield_chains: bool) -> Self {
        Self { sources, shield_chains, modules: BTreeMap::new(), pipelines: BTreeMap::new() }
    }

    /// The kernel, compiled.
    pub(crate) fn get(&mut self, gpu: &Gpu, kernel: &'static Kernel, variant: Variant) -> wgpu::ComputePipeline {
        let key = (kernel.entry, variant);
        if let Some(pipeline) = self.pipelines.get(&key) {
            return pipeline.clone();
        }
        let mut constants = Vec::new();
        if let Some(tile) = variant.tile {
            constants.push(("SHIELD_CHAINS", f64::from(u8::from(self.shield_chains))));
            constants.extend([("THREADS_M", tile.threads_m.into()), ("THREADS_N", tile.threads_n.into())]);
        }
        if variant.inverse {
            constants.push(("INVERSE", 1.0));
        }
        let descriptor = wgpu::ComputePipelineDescriptor {
            label: Some(kernel.entry),
            layout: None,
            module: self.module(gpu, kernel),
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        };
        let pipeline = gpu.device.create_compute_pipeline(&descriptor);
        self.pipelines.insert(key, pipeline.clone());
        pipeline
    }

    /// The module of a kernel's text, which kernels of one file share.
    fn module(&mut self, gpu: &Gpu, kernel: &Kernel) -> &wgpu::ShaderModule {
        let name = kernel.sources.last().map_or(kernel.entry, |source| source.0);
        self.modules.entry(name).or_insert_with(|| {
            let text = (self.sources)(kernel).into();
            let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(text) };
            if cfg!(debug_assertions) {
                return gpu.device.create_shader_module(descriptor);
            }
            // SAFETY: The texts are this crate's own. Their loops are bounded by their parameters, their divisors are
            // shapes and never 0, and builds with debug assertions run all of them, in every test, with every access
            // checked by position rather than by trust.
            unsafe { gpu.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        })
    }
}
