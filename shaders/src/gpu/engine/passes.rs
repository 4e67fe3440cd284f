//! One sequence at a time through a part of a model: each place has a plan of its own, and all plans of one length share what
//! outlives no pass.

use neuroshard_proto::{F32, Fault};

use super::{Commands, GpuEngine, no_state};
use crate::engine::{Entry, check_gradient, check_targets};
use crate::gpu::plan::{Plan, PlanKey, Room};
use crate::gpu::state::{BATCH_FLAG, State, WEIGHTS_FLAG, write_token_weight};
use crate::gpu::tensor::Tensor;
use crate::layout::single;

/// Sequences between forward and backward.
#[derive(Debug, Default)]
pub(super) struct Places {
    room: Option<Room>,
    plans: Vec<Option<Plan>>,
    /// Which of them hold a sequence.
    taken: Vec<bool>,
}

impl Places {
    /// The plan of a place that holds a sequence, which it does no longer.
    fn take(&mut self, place: usize) -> Result<&Plan, Fault> {
        let taken = self.taken.get_mut(place).is_some_and(std::mem::take);
        let plan = self.plans.get(place).and_then(Option::as_ref);
        plan.filter(|_| taken).ok_or_else(|| Fault::bad_job("nothing is kept in this place"))
    }
}

/// What a pass brings back beside the flags.
struct Wanted<'a> {
    tensor: &'a Tensor,
    out: &'a mut [f32],
}

impl GpuEngine {
    /// Makes the plan of a place, if it has none for this length.
    fn prepare_place(&mut self, place: usize, sequence: usize) -> Result<(), Fault> {
        let key = PlanKey { sequence, sequences: 1, backward: true };
        if self.places.plans.get(place).is_some_and(|plan| plan.as_ref().is_some_and(|plan| plan.key == key)) {
            return Ok(());
        }
        let Some(state) = &self.state else { return Err(no_state(&self.gpu)) };
        // One sequence with all that a pass takes, and what is kept of the others.
        let others = self.places.plans.iter().enumerate().filter(|(other, plan)| *other != place && plan.is_some());
        let kept = state.model.microbatch_bytes(state.range, super::count(sequence));
        self.sequences_at_once(state, sequence, 1, true, kept.saturating_mul(others.count() as u64))?;
        let options = self.plan_options();
        if self.places.room.as_ref().is_none_or(|room| room.key != key) {
            self.places.room = Some(Room::new(&self.gpu, state, key, options));
        }
        let Some(room) = &mut self.places.room else { return Ok(()) };
        let plan = Plan::within(&self.gpu, &mut self.pipelines, &self.flags, state, room)?;
        self.gpu.outcome()?;
        if self.places.plans.len() <= place {
            self.places.plans.resize_with(place + 1, || None);
            self.places.taken.resize(place + 1, false);
        }
        self.places.plans[place] = Some(plan);
        Ok(())
    }

    /// See [`crate::engine::Engine::forward`].
    pub(super) fn pass_forward(&mut self, place: usize, entry: Entry<'_>, output: &mut [f32]) -> Result<bool, Fault> {
        let Some(state) = &self.state else { return Err(no_state(&self.gpu)) };
        let sequence = entry.sequence(&state.model, state.range, false)?;
        check_gradient(sequence * state.model.hidden as usize, output.len())?;
        if let Some(taken) = self.places.taken.get_mut(place) {
            *taken = false;
        }
        self.prepare_place(place, sequence)?;
        let (Some(state), Some(plan)) = (&mut self.state, &self.places.plans[place]) else {
            return Err(no_state(&self.gpu));
        };
        plan.set_entry(&self.gpu, entry)?;
        let mut commands = begin(&self.gpu, &self.flags, state);
        commands.add(&plan.forward);
        let wanted = Some(Wanted { tensor: &plan.left, out: output });
        let (fits, _) = bring_back(commands, &self.flags, &mut self.staging, None, wanted)?;
        self.places.taken[place] = fits;
        Ok(fits)
    }

    /// See [`crate::engine::Engine::backward`].
    pub(super) fn pass_backward(
        &mut self,
        place: usize,
        leaving: &[f32],
        entering: Option<&mut [f32]>,
    ) -> Result<bool, Fault> {
        let Some(state) = &mut self.state else { return Err(no_state(&self.gpu)) };
        let plan = self.places.take(place)?;
        let Some([out, back]) = &plan.gradients else { panic!("the plan of a place goes backward") };
        let values = plan.key.sequence * state.model.hidden as usize;
        check_gradient(values, leaving.len())?;
        entering.as_ref().map_or(Ok(()), |entering| check_gradient(values, entering.len()))?;
        out.upload_floats(&self.gpu, leaving)?;
        let mut commands = begin(&self.gpu, &self.flags, state);
        commands.add(&plan.backward);
        let wanted = entering.map(|out| Wanted { tensor: back, out });
        Ok(bring_back(commands, &self.flags, &mut self.staging, None, wanted)?.0)
    }

