//! [`Engine`] on a GPU.

mod passes;

use std::fmt;
use std::time::Instant;

use neuroshard_proto::ops::{self, Call, Dim, Op, Slot};
use neuroshard_proto::{DType, F32, Fault, LayerIndex, LayerRange, ModelSpec, Schedule};

use super::attention::Scratch;
use super::device::{Adapter, AdapterDescription, Gpu};
use super::kernels::{Kernel, Tile};
use super::pipelines::{Pipelines, Sources};
use super::plan::{Footprint, Plan, PlanKey, PlanOptions, order_of};
use super::profile::{KernelTime, copy_rate, measure};
use super::program::{Dispatch, Program, Recorder};
use super::record::{Slots, Surroundings, record};
use super::state::{Span, State, adamw, rates_buffer, rotary, squared_norms};
use super::state::{write_rates, write_token_weight};
use super::tensor::{Layout, Staging, Tensor, count, cut, storage};
use crate::engine::{Engine, Entry, Part, TokenBatch, Trained, check_whole};
use crate::layout::single;
use crate::optimizer::Rates;
use crate::values::{Shape, Value, Values};

use passes::{Places, begin};

/// Multiply-adds after which commands are handed over, so that no single submission holds a display's device for long.
const WORK_PER_SUBMIT: u64 = 50_000_000_000;
/// Batch shapes whose buffers are kept: one to train and one to evaluate.
const PLANS_MAX: usize = 2;

/// How an engine uses its device. The defaults suit any; results do not depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most bytes to take of the device's memory, for state and activations together.
    pub memory_bytes: u64,
    /// Bytes of activations above which a batch goes through in several parts.
    pub activation_bytes: u64,
    /// Largest part of a matrix in one buffer, in bytes; the device's own limit where that is smaller.
    pub block_bytes: u64,
    /// Most attention scores held at once; a row is never split.
    pub scores_max: u64,
    /// The tile of every matrix product; `None` chooses by its shape.
    pub tile: Option<Tile>,
    /// Whether the accumulators of matrix products are shielded against compilers that reassociate; `None` asks the
    /// backend.
    pub shield_chains: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_bytes: u64::MAX,
            activation_bytes: 2 << 30,
            block_bytes: u64::MAX,
            scores_max: 16 << 20,
            tile: None,
            shield_chains: None,
        }
    }
}

/// A model on a GPU. Its state stays there; see [`crate::gpu`].
#[derive(Debug)]
pub struct GpuEngine {
    gpu: Gpu,
    pipelines: Pipelines,
    options: Options,
    /// Most bytes the device binds at once.
    binding_bytes: u64,
    flags: wgpu::Buffer,
    staging: Staging,
    state: Option<State>,
    /// The most recently used last.
    plans: Vec<Plan>,
    places: Places,
}

