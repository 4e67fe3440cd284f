// z(x + y), four elements a thread.

struct Params {
    zero: u32,
    // Elements, in fours.
    count4: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sum: array<vec4<f32>>;

@compute @workgroup_size(64)
fn residual(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    if index >= params.count4 {
        return;
    }
    let total = x[index] + y[index];
    sum[index] = vec4(z(total.x), z(total.y), z(total.z), z(total.w));
}
