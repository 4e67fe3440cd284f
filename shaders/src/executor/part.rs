//! One sequence after the other through a part of a model (PROTOCOL §4): what comes in and goes out as blobs, what is held in
//! between, and the order in which gradients add up.

use std::borrow::Cow;
use std::collections::BTreeMap;

use neuroshard_proto::{
    Commitment, F32, Fault, HELD_MAX, Hash, Micro, Passed, Returned, Sample, Step, Turned, VoidReason, mutant,
};

use super::{Blobs, Executor, Resident};
use crate::canon::{exceeds, exceeds_norm, z};
use crate::engine::Entry;

/// Microbatches between forward and backward, and the last one that came back.
#[derive(Debug, Default)]
pub(super) struct Held {
    micros: BTreeMap<Micro, Keeping>,
    last: Option<Micro>,
}

/// Where the engine keeps a microbatch, and how many tokens it has.
#[derive(Clone, Copy, Debug)]
struct Keeping {
    place: usize,
    sequence: usize,
}

impl Held {
    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The place for a microbatch: its own, or the first that is free.
    fn place(&self, micro: Micro) -> Result<usize, Fault> {
        if let Some(keeping) = self.micros.get(&micro) {
            return Ok(keeping.place);
        }
        let free =
            |place: &usize| self.micros.values().all(|keeping| keeping.place != *place) || mutant("one place for all");
        let most = if mutant("held without end") { usize::MAX } else { HELD_MAX as usize };
        (0..most).find(free).ok_or_else(|| {
            Fault::bad_job(&format!("{micro} is one too many: {HELD_MAX} are held between forward and backward"))
        })
    }

    fn find(&self, micro: Micro) -> Result<Keeping, Fault> {
        let found = self.micros.get(&micro).copied();
        found.ok_or_else(|| Fault::bad_job(&format!("{micro} is not held: it did not go forward, or is back already")))
    }