impl GpuEngine {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`Fault::Device`] if the driver refuses.
    pub fn open(adapter: &Adapter, options: Options) -> Result<Self, Fault> {
        Self::open_with(adapter, options, Box::new(Kernel::text))
    }

    /// An engine whose kernels are altered: for tests that must see an alteration found out.
    #[doc(hidden)]
    pub fn open_altered(
        adapter: &Adapter,
        options: Options,
        alter: impl Fn(&Kernel) -> String + Send + 'static,
    ) -> Result<Self, Fault> {
        Self::open_with(adapter, options, Box::new(alter))
    }

    /// Takes the device away, as a driver's reset would: for tests.
    #[doc(hidden)]
    pub fn lose_device(&self) {
        self.gpu.device.destroy();
    }

    fn open_with(adapter: &Adapter, options: Options, sources: Sources) -> Result<Self, Fault> {
        let gpu = Gpu::open(adapter)?;
        let limits = gpu.device.limits();
        let binding_bytes = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let shield_chains = options.shield_chains.unwrap_or(gpu.description.reassociates());
        let flags = storage(&gpu, "flags", 16);
        gpu.outcome()?;
        Ok(Self {
            gpu,
            pipelines: Pipelines::new(sources, shield_chains),
            options,
            binding_bytes,
            flags,
            staging: Staging::default(),
            state: None,
            plans: Vec::new(),
            places: Places::default(),
        })
    }

    /// The device.
    pub fn adapter(&self) -> &AdapterDescription {
        &self.gpu.description
    }

    /// Times each kernel of a training step on the device's own clock, the longest first. The step is as `train` with
    /// `fresh` and `step` with the schedule would make it, but every kernel waits for the one before.
    ///
    /// # Errors
    /// As [`Engine::train`]; also if the device has no clock for kernels, or the batch does not fit it whole.
    pub fn profile(
        &mut self,
        batch: &TokenBatch,
        token_weight: F32,
        schedule: &Schedule,
    ) -> Result<Vec<KernelTime>, Fault> {
        let place = self.plan(batch, true)?;
        let (Some(state), plan) = (&mut self.state, &self.plans[place]) else { return Err(no_state(&self.gpu)) };
        if plan.key.sequences * plan.key.sequence != batch.inputs.len() {
            return Err(Fault::bad_job("only a batch that goes through whole can be profiled"));
        }
        plan.set_batch(&self.gpu, batch, 0)?;
        write_rates(&self.gpu, &state.rates, &Rates::new(schedule, token_weight, F32::ONE));
        let programs = [&state.casts, &plan.forward, &plan.backward, &state.norms, &state.update];
        let times = measure(&self.gpu, &mut self.staging, &programs);
        state.stale = true;
        times
    }

    /// The rate at which a copy reads and writes the device's memory, in gigabytes a second.
    ///
    /// # Errors
    /// [`Fault::Device`] if the device fails.
    pub fn copy_rate(&mut self) -> Result<f64, Fault> {
        copy_rate(&self.gpu)
    }

    fn plan_options(&self) -> PlanOptions {
        PlanOptions { scores_max: self.options.scores_max.min(self.binding_bytes / 4), tile: self.options.tile }
    }

    /// Finds or makes the plan for a batch through the whole model, and where it stands.
    fn plan(&mut self, batch: &TokenBatch, backward: bool) -> Result<usize, Fault> {
        let Some(state) = &self.state else { return Err(no_state(&self.gpu)) };
        check_whole(&state.model, state.range)?;
        check_batch(&state.model, batch)?;
        let sequence = batch.sequence as usize;
        self.plan_of(sequence, batch.inputs.len() / sequence, backward)
    }

    /// Finds or makes a plan for so many sequences, or for as many of them as go through at once.
    fn plan_of(&mut self, sequence: usize, all: usize, backward: bool) -> Result<usize, Fault> {
        let Some(state) = &self.state else { return Err(no_state(&self.gpu)) };
        let sequences = self.sequences_at_once(state, sequence, all, backward, 0)?;
        let key = PlanKey { sequence, sequences, backward };
        // Forward through a plan that can also go backward is the same.
        let suits = |plan: &Plan| plan.key == key || (!backward && plan.key == PlanKey { backward: true, ..key });
        if let Some(place) = self.plans.iter().position(suits) {
            let plan = self.plans.remove(place);
            self.plans.push(plan);
        } else {
            if self.plans.len() == PLANS_MAX {
                self.plans.remove(0);
            }
            let options = self.plan_options();
            let plan = Plan::new(&self.gpu, &mut self.pipelines, &self.flags, state, key, options)?;
            self.gpu.outcome()?;
            self.plans.push(plan);
        }
        Ok(self.plans.len() - 1)
    }

    /// How many of `all` sequences go through together: a divisor of their number that fits the device beside the state and
    /// `kept` bytes.
    fn sequences_at_once(
        &self,
        state: &State,
        sequence: usize,
        all: usize,
        backward: bool,
        kept: u64,
    ) -> Result<usize, Fault> {
        let shape = Shape { model: state.model, sequence, tokens: sequence, rotary: Vec::new() };
        let one = Footprint::of_sequence(&shape, state.place(), backward);
        if one.largest > self.binding_bytes {
            return Err(Fault::device(&format!(
                "a sequence of {sequence} tokens needs {} MiB in one piece and this device binds {}: train on shorter ones",
                one.largest >> 20,
                self.binding_bytes >> 20
            )));
        }
        let taken = state_bytes(&state.model, state.range).saturating_add(kept);
        let free = self.options.memory_bytes.saturating_sub(taken);
        if one.bytes > free {
            return Err(Fault::device(&format!(
                "a sequence of {sequence} tokens takes {} MiB beside the model and {} are left: train on shorter ones",
                one.bytes.div_ceil(1 << 20),
                free >> 20
            )));
        }
        let room = self.options.activation_bytes.min(free);
        let fit = (room / one.bytes).min(self.binding_bytes / one.largest).max(1);
        let divides = |n: &usize| all.is_multiple_of(*n);
        Ok((1..=all.min(usize::try_from(fit).unwrap_or(usize::MAX))).rev().find(divides).unwrap_or(1))
    }

    /// Sends a batch through and brings its losses back.
    fn run_batch(&mut self, batch: &TokenBatch, fresh: bool, gradients: Option<F32>) -> Result<Outcome, Fault> {
        let place = self.plan(batch, gradients.is_some())?;
        let (Some(state), plan) = (&mut self.state, &self.plans[place]) else { return Err(no_state(&self.gpu)) };
        let tokens = batch.inputs.len();
        let losses_at = 8 + 4 * state.stages() as u64;
        let bytes = losses_at + 4 * tokens as u64;
        let staging = self.staging.buffer(&self.gpu, bytes).clone();
        let mut commands = begin(&self.gpu, &self.flags, state);
        if fresh {
            state.clear_gradients(&mut commands.encoder);
        }
        let own_tokens = plan.key.sequences * plan.key.sequence;
        for first in (0..tokens).step_by(own_tokens) {
            if first > 0 {
                commands.submit();
            }
            plan.set_batch(&self.gpu, batch, first / plan.key.sequence)?;
            commands.add(&plan.forward);
            if gradients.is_some() {
                commands.add(&plan.backward);
            }
            let at = losses_at + 4 * first as u64;
            let own = Some(4 * own_tokens as u64);
            commands.encoder.copy_buffer_to_buffer(plan.losses.whole(), 0, &staging, at, own);
        }
        if let Some(token_weight) = gradients {
            write_token_weight(&self.gpu, &state.rates, single(token_weight));
            commands.add(&state.norms);
        }
        commands.encoder.copy_buffer_to_buffer(&self.flags, 0, &staging, 0, Some(8));
        commands.encoder.copy_buffer_to_buffer(&state.stage_norms, 0, &staging, 8, Some(losses_at - 8));
        commands.submit();
        let stages = state.stages();
        self.gpu.mapped(&staging, bytes, |bytes| Outcome::parse(bytemuck::cast_slice(bytes), stages))
    }

    /// Runs dispatches on operands made for them and tells whether every value stayed in its range.
    fn run_once(&mut self, program: &Program) -> Result<bool, Fault> {
        let mut commands = Commands::new(&self.gpu);
        commands.encoder.clear_buffer(&self.flags, 0, Some(4));
        commands.add(program);
        commands.submit();
        self.staging.read(&self.gpu, &self.flags, 4, |words| words[0] == 0)
    }

    /// A tensor for an operand given by hand.
    fn operand(&self, slot: Slot, shape: &Shape) -> Result<Tensor, Fault> {
        let layout = Layout::of(slot, shape);
        let (rows, _, _) = slot.shape();
        let is_matrix = !matches!(rows, Dim::Tokens | Dim::One);
        let bytes_max = if is_matrix { self.options.block_bytes.min(self.binding_bytes) } else { self.binding_bytes };
        if !is_matrix && layout.bytes() > bytes_max {
            return Err(Fault::device(&format!("{slot:?} is larger than this device binds at once")));
        }
        // Cut as singles would be, so that weights and gradients are cut alike.
        let singles = Layout { dtype: DType::F32, ..layout };
        let blocks = cut(&singles, &[(0, layout.rows)], bytes_max)?;
        Ok(Tensor::in_blocks(&self.gpu, &format!("{slot:?}"), layout, &blocks))
    }

    /// A row of singles given by hand.
    fn row(&self, values: &[f32]) -> Result<Tensor, Fault> {
        let layout = Layout { rows: 1, width: values.len(), dtype: DType::F32 };
        if layout.bytes() > self.binding_bytes {
            return Err(Fault::device("a tensor is larger than this device binds at once"));
        }
        let tensor = Tensor::new(&self.gpu, "operand", layout);
        tensor.upload_floats(&self.gpu, values)?;
        Ok(tensor)
    }
}

