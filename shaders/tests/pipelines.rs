//! A pipeline of any split computes what one executor that holds everything computes, to the bit (PROTOCOL §4), and an executor
//! refuses what would make it something else.

mod common;

use common::pipeline::{Alone, Lesson, Memory, Pipeline, agrees, alone, learn_alone, split, state};
use common::{TOY, first_weights};
use neuroshard_proto::{
    BatchId, Commitment, F32, Fault, HELD_MAX, Hash, Job, LayerBlobs, LayerRange, Micro, ModelSpec, Passed, Preset,
    Returned, Sample, Snapshot, Step, Turned, VoidReason,
};
use neuroshard_shaders::cpu::{CpuEngine, Options};
use neuroshard_shaders::engine::{Engine, Entry, Part};
use neuroshard_shaders::executor::Executor;
use neuroshard_shaders::reference::Reference;

/// Eleven stages.
const TALL: ModelSpec = ModelSpec { layers: 10, ..TOY };
/// Rows that end in the middle of everything.
const ODD: ModelSpec =
    ModelSpec { layers: 3, hidden: 18, heads: 3, kv_heads: 1, ffn: 23, context: 90, vocab: 31, ..TOY };

/// Ways to split eleven stages: into 1, 2, 3, 5 and 11 parts, unequal ones.
const SPLITS: [&[u32]; 5] = [&[11], &[4, 11], &[1, 9, 11], &[2, 3, 7, 10, 11], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]];

fn reference() -> Box<dyn Engine> {
    Box::new(Reference::<false>::default())
}

fn cpu(threads: usize) -> Box<dyn Engine> {
    Box::new(CpuEngine::new(Options { threads, ..Options::default() }).unwrap())
}

#[test]
fn a_pipeline_of_any_split_computes_what_one_executor_computes() {
    let alone = alone(&TALL, reference(), 16);
    for ends in SPLITS {
        agrees(&alone, &TALL, ends, reference);
        for threads in [1, 2] {
            let ahead = agrees(&alone, &TALL, ends, || cpu(threads));
            assert!(ends.len() == 1 || ahead > 2, "forward passes run ahead of backward ones, and {ahead} did");
        }
    }
    // Members may compute on different devices.
    let mut count = 0;
    agrees(&alone, &TALL, &[2, 5, 9, 11], || {
        count += 1;
        if count % 2 == 0 { cpu(2) } else { reference() }
    });
}

#[test]
fn models_that_fit_no_tile_are_split_as_well() {
    let alone = alone(&ODD, reference(), 83);
    for ends in [&[1, 3, 4][..], &[3, 4], &[1, 2, 4]] {
        agrees(&alone, &ODD, ends, || cpu(2));
    }
    agrees(&alone, &ODD, &[2, 3, 4], reference);
}

/// A member in the middle of a toy model, a microbatch for it, and the blobs.
struct Middle {
    executor: Executor,
    blobs: Memory,
    sample: Sample,
}

/// Tokens and values of the streams that it takes.
const SEQUENCE: u32 = 8;
const VALUES: usize = 8 * 32;

impl Middle {
    fn new() -> Self {
        Self::of(LayerRange { start: 1, end: 2 })
    }

    fn of(range: LayerRange) -> Self {
        let (mut executor, mut blobs) = (Executor::new(cpu(1)), Memory::default());
        executor.run(&Job::Init { model: TOY, range, seed: Hash::default() }, &mut blobs).unwrap();
        let lesson = Lesson::new(&TOY, &mut blobs, 1, SEQUENCE, &[1]);
        Self { executor, blobs, sample: lesson.batches[0].1[0] }
    }

    fn run(&mut self, job: &Job) -> Result<Commitment, Fault> {
        self.executor.run(job, &mut self.blobs)
    }

    fn stream(&mut self, value: f32) -> Hash {
        self.blobs.put_singles(&[value; VALUES])
    }

    fn forward(&mut self, micro: Micro, fresh: bool, input: Option<Hash>) -> Result<Commitment, Fault> {
        let (step, sequence, sample) = (Step(0), SEQUENCE, self.sample);
        self.run(&Job::Forward { step, micro, fresh, sequence, sample, input })
    }

