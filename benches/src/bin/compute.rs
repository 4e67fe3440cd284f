//! What the CPU engine reaches: `cargo run --release -p neuroshard-benches --bin compute [-- --torch PYTHON] [PART...]`.
//!
//! Prints tables for `docs/benchmarks.md`: the machine's peak, matrix products beside `gemm` and `matrixmultiply`, and a
//! training step of each preset with its profile, beside PyTorch where a Python that has it is named. Rates are per
//! CPU-second, so that a busy machine changes little; ratios are of one run.

use std::process::Command;

use neuroshard_benches::peak::{Peak, peaks};
use neuroshard_benches::products::{Operands, SHAPES, Shape};
use neuroshard_benches::{best_of, cpu_seconds};
use neuroshard_proto::{F32, Hash, LayerIndex, ModelSpec, Preset, Schedule, TrainSpec};
use neuroshard_shaders::cpu::measure::Product;
use neuroshard_shaders::cpu::{CpuEngine, Isa, Options};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch};
use neuroshard_shaders::infer::Generator;
use neuroshard_shaders::layout::LayerLayout;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut python, mut parts) = (None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--torch" => python = Some(arguments.next().ok_or("--torch names a Python that has torch")?),
            "products" | "nano" | "micro" | "genesis" => parts.push(argument),
            _ => return Err("usage: compute [--torch PYTHON] [products] [nano] [micro] [genesis]".into()),
        }
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let peaks = peaks();
    println!("{threads} threads, {}\n", Isa::best());
    println!("| a core at most | GFLOP/s |\n|---|---|");
    for peak in &peaks {
        println!("| {} | {:.0} |", peak.name, peak.gflops);
    }
    let most = peaks.iter().map(|peak| peak.gflops).fold(0.0, f64::max);
    if wanted("products") {
        products(&peaks);
    }
    let torch = python.map(|python| torch(&python, threads)).transpose()?;
    println!("\n| training step | tokens/s | per CPU-second | share of peak | PyTorch f32, per CPU-second | ratio |");
    println!("|---|---|---|---|---|---|");
    let mut profiles = String::new();
    for preset in Preset::ALL.into_iter().filter(|preset| wanted(preset.name())) {
        let run = train(preset, threads)?;
        let peer = torch.as_ref().and_then(|torch| torch.iter().find(|(name, _)| *name == preset.name()));
        let (peer, ratio) = peer.map_or((String::new(), String::new()), |(_, rate)| {
            (format!("{rate:.0}"), format!("{:.2}", run.per_cpu_second / rate))
        });
        let share = 100.0 * run.operations * run.per_cpu_second / most * 1e-9;
        println!(
            "| {} | {:.0} | {:.0} | {share:.0} % | {peer} | {ratio} |",
            preset.name(),
            run.per_second,
            run.per_cpu_second
        );
        profiles += &run.profile;
    }
    println!("{profiles}");
    println!("| generation on one core | prompt, tokens/s | one by one, tokens/s |\n|---|---|---|");
    for preset in Preset::ALL.into_iter().filter(|preset| wanted(preset.name())) {
        let (prompt, single) = generate(preset)?;
        println!("| {} | {prompt:.0} | {single:.0} |", preset.name());
    }
    Ok(())
}

/// Tokens per CPU-second of half a context as a prompt, and of the 64 tokens that follow it.
fn generate(preset: Preset) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    let (model, _) = preset.specs();
    let weights: Vec<Vec<f32>> = model.all_layers().iter().map(|layer| first_weights(&model, layer)).collect();
    let mut generator = Generator::new(&model, &weights)?;
    let prompt: Vec<u32> = (0..model.context / 2).map(|i| 10 + i.wrapping_mul(7919) % 256).collect();
    let (mut fastest, mut fastest_single) = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        generator.clear();
        let start = cpu_seconds();
        generator.feed(&prompt)?;
        let middle = cpu_seconds();
        for token in 0..64 {
            generator.feed(&[10 + token])?;
        }
        fastest = fastest.max(prompt.len() as f64 / (middle - start));
        fastest_single = fastest_single.max(64.0 / (cpu_seconds() - middle));
    }
    Ok((fastest, fastest_single))
}

fn first_weights(model: &ModelSpec, layer: LayerIndex) -> Vec<f32> {
    let layout = LayerLayout::new(model, layer);
    let mut bits = vec![0; layout.elements];
    for tensor in &layout.tensors {
        tensor.spec.fill_init(model, &Hash::default(), layer, 0, &mut bits[tensor.range.clone()]);
    }
    bits.into_iter().map(f32::from_bits).collect()
}

/// CPU-seconds that one measurement takes.
const ROUND: f64 = 0.1;

