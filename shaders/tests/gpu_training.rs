//! A model trained on every software driver is, bit for bit, the reference's.
#![cfg(feature = "gpu")]

mod gpu_support;

use gpu_support::{bits, everything, initialise, model, on_every_driver, open, schedule};
use neuroshard_proto::{F32, Fault, LayerIndex, LayerRange, ModelSpec, Stream};
use neuroshard_shaders::engine::{Engine, Part, TokenBatch, Trained};
use neuroshard_shaders::gpu::Options;
use neuroshard_shaders::layout::LayerLayout;
use neuroshard_shaders::reference::Reference;

/// Small, and ragged wherever the protocol lets it be: heads of 6, rows of 36, 50 and 29.
fn toy() -> ModelSpec {
    model(6, 2, 6, 50, 29, 24)
}

/// Every dimension a multiple of 8, so that its matrices can be cut.
fn even() -> ModelSpec {
    model(4, 2, 8, 48, 32, 24)
}

fn batch(spec: &ModelSpec, sequence: u32, sequences: usize, index: u64) -> TokenBatch {
    let mut stream = Stream::new(&neuroshard_proto::Hash::default(), "tokens", index);
    let count = sequence as usize * sequences;
    // Few tokens stand for many, so that embedding rows gather several gradients.
    let mut tokens = || (0..count).map(|_| stream.below(u64::from(spec.vocab)).min(19) as u32).collect();
    TokenBatch { sequence, inputs: tokens(), targets: tokens() }
}

/// One step over `batches`, gathered; returns what each came to.
fn step(engine: &mut dyn Engine, batches: &[TokenBatch], number: i32) -> Vec<Trained> {
    let tokens: usize = batches.iter().map(|batch| batch.inputs.len()).sum();
    let weight = F32::from_ratio(1, tokens as u128);
    let mut outcomes = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        outcomes.push(engine.train(batch, index == 0, weight).unwrap_or_else(|fault| panic!("{fault}")));
    }
    let Some(Trained::Done { squared_norms, .. }) = outcomes.last() else { panic!("in range") };
    let total = squared_norms.iter().fold(0.0, |sum: f32, norm| sum + f32::from_bits(norm.to_bits()));
    engine.step(weight, bits(total), &schedule(number, 1e-2)).unwrap_or_else(|fault| panic!("{fault}"));
    outcomes
}