    fn turn(&mut self, micro: Micro, input: Option<Hash>) -> Result<Commitment, Fault> {
        let (step, fresh, sequence, sample) = (Step(0), false, SEQUENCE, self.sample);
        self.run(&Job::Turn { step, micro, fresh, sequence, sample, input })
    }

    fn backward(&mut self, micro: Micro, gradient: Hash) -> Result<Commitment, Fault> {
        self.run(&Job::Backward { step: Step(0), micro, gradient })
    }
}

fn micro(batch: u64, index: u32) -> Micro {
    Micro { batch: BatchId(batch), index }
}

/// That a job was refused in words that hold these.
fn refused(result: Result<Commitment, Fault>, words: &str) {
    let Err(fault @ Fault::BadJob { .. }) = result else { panic!("{result:?} is not a refusal: {words}") };
    assert!(fault.to_string().contains(words), "{fault}");
}

#[test]
fn jobs_that_do_not_fit_the_part_are_refused_in_words() {
    let mut own = Middle::new();
    let input = own.stream(0.5);
    refused(own.turn(micro(1, 0), Some(input)), "turns in the model's last stages");
    refused(own.forward(micro(1, 0), false, None), "none is named");
    let (step, sequence, samples) = (Step(0), SEQUENCE, vec![own.sample].try_into().unwrap());
    refused(own.run(&Job::Evaluate { step, sequence, samples }), "only who holds the whole model");
    let (batch, fresh, token_weight) = (BatchId(1), true, F32::ONE);
    let samples = vec![own.sample].try_into().unwrap();
    refused(
        own.run(&Job::Train { step, batch, fresh, sequence, token_weight, samples }),
        "only who holds the whole model",
    );
    let norms = vec![F32::ONE].try_into().unwrap();
    let schedule = common::schedule(1, 1e-2, 0.1);
    refused(
        own.run(&Job::Step { step, token_weight, squared_norms: norms, schedule }),
        "one squared norm of each stage",
    );

    let mut first = Middle::of(LayerRange { start: 0, end: 2 });
    let input = first.stream(0.5);
    refused(first.forward(micro(1, 0), false, Some(input)), "embeds the sample");
    let mut last = Middle::of(LayerRange { start: 1, end: 3 });
    let input = last.stream(0.5);
    refused(last.forward(micro(1, 0), false, Some(input)), "turns there");
    refused(last.turn(micro(1, 0), None), "none is named");
    for sequence in [0, 33] {
        let (micro, sample, input) = (micro(1, 0), last.sample, Some(input));
        refused(last.run(&Job::Turn { step, micro, fresh, sequence, sample, input }), "empty or longer");
    }
    assert!(matches!(last.turn(micro(1, 0), Some(input)), Ok(Commitment::Turn(Turned::Done { tokens: 8, .. }))));
}

#[test]
fn blobs_of_another_length_and_jobs_of_another_step_are_refused() {
    let mut own = Middle::new();
    let (good, short) = (own.stream(0.5), own.blobs.put_singles(&[0.5; VALUES - 1]));
    assert_eq!(own.forward(micro(1, 0), false, Some(short)), Err(Fault::BlobDamaged { hash: short }));
    let missing = Hash::of_blob(b"nowhere");
    assert_eq!(own.forward(micro(1, 0), false, Some(missing)), Err(Fault::BlobMissing { hash: missing }));
    own.forward(micro(1, 0), true, Some(good)).unwrap();
    // A refused job lets nothing go, not even one that would have begun afresh.
    assert!(own.forward(micro(1, 1), true, Some(short)).is_err());
    assert_eq!(own.backward(micro(1, 0), short), Err(Fault::BlobDamaged { hash: short }));
    assert_eq!(own.backward(micro(1, 0), missing), Err(Fault::BlobMissing { hash: missing }));
    let at_other = Err(Fault::WrongStep { expected: Step(7), at: Some(Step(0)) });
    let (step, sequence, sample) = (Step(7), SEQUENCE, own.sample);
    let input = Some(good);
    let forward = Job::Forward { step, micro: micro(1, 1), fresh: true, sequence, sample, input };
    assert_eq!(own.run(&forward), at_other);
    assert_eq!(own.run(&Job::Backward { step, micro: micro(1, 0), gradient: good }), at_other);
    assert_eq!(own.run(&Job::Norms { step, token_weight: F32::ONE }), at_other);
    assert!(matches!(own.backward(micro(1, 0), good), Ok(Commitment::Backward(Returned::Done { gradient: Some(_) }))));
}

