//! How long each kernel takes on the device, by its own clock.

use std::collections::BTreeMap;
use std::time::Instant;

use neuroshard_proto::Fault;

use super::device::Gpu;
use super::program::{Dispatch, Program};
use super::tensor::Staging;

/// A kernel's share of some programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// The kernel's entry point.
    pub kernel: &'static str,
    pub calls: u64,
    pub nanoseconds: u64,
    /// Multiply-adds, 0 for what only moves data.
    pub work: u64,
    /// Bytes of all that its calls bound: what memory must move at least, where each is read or written once.
    pub bytes: u64,
}

/// Most timestamps in a query set of base WebGPU.
const TIMESTAMPS_MAX: usize = 4096;

/// Runs programs with a timestamp before and after each dispatch; kernels come in the order of their time, longest
/// first.
///
/// # Errors
/// If the device has no clock for kernels, or fails.
pub(crate) fn measure(gpu: &Gpu, staging: &mut Staging, programs: &[&Program]) -> Result<Vec<KernelTime>, Fault> {
    if !gpu.has_timestamps() {
        return Err(Fault::device(&format!("{} has no clock for kernels", gpu.description.name)));
    }
    let mut times: BTreeMap<&'static str, KernelTime> = BTreeMap::new();
    let dispatches: Vec<&Dispatch> = programs.iter().flat_map(|program| &program.dispatches).collect();
    let period = f64::from(gpu.queue.get_timestamp_period());
    for part in dispatches.chunks(TIMESTAMPS_MAX / 2) {
        let ticks = run_timed(gpu, staging, part)?;
        for (dispatch, pair) in part.iter().zip(ticks.chunks_exact(2)) {
            let kernel = dispatch.kernel.entry;
            let time =
                times.entry(kernel).or_insert(KernelTime { kernel, calls: 0, nanoseconds: 0, work: 0, bytes: 0 });
            time.calls += 1;
            time.nanoseconds += (pair[1].saturating_sub(pair[0]) as f64 * period) as u64;
            time.work += dispatch.work;
            time.bytes += dispatch.bytes;
        }
    }
    let mut times: Vec<KernelTime> = times.into_values().collect();
    times.sort_by_key(|time| std::cmp::Reverse(time.nanoseconds));
    Ok(times)
}

/// Bytes of a copy that measures memory, unless the device holds less.
const COPY_BYTES: u64 = 128 << 20;

/// The rate at which a copy reads and writes the device's memory, in bytes per nanosecond: the best of a few.
///
/// # Errors
/// If the device fails.
pub(crate) fn copy_rate(gpu: &Gpu) -> Result<f64, Fault> {
    let bytes = COPY_BYTES.min(gpu.device.limits().max_buffer_size);
    let [from, to] = ["copied", "copy"].map(|label| super::tensor::storage(gpu, label, bytes));
    let copies = 4;
    let mut best: f64 = 0.0;
    for _ in 0..4 {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for _ in 0..copies {
            encoder.copy_buffer_to_buffer(&from, 0, &to, 0, Some(bytes));
        }
        let started = Instant::now();
        gpu.queue.submit([encoder.finish()]);
        gpu.wait()?;
        best = best.max((2 * copies * bytes) as f64 / started.elapsed().as_nanos().max(1) as f64);
    }
    Ok(best)
}

/// Runs dispatches one by one; returns their ticks at start and end.
fn run_timed(gpu: &Gpu, staging: &mut Staging, dispatches: &[&Dispatch]) -> Result<Vec<u64>, Fault> {
    let timestamps = 2 * super::tensor::count(dispatches.len());
    let query_set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
        label: Some("kernel times"),
        ty: wgpu::QueryType::Timestamp,
        count: timestamps,
    });
    let bytes = 8 * u64::from(timestamps);
    let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("kernel times"),
        size: bytes,
        usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
        mapped_at_creation: false,
    });
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for (first, dispatch) in (0..).step_by(2).zip(dispatches) {
        let timestamp_writes = wgpu::ComputePassTimestampWrites {
            query_set: &query_set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        };
        Program::encode_part(std::slice::from_ref(*dispatch), &mut encoder, Some(timestamp_writes));
    }
    encoder.resolve_query_set(&query_set, 0..timestamps, &resolved, 0);
    gpu.queue.submit([encoder.finish()]);
    staging.read(gpu, &resolved, bytes, |words| {
        words.chunks_exact(2).map(|pair| u64::from(pair[0]) | u64::from(pair[1]) << 32).collect()
    })
}
