// tree(mul(w, w)) with w = mul(g, token_weight) over a tensor's elements in row-major order, and the sums over the
// tensors of each stage.

struct Params {
    zero: u32,
    // Elements of the tensor, of one of its rows, and of a padded row.
    count: u32,
    width: u32,
    stride: u32,
    // Where the tensor starts in what is bound, and its totals in `totals`.
    first_row: u32,
    first_total: u32,
}

struct Weighting {
    token_weight: f32,
}

// A run of `totals` or of `tensors`.
struct Span {
    first: u32,
    count: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<uniform> weighting: Weighting;
@group(0) @binding(3) var<storage, read> gradient: array<f32>;
@group(0) @binding(4) var<storage, read_write> totals: array<f32>;
// The totals of each tensor, and the tensors of each stage.
@group(0) @binding(5) var<storage, read> tensors: array<Span>;
@group(0) @binding(6) var<storage, read> stages: array<Span>;
@group(0) @binding(7) var<storage, read_write> norms: array<f32>;

fn square(i: u32) -> f32 {
    if i >= params.count {
        return 0.0;
    }
    var at = params.first_row * params.stride + i;
    if params.stride != params.width {
        at = (params.first_row + i / params.width) * params.stride + i % params.width;
    }
    let weighted = mul(check(gradient[at]), weighting.token_weight);
    return mul(weighted, weighted);
}

// The total of one block of 256 elements; a workgroup of 64 lanes takes it.
@compute @workgroup_size(64)
fn blocks(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let block = place(group, groups);
    let i = block * TREE + lane;
    if block * TREE >= params.count {
        return;
    }
    let total = tree_block(lane, vec4(square(i), square(i + 64u), square(i + 128u), square(i + 192u)));
    if lane == 0u {
        totals[params.first_total + block] = total;
    }
    report(0u);
}

var<workgroup> fetched: array<f32, 256>;

// The squared norm of one stage: 256 threads fetch, one adds.
@compute @workgroup_size(256)
fn stage_norms(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let stage = group.x;
    let of_stage = stages[stage];
    var norm = start();
    for (var tensor = of_stage.first; tensor < of_stage.first + of_stage.count; tensor++) {
        let of_tensor = tensors[tensor];
        var sum = start();
        for (var first = 0u; first < of_tensor.count; first += 256u) {
            let count = min(256u, of_tensor.count - first);
            if thread < count {
                fetched[thread] = totals[of_tensor.first + first + thread];
            }
            workgroupBarrier();
            if thread == 0u {
                for (var i = 0u; i < count; i++) {
                    sum = q(sum + fetched[i]);
                }
            }
            workgroupBarrier();
        }
        norm = q(norm + sum);
    }
    if thread == 0u {
        norms[stage] = norm;
    }
}