    /// Refuses what would add to the gradients out of order, or twice.
    fn check_order(&self, micro: Micro) -> Result<(), Fault> {
        match self.last {
            Some(last) if last >= micro && !mutant("gradients in any order") => {
                Err(Fault::bad_job(&format!("gradients add up in order, and {micro} comes after {last}")))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A microbatch as a job names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) step: Step,
    pub(super) micro: Micro,
    pub(super) fresh: bool,
    pub(super) sequence: u32,
    pub(super) sample: &'a Sample,
    pub(super) input: Option<&'a Hash>,
}

/// What enters, before it is an [`Entry`].
#[derive(Debug)]
enum Entering {
    Tokens(Vec<u32>),
    Stream(Vec<u8>),
}

/// Whether values are such as an executor's can be: none is tiny, and none exceeds the bound that is checked next. Others would
/// not be the same on every machine.
fn is_canonical(values: &[f32], exceeds: fn(f32) -> bool) -> bool {
    values.iter().all(|x| z(*x).to_bits() == x.to_bits() && !exceeds(*x)) || mutant("strange values let in")
}

impl Executor {
    /// [`neuroshard_proto::Job::Forward`].
    pub(super) fn forward(&mut self, asked: Asked<'_>, blobs: &mut dyn Blobs) -> Result<Commitment, Fault> {
        let resident = self.at(asked.step)?;
        let void = Ok(Commitment::Forward(Passed::Void(VoidReason::OutOfRange)));
        let entering = self.entering(&resident, &asked, blobs)?;
        let place = if asked.fresh { 0 } else { self.held.place(asked.micro)? };
        self.begin(asked.fresh)?;
        self.held.micros.remove(&asked.micro);
        let sequence = asked.sequence as usize;
        let count = sequence * resident.model.hidden as usize;
        let Some((fits, output)) =
            entering.lend(|entry| filled(count, |output| self.engine.forward(place, entry, output)))?
        else {
            return void;
        };
        if !fits {
            return void;
        }
        let output = blobs.put_transient(output)?;
        self.held.micros.insert(asked.micro, Keeping { place, sequence });
        Ok(Commitment::Forward(Passed::Done { output }))
    }

    /// [`neuroshard_proto::Job::Turn`].
    pub(super) fn turn(&mut self, asked: Asked<'_>, blobs: &mut dyn Blobs) -> Result<Commitment, Fault> {
        let resident = self.at(asked.step)?;
        let void = Ok(Commitment::Turn(Turned::Void(VoidReason::OutOfRange)));
        let entering = self.entering(&resident, &asked, blobs)?;
        let samples = std::slice::from_ref(asked.sample);
        let targets = self.shards.batch(&resident.model, asked.sequence, samples, blobs)?.targets;
        if !asked.fresh {
            self.held.check_order(asked.micro)?;
        }
        self.begin(asked.fresh)?;
        let count = resident.entering_values(asked.sequence as usize);
        let turned = entering
            .lend(|entry| filled(count, |gradient| self.engine.turn(entry, &targets, resident.takes(gradient))))?;
        self.held.last = Some(asked.micro);
        let Some((Some(loss_micro), gradient)) = turned else { return void };
        let gradient = resident.passes_on(gradient, blobs)?;
        Ok(Commitment::Turn(Turned::Done { loss_micro, tokens: u64::from(asked.sequence), gradient }))
    }

    /// [`neuroshard_proto::Job::Backward`].
    pub(super) fn backward(
        &mut self,
        step: Step,
        micro: Micro,
        gradient: &Hash,
        blobs: &mut dyn Blobs,
    ) -> Result<Commitment, Fault> {
        let resident = self.at(step)?;
        let void = Ok(Commitment::Backward(Returned::Void(VoidReason::OutOfRange)));
        let Keeping { place, sequence } = self.held.find(micro)?;
        self.held.check_order(micro)?;
        let leaving = stream(gradient, sequence * resident.model.hidden as usize, blobs)?;
        let leaving = singles(&leaving);
        self.held.micros.remove(&micro);
        self.held.last = Some(micro);
        if !is_canonical(&leaving, exceeds) {
            return void;
        }
        let count = resident.entering_values(sequence);
        let back = |gradient: &mut [f32]| self.engine.backward(place, &leaving, resident.takes(gradient));
        let (fits, gradient) = filled(count, back)?;
        if !fits {
            return void;
        }
        Ok(Commitment::Backward(Returned::Done { gradient: resident.passes_on(gradient, blobs)? }))
    }

    /// [`neuroshard_proto::Job::Norms`].
    pub(super) fn norms(&mut self, step: Step, token_weight: F32) -> Result<Commitment, Fault> {
        self.at(step)?;
        let norms = self.engine.norms(token_weight)?;
        let squared_norms = norms.map(TryInto::try_into).transpose().map_err(|_| Fault::bad_job("too many stages"))?;
        Ok(Commitment::Norms { step, squared_norms })
    }

    fn begin(&mut self, fresh: bool) -> Result<(), Fault> {
        if fresh && !mutant("held after a fresh start") {
            self.held.clear();
        }
        if fresh && !mutant("gradients after a fresh start") {
            self.engine.clear()?;
        }
        Ok(())
    }

    /// Brings in what the first of the stages takes.
    fn entering(&mut self, resident: &Resident, asked: &Asked<'_>, blobs: &mut dyn Blobs) -> Result<Entering, Fault> {
        let (model, sequence) = (&resident.model, asked.sequence);
        if sequence == 0 || sequence > model.context {
            return Err(Fault::bad_job("a sequence is empty or longer than the context"));
        }
        match (resident.range.start, asked.input) {
            (0, None) => {
                let samples = std::slice::from_ref(asked.sample);
                Ok(Entering::Tokens(self.shards.batch(model, sequence, samples, blobs)?.inputs))
            }
            (0, Some(_)) => Err(Fault::bad_job("the model's first stage embeds the sample, and a stream is named")),
            (_, None) => Err(Fault::bad_job("these stages take the stream of the stage before, and none is named")),
            (_, Some(hash)) => Ok(Entering::Stream(stream(hash, sequence as usize * model.hidden as usize, blobs)?)),
        }
    }
}

impl Entering {
    /// Lends what enters; `None` if its values cannot be an executor's.
    fn lend<T>(&self, work: impl FnOnce(Entry<'_>) -> Result<T, Fault>) -> Result<Option<T>, Fault> {
        match self {
            Self::Tokens(tokens) => work(Entry::Tokens(tokens)).map(Some),
            Self::Stream(bytes) => {
                let stream = singles(bytes);
                if !is_canonical(&stream, exceeds_norm) {
                    return Ok(None);
                }
                work(Entry::Stream(&stream)).map(Some)
            }
        }
    }
}

impl Resident {
    /// Values of the gradient that goes on to the stage before: none from the model's first stage.
    fn entering_values(&self, sequence: usize) -> usize {
        if self.range.start == 0 { 0 } else { sequence * self.model.hidden as usize }
    }

    fn takes<'a>(&self, gradient: &'a mut [f32]) -> Option<&'a mut [f32]> {
        (self.range.start > 0).then_some(gradient)
    }

    fn passes_on(&self, gradient: Vec<u8>, blobs: &mut dyn Blobs) -> Result<Option<Hash>, Fault> {
        (self.range.start > 0).then(|| blobs.put_transient(gradient)).transpose()
    }
}

/// A stream or a gradient of so many values.
fn stream(hash: &Hash, values: usize, blobs: &mut dyn Blobs) -> Result<Vec<u8>, Fault> {
    let bytes = blobs.get(hash)?;
    if bytes.len() != 4 * values {
        return Err(Fault::BlobDamaged { hash: *hash });
    }
    Ok(bytes)
}

/// The singles that bytes are, copied only where they do not lie as singles do.
fn singles(bytes: &[u8]) -> Cow<'_, [f32]> {
    bytemuck::try_cast_slice(bytes).map_or_else(|_| Cow::Owned(bytemuck::pod_collect_to_vec(bytes)), Cow::Borrowed)
}