/// Why there is no state: none was loaded, or its device is gone.
fn no_state(gpu: &Gpu) -> Fault {
    gpu.outcome().err().unwrap_or_else(|| Fault::device("no state is loaded"))
}

/// Bytes that the state of some stages takes: 16 a parameter (PROTOCOL §2) and 2 for the operands of matrix products.
fn state_bytes(model: &ModelSpec, range: LayerRange) -> u64 {
    let training = model.training_bytes(range);
    training.saturating_add(training >> 3)
}

/// Checks what kernels trust.
fn check_batch(model: &ModelSpec, batch: &TokenBatch) -> Result<(), Fault> {
    let (sequence, tokens) = (batch.sequence as usize, batch.inputs.len());
    if sequence == 0 || batch.sequence > model.context || tokens == 0 || tokens % sequence != 0 {
        return Err(Fault::bad_job("a batch is one or more sequences, and they fit the context"));
    }
    if batch.targets.len() != tokens {
        return Err(Fault::bad_job("a batch has a target for each token"));
    }
    if batch.inputs.iter().chain(&batch.targets).any(|token| *token >= model.vocab) {
        return Err(Fault::bad_job("a batch holds a token outside the vocabulary"));
    }
    Ok(())
}

/// What a batch brought back.
#[derive(Debug)]
struct Outcome {
    in_range: bool,
    squared_norms: Vec<F32>,
    loss_micro: i64,
}

