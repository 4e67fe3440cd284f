use neuroshard_proto::*;
use neuroshard_shaders::cpu::*;
use neuroshard_shaders::engine::*;
use neuroshard_shaders::layout::LayerLayout;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let threads: usize = args[1].parse().unwrap();
    for preset in Preset::ALL {
        if args.len() > 2 && !args[2..].contains(&preset.name().to_string()) {
            continue;
        }
        let (model, t) = preset.specs();
        let mut e = CpuEngine::new(Options { threads, ..Options::default() }).unwrap();
        e.allocate(&model, model.all_layers()).unwrap();
        for layer in model.all_layers().iter() {
            let layout = LayerLayout::new(&model, layer);
            let w: Vec<f32> =
                (0..layout.elements).map(|i| (((i * 2654435761) >> 8) % 1000) as f32 * 4e-5 - 0.02).collect();
            e.write(Part::Weights, layer, &w).unwrap();
        }
        let n = (t.batch * t.sequence) as usize;
        let tok: Vec<u32> = (0..n as u32 + 1).map(|i| (i * 7919 % 256) + 10).collect();
        let b = TokenBatch { sequence: t.sequence, inputs: tok[..n].to_vec(), targets: tok[1..].to_vec() };
        let w = F32::from_ratio(1, n as u128);
        let s = neuroshard_proto::Schedule {
            rate: w,
            beta1: w,
            beta1_rest: w,
            beta2: w,
            beta2_rest: w,
            correction1: F32::ONE,
            correction2: F32::ONE,
            epsilon: w,
            weight_decay: w,
            clip: F32::ONE,
        };
        let steps = match preset {
            Preset::Nano => 60,
            Preset::Micro => 10,
            _ => 3,
        };
        let mut run = |k: usize| {
            for _ in 0..k {
                e.train(&b, true, w).unwrap();
                e.step(w, F32::ONE, &s).unwrap();
            }
        };
        run(2);
        let (c0, t0) = (cpu(), std::time::Instant::now());
        run(steps);
        let (c, wall) = (cpu() - c0, t0.elapsed().as_secs_f64());
        let flop = 6.0 * (model.parameters() as f64 - (model.vocab * model.hidden) as f64) * n as f64;
        let rss = std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
            .to_string();
        println!(
            "{} {}: {:.2} ms/step wall, {:.2} ms cpu/step, {:.0} tok/s, {:.0} tok/cpu-s, matmul {:.0} GFLOP/cpu-s, {}",
            preset.name(),
            e.describe(),
            wall * 1e3 / steps as f64,
            c * 1e3 / steps as f64,
            n as f64 * steps as f64 / wall,
            n as f64 * steps as f64 / c,
            flop * steps as f64 / c / 1e9,
            rss
        );
    }
}