/// Bytes that `fill` made as singles, copied only where bytes do not lie as singles do.
fn filled<T>(count: usize, fill: impl FnOnce(&mut [f32]) -> Result<T, Fault>) -> Result<(T, Vec<u8>), Fault> {
    let mut bytes = vec![0; 4 * count];
    if let Ok(singles) = bytemuck::try_cast_slice_mut(&mut bytes) {
        return Ok((fill(singles)?, bytes));
    }
    let mut singles = vec![0.0; count];
    let done = fill(&mut singles)?;
    bytes.copy_from_slice(bytemuck::cast_slice(&singles));
    Ok((done, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_machines_do_not_agree_on_are_seen() {
        let honest = [0.0, 1.0, -3.5, 2_f32.powi(-100), -2_f32.powi(40)];
        assert!(is_canonical(&honest, exceeds_norm));
        for spoiled in [-0.0, 1e-40, -2_f32.powi(-101), f32::NAN, f32::INFINITY, 1.2e12, -1.2e15] {
            assert!(!is_canonical(&[1.0, spoiled], exceeds_norm), "{spoiled:e}");
        }
        assert!(is_canonical(&[1.2e12, 2_f32.powi(50)], exceeds));
        assert!(!is_canonical(&[1.2e15], exceeds));
    }

    #[test]
    fn singles_come_back_from_bytes_at_any_address() {
        let values: Vec<f32> = (0..9_u8).map(f32::from).collect();
        let ((), bytes) = filled(9, |out| {
            out.copy_from_slice(&values);
            Ok(())
        })
        .unwrap();
        for shift in 0..4 {
            let moved: Vec<u8> = vec![0; shift].into_iter().chain(bytes.iter().copied()).collect();
            assert_eq!(singles(&moved[shift..])[..], values);
        }
    }
}