impl Outcome {
    fn parse(words: &[u32], stages: usize) -> Self {
        let (flags, rest) = words.split_at(2);
        let (norms, losses) = rest.split_at(stages);
        Self {
            in_range: flags.iter().all(|flag| *flag == 0),
            squared_norms: norms.iter().map(|bits| F32::from_bits(*bits)).collect(),
            loss_micro: losses.iter().map(|loss| i64::from(loss.cast_signed())).sum(),
        }
    }
}

/// Commands on their way to a device, handed over in portions.
struct Commands<'a> {
    gpu: &'a Gpu,
    encoder: wgpu::CommandEncoder,
    work: u64,
}

impl fmt::Debug for Commands<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").field("work", &self.work).finish_non_exhaustive()
    }
}

impl<'a> Commands<'a> {
    fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, encoder: Self::encoder(gpu), work: 0 }
    }

    fn encoder(gpu: &Gpu) -> wgpu::CommandEncoder {
        gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Adds a program; submits whenever enough has gathered.
    fn add(&mut self, program: &Program) {
        if self.work + program.work() <= WORK_PER_SUBMIT {
            self.work += program.work();
            return program.encode(&mut self.encoder);
        }
        let mut rest: &[Dispatch] = &program.dispatches;
        while !rest.is_empty() {
            let mut fits = 0;
            while fits < rest.len() && (fits == 0 || self.work + rest[fits].work <= WORK_PER_SUBMIT) {
                self.work += rest[fits].work;
                fits += 1;
            }
            let (now, later) = rest.split_at(fits);
            Program::encode_part(now, &mut self.encoder, None);
            rest = later;
            if !rest.is_empty() {
                self.submit();
            }
        }
    }

    fn submit(&mut self) {
        let encoder = std::mem::replace(&mut self.encoder, Self::encoder(self.gpu));
        self.gpu.queue.submit([encoder.finish()]);
        self.work = 0;
    }
}

impl Engine for GpuEngine {
    fn describe(&self) -> String {
        format!("GPU {}", self.gpu.description)
    }

    fn allocate(&mut self, model: &ModelSpec, range: LayerRange) -> Result<(), Fault> {
        let (needed, most) = (state_bytes(model, range), self.options.memory_bytes);
        if needed > most {
            return Err(Fault::device(&format!(
                "the model takes {} MiB of the GPU's memory and {} are allowed: allow more, or choose a smaller one",
                needed.div_ceil(1 << 20),
                most >> 20
            )));
        }
        self.plans.clear();
        self.places = Places::default();
        self.state = None;
        let block_bytes = self.options.block_bytes.min(self.binding_bytes);
        let state = State::new(&self.gpu, &mut self.pipelines, &self.flags, model, range, block_bytes)?;
        self.gpu.outcome()?;
        self.state = Some(state);
        Ok(())
    }

