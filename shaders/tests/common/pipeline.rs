//! Executors that hold a model between them and pass on what they make, as members of a quorum do (PROTOCOL §4).

use std::collections::{BTreeMap, VecDeque};

use neuroshard_proto::{
    BatchId, BatchOutcome, Commitment, F32, Fault, Hash, Job, LayerBlobs, LayerRange, Micro, ModelSpec, Passed,
    Returned, Sample, Snapshot, Step, Turned,
};
use neuroshard_shaders::engine::Engine;
use neuroshard_shaders::executor::{Blobs, Executor};

use super::{Random, bits, schedule, single};

/// A blob store in memory.
#[derive(Clone, Default)]
pub struct Memory(pub BTreeMap<Hash, Vec<u8>>);

impl Blobs for Memory {
    fn get(&mut self, hash: &Hash) -> Result<Vec<u8>, Fault> {
        self.0.get(hash).cloned().ok_or(Fault::BlobMissing { hash: *hash })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Hash, Fault> {
        self.put_transient(bytes.to_vec())
    }

    fn put_transient(&mut self, bytes: Vec<u8>) -> Result<Hash, Fault> {
        let hash = Hash::of_blob(&bytes);
        self.0.insert(hash, bytes);
        Ok(hash)
    }
}

impl Memory {
    /// Singles as a blob.
    pub fn put_singles(&mut self, values: &[f32]) -> Hash {
        self.put(bytemuck::cast_slice(values)).unwrap()
    }
}

/// Ranges that end at these stages, from stage 0 on.
pub fn split(ends: &[u32]) -> Vec<LayerRange> {
    let starts = std::iter::once(&0).chain(ends);
    starts.zip(ends).map(|(start, end)| LayerRange { start: *start, end: *end }).collect()
}

/// What a step trains on: batches of samples, all sequences of one length.
#[derive(Clone)]
pub struct Lesson {
    pub sequence: u32,
    pub batches: Vec<(BatchId, Vec<Sample>)>,
}

impl Lesson {
    /// Batches of different sizes, drawn from a shard that is put among the blobs.
    pub fn new(model: &ModelSpec, blobs: &mut Memory, number: u64, sequence: u32, sizes: &[usize]) -> Self {
        let mut random = Random::new(number);
        let tokens = random.tokens(model, 400);
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| (*token as u16).to_le_bytes()).collect();
        let shard = blobs.put(&bytes).unwrap();
        let mut sample = || Sample { shard, offset: random.below(399 - sequence as usize) as u32 };
        let batches = sizes.iter().zip(10 * number..).map(|(size, batch)| {
            let samples = (0..*size).map(|_| sample()).collect();
            (BatchId(batch), samples)
        });
        Self { sequence, batches: batches.collect() }
    }

    fn token_weight(&self) -> F32 {
        let sequences: usize = self.batches.iter().map(|(_, samples)| samples.len()).sum();
        F32::from_ratio(1, sequences as u128 * u128::from(self.sequence))
    }

    fn micros(&self) -> VecDeque<(Micro, Sample)> {
        let micros = self.batches.iter().flat_map(|(batch, samples)| {
            (0..).zip(samples).map(|(index, sample)| (Micro { batch: *batch, index }, *sample))
        });
        micros.collect()
    }
}

/// What a step came to: the loss of each batch, and the squared norms of all stages.
#[derive(Debug, PartialEq)]
pub struct Learned {
    pub losses: Vec<i64>,
    pub squared_norms: Vec<F32>,
    pub norm: F32,
}

fn step_job(step: Step, token_weight: F32, squared_norms: &[F32]) -> Job {
    let number = step.0 as i32 + 1;
    let squared_norms = squared_norms.to_vec().try_into().unwrap();
    Job::Step { step, token_weight, squared_norms, schedule: schedule(number, 1e-2, 0.1) }
}

