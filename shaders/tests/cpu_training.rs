//! Whole training runs of the CPU engine, held to the reference to the bit.

mod common;

use common::{Random, TOY, bits, first_weights, load, state, train_step};
use neuroshard_proto::{F32, LayerIndex, ModelSpec, Schedule, TensorKind};
use neuroshard_shaders::cpu::{CpuEngine, Isa, Options};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch, Trained};
use neuroshard_shaders::layout::LayerLayout;
use neuroshard_shaders::reference::Reference;

fn engine(threads: usize, isa: Isa) -> CpuEngine {
    CpuEngine::new(Options { threads, isa: Some(isa), ..Options::default() }).unwrap()
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Trains both and compares losses, norms and everything the engines hold.
fn agree(model: &ModelSpec, cpu: &mut CpuEngine, sequences: usize, sequence: u32, steps: i32) {
    let mut reference = Reference::<false>::default();
    load(&mut reference, model);
    load(cpu, model);
    let mut random = Random::new(u64::from(sequence));
    for step in 1..=steps {
        let batch = random.batch(model, sequences, sequence);
        assert_eq!(train_step(cpu, &batch, step), train_step(&mut reference, &batch, step), "step {step}");
    }
    assert!(state(cpu, model) == state(&mut reference, model), "weights and moments");
}

#[test]
fn twenty_steps_agree_with_the_reference_on_every_instruction_set() {
    for isa in available() {
        agree(&TOY, &mut engine(2, isa), 3, 16, 20);
    }
}

#[test]
fn models_that_fit_no_tile_agree_with_the_reference_on_any_number_of_threads() {
    let odd = ModelSpec { layers: 3, hidden: 18, heads: 3, kv_heads: 1, ffn: 23, context: 90, vocab: 31, ..TOY };
    let wide = ModelSpec { layers: 1, hidden: 272, heads: 4, kv_heads: 4, ffn: 40, context: 70, vocab: 300, ..TOY };
    let least = ModelSpec { layers: 1, hidden: 2, heads: 1, kv_heads: 1, ffn: 1, context: 1, vocab: 1, ..TOY };
    for threads in [1, 2, 7] {
        let mut cpu = engine(threads, Isa::best());
        agree(&odd, &mut cpu, 2, 83, 2);
        agree(&wide, &mut cpu, 1, 67, 1);
        agree(&least, &mut cpu, 1, 1, 3);
    }
}

#[test]
fn gradients_gather_the_same_over_calls_groups_and_whole_batches() {
    let batch = Random::new(5).batch(&TOY, 6, 9);
    let weight = F32::from_ratio(1, 54);
    let part = |range: std::ops::Range<usize>| TokenBatch {
        sequence: 9,
        inputs: batch.inputs[range.clone()].to_vec(),
        targets: batch.targets[range].to_vec(),
    };
    // One sequence at a time inside the engine, by leaving no room for more.
    let tight = Options { threads: 2, activation_bytes: Some(1), ..Options::default() };
    let run = |options: Options, cuts: &[usize]| {
        let mut cpu = CpuEngine::new(options).unwrap();
        load(&mut cpu, &TOY);
        let (mut first, mut loss, mut norms) = (0, 0, Vec::new());
        for cut in cuts {
            let trained = cpu.train(&part(first..*cut), first == 0, weight).unwrap();
            let Trained::Done { loss_micro, squared_norms } = trained else { panic!("in range") };
            (first, loss, norms) = (*cut, loss + loss_micro, squared_norms);
        }
        cpu.step(weight, bits(1.0), &common::schedule(1, 1e-2, 0.1)).unwrap();
        (loss, norms, state(&mut cpu, &TOY))
    };
    let whole = run(Options { threads: 2, ..Options::default() }, &[54]);
    assert!(run(tight, &[54]) == whole, "in groups");
    assert!(run(Options::default(), &[27, 54]) == whole, "in two calls");
    assert!(run(tight, &[9, 18, 54]) == whole, "in three calls and in groups");
}

#[test]
fn the_contracting_reference_agrees_with_the_plain_one() {
    let (mut plain, mut contracting) = (Reference::<false>::default(), Reference::<true>::default());
    load(&mut plain, &TOY);
    load(&mut contracting, &TOY);
    let mut random = Random::new(7);
    for step in 1..=5 {
        let batch = random.batch(&TOY, 2, 16);
        assert_eq!(train_step(&mut plain, &batch, step), train_step(&mut contracting, &batch, step));
    }
    assert!(state(&mut plain, &TOY) == state(&mut contracting, &TOY));
}

#[test]
fn evaluation_is_the_loss_of_training_and_touches_nothing() {
    let batch = Random::new(8).batch(&TOY, 4, 11);
    let mut cpu = engine(2, Isa::best());
    load(&mut cpu, &TOY);
    let before = state(&mut cpu, &TOY);
    let loss = cpu.evaluate(&batch).unwrap();
    assert!(state(&mut cpu, &TOY) == before);
    let Trained::Done { loss_micro, .. } = cpu.train(&batch, true, F32::ONE).unwrap() else { panic!("in range") };
    assert_eq!(loss, Some(loss_micro));
}

/// Something to spoil: a tensor of a stage, and the value that one of its elements takes.
type Spoiled = (u32, TensorKind, f32);

/// What becomes of a batch when a weight is spoiled: loss, or `None` for void.
fn verdicts<E: Engine>(mut engine: E, (layer, kind, value): Spoiled, batch: &TokenBatch) -> [Option<i64>; 2] {
    load(&mut engine, &TOY);
    let layer = LayerIndex(layer);
    let mut weights = first_weights(&TOY, layer);
    let range = LayerLayout::new(&TOY, layer).find(kind).unwrap();
    weights[range.start + 5] = value;
    engine.write(Part::Weights, layer, &weights).unwrap();
    let evaluated = engine.evaluate(batch).unwrap();
    let trained = match engine.train(batch, true, F32::from_ratio(1, 32)).unwrap() {
        Trained::Done { loss_micro, .. } => Some(loss_micro),
        Trained::Void => None,
    };
    [evaluated, trained]
}

#[test]
fn the_same_batches_are_void_as_in_the_reference() {
    let batch = Random::new(9).batch(&TOY, 2, 16);
    let tensors = [
        (0, TensorKind::Embedding),
        (0, TensorKind::AttentionNorm),
        (1, TensorKind::Key),
        (1, TensorKind::Output),
        (0, TensorKind::Gate),
        (1, TensorKind::Down),
        (2, TensorKind::FinalNorm),
        (2, TensorKind::Head),
        (2, TensorKind::HeadBias),
    ];
    let values = [f32::NAN, f32::INFINITY, 1.2e15, 1.1e15, 2e12, 1e9, 1e-40, -0.0, 2_f32.powi(-100), -1e-33, 1e38];
    let (mut void, mut done) = (0, 0);
    for (layer, kind) in tensors {
        for value in values {
            let spoiled = (layer, kind, value);
            let wanted = verdicts(Reference::<false>::default(), spoiled, &batch);
            for isa in [Isa::Scalar, Isa::best()] {
                assert_eq!(verdicts(engine(2, isa), spoiled, &batch), wanted, "{kind:?} = {value:e} on {isa}");
            }
            void += usize::from(wanted[1].is_none());
            done += usize::from(wanted[1].is_some());
        }
    }
    assert!(void > 20 && done > 20, "{void} void, {done} done");
}

#[test]
fn a_void_batch_leaves_weights_as_they_were_and_the_next_one_counts() {
    let mut cpu = engine(2, Isa::best());
    load(&mut cpu, &TOY);
    let good = Random::new(10).batch(&TOY, 2, 16);
    let (fresh_loss, fresh_norms) = match cpu.train(&good, true, F32::ONE).unwrap() {
        Trained::Done { loss_micro, squared_norms } => (loss_micro, squared_norms),
        Trained::Void => panic!("in range"),
    };
    let layer = LayerIndex(1);
    let weights = first_weights(&TOY, layer);
    cpu.write(Part::Weights, layer, &vec![f32::NAN; weights.len()]).unwrap();
    assert_eq!(cpu.train(&good, true, F32::ONE).unwrap(), Trained::Void);
    cpu.write(Part::Weights, layer, &weights).unwrap();
    let again = cpu.train(&good, true, F32::ONE).unwrap();
    assert_eq!(again, Trained::Done { loss_micro: fresh_loss, squared_norms: fresh_norms });
}

#[test]
fn impossible_batches_and_parts_are_refused() {
    let mut cpu = engine(1, Isa::Scalar);
    let batch = TokenBatch { sequence: 4, inputs: vec![1; 8], targets: vec![1; 8] };
    assert!(cpu.train(&batch, true, F32::ONE).is_err(), "no model");
    load(&mut cpu, &TOY);
    let broken = [
        TokenBatch { sequence: 0, ..batch.clone() },
        TokenBatch { sequence: 33, inputs: vec![1; 33], targets: vec![1; 33] },
        TokenBatch { sequence: 3, ..batch.clone() },
        TokenBatch { targets: vec![1; 7], ..batch.clone() },
        TokenBatch { inputs: vec![29; 8], ..batch.clone() },
        TokenBatch { targets: vec![u32::MAX; 8], ..batch.clone() },
        TokenBatch { sequence: 1, inputs: Vec::new(), targets: Vec::new() },
    ];
    for batch in broken {
        assert!(cpu.train(&batch, true, F32::ONE).is_err() && cpu.evaluate(&batch).is_err(), "{batch:?}");
    }
    assert!(cpu.read(Part::Weights, LayerIndex(3), &mut []).is_err());
    assert!(cpu.write(Part::Weights, LayerIndex(0), &[0.0]).is_err());
    assert!(cpu.train(&batch, true, F32::ONE).is_ok());
}

/// Sets "flush results to zero" and "take operands as zero" for subnormal numbers on the calling thread.
#[cfg(target_arch = "x86_64")]
fn flush_subnormals() {
    set_control(control() | 0x8040);
}

#[cfg(target_arch = "x86_64")]
fn control() -> u32 {
    let mut word = 0_u32;
    // SAFETY: stores the control word to a place that lives.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut word, options(nostack)) };
    word
}

#[cfg(target_arch = "x86_64")]
fn set_control(word: u32) {
    // SAFETY: changes rounding of subnormals only, on a test's own thread.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, readonly)) };
}

#[cfg(target_arch = "x86_64")]
#[test]
fn machines_that_flush_subnormals_agree() {
    // Tiny weights, moments and rates, so that subnormal numbers would arise where the rules let them.
    let tiny = |schedule: Schedule| Schedule { rate: bits(1e-30), epsilon: bits(1e-30), ..schedule };
    let run = |isa: Isa, thread_start: fn()| {
        let mut cpu =
            CpuEngine::new(Options { threads: 3, isa: Some(isa), thread_start, ..Options::default() }).unwrap();
        load(&mut cpu, &TOY);
        let layer = LayerIndex(1);
        let small: Vec<f32> = first_weights(&TOY, layer).into_iter().map(|w| w * 1e-12).collect();
        cpu.write(Part::Weights, layer, &small).unwrap();
        let subnormal: Vec<f32> = small.iter().map(|w| f32::from_bits(w.to_bits() >> 9)).collect();
        cpu.write(Part::Moments1, layer, &subnormal).unwrap();
        let mut random = Random::new(11);
        let mut losses = Vec::new();
        for step in 1..=4 {
            let batch = random.batch(&TOY, 3, 16);
            let weight = F32::from_ratio(1, 1 << 70);
            losses.push(cpu.train(&batch, true, weight).unwrap());
            cpu.step(weight, bits(1e-30), &tiny(common::schedule(step, 1e-2, 0.1))).unwrap();
        }
        (losses, state(&mut cpu, &TOY))
    };
    for isa in available() {
        let plain = run(isa, || ());
        let before = control();
        flush_subnormals();
        let flushed = run(isa, flush_subnormals);
        set_control(before);
        assert!(plain == flushed, "{isa}");
    }
}
