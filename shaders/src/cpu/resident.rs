//! A model in memory, or some stages of one, and sequences on their way through it.

use neuroshard_proto::{Fault, LayerIndex, LayerRange, ModelSpec, mutant};

use crate::engine::{Entry, TokenBatch, check_gradient, check_targets, check_whole};

use super::backward::{self, Gone};
use super::forward::{self, Exit};
use super::memory::Buffer;
use super::pass::{Crew, Cx, Kept, Room, Sizes, copy_rows};
use super::rows;
use super::state::{Stage, Worst};

/// Activations of a batch take at most so much, or twice the model's state if that is more.
const ACTIVATION_BYTES_MIN: u64 = 96 << 20;

/// Stages of a model.
#[derive(Debug)]
pub(crate) struct Resident {
    spec: ModelSpec,
    range: LayerRange,
    pub(crate) sizes: Sizes,
    pub(crate) stages: Vec<Stage>,
    /// What goes forward and back without anything in between.
    pub(crate) kept: Kept,
    room: Room,
    /// A stream that leaves, where its rows do not lie end to end.
    leaving: Buffer<f32>,
    /// Sequences that are to come back.
    places: Vec<Place>,
    /// The largest magnitude of a matrix' weight, if the matrices are packed as they are.
    pub(crate) packed: Option<u32>,
    activation_bytes: u64,
}

/// Room for a sequence between its forward and its backward pass.
#[derive(Debug, Default)]
struct Place {
    kept: Kept,
    /// Tokens in the sequence, if one is kept.
    sequence: Option<usize>,
    /// The tokens themselves, if they entered.
    inputs: Option<Vec<u32>>,
}

impl Resident {
    pub(crate) fn new(spec: &ModelSpec, range: LayerRange, activation_bytes: Option<u64>) -> Result<Self, Fault> {
        let stages = range.iter().map(|layer| Stage::new(spec, layer)).collect::<Result<_, _>>()?;
        let usual = ACTIVATION_BYTES_MIN.max(2 * spec.training_bytes(range));
        Ok(Self {
            spec: *spec,
            range,
            sizes: Sizes::of_part(spec, range),
            stages,
            kept: Kept::default(),
            room: Room::default(),
            leaving: Buffer::default(),
            places: Vec::new(),
            packed: None,
            activation_bytes: activation_bytes.unwrap_or(usual),
        })
    }

    pub(crate) fn stage(&mut self, layer: LayerIndex) -> Result<&mut Stage, Fault> {
        let place = layer.0.checked_sub(self.range.start).map(|place| place as usize);
        let stage = place.and_then(|place| self.stages.get_mut(place));
        stage.ok_or_else(|| Fault::bad_job("the stage is not among those that are held"))
    }