/// Trains on one executor that holds everything.
pub fn learn_alone(executor: &mut Executor, blobs: &mut Memory, step: Step, lesson: &Lesson) -> Learned {
    let (token_weight, mut losses, mut norms) = (lesson.token_weight(), Vec::new(), Vec::new());
    for (index, (batch, samples)) in lesson.batches.iter().enumerate() {
        let (batch, fresh, sequence) = (*batch, index == 0, lesson.sequence);
        let samples = samples.clone().try_into().unwrap();
        let job = Job::Train { step, batch, fresh, sequence, token_weight, samples };
        let Ok(Commitment::Batch(BatchOutcome::Done { loss_micro, squared_norms, .. })) = executor.run(&job, blobs)
        else {
            panic!("the batch is in range")
        };
        losses.push(loss_micro);
        norms = squared_norms.iter().copied().collect();
    }
    let stepped = executor.run(&step_job(step, token_weight, &norms), blobs);
    let Ok(Commitment::Step { norm, .. }) = stepped else { panic!("{stepped:?}") };
    Learned { losses, squared_norms: norms, norm }
}

/// One of a pipeline's executors, and what has come for it.
pub struct Member {
    pub executor: Executor,
    pub range: LayerRange,
    forward: VecDeque<(Micro, Sample, Option<Hash>)>,
    backward: VecDeque<(Micro, Hash)>,
    in_flight: usize,
    fresh: bool,
}

/// A model's stages on several executors.
pub struct Pipeline {
    pub model: ModelSpec,
    pub members: Vec<Member>,
    /// Most microbatches that ran ahead in one member.
    pub most_in_flight: usize,
}

impl Pipeline {
    pub fn new(model: &ModelSpec, ends: &[u32], mut engine: impl FnMut() -> Box<dyn Engine>) -> Self {
        let member = |range| Member {
            executor: Executor::new(engine()),
            range,
            forward: VecDeque::new(),
            backward: VecDeque::new(),
            in_flight: 0,
            fresh: true,
        };
        let members = split(ends).into_iter().map(member).collect();
        let mut pipeline = Self { model: *model, members, most_in_flight: 0 };
        for member in &mut pipeline.members {
            let job = Job::Init { model: *model, range: member.range, seed: Hash::default() };
            member.executor.run(&job, &mut Memory::default()).unwrap();
        }
        pipeline
    }

    /// Forgets what is under way, so that the next step begins afresh.
    pub fn start_over(&mut self) {
        for member in &mut self.members {
            member.forward.clear();
            member.backward.clear();
            (member.in_flight, member.fresh) = (0, true);
        }
    }

    /// Trains on a lesson: members work in any order, each backward before forward, as far ahead as the members after it can
    /// use.
    pub fn learn(&mut self, blobs: &mut Memory, step: Step, lesson: &Lesson) -> Learned {
        self.start_over();
        let (micros, count) = (lesson.micros(), self.members.len());
        let mut to_come_back = count * micros.len();
        let samples: BTreeMap<Micro, Sample> = micros.iter().copied().collect();
        self.members[0].forward = micros.into_iter().map(|(micro, sample)| (micro, sample, None)).collect();
        let (mut losses, mut random) = (vec![0; lesson.batches.len()], Random::new(step.0));
        while to_come_back > 0 {
            let place = random.below(count);
            let next = self.members[place].next(count - 1 - place, step, lesson.sequence);
            let Some((micro, job)) = next else { continue };
            self.most_in_flight = self.most_in_flight.max(self.members[place].in_flight);
            match self.members[place].executor.run(&job, blobs) {
                Ok(Commitment::Forward(Passed::Done { output })) => {
                    self.members[place + 1].forward.push_back((micro, samples[&micro], Some(output)));
                    continue;
                }
                Ok(Commitment::Turn(Turned::Done { loss_micro, gradient, .. })) => {
                    let batch = lesson.batches.iter().position(|(batch, _)| *batch == micro.batch).unwrap();
                    losses[batch] += loss_micro;
                    self.pass_back(place, micro, gradient);
                }
                Ok(Commitment::Backward(Returned::Done { gradient })) => self.pass_back(place, micro, gradient),
                other => panic!("member {place}, {job:?}: {other:?}"),
            }
            to_come_back -= 1;
        }
        self.step(blobs, step, lesson.token_weight(), losses)
    }

    fn pass_back(&mut self, place: usize, micro: Micro, gradient: Option<Hash>) {
        match (place.checked_sub(1), gradient) {
            (Some(before), Some(gradient)) => self.members[before].backward.push_back((micro, gradient)),
            (None, None) => {}
            (before, gradient) => panic!("member {before:?} is given {gradient:?}"),
        }
    }