fn products(peaks: &[Peak]) {
    let narrow = if Isa::Avx512.is_available() { Isa::Avx512 } else { Isa::Avx2 };
    println!(
        "\nGFLOP/s per CPU-second on one core. *packed* multiplies operands as training holds them; *packing* rounds and"
    );
    println!(
        "packs both first, as the libraries do in every call; weights are packed once a step, activations once a use.\n"
    );
    println!(
        "| product | rows x columns x depth | packed | packing | packed, {narrow} | gemm | matrixmultiply | packed / gemm | of peak |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let most = peaks.iter().map(|peak| peak.gflops).fold(0.0, f64::max);
    for Shape { name, kind, size } in SHAPES {
        let operations = 2.0 * size.iter().map(|size| *size as f64).product::<f64>() * 1e-9;
        let ours = |isa: Isa, packing: bool| {
            if !isa.is_available() {
                return f64::NAN;
            }
            let Ok(mut product) = Product::new(isa, kind, size) else { return f64::NAN };
            let seconds = best_of(3, ROUND, || {
                if packing {
                    product.pack_left();
                    product.pack_right();
                }
                std::hint::black_box(product.multiply());
            });
            operations / seconds
        };
        let mut peer = Operands::new(Shape { name, kind, size });
        let gemm = operations / best_of(3, ROUND, || peer.gemm());
        let matrixmultiply = operations / best_of(3, ROUND, || peer.matrixmultiply());
        let (packed, packing, other) = (ours(Isa::best(), false), ours(Isa::best(), true), ours(narrow, false));
        let [rows, cols, depth] = size;
        println!(
            "| {name} | {rows} x {cols} x {depth} | {packed:.0} | {packing:.0} | {other:.0} | {gemm:.0} | \
             {matrixmultiply:.0} | {:.2} | {:.0} % |",
            packed / gemm,
            100.0 * packed / most
        );
    }
}

/// Tokens per CPU-second by preset, as PyTorch has them.
fn torch(python: &str, threads: usize) -> Result<Vec<(String, f64)>, Box<dyn std::error::Error>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/torch_step.py");
    let output = Command::new(python).args([script, "--json", "--threads", &threads.to_string()]).output()?;
    if !output.status.success() {
        return Err(format!("{script} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let rate = value["tokens_per_cpu_s"].as_f64().ok_or("the script names no rate")?;
        Ok((value["preset"].as_str().unwrap_or_default().to_owned(), rate))
    };
    String::from_utf8_lossy(&output.stdout).lines().map(line).collect()
}

struct Run {
    /// Floating-point operations of products and attention for each token.
    operations: f64,
    per_second: f64,
    per_cpu_second: f64,
    /// A table of where the time goes.
    profile: String,
}

fn train(preset: Preset, threads: usize) -> Result<Run, Box<dyn std::error::Error>> {
    let (model, training) = preset.specs();
    let mut engine = CpuEngine::new(Options { threads, ..Options::default() })?;
    load(&mut engine, &model)?;
    let count = training.batch_tokens() as usize;
    let tokens: Vec<u32> = (0..=count as u32).map(|i| 10 + i.wrapping_mul(i).wrapping_mul(7919) % 256).collect();
    let batch =
        TokenBatch { sequence: training.sequence, inputs: tokens[..count].to_vec(), targets: tokens[1..].to_vec() };
    let weight = F32::from_ratio(1, count as u128);
    let mut step = || {
        engine.train(&batch, true, weight)?;
        engine.step(weight, F32::ONE, &schedule())
    };
    step()?;
    step()?;
    let steps = match preset {
        Preset::Nano => 40,
        Preset::Micro => 8,
        Preset::Genesis => 2,
    };
    let (mut per_second, mut per_cpu_second) = (0.0_f64, 0.0_f64);
    for _ in 0..3 {
        let (wall, cpu) = (std::time::Instant::now(), cpu_seconds());
        for _ in 0..steps {
            step()?;
        }
        let tokens = f64::from(steps) * count as f64;
        per_second = per_second.max(tokens / wall.elapsed().as_secs_f64());
        per_cpu_second = per_cpu_second.max(tokens / (cpu_seconds() - cpu));
    }
    engine.start_profile();
    for _ in 0..steps {
        engine.train(&batch, true, weight)?;
        engine.step(weight, F32::ONE, &schedule())?;
    }
    let mut profile: Vec<_> = engine.take_profile().into_iter().collect();
    profile.sort_by_key(|(_, spent)| std::cmp::Reverse(*spent));
    let total: f64 = profile.iter().map(|(_, spent)| spent.as_secs_f64()).sum();
    let mut table = format!("\n| {} | ms a step | share |\n|---|---|---|\n", preset.name());
    for (op, spent) in profile {
        let ms = spent.as_secs_f64() * 1e3 / f64::from(steps);
        table += &format!("| {} | {ms:.2} | {:.1} % |\n", op.name(), 100.0 * spent.as_secs_f64() / total);
    }
    Ok(Run { operations: operations(&model, &training), per_second, per_cpu_second, profile: table })
}

/// Products forward and back, twice as many back; attention's five products of which the causal half counts.
fn operations(model: &ModelSpec, training: &TrainSpec) -> f64 {
    let embedding = f64::from(model.vocab) * f64::from(model.hidden);
    let attention = 7.0 * f64::from(training.sequence) * f64::from(model.hidden) * f64::from(model.layers);
    6.0 * (model.parameters() as f64 - embedding) + attention
}

fn load(engine: &mut CpuEngine, model: &ModelSpec) -> Result<(), Box<dyn std::error::Error>> {
    engine.allocate(model, model.all_layers())?;
    for layer in model.all_layers().iter() {
        engine.write(Part::Weights, layer, &first_weights(model, layer))?;
    }
    Ok(())
}

fn schedule() -> Schedule {
    let ratio = |numerator, denominator| F32::from_ratio(numerator, denominator);
    Schedule {
        rate: ratio(1, 100_000),
        beta1: ratio(9, 10),
        beta1_rest: ratio(1, 10),
        beta2: ratio(19, 20),
        beta2_rest: ratio(1, 20),
        correction1: F32::ONE,
        correction2: F32::ONE,
        epsilon: ratio(1, 100_000_000),
        weight_decay: ratio(1, 10),
        clip: F32::ONE,
    }
}