fn differing(a: &[u32], b: &[u32]) -> usize {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

#[test]
fn twenty_steps_leave_the_references_bits() {
    on_every_driver("twenty_steps_leave_the_references_bits", |adapter| {
        let (mut engine, mut reference) = (open(adapter, Options::default()), Reference::<false>::default());
        let spec = toy();
        initialise(&mut engine, &spec);
        initialise(&mut reference, &spec);
        for number in 1..=20 {
            // Lengths and numbers of sequences change, and every third step gathers two batches.
            let sequences = 1 + number as usize % 3;
            let mut batches = vec![batch(&spec, 17, sequences, number as u64)];
            if number % 3 == 0 {
                batches.push(batch(&spec, 9, 2, 100 + number as u64));
            }
            let want = step(&mut reference, &batches, number);
            assert_eq!(step(&mut engine, &batches, number), want, "step {number}");
            if number == 1 {
                let (got, want) = (everything(&mut engine, &spec), everything(&mut reference, &spec));
                assert_eq!(differing(&got, &want), 0, "after the first step");
            }
        }
        assert_eq!(differing(&everything(&mut engine, &spec), &everything(&mut reference, &spec)), 0);
        let held_out = batch(&spec, 24, 3, 999);
        assert_eq!(engine.evaluate(&held_out), reference.evaluate(&held_out));
    });
}

#[test]
fn how_a_device_is_used_changes_no_bit() {
    on_every_driver("how_a_device_is_used_changes_no_bit", |adapter| {
        let spec = even();
        let mut reference = Reference::<false>::default();
        initialise(&mut reference, &spec);
        let batches = [batch(&spec, 20, 4, 1)];
        let steps = 1..=3;
        let want: Vec<_> = steps.clone().map(|number| step(&mut reference, &batches, number)).collect();
        let want_state = everything(&mut reference, &spec);
        let odd_uses = [
            // One sequence at a time.
            Options { activation_bytes: 1, ..Options::default() },
            // Matrices in several buffers; scores row by row.
            Options { block_bytes: 4000, scores_max: 1, shield_chains: Some(true), ..Options::default() },
        ];
        for options in odd_uses {
            let mut engine = open(adapter, options);
            initialise(&mut engine, &spec);
            let got: Vec<_> = steps.clone().map(|number| step(&mut engine, &batches, number)).collect();
            assert_eq!(got, want, "{options:?}");
            assert_eq!(differing(&everything(&mut engine, &spec), &want_state), 0, "{options:?}");
        }
    });
}

#[test]
fn a_value_out_of_range_voids_the_batch_and_only_that_batch() {
    on_every_driver("a_value_out_of_range_voids_the_batch_and_only_that_batch", |adapter| {
        let (mut engine, spec) = (open(adapter, Options::default()), toy());
        initialise(&mut engine, &spec);
        let (own, weight) = (batch(&spec, 8, 1, 0), F32::from_ratio(1, 8));
        let fine = engine.train(&own, true, weight).unwrap();
        assert!(matches!(fine, Trained::Done { .. }));
        for layer in [0, 1, 2] {
            let layer = LayerIndex(layer);
            let mut values = vec![0.0; LayerLayout::new(&spec, layer).elements];
            engine.read(Part::Weights, layer, &mut values).unwrap();
            let last = values.len() - 40;
            let kept = std::mem::replace(&mut values[last], 2f32.powi(60));
            engine.write(Part::Weights, layer, &values).unwrap();
            assert_eq!(engine.train(&own, true, weight), Ok(Trained::Void), "a weight of {layer:?}");
            assert_eq!(engine.evaluate(&own), Ok(None), "a weight of {layer:?}");
            values[last] = kept;
            engine.write(Part::Weights, layer, &values).unwrap();
            assert_eq!(engine.train(&own, true, weight), Ok(fine.clone()), "after {layer:?} was mended");
        }
    });
}

#[test]
fn a_weight_out_of_range_voids_every_batch_until_it_is_mended() {
    on_every_driver("a_weight_out_of_range_voids_every_batch_until_it_is_mended", |adapter| {
        let (mut engine, spec) = (open(adapter, Options::default()), toy());
        initialise(&mut engine, &spec);
        let (own, head) = (batch(&spec, 1, 1, 0), LayerIndex(2));
        let mut values = vec![0.0; LayerLayout::new(&spec, head).elements];
        engine.read(Part::Weights, head, &mut values).unwrap();
        // Just out of range, so that nothing it is multiplied by needs to be: only its own cast tells, and that runs
        // once.
        for column in 0..8 {
            let place = spec.hidden as usize + column;
            let kept = std::mem::replace(&mut values[place], f32::from_bits(2f32.powi(50).to_bits() + 1));
            engine.write(Part::Weights, head, &values).unwrap();
            for _ in 0..2 {
                assert_eq!(engine.evaluate(&own), Ok(None), "column {column}");
            }
            values[place] = kept;
        }
        engine.write(Part::Weights, head, &values).unwrap();
        assert!(matches!(engine.train(&own, true, F32::ONE), Ok(Trained::Done { .. })));
    });
}

#[test]
fn what_a_device_cannot_do_is_refused_in_words() {
    on_every_driver("what_a_device_cannot_do_is_refused_in_words", |adapter| {
        let (mut engine, spec) = (open(adapter, Options::default()), toy());
        let own = batch(&spec, 8, 2, 0);
        let weight = F32::from_ratio(1, 16);
        assert!(matches!(engine.train(&own, true, weight), Err(Fault::Device { .. })), "no state");
        let range = LayerRange { start: 1, end: 3 };
        engine.allocate(&spec, range).unwrap();
        assert!(matches!(engine.train(&own, true, weight), Err(Fault::BadJob { .. })), "a part of a model");
        initialise(&mut engine, &spec);
        let refused = |engine: &mut dyn Engine, batch: TokenBatch| {
            assert!(matches!(engine.train(&batch, true, weight), Err(Fault::BadJob { .. })), "{batch:?}");
        };
        refused(&mut engine, TokenBatch { sequence: 5, ..own.clone() });
        refused(&mut engine, TokenBatch { sequence: 0, ..own.clone() });
        refused(&mut engine, TokenBatch { targets: vec![0; 15], ..own.clone() });
        refused(&mut engine, TokenBatch { inputs: vec![29; 16], ..own.clone() });
        assert!(engine.write(Part::Weights, LayerIndex(0), &[0.0; 3]).is_err());
        assert!(engine.write(Part::Weights, LayerIndex(9), &[0.0; 3]).is_err());
        assert!(engine.train(&own, true, weight).is_ok(), "the device is still of use");
    });
}

#[test]
fn memory_that_is_not_allowed_is_not_taken() {
    on_every_driver("memory_that_is_not_allowed_is_not_taken", |adapter| {
        let (spec, mib) = (ModelSpec { ffn: 4096, ..toy() }, 1 << 20);
        let state = spec.training_bytes(spec.all_layers()) / 8 * 9;
        let mut small = open(adapter, Options { memory_bytes: mib, ..Options::default() });
        let fault = small.allocate(&spec, spec.all_layers()).unwrap_err().to_string();
        assert!(fault.contains(&format!("takes {} MiB of the GPU's memory and 1 are allowed", state.div_ceil(mib))));
        let mut tight = open(adapter, Options { memory_bytes: state + mib / 4, ..Options::default() });
        initialise(&mut tight, &spec);
        let fault = tight.train(&batch(&spec, 24, 1, 0), true, F32::ONE).unwrap_err().to_string();
        assert!(fault.contains("train on shorter ones"), "{fault}");
        assert!(tight.train(&batch(&spec, 1, 1, 0), true, F32::ONE).is_ok());
    });
}

#[test]
fn a_device_that_goes_away_is_a_fault_and_stays_one() {
    on_every_driver("a_device_that_goes_away_is_a_fault_and_stays_one", |adapter| {
        let (mut engine, spec) = (open(adapter, Options::default()), toy());
        initialise(&mut engine, &spec);
        let own = batch(&spec, 8, 1, 0);
        assert!(engine.train(&own, true, F32::ONE).is_ok());
        engine.lose_device();
        let mut values = vec![0.0; LayerLayout::new(&spec, LayerIndex(0)).elements];
        for _ in 0..2 {
            let faults = [
                engine.train(&own, true, F32::ONE).map(|_| ()),
                engine.step(F32::ONE, F32::ONE, &schedule(1, 1e-3)),
                engine.read(Part::Weights, LayerIndex(0), &mut values),
                engine.evaluate(&batch(&spec, 5, 1, 0)).map(|_| ()),
                engine.sum_squares(&[1.0; 9], F32::ONE).map(|_| ()),
                engine.benchmark(&spec, 8, 0, 1).map(|_| ()),
                engine.allocate(&spec, spec.all_layers()),
            ];
            for (call, fault) in faults.into_iter().enumerate() {
                let Err(fault @ Fault::Device { .. }) = fault else { panic!("call {call}: {fault:?}") };
                assert!(fault.to_string().contains("went away and its state is lost"), "call {call}: {fault}");
            }
        }
        let mut again = open(adapter, Options::default());
        initialise(&mut again, &spec);
        assert!(again.train(&own, true, F32::ONE).is_ok(), "a fresh engine on the same adapter");
    });
}
