//! Dispatches recorded once and replayed every step: no buffer, bind group or pipeline is made while a model trains.

use super::device::Gpu;
use super::kernels::Kernel;
use super::pipelines::{Pipelines, Variant};

/// Most workgroups in one dimension of base WebGPU.
const GROUPS_MAX: u64 = 65_535;
/// Where a uniform buffer may be bound, in bytes: base WebGPU's promise.
const UNIFORM_ALIGNMENT: usize = 256;

/// One kernel over one set of buffers, as it will run.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) kernel: &'static Kernel,
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    groups: [u32; 2],
    /// Multiply-adds: what its cost is judged by.
    pub(crate) work: u64,
    /// Bytes of all that it binds.
    pub(crate) bytes: u64,
}

/// Dispatches in order.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) dispatches: Vec<Dispatch>,
}

impl Program {
    /// Multiply-adds of all dispatches.
    pub(crate) fn work(&self) -> u64 {
        self.dispatches.iter().map(|dispatch| dispatch.work).sum()
    }

    /// Encodes all dispatches in one pass.
    pub(crate) fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        Self::encode_part(&self.dispatches, encoder, None);
    }

    /// Encodes some dispatches in one pass, timed if wanted.
    pub(crate) fn encode_part(
        dispatches: &[Dispatch],
        encoder: &mut wgpu::CommandEncoder,
        timestamp_writes: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) {
        if dispatches.is_empty() {
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
        for dispatch in dispatches {
            pass.set_pipeline(&dispatch.pipeline);
            pass.set_bind_group(0, &dispatch.bind_group, &[]);
            pass.dispatch_workgroups(dispatch.groups[0], dispatch.groups[1], 1);
        }
    }
}

/// A dispatch before its parameters have a place.
#[derive(Debug)]
struct Draft {
    kernel: &'static Kernel,
    pipeline: wgpu::ComputePipeline,
    /// `zero`, then the kernel's parameters.
    params: Vec<u32>,
    buffers: Vec<wgpu::Buffer>,
    groups: [u32; 2],
    work: u64,
}

/// How much a dispatch does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) groups: u64,
    /// Multiply-adds, 0 for what only moves data.
    pub(crate) work: u64,
}

impl Extent {
    /// One workgroup for each of these.
    pub(crate) fn groups(groups: usize) -> Self {
        Self { groups: groups as u64, work: 0 }
    }

    /// One of a workgroup's 64 threads for each of these.
    pub(crate) fn threads(threads: usize) -> Self {
        Self::groups(threads.div_ceil(64))
    }
}

/// Takes dispatches down and makes a [`Program`] of them.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    pub(crate) gpu: &'a Gpu,
    pipelines: &'a mut Pipelines,
    flags: &'a wgpu::Buffer,
    drafts: Vec<Draft>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(gpu: &'a Gpu, pipelines: &'a mut Pipelines, flags: &'a wgpu::Buffer) -> Self {
        Self { gpu, pipelines, flags, drafts: Vec::new() }
    }

    /// Adds a kernel: its parameters and what it binds by name, in the order of the kernel's own lists. `flags` is
    /// bound unasked.
    pub(crate) fn dispatch(
        &mut self,
        kernel: &'static Kernel,
        variant: Variant,
        params: &[(&str, u32)],
        buffers: &[(&str, &wgpu::Buffer)],
        extent: Extent,
    ) {
        assert!(params.iter().map(|param| param.0).eq(kernel.params.iter().copied()), "parameters of {}", kernel.entry);
        let names = || kernel.bindings.iter().map(|binding| binding.1);
        let own = names().filter(|name| *name != "flags");
        assert!(buffers.iter().map(|buffer| buffer.0).eq(own), "bindings of {}", kernel.entry);
        assert!(extent.groups <= GROUPS_MAX * GROUPS_MAX, "a grid of two dimensions");
        if extent.groups == 0 {
            return;
        }
        let mut own = buffers.iter().map(|buffer| buffer.1);
        let buffers = names().filter_map(|name| if name == "flags" { Some(self.flags) } else { own.next() });
        let across = extent.groups.min(GROUPS_MAX);
        let groups = [across, extent.groups.div_ceil(across)].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        self.drafts.push(Draft {
            kernel,
            pipeline: self.pipelines.get(self.gpu, kernel, variant),
            params: std::iter::once(0).chain(params.iter().map(|param| param.1)).collect(),
            buffers: buffers.cloned().collect(),
            groups,
            work: extent.work,
        });
    }

    /// Gives the parameters their place and binds everything.
    pub(crate) fn finish(self) -> Program {
        let mut words: Vec<u32> = Vec::new();
        let starts: Vec<u64> = self
            .drafts
            .iter()
            .map(|draft| {
                let start = words.len();
                words.extend(&draft.params);
                words.resize(words.len().next_multiple_of(UNIFORM_ALIGNMENT / 4), 0);
                4 * start as u64
            })
            .collect();
        let uniforms = uniform(self.gpu, "params", 4 * words.len() as u64);
        self.gpu.queue.write_buffer(&uniforms, 0, bytemuck::cast_slice(&words));
        let device = &self.gpu.device;
        let bind = |(draft, start): (Draft, u64)| {
            let size = wgpu::BufferSize::new((4 * draft.params.len() as u64).next_multiple_of(16));
            let params = wgpu::BufferBinding { buffer: &uniforms, offset: start, size };
            let first = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) };
            let bound = draft.kernel.bindings.iter().zip(&draft.buffers);
            let others = bound.map(|((binding, _), buffer)| wgpu::BindGroupEntry {
                binding: *binding,
                resource: buffer.as_entire_binding(),
            });
            let entries: Vec<_> = std::iter::once(first).chain(others).collect();
            let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(draft.kernel.entry),
                layout: &draft.pipeline.get_bind_group_layout(0),
                entries: &entries,
            });
            let bytes = draft.buffers.iter().map(wgpu::Buffer::size).sum();
            let Draft { kernel, pipeline, groups, work, .. } = draft;
            Dispatch { kernel, pipeline, bind_group, groups, work, bytes }
        };
        Program { dispatches: self.drafts.into_iter().zip(starts).map(bind).collect() }
    }
}

/// A buffer of parameters of at least 16 bytes.
pub(crate) fn uniform(gpu: &Gpu, label: &str, bytes: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let size = bytes.next_multiple_of(16).max(16);
    gpu.device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false })
}