#[test]
fn gradients_add_up_once_and_in_order() {
    let mut own = Middle::new();
    let stream = own.stream(0.5);
    for index in [0, 1, 2] {
        own.forward(micro(4, index), index == 0, Some(stream)).unwrap();
    }
    refused(own.backward(micro(4, 3), stream), "is not held");
    own.backward(micro(4, 1), stream).unwrap();
    refused(own.backward(micro(4, 1), stream), "is not held");
    refused(own.backward(micro(4, 0), stream), "sequence 0 of batch 4 comes after sequence 1 of batch 4");
    own.backward(micro(4, 2), stream).unwrap();

    let mut last = Middle::of(LayerRange { start: 1, end: 3 });
    let stream = last.stream(0.5);
    last.turn(micro(4, 1), Some(stream)).unwrap();
    refused(last.turn(micro(4, 1), Some(stream)), "gradients add up in order");
    refused(last.turn(micro(3, 9), Some(stream)), "gradients add up in order");
    last.turn(micro(5, 0), Some(stream)).unwrap();
}

#[test]
fn only_so_many_microbatches_are_held_and_their_places_are_used_again() {
    let mut own = Middle::new();
    let stream = own.stream(0.5);
    for index in 0..HELD_MAX {
        own.forward(micro(1, index), false, Some(stream)).unwrap();
    }
    refused(own.forward(micro(1, HELD_MAX), false, Some(stream)), "80 are held between forward and backward");
    // One that is held may go forward again, and one that came back makes room.
    own.forward(micro(1, 5), false, Some(stream)).unwrap();
    own.backward(micro(1, 0), stream).unwrap();
    own.forward(micro(1, HELD_MAX), false, Some(stream)).unwrap();
    own.forward(micro(2, 0), true, Some(stream)).unwrap();
    refused(own.backward(micro(1, 1), stream), "is not held");
    own.backward(micro(2, 0), stream).unwrap();
}

#[test]
fn a_void_microbatch_leaves_no_trace_after_a_fresh_start() {
    let alone = alone(&TALL, reference(), 16);
    let void = VoidReason::OutOfRange;
    for make in [reference, || cpu(2)] {
        let (mut pipeline, mut blobs) = (Pipeline::new(&TALL, &[4, 8, 11], make), alone.blobs.clone());
        let (lesson, values) = (&alone.lessons[0], 15 * 32);
        let (batch, sample) = (lesson.batches[0].0, lesson.batches[0].1[0]);
        let member = &mut pipeline.members[1].executor;
        let job = |index: u32, fresh: bool, input: Hash| {
            let (step, sequence, micro) = (Step(0), lesson.sequence, Micro { batch, index });
            Job::Forward { step, micro, fresh, sequence, sample, input: Some(input) }
        };
        let back =
            |index: u32, gradient: Hash| Job::Backward { step: Step(0), micro: Micro { batch, index }, gradient };
        let good = blobs.put_singles(&vec![0.25; values]);
        for index in 0..6 {
            member.run(&job(index, index == 0, good), &mut blobs).unwrap();
        }
        // What comes in is out of range, or not what a machine of ours makes: such a microbatch is not held.
        for value in [f32::NAN, f32::INFINITY, -2e12, 1e-40, -0.0] {
            let spoiled = blobs.put_singles(&vec![value; values]);
            let forward = member.run(&job(6, false, spoiled), &mut blobs);
            assert_eq!(forward, Ok(Commitment::Forward(Passed::Void(void))), "{value:e}");
            assert!(matches!(member.run(&back(6, good), &mut blobs), Err(Fault::BadJob { .. })));
        }
        // Gradients that are out of range at once, and those that leave it on their way, after some have been added.
        for (index, value) in (0..).zip([f32::NAN, f32::NEG_INFINITY, 2e15, 1.1e15]) {
            let spoiled = blobs.put_singles(&vec![value; values]);
            let backward = member.run(&back(index, spoiled), &mut blobs);
            assert_eq!(backward, Ok(Commitment::Backward(Returned::Void(void))), "{value:e}");
        }
        assert_eq!(pipeline.learn(&mut blobs, Step(0), lesson), alone.learned[0]);
        assert_eq!(pipeline.learn(&mut blobs, Step(1), &alone.lessons[1]), alone.learned[1]);
    }
}