    fn write(&mut self, part: Part, layer: LayerIndex, values: &[f32]) -> Result<(), Fault> {
        self.state.as_mut().ok_or_else(|| no_state(&self.gpu))?.write(&self.gpu, part, layer, values)?;
        self.gpu.outcome()
    }

    fn read(&mut self, part: Part, layer: LayerIndex, out: &mut [f32]) -> Result<(), Fault> {
        let state = self.state.as_ref().ok_or_else(|| no_state(&self.gpu))?;
        state.read(&self.gpu, &mut self.staging, part, layer, out)
    }

    fn train(&mut self, batch: &TokenBatch, fresh: bool, token_weight: F32) -> Result<Trained, Fault> {
        let Outcome { in_range, squared_norms, loss_micro } = self.run_batch(batch, fresh, Some(token_weight))?;
        Ok(if in_range { Trained::Done { loss_micro, squared_norms } } else { Trained::Void })
    }

    fn clear(&mut self) -> Result<(), Fault> {
        let state = self.state.as_ref().ok_or_else(|| no_state(&self.gpu))?;
        let mut commands = Commands::new(&self.gpu);
        state.clear_gradients(&mut commands.encoder);
        commands.submit();
        self.gpu.outcome()
    }

    fn forward(&mut self, place: usize, entry: Entry<'_>, output: &mut [f32]) -> Result<bool, Fault> {
        self.pass_forward(place, entry, output)
    }

    fn backward(&mut self, place: usize, leaving: &[f32], entering: Option<&mut [f32]>) -> Result<bool, Fault> {
        self.pass_backward(place, leaving, entering)
    }

    fn turn(&mut self, entry: Entry<'_>, targets: &[u32], entering: Option<&mut [f32]>) -> Result<Option<i64>, Fault> {
        self.pass_turn(entry, targets, entering)
    }

    fn norms(&mut self, token_weight: F32) -> Result<Option<Vec<F32>>, Fault> {
        self.gathered_norms(token_weight)
    }

    fn evaluate(&mut self, batch: &TokenBatch) -> Result<Option<i64>, Fault> {
        let outcome = self.run_batch(batch, false, None)?;
        Ok(outcome.in_range.then_some(outcome.loss_micro))
    }

    fn step(&mut self, token_weight: F32, squared_norm: F32, schedule: &Schedule) -> Result<(), Fault> {
        let state = self.state.as_mut().ok_or_else(|| no_state(&self.gpu))?;
        write_rates(&self.gpu, &state.rates, &Rates::new(schedule, token_weight, squared_norm));
        let mut commands = Commands::new(&self.gpu);
        commands.add(&state.update);
        commands.submit();
        state.stale = true;
        self.gpu.outcome()
    }

    fn apply(&mut self, call: &Call, shape: &Shape, values: &mut Values) -> Result<bool, Fault> {
        let mut slots = Slots::new();
        for slot in call.reads.iter().chain(call.writes) {
            if slots.contains_key(slot) {
                continue;
            }
            let tensor = self.operand(*slot, shape)?;
            if call.reads.contains(slot) {
                let value = values.get(slot).ok_or_else(|| Fault::bad_job(&format!("{slot:?} is not given")))?;
                tensor.upload(&self.gpu, value)?;
            }
            slots.insert(*slot, tensor);
        }
        let order = storage(&self.gpu, "order of tokens", 4 * shape.tokens as u64);
        if let (Op::EmbedBackward, Some(Value::Int(tokens))) = (call.op, values.get(&Slot::Tokens)) {
            let tokens: Vec<u32> = tokens.iter().map(|token| token.cast_unsigned()).collect();
            self.gpu.queue.write_buffer(&order, 0, bytemuck::cast_slice(&order_of(&tokens)));
        }
        let options = self.plan_options();
        let is_attention = matches!(call.op, Op::Attention | Op::AttentionBackward);
        let scores = Scratch::new(&self.gpu, shape, if is_attention { options.scores_max } else { 0 }, is_attention);
        let rotary = rotary(&self.gpu, shape);
        let around = Surroundings { shape, rotary: &rotary, order: &order, scores: &scores, tile: options.tile };
        let mut rec = Recorder::new(&self.gpu, &mut self.pipelines, &self.flags);
        record(&mut rec, &around, call, &slots)?;
        let program = rec.finish();
        let in_range = self.run_once(&program)?;
        for slot in call.writes {
            values.insert(*slot, slots[slot].download(&self.gpu, &mut self.staging)?);
        }
        Ok(in_range)
    }

