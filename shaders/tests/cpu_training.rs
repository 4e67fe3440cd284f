//! Whole training runs of the CPU engine, held to the reference to the bit.

mod common;

use common::{Random, TOY, load, state, train_step};
use neuroshard_proto::ModelSpec;
use neuroshard_shaders::cpu::{CpuEngine, Isa, Options};
use neuroshard_shaders::reference::Reference;

fn engine(threads: usize, isa: Isa) -> CpuEngine {
    CpuEngine::new(Options { threads, isa: Some(isa), ..Options::default() }).unwrap()
}

fn available() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
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