/// A state in which one weight of a stage is another value.
fn spoil(own: &mut Middle, range: LayerRange, stage: u32, value: f32) -> Snapshot {
    let mut snapshot = state(&mut own.executor, &mut own.blobs, Step(0));
    let mut layers = snapshot.layers.to_vec();
    let mut weights = first_weights(&TOY, neuroshard_proto::LayerIndex(stage));
    let middle = weights.len() / 2;
    weights[middle] = value;
    let spoilt = &mut layers[(stage - range.start) as usize];
    let honest = spoilt.root;
    spoilt.weights = own.blobs.put_singles(&weights);
    snapshot.layers = layers.clone().try_into().unwrap();
    let load = Job::Load { model: TOY, range, snapshot: snapshot.clone() };
    let Err(Fault::RootMismatch { expected, found }) = own.run(&load) else { panic!("other weights, the same root") };
    assert_eq!(expected, honest, "the stage's own root does not fit");
    layers[(stage - range.start) as usize].root = found;
    Snapshot::of_stages(snapshot.step, layers.try_into().unwrap(), snapshot.bytes)
}

#[test]
fn a_weight_out_of_range_voids_what_goes_through_its_stage() {
    let void = VoidReason::OutOfRange;
    let middle = LayerRange { start: 1, end: 2 };
    let mut own = Middle::new();
    let input = own.stream(0.5);
    let snapshot = spoil(&mut own, middle, 1, 2_f32.powi(60));
    own.run(&Job::Load { model: TOY, range: middle, snapshot }).unwrap();
    let forward = own.forward(micro(1, 0), true, Some(input));
    assert_eq!(forward, Ok(Commitment::Forward(Passed::Void(void))));
    refused(own.backward(micro(1, 0), input), "is not held");
    let head = LayerRange { start: 2, end: 3 };
    let mut own = Middle::of(head);
    let snapshot = spoil(&mut own, head, 2, f32::NAN);
    let input = own.stream(0.5);
    own.run(&Job::Load { model: TOY, range: head, snapshot }).unwrap();
    assert_eq!(own.turn(micro(1, 0), Some(input)), Ok(Commitment::Turn(Turned::Void(void))));
}

#[test]
fn a_part_is_persisted_and_taken_up_with_its_own_root() {
    let Alone { mut blobs, lessons, .. } = alone(&TALL, reference(), 16);
    let mut pipeline = Pipeline::new(&TALL, &[5, 11], || cpu(1));
    pipeline.learn(&mut blobs, Step(0), &lessons[0]);
    let mut again = Pipeline::new(&TALL, &[5, 11], || cpu(1));
    for (member, copy) in pipeline.members.iter_mut().zip(&mut again.members) {
        let snapshot = state(&mut member.executor, &mut blobs, Step(1));
        let load = Job::Load { model: TALL, range: member.range, snapshot: snapshot.clone() };
        let ready = Commitment::Ready { step: Step(1), root: snapshot.root };
        assert_eq!(copy.executor.run(&load, &mut blobs), Ok(ready));
        let other = Job::Load { model: TALL, range: split(&[4, 11])[0], snapshot };
        assert!(Executor::new(cpu(1)).run(&other, &mut blobs).is_err(), "of other stages");
    }
    assert_eq!(
        again.learn(&mut blobs, Step(1), &lessons[1]),
        pipeline.learn(&mut blobs, Step(1), &lessons[1]),
        "both go on alike"
    );
}

