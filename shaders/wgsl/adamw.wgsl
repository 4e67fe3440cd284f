// One AdamW step of four parameters a thread (see `Op::AdamW` for the formula); the gradient is cleared.

struct Params {
    zero: u32,
    // Parameters, in fours.
    count4: u32,
    // 1 if weight decay applies.
    decays: u32,
}

struct Rates {
    token_weight: f32,
    clip_factor: f32,
    rate: f32,
    beta1: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    correction1: f32,
    correction2: f32,
    epsilon: f32,
    weight_decay: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<uniform> rates: Rates;
@group(0) @binding(3) var<storage, read_write> weights: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> moments1: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> moments2: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> gradients: array<vec4<f32>>;

// Weight, first and second moment after the step.
fn update(w: f32, m_before: f32, v_before: f32, gradient: f32) -> vec3<f32> {
    let g = mul(mul(gradient, rates.token_weight), rates.clip_factor);
    let m = z(mul(rates.beta1, m_before) + mul(rates.beta1_rest, g));
    let v = z(mul(rates.beta2, v_before) + mul(rates.beta2_rest, mul(g, g)));
    let root = canon_sqrt(mul(v, rates.correction2));
    var pull = mul(mul(m, rates.correction1), recip(q(root + rates.epsilon)));
    if params.decays != 0u {
        pull = z(pull + mul(rates.weight_decay, w));
    }
    return vec3(z(w - mul(rates.rate, pull)), m, v);
}

@compute @workgroup_size(64)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(group, groups) * 64u + lane;
    if index >= params.count4 {
        return;
    }
    let w = weights[index];
    let m = moments1[index];
    let v = moments2[index];
    let g = gradients[index];
    let a = update(w.x, m.x, v.x, g.x);
    let b = update(w.y, m.y, v.y, g.y);
    let c = update(w.z, m.z, v.z, g.z);
    let d = update(w.w, m.w, v.w, g.w);
    weights[index] = vec4(a.x, b.x, c.x, d.x);
    moments1[index] = vec4(a.y, b.y, c.y, d.y);
    moments2[index] = vec4(a.z, b.z, c.z, d.z);
    gradients[index] = vec4<f32>();
}
