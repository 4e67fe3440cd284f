//! Runs an expression of the canonical arithmetic over many singles: how tests compare the two texts of it.

use neuroshard_proto::Fault;

use super::device::{Adapter, Gpu};
use super::kernels;
use super::program::uniform;
use super::tensor::{Staging, count, storage};

const SHELL: &str = "
struct Params { zero: u32, count: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> arguments: array<u32>;
@group(0) @binding(3) var<storage, read_write> results: array<u32>;

@compute @workgroup_size(64)
fn probe(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count {
        let x = bitcast<f32>(arguments[id.x]);
        results[id.x] = bitcast<u32>(EXPRESSION);
    }
}";

/// An expression on a device.
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe;

impl Probe {
    /// The value of a WGSL expression of the single `x` at each argument, at most 4 million of them.
    ///
    /// # Errors
    /// [`Fault::Device`] if the device fails.
    pub fn run(adapter: &Adapter, expression: &str, arguments: &[f32]) -> Result<Vec<f32>, Fault> {
        let gpu = Gpu::open(adapter)?;
        let text = format!("{}\n{}", kernels::CANON.1, SHELL.replace("EXPRESSION", expression));
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("probe"), source });
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("probe"),
            layout: None,
            module: &module,
            entry_point: Some("probe"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        gpu.outcome()?;
        let bytes = 4 * arguments.len() as u64;
        let params = uniform(&gpu, "params", 8);
        let (from, to) = (storage(&gpu, "arguments", bytes), storage(&gpu, "results", bytes));
        gpu.queue.write_buffer(&params, 0, bytemuck::cast_slice(&[0, count(arguments.len())]));
        gpu.queue.write_buffer(&from, 0, bytemuck::cast_slice(arguments));
        let bind = |(binding, buffer): (u32, &wgpu::Buffer)| (binding, buffer.clone());
        let bound = [(0, &params), (2, &from), (3, &to)].map(bind);
        let entries = bound
            .each_ref()
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() });
        let layout = &pipeline.get_bind_group_layout(0);
        let bind_group =
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries });
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(count(arguments.len().div_ceil(64)), 1, 1);
        drop(pass);
        gpu.queue.submit([encoder.finish()]);
        Staging::default().read(&gpu, &to, bytes, |words| bytemuck::cast_slice(words).to_vec())
    }
}
