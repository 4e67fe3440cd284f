//! The GPU engine: hand-written WGSL over wgpu, giving the bits of [`crate::reference`] on any vendor's device.

pub mod kernels;