    /// See [`crate::engine::Engine::turn`].
    pub(super) fn pass_turn(
        &mut self,
        entry: Entry<'_>,
        targets: &[u32],
        entering: Option<&mut [f32]>,
    ) -> Result<Option<i64>, Fault> {
        let Some(state) = &self.state else { return Err(no_state(&self.gpu)) };
        let sequence = entry.sequence(&state.model, state.range, true)?;
        check_targets(&state.model, sequence, targets)?;
        let values = sequence * state.model.hidden as usize;
        entering.as_ref().map_or(Ok(()), |entering| check_gradient(values, entering.len()))?;
        let place = self.plan_of(sequence, 1, true)?;
        let (Some(state), plan) = (&mut self.state, &self.plans[place]) else { return Err(no_state(&self.gpu)) };
        let Some([_, back]) = &plan.gradients else { panic!("a plan to train goes backward") };
        plan.set_entry(&self.gpu, entry)?;
        plan.set_targets(&self.gpu, targets);
        let mut commands = begin(&self.gpu, &self.flags, state);
        commands.add(&plan.forward);
        commands.add(&plan.backward);
        let wanted = entering.map(|out| Wanted { tensor: back, out });
        let (fits, loss_micro) =
            bring_back(commands, &self.flags, &mut self.staging, Some((&plan.losses, sequence)), wanted)?;
        Ok(fits.then_some(loss_micro))
    }

    /// See [`crate::engine::Engine::norms`].
    pub(super) fn gathered_norms(&mut self, token_weight: F32) -> Result<Option<Vec<F32>>, Fault> {
        let Some(state) = &mut self.state else { return Err(no_state(&self.gpu)) };
        write_token_weight(&self.gpu, &state.rates, single(token_weight));
        let mut commands = begin(&self.gpu, &self.flags, state);
        commands.add(&state.norms);
        let bytes = 8 + 4 * state.stages() as u64;
        let staging = self.staging.buffer(&self.gpu, bytes).clone();
        commands.encoder.copy_buffer_to_buffer(&self.flags, 0, &staging, 0, Some(8));
        commands.encoder.copy_buffer_to_buffer(&state.stage_norms, 0, &staging, 8, Some(bytes - 8));
        commands.submit();
        self.gpu.mapped(&staging, bytes, |bytes| {
            let words: &[u32] = bytemuck::cast_slice(bytes);
            // What a weight out of range does, it does to the losses: norms are of gradients alone.
            (words[BATCH_FLAG as usize] == 0).then(|| words[2..].iter().map(|bits| F32::from_bits(*bits)).collect())
        })
    }
}

/// Commands that begin a pass: a clear flag, and operands that are the weights'.
pub(super) fn begin<'a>(gpu: &'a super::Gpu, flags: &wgpu::Buffer, state: &mut State) -> Commands<'a> {
    let mut commands = Commands::new(gpu);
    commands.encoder.clear_buffer(flags, 4 * u64::from(BATCH_FLAG), Some(4));
    if state.stale {
        commands.encoder.clear_buffer(flags, 4 * u64::from(WEIGHTS_FLAG), Some(4));
        commands.add(&state.casts);
        state.stale = false;
    }
    commands
}

/// Hands the commands over and brings back whether every value stayed in its range, the sum of some losses, and a tensor.
fn bring_back(
    mut commands: Commands<'_>,
    flags: &wgpu::Buffer,
    staging: &mut super::Staging,
    losses: Option<(&Tensor, usize)>,
    wanted: Option<Wanted<'_>>,
) -> Result<(bool, i64), Fault> {
    let losses_end = 8 + losses.map_or(0, |(_, tokens)| 4 * tokens as u64);
    let bytes = losses_end + wanted.as_ref().map_or(0, |wanted| wanted.tensor.layout.bytes());
    let gpu = commands.gpu;
    let staging = staging.buffer(gpu, bytes).clone();
    commands.encoder.copy_buffer_to_buffer(flags, 0, &staging, 0, Some(8));
    if let Some((losses, _)) = losses {
        commands.encoder.copy_buffer_to_buffer(losses.whole(), 0, &staging, 8, Some(losses_end - 8));
    }
    if let Some(wanted) = &wanted {
        let own = Some(bytes - losses_end);
        commands.encoder.copy_buffer_to_buffer(wanted.tensor.whole(), 0, &staging, losses_end, own);
    }
    commands.submit();
    gpu.mapped(&staging, bytes, |bytes| {
        let words: &[u32] = bytemuck::cast_slice(bytes);
        let (head, rest) = words.split_at(losses_end as usize / 4);
        if let Some(Wanted { tensor, out }) = wanted {
            tensor.layout.unpack_floats(rest, out);
        }
        let (flags, losses) = head.split_at(2);
        (flags.iter().all(|flag| *flag == 0), losses.iter().map(|loss| i64::from(loss.cast_signed())).sum())
    })
}