    fn sum_squares(&mut self, gradient: &[f32], token_weight: F32) -> Result<Option<F32>, Fault> {
        let tensor = self.row(gradient)?;
        let (rates, norm) = (rates_buffer(&self.gpu), storage(&self.gpu, "norm", 4));
        write_token_weight(&self.gpu, &rates, single(token_weight));
        let mut rec = Recorder::new(&self.gpu, &mut self.pipelines, &self.flags);
        squared_norms(&mut rec, &rates, &[vec![Span { tensor: &tensor, rows: (0, 1) }]], &norm);
        let program = rec.finish();
        let in_range = self.run_once(&program)?;
        let sum = self.staging.read(&self.gpu, &norm, 4, |words| F32::from_bits(words[0]))?;
        Ok(in_range.then_some(sum))
    }

    fn adamw(&mut self, rates: &Rates, decay: bool, parts: [&mut [f32]; 3], gradient: &[f32]) -> Result<(), Fault> {
        let buffer = rates_buffer(&self.gpu);
        write_rates(&self.gpu, &buffer, rates);
        let own = [&*parts[0], &*parts[1], &*parts[2], gradient].map(|values| self.row(values));
        let [weights, moments1, moments2, gradient] = own;
        let tensors = [weights?, moments1?, moments2?, gradient?];
        let mut rec = Recorder::new(&self.gpu, &mut self.pipelines, &self.flags);
        adamw(&mut rec, &buffer, decay, tensors.each_ref());
        let program = rec.finish();
        self.run_once(&program)?;
        for (part, tensor) in parts.into_iter().zip(&tensors) {
            tensor.download_floats(&self.gpu, &mut self.staging, part)?;
        }
        Ok(())
    }

    fn benchmark(&mut self, model: &ModelSpec, sequence: u32, warmup: u32, runs: u32) -> Result<u64, Fault> {
        let shape = Shape::new(model, sequence, sequence as usize);
        let mut slots = Slots::new();
        for slot in ops::LAYER_FORWARD.iter().flat_map(|call| call.reads.iter().chain(call.writes)) {
            if !slots.contains_key(slot) {
                let tensor = self.operand(*slot, &shape)?;
                let layout = &tensor.layout;
                // Weights as small as those of a new model; a stream of ones.
                let value = if *slot == Slot::Input { 1.0 } else { f32::from_bits(0x3c24_0000) };
                tensor.upload_floats(&self.gpu, &vec![value; layout.rows * layout.width])?;
                slots.insert(*slot, tensor);
            }
        }
        let order = storage(&self.gpu, "order of tokens", 16);
        let options = self.plan_options();
        let scores = Scratch::new(&self.gpu, &shape, options.scores_max, false);
        let rotary = rotary(&self.gpu, &shape);
        let around =
            Surroundings { shape: &shape, rotary: &rotary, order: &order, scores: &scores, tile: options.tile };
        let mut rec = Recorder::new(&self.gpu, &mut self.pipelines, &self.flags);
        for call in &ops::LAYER_FORWARD {
            record(&mut rec, &around, call, &slots)?;
        }
        let program = rec.finish();
        self.gpu.outcome()?;
        crate::timing::median_us(warmup, runs, || {
            let started = Instant::now();
            let mut commands = Commands::new(&self.gpu);
            commands.add(&program);
            commands.submit();
            self.gpu.wait()?;
            Ok(started.elapsed())
        })
    }
}