#[test]
fn other_members_take_up_stages_by_their_roots() {
    let Alone { mut blobs, lessons, .. } = alone(&TALL, reference(), 16);
    let mut pipeline = Pipeline::new(&TALL, &[5, 11], || cpu(1));
    pipeline.learn(&mut blobs, Step(0), &lessons[0]);
    let stages = pipeline.state(&mut blobs, Step(1));
    let mut others = Pipeline::new(&TALL, &[3, 7, 11], || cpu(1));
    for member in &mut others.members {
        let own = &stages[member.range.start as usize..member.range.end as usize];
        let snapshot = |own: &[LayerBlobs]| Snapshot::of_stages(Step(1), own.to_vec().try_into().unwrap(), 0);
        let load = |own: &[LayerBlobs]| Job::Load { model: TALL, range: member.range, snapshot: snapshot(own) };
        let ready = Commitment::Ready { step: Step(1), root: snapshot(own).root };
        // Another stage's state, and the right one under another root.
        for bent in [LayerBlobs { root: own[1].root, ..own[0] }, LayerBlobs { root: own[0].root, ..own[1] }] {
            let bent = [&[bent], &own[1..]].concat();
            let refused = member.executor.run(&load(&bent), &mut blobs);
            assert!(matches!(refused, Err(Fault::RootMismatch { .. } | Fault::BlobDamaged { .. })), "{refused:?}");
        }
        let mut step = snapshot(own);
        step.step = Step(2);
        let later = Job::Load { model: TALL, range: member.range, snapshot: step };
        assert!(matches!(member.executor.run(&later, &mut blobs), Err(Fault::RootMismatch { .. })));
        assert_eq!(member.executor.run(&load(own), &mut blobs), Ok(ready));
    }
    let learned = others.learn(&mut blobs, Step(1), &lessons[1]);
    assert_eq!(learned, pipeline.learn(&mut blobs, Step(1), &lessons[1]), "all go on alike");
}

#[test]
fn an_executor_of_everything_can_train_either_way() {
    let (mut blobs, model) = (Memory::default(), TOY);
    let lesson = Lesson::new(&model, &mut blobs, 3, 12, &[3]);
    let mut pipeline = Pipeline::new(&model, &[3], || cpu(2));
    let learned = pipeline.learn(&mut blobs, Step(0), &lesson);
    let next = Lesson::new(&model, &mut blobs, 4, 12, &[2]);
    let mixed = learn_alone(&mut pipeline.members[0].executor, &mut blobs, Step(1), &next);
    let mut whole = Executor::new(cpu(1));
    whole.run(&Job::Init { model, range: model.all_layers(), seed: Hash::default() }, &mut blobs).unwrap();
    assert_eq!(learn_alone(&mut whole, &mut blobs, Step(0), &lesson), learned);
    assert_eq!(learn_alone(&mut whole, &mut blobs, Step(1), &next), mixed);
}

#[test]
fn a_microbatch_takes_no_more_memory_than_the_model_says() {
    let (model, _) = Preset::Nano.specs();
    let odd = ModelSpec { hidden: 36, heads: 6, kv_heads: 2, ffn: 50, ..model };
    for (model, range) in [(model, LayerRange { start: 1, end: 3 }), (odd, LayerRange { start: 0, end: 4 })] {
        let mut engine = CpuEngine::new(Options { threads: 1, ..Options::default() }).unwrap();
        engine.allocate(&model, range).unwrap();
        for layer in range.iter() {
            engine.write(Part::Weights, layer, &first_weights(&model, layer)).unwrap();
        }
        let (tokens, stream) = (vec![9; 100], vec![0.5; 100 * model.hidden as usize]);
        let entry = if range.start == 0 { Entry::Tokens(&tokens) } else { Entry::Stream(&stream) };
        let mut output = vec![0.0; stream.len()];
        for place in [0, 1, 2, 1] {
            assert!(engine.forward(place, entry, &mut output).unwrap());
        }
        let (taken, said) = (engine.kept_bytes() as u64, 3 * model.microbatch_bytes(range, 100));
        assert!(taken <= said && 10 * taken >= 7 * said, "{taken} bytes are taken, {said} were said");
    }
}
