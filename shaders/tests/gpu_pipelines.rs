//! A pipeline whose members compute on any software driver has the bits of one executor (PROTOCOL §4).
#![cfg(feature = "gpu")]

mod common;
mod gpu_support;

use common::pipeline::{agrees, alone};
use gpu_support::{initialise, model, on_every_driver, open};
use neuroshard_proto::{Fault, LayerRange, ModelSpec};
use neuroshard_shaders::engine::{Engine, Entry, Part};
use neuroshard_shaders::gpu::Options;
use neuroshard_shaders::layout::LayerLayout;
use neuroshard_shaders::reference::Reference;

/// Ragged wherever the protocol lets it be, and eleven stages high.
fn tall() -> ModelSpec {
    ModelSpec { layers: 10, ..model(3, 1, 6, 26, 29, 24) }
}

fn reference() -> Box<dyn Engine> {
    Box::new(Reference::<false>::default())
}

#[test]
fn a_pipeline_on_devices_has_the_bits_of_one_executor() {
    on_every_driver("a_pipeline_on_devices_has_the_bits_of_one_executor", |adapter| {
        let alone = alone(&tall(), reference(), 8);
        for ends in [&[11][..], &[4, 11], &[1, 9, 11], &[2, 3, 7, 10, 11], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]] {
            // One device to each member of short pipelines; on long ones every other computes on the plain engine.
            let mut count = 0;
            let ahead = agrees(&alone, &tall(), ends, || {
                count += 1;
                let on_device = ends.len() < 4 || count % 4 == 1 || count == ends.len();
                if on_device { Box::new(open(adapter, Options::default())) } else { reference() }
            });
            assert!(ends.len() == 1 || ahead > 2, "forward passes run ahead of backward ones, and {ahead} did");
        }
    });
}

/// Puts first weights into an engine that holds a part.
fn hold(engine: &mut dyn Engine, spec: &ModelSpec, range: LayerRange) {
    let mut whole = Reference::<false>::default();
    initialise(&mut whole, spec);
    engine.allocate(spec, range).unwrap();
    for layer in range.iter() {
        let mut values = vec![0.0; LayerLayout::new(spec, layer).elements];
        whole.read(Part::Weights, layer, &mut values).unwrap();
        engine.write(Part::Weights, layer, &values).unwrap();
    }
}

#[test]
fn sequences_of_any_length_pass_through_places_in_any_order() {
    on_every_driver("sequences_of_any_length_pass_through_places_in_any_order", |adapter| {
        let (spec, range) = (model(6, 2, 6, 50, 29, 24), LayerRange { start: 1, end: 2 });
        let (mut device, mut plain) = (open(adapter, Options::default()), Reference::<false>::default());
        let engines: [&mut dyn Engine; 2] = [&mut device, &mut plain];
        let [got, want] = engines.map(|engine| {
            hold(engine, &spec, range);
            let mut made = Vec::new();
            let values = |sequence: usize, seed: usize| -> Vec<f32> {
                (0..sequence * 36).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect()
            };
            for (place, sequence) in [(0, 24), (3, 7), (1, 24), (0, 5), (2, 7)] {
                let mut out = vec![0.0; sequence * 36];
                assert!(engine.forward(place, Entry::Stream(&values(sequence, place)), &mut out).unwrap());
                made.push(out);
            }
            for (place, sequence) in [(3, 7), (0, 5), (2, 7), (1, 24)] {
                let mut back = vec![0.0; sequence * 36];
                assert!(engine.backward(place, &values(sequence, place + 9), Some(&mut back)).unwrap());
                made.push(back);
            }
            assert!(matches!(engine.backward(3, &values(7, 0), None), Err(Fault::BadJob { .. })), "it is back already");
            let norms = engine.norms(neuroshard_proto::F32::from_ratio(1, 43)).unwrap();
            (made.into_iter().flatten().map(f32::to_bits).collect::<Vec<_>>(), norms)
        });
        assert!(got == want);
        let mut out = vec![0.0; 5 * 36];
        assert_eq!(device.forward(0, Entry::Stream(&[2_f32.powi(39); 5 * 36]), &mut out), Ok(true));
        assert_eq!(device.forward(0, Entry::Stream(&[2_f32.powi(41); 5 * 36]), &mut out), Ok(false));
        assert!(device.backward(0, &out, None).is_err(), "what is void is not kept");
        assert_eq!(device.forward(0, Entry::Stream(&[0.5; 5 * 36]), &mut out), Ok(true));
        assert_eq!(device.backward(0, &[f32::NAN; 5 * 36], None), Ok(false));
    });
}

#[test]
fn places_that_do_not_fit_the_memory_are_refused_in_words() {
    on_every_driver("places_that_do_not_fit_the_memory_are_refused_in_words", |adapter| {
        let (spec, range) = (model(6, 2, 6, 4096, 29, 24), LayerRange { start: 1, end: 2 });
        let state = spec.training_bytes(range) / 8 * 9;
        let mut device = open(adapter, Options { memory_bytes: state + (13 << 20), ..Options::default() });
        hold(&mut device, &spec, range);
        let (stream, mut out) = (vec![0.5; 24 * 36], vec![0.0; 24 * 36]);
        let mut held = 0;
        let fault = loop {
            match device.forward(held, Entry::Stream(&stream), &mut out) {
                Ok(_) => held += 1,
                Err(fault) => break fault.to_string(),
            }
        };
        assert!((1..9).contains(&held) && fault.contains("beside the model"), "{held} were held: {fault}");
        assert_eq!(device.backward(0, &stream, None), Ok(true), "the others are as they were");
    });
}