    fn step(&mut self, blobs: &mut Memory, step: Step, token_weight: F32, losses: Vec<i64>) -> Learned {
        let mut all = Vec::new();
        for member in &mut self.members {
            let norms = member.executor.run(&Job::Norms { step, token_weight }, blobs);
            let Ok(Commitment::Norms { squared_norms: Some(norms), .. }) = norms else { panic!("{norms:?}") };
            assert_eq!(norms.len(), member.range.iter().count());
            all.extend(norms.iter().copied());
        }
        let mut norm = None;
        for member in &mut self.members {
            let stepped = member.executor.run(&step_job(step, token_weight, &all), blobs);
            let Ok(Commitment::Step { norm: own, .. }) = stepped else { panic!("{stepped:?}") };
            assert!(norm.is_none_or(|norm| norm == own));
            norm = Some(own);
        }
        let total = all.iter().fold(0.0, |total, norm| total + single(*norm));
        assert!(bits(total) != F32::from_bits(0), "there is something to learn");
        Learned { losses, squared_norms: all, norm: norm.unwrap() }
    }

    /// The addresses of all stages' states.
    pub fn state(&mut self, blobs: &mut Memory, step: Step) -> Vec<LayerBlobs> {
        let mut all = Vec::new();
        for member in &mut self.members {
            all.extend(state(&mut member.executor, blobs, step).layers.iter().copied());
        }
        all
    }
}

impl Member {
    /// What it can do now, with so many members after it.
    fn next(&mut self, after: usize, step: Step, sequence: u32) -> Option<(Micro, Job)> {
        if let Some((micro, gradient)) = self.backward.pop_front() {
            self.in_flight -= 1;
            return Some((micro, Job::Backward { step, micro, gradient }));
        }
        if after > 0 && self.in_flight > 2 * after {
            return None;
        }
        let (micro, sample, input) = self.forward.pop_front()?;
        let fresh = std::mem::take(&mut self.fresh);
        if after == 0 {
            return Some((micro, Job::Turn { step, micro, fresh, sequence, sample, input }));
        }
        self.in_flight += 1;
        Some((micro, Job::Forward { step, micro, fresh, sequence, sample, input }))
    }
}

/// An executor's persisted state.
pub fn state(executor: &mut Executor, blobs: &mut Memory, step: Step) -> Snapshot {
    match executor.run(&Job::Snapshot { step }, blobs) {
        Ok(Commitment::Snapshot(snapshot)) => snapshot,
        other => panic!("{other:?}"),
    }
}

/// A whole model's way over some lessons.
pub struct Alone {
    pub blobs: Memory,
    pub lessons: Vec<Lesson>,
    pub learned: Vec<Learned>,
    pub state: Vec<LayerBlobs>,
}

/// Three steps, of two batches or one, alone.
pub fn alone(model: &ModelSpec, engine: Box<dyn Engine>, sequence: u32) -> Alone {
    let (mut executor, mut blobs) = (Executor::new(engine), Memory::default());
    executor.run(&Job::Init { model: *model, range: model.all_layers(), seed: Hash::default() }, &mut blobs).unwrap();
    let (mut lessons, mut learned) = (Vec::new(), Vec::new());
    for (number, sizes) in (1..).zip([&[3, 4][..], &[5], &[2, 1]]) {
        let lesson = Lesson::new(model, &mut blobs, number, sequence - number as u32 % 2, sizes);
        learned.push(learn_alone(&mut executor, &mut blobs, Step(number - 1), &lesson));
        lessons.push(lesson);
    }
    let state = state(&mut executor, &mut blobs, Step(3)).layers.iter().copied().collect();
    Alone { blobs, lessons, learned, state }
}

/// A pipeline of these ranges learns what one executor did, to the bit. Returns how many microbatches ran ahead.
pub fn agrees(alone: &Alone, model: &ModelSpec, ends: &[u32], engine: impl FnMut() -> Box<dyn Engine>) -> usize {
    let (mut pipeline, mut blobs) = (Pipeline::new(model, ends, engine), alone.blobs.clone());
    for (step, (lesson, learned)) in (0..).zip(alone.lessons.iter().zip(&alone.learned)) {
        assert_eq!(pipeline.learn(&mut blobs, Step(step), lesson), *learned, "step {step} of {ends:?}");
    }
    assert!(pipeline.state(&mut blobs, Step(3)) == alone.state, "weights and moments of {ends:?}");
    pipeline.most_in_flight
}