    /// Clears the gradients.
    pub(crate) fn clear(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.gradient.fill(0.0));
    }

    /// Tokens of whole sequences that go together.
    fn together(&self, sequence: usize) -> usize {
        let tokens = usize::try_from(self.activation_bytes).unwrap_or(usize::MAX) / self.sizes.bytes_a_token();
        sequence * (tokens / sequence).max(1)
    }

    /// Makes ready for sequences of this length; the magnitudes seen begin with the weights'.
    fn begin(&mut self, crew: &mut Crew, sequence: usize, training: bool) -> Result<Worst, Fault> {
        crew.reserve(&self.sizes, sequence, training)?;
        let packed = match self.packed {
            Some(worst) => worst,
            None => {
                let pack = |stage: &mut Stage| stage.pack(crew);
                *self.packed.insert(self.stages.iter_mut().map(pack).max().unwrap_or_default())
            }
        };
        let worst = Worst::default();
        worst.see(packed);
        Ok(worst)
    }

    fn loss(&self) -> i64 {
        self.room.head.losses.iter().map(|loss| i64::from(*loss)).sum()
    }

    /// Runs a batch, as many sequences at a time as memory allows; `None` if a value left its range.
    pub(crate) fn run(&mut self, crew: &mut Crew, batch: &TokenBatch, training: bool) -> Result<Option<i64>, Fault> {
        check_whole(&self.spec, self.range)?;
        check(&self.spec, batch)?;
        let sequence = batch.sequence as usize;
        let together = self.together(sequence);
        let worst = self.begin(crew, sequence, training)?;
        let mut loss = 0;
        for (inputs, targets) in batch.inputs.chunks(together).zip(batch.targets.chunks(together)) {
            self.pass(crew, &worst, sequence, Entry::Tokens(inputs), targets, training)?;
            if !rows::fits(worst.get()) {
                return Ok(None);
            }
            loss += self.loss();
            if training {
                self.come_back(crew, &worst, sequence, inputs.len(), Some(inputs));
            }
        }
        Ok(rows::fits(worst.get()).then_some(loss))
    }

    /// Forward to the losses.
    fn pass(
        &mut self,
        crew: &Crew,
        worst: &Worst,
        sequence: usize,
        entry: Entry<'_>,
        targets: &[u32],
        training: bool,
    ) -> Result<(), Fault> {
        let (sizes, tokens) = (&self.sizes, targets.len());
        self.kept.resize(sizes, tokens)?;
        self.room.resize_head(sizes, tokens)?;
        if training {
            self.room.resize_grads(sizes, tokens)?;
        }
        let cx = Cx { isa: crew.isa, sizes, sequence, worst };
        let Room { head, grads } = &mut self.room;
        let exit = Exit::Head { targets, kept: head, grads: training.then_some(grads) };
        forward::forward(crew, cx, &self.stages, entry, &mut self.kept.layers, exit);
        Ok(())
    }

    /// Backward from the losses.
    fn come_back(&mut self, crew: &Crew, worst: &Worst, sequence: usize, tokens: usize, inputs: Option<&[u32]>) {
        let cx = Cx { isa: crew.isa, sizes: &self.sizes, sequence, worst };
        let gone = Gone { tokens, inputs, layers: &self.kept.layers, head: Some(&self.room.head) };
        backward::backward(crew, cx, &mut self.stages, gone, &mut self.room.grads);
    }

    /// Hands over the gradient of the stream that entered.
    fn hand_over(&self, tokens: usize, entering: Option<&mut [f32]>) -> Result<(), Fault> {
        let Some(entering) = entering else { return Ok(()) };
        let hidden = self.sizes.hidden;
        check_gradient(tokens * hidden, entering.len())?;
        copy_rows(&self.sizes, &self.room.grads.stream, self.sizes.hidden_stride(), entering, hidden);
        Ok(())
    }

    /// See [`crate::engine::Engine::turn`].
    pub(crate) fn turn(
        &mut self,
        crew: &mut Crew,
        entry: Entry<'_>,
        targets: &[u32],
        entering: Option<&mut [f32]>,
    ) -> Result<Option<i64>, Fault> {
        let sequence = entry.sequence(&self.spec, self.range, true)?;
        check_targets(&self.spec, sequence, targets)?;
        let worst = self.begin(crew, sequence, true)?;
        self.pass(crew, &worst, sequence, entry, targets, true)?;
        if !rows::fits(worst.get()) {
            return Ok(None);
        }
        self.come_back(crew, &worst, sequence, sequence, inputs(entry));
        self.hand_over(sequence, entering)?;
        Ok(rows::fits(worst.get()).then(|| self.loss()))
    }

    /// See [`crate::engine::Engine::forward`].
    pub(crate) fn forward(
        &mut self,
        crew: &mut Crew,
        place: usize,
        entry: Entry<'_>,
        output: &mut [f32],
    ) -> Result<bool, Fault> {
        let sequence = entry.sequence(&self.spec, self.range, false)?;
        let (hidden, stride) = (self.sizes.hidden, self.sizes.hidden_stride());
        check_gradient(sequence * hidden, output.len())?;
        if self.places.len() <= place {
            self.places.resize_with(place + 1, Place::default);
        }
        self.places[place].sequence = None;
        self.places[place].kept.resize(&self.sizes, sequence)?;
        let worst = self.begin(crew, sequence, false)?;
        let cx = Cx { isa: crew.isa, sizes: &self.sizes, sequence, worst: &worst };
        let own = &mut self.places[place];
        let layers = &mut own.kept.layers;
        if stride == hidden {
            forward::forward(crew, cx, &self.stages, entry, layers, Exit::Stream(output));
        } else {
            self.leaving.reserve(sequence * stride)?;
            forward::forward(crew, cx, &self.stages, entry, layers, Exit::Stream(&mut self.leaving));
            copy_rows(&self.sizes, &self.leaving, stride, output, hidden);
        }
        let fits = rows::fits(worst.get());
        own.sequence = fits.then_some(sequence);
        own.inputs = inputs(entry).map(<[u32]>::to_vec);
        Ok(fits)
    }

    /// See [`crate::engine::Engine::backward`].
    pub(crate) fn backward(
        &mut self,
        crew: &mut Crew,
        place: usize,
        leaving: &[f32],
        entering: Option<&mut [f32]>,
    ) -> Result<bool, Fault> {
        let kept = self.places.get_mut(place).and_then(|own| own.sequence.take());
        let sequence = kept.ok_or_else(|| Fault::bad_job("nothing is kept in this place"))?;
        let (hidden, stride) = (self.sizes.hidden, self.sizes.hidden_stride());
        check_gradient(sequence * hidden, leaving.len())?;
        let worst = self.begin(crew, sequence, true)?;
        self.room.resize_grads(&self.sizes, sequence)?;
        if !mutant("stale gradient goes on") {
            copy_rows(&self.sizes, leaving, hidden, &mut self.room.grads.stream, stride);
        }
        let cx = Cx { isa: crew.isa, sizes: &self.sizes, sequence, worst: &worst };
        let own = &self.places[place];
        let gone = Gone { tokens: sequence, inputs: own.inputs.as_deref(), layers: &own.kept.layers, head: None };
        backward::backward(crew, cx, &mut self.stages, gone, &mut self.room.grads);
        self.hand_over(sequence, entering)?;
        Ok(rows::fits(worst.get()))
    }

    /// Bytes that all places take.
    pub(crate) fn places_bytes(&self) -> usize {
        self.places.iter().map(|place| place.kept.bytes()).sum()
    }
}

fn inputs<'a>(entry: Entry<'a>) -> Option<&'a [u32]> {
    match entry {
        Entry::Tokens(tokens) => Some(tokens),
        Entry::Stream(_) => None,
    }
}

/// Refuses batches that do not fit the model.
fn check(model: &ModelSpec, batch: &TokenBatch) -> Result<(), Fault> {
    let sequence = batch.sequence as usize;
    if sequence == 0 || batch.sequence > model.context {
        return Err(Fault::bad_job("sequences are empty or longer than the context"));
    }
    if batch.inputs.is_empty()
        || !batch.inputs.len().is_multiple_of(sequence)
        || batch.inputs.len() != batch.targets.len()
    {
        return Err(Fault::bad_job("a batch is whole sequences with a target for each token"));
    }
    if batch.inputs.iter().chain(&batch.targets).any(|token| *token >= model.vocab) {
        return Err(Fault::bad_job("a batch holds a token outside the vocabulary"));
    }
    Ok(())
}
