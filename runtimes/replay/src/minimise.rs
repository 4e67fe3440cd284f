//! The smallest part of a trace that still shows something: what a bug report and a regression test should hold.
//!
//! Inputs are left out, half of them at once and then ever fewer, as long as the rest still shows the symptom. An answer whose
//! question was left out is dropped by the core, so any rest is a life that could have been.

use std::fmt;
use std::io::{Read, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use neuroshard_core::{Input, Outbox, RestoreError};
use neuroshard_proto::{Time, codec};

use crate::fault::ReadError;
use crate::format::Header;
use crate::play::{Played, Player};
use crate::read::Reader;
use crate::record::{RecordError, Recorder};
use crate::text::OutputLine;

/// Encoded bytes of the inputs that are kept in memory at most.
pub const INPUT_BYTES_MAX: u64 = 256 << 20;

/// What a trace is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symptom {
    /// A step panics. The panic hook runs each time; who wants silence sets another one.
    Panic,
    /// A step has an output whose line, as `trace cat` prints it, contains this text.
    Output(String),
}

impl Symptom {
    fn shows(&self, played: &Played) -> bool {
        match (self, played) {
            (Self::Panic, Played::Panicked(_)) => true,
            (Self::Output(text), Played::Returned(outcome)) => {
                let mut outputs = outcome.outputs.iter().flatten();
                outputs.any(|output| OutputLine(output).to_string().contains(text.as_str()))
            }
            (Self::Panic | Self::Output(_), Played::Returned(_) | Played::Refused(_) | Played::Panicked(_)) => false,
        }
    }
}

/// Inputs with their times.
pub type Inputs = Vec<(Time, Input)>;

/// What is left of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minimal {
    /// The last of them shows the symptom.
    pub steps: Inputs,
    /// Steps that the trace took until it showed the symptom.
    pub before: u64,
    /// Replays that were made.
    pub attempts: u32,
}

/// Why a trace cannot be made smaller.
#[derive(Debug)]
#[non_exhaustive]
pub enum MinimiseError {
    Read(ReadError),
    Restore(RestoreError),
    /// This build does not show the symptom.
    NotShown,
    /// More than [`INPUT_BYTES_MAX`] go before the symptom.
    TooLong,
}

impl fmt::Display for MinimiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Restore(error) => write!(f, "this build cannot restore the recorded start: {error}"),
            Self::NotShown => f.write_str("nothing in this trace shows that, when this build replays it"),
            Self::TooLong => write!(f, "more than {} MiB of inputs go before it", INPUT_BYTES_MAX >> 20),
        }
    }
}

impl std::error::Error for MinimiseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Restore(error) => Some(error),
            Self::NotShown | Self::TooLong => None,
        }
    }
}

/// Leaves out what a symptom does not need, in at most so many replays.
///
/// # Errors
/// If the trace cannot be read or restored, or does not show the symptom.
pub fn minimise<R: Read + Seek>(
    reader: &mut Reader<R>,
    symptom: &Symptom,
    attempts_max: u32,
) -> Result<Minimal, MinimiseError> {
    let all = inputs(reader, symptom)?;
    let before = all.len() as u64;
    let header = reader.header().clone();
    let (mut steps, mut attempts, mut size) = (all, 0, before as usize / 2);
    while size > 0 && attempts < attempts_max {
        let (mut at, len) = (0, steps.len());
        // The last step shows the symptom and stays.
        while at + 1 < steps.len() && attempts < attempts_max {
            let end = (at + size).min(steps.len() - 1);
            let candidate = steps[..at].iter().chain(&steps[end..]);
            attempts += 1;
            match shortest(&header, candidate, symptom).map_err(MinimiseError::Restore)? {
                Some(shorter) => steps = shorter,
                None => at = end,
            }
        }
        // A step may be in the way of another: single ones are tried until none can go.
        size = if size == 1 && steps.len() < len { 1 } else { size / 2 };
    }
    Ok(Minimal { steps, before, attempts })
}

/// The inputs up to the one that shows the symptom.
fn inputs<R: Read + Seek>(reader: &mut Reader<R>, symptom: &Symptom) -> Result<Inputs, MinimiseError> {
    let mut player = Player::new(reader.header()).map_err(MinimiseError::Restore)?;
    reader.rewind().map_err(MinimiseError::Read)?;
    let (mut steps, mut bytes) = (Vec::new(), 0);
    while let Some(frame) = reader.next_frame().map_err(MinimiseError::Read)? {
        bytes += codec::encode(&frame.input).len() as u64;
        if bytes > INPUT_BYTES_MAX {
            return Err(MinimiseError::TooLong);
        }
        let played = player.step(frame.time, frame.input.clone());
        steps.push((frame.time, frame.input));
        if symptom.shows(&played) {
            return Ok(steps);
        }
        if matches!(played, Played::Panicked(_)) {
            break;
        }
    }
    Err(MinimiseError::NotShown)
}

/// The steps of a candidate up to the symptom, without those that the core refuses; `None` if it does not show.
fn shortest<'a>(
    header: &Header,
    candidate: impl Iterator<Item = &'a (Time, Input)>,
    symptom: &Symptom,
) -> Result<Option<Inputs>, RestoreError> {
    let mut player = Player::new(header)?;
    let mut kept = Vec::new();
    for (time, input) in candidate {
        let played = player.step(*time, input.clone());
        let shown = symptom.shows(&played);
        match played {
            Played::Refused(_) => {}
            Played::Panicked(_) if !shown => return Ok(None),
            Played::Returned(_) | Played::Panicked(_) => kept.push((*time, input.clone())),
        }
        if shown {
            return Ok(Some(kept));
        }
    }
    Ok(None)
}

/// Records steps anew, as a trace of this build; a last step that panics is recorded as one that never returned.
///
/// # Errors
/// If the trace cannot be written.
///
/// # Panics
/// If a step before the last one does, or the core refuses one: steps come from [`minimise`] with the same header.
pub fn rewrite<W: Write>(header: &Header, steps: &[(Time, Input)], out: W) -> Result<(), RecordError> {
    let records = header.journal.iter().map(|record| &record[..]);
    let restored = neuroshard_core::Core::restore(header.config.clone(), header.seed, records);
    let mut core = restored.expect("the start that was minimised can be restored");
    let header = Header { build: Header::this_build(), wire_version: neuroshard_proto::WIRE_VERSION, ..header.clone() };
    let mut recorder = Recorder::new(out, &header, &core)?;
    let mut outbox = Outbox::default();
    for (place, (time, input)) in steps.iter().enumerate() {
        let step = || recorder.step(&mut core, *time, input.clone(), &mut outbox);
        match catch_unwind(AssertUnwindSafe(step)) {
            Ok(taken) => assert_eq!(taken, Ok(()), "steps that were minimised are not refused"),
            Err(panic) if place + 1 < steps.len() => resume_unwind(panic),
            Err(_) => {
                drop(recorder);
                return Ok(());
            }
        }
        while outbox.pop().is_some() {}
    }
    recorder.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::trace;
    use crate::{Detail, Verdict, replay};

    fn smallest(text: &str) -> Minimal {
        let bytes = trace(300, Detail::Inputs);
        let mut reader = Reader::new(Cursor::new(&bytes[..])).unwrap();
        minimise(&mut reader, &Symptom::Output(text.to_owned()), 500).unwrap()
    }

    fn kinds(minimal: &Minimal) -> Vec<&'static str> {
        minimal.steps.iter().map(|(_, input)| input.name()).collect()
    }

    #[test]
    fn what_a_symptom_does_not_need_is_left_out() {
        let minimal = smallest("event mode solo");
        assert_eq!((kinds(&minimal), minimal.before), (vec!["tick", "computed"], 10));
        // Start, benchmark, state, evaluation, and two batches with the step between them; what else stays moves the
        // numbers of the requests on to those of the answers.
        let minimal = smallest("train batch 2 of 8");
        let computed = kinds(&minimal).into_iter().filter(|kind| *kind == "computed").count();
        assert!(computed == 6 && minimal.steps.len() < minimal.before as usize, "{:?}", kinds(&minimal));
        // A stranger is refused by a node that has done nothing at all.
        let minimal = smallest("of another network");
        assert_eq!((kinds(&minimal), minimal.before), (vec!["message"], 40));
    }

    #[test]
    fn the_rest_is_a_trace_that_replays_and_shows_the_symptom() {
        let bytes = trace(300, Detail::Inputs);
        let mut reader = Reader::new(Cursor::new(&bytes[..])).unwrap();
        let minimal = minimise(&mut reader, &Symptom::Output("stepped to 5 ".to_owned()), 500).unwrap();
        assert!(minimal.steps.len() < minimal.before as usize);
        let mut out = Vec::new();
        rewrite(reader.header(), &minimal.steps, &mut out).unwrap();
        let mut reader = Reader::new(Cursor::new(&out[..])).unwrap();
        let report = replay(&mut reader);
        assert!(report.is_equal() && report.steps == minimal.steps.len() as u64, "{report}");
        let again = minimise(&mut reader, &Symptom::Output("stepped to 5 ".to_owned()), 500).unwrap();
        assert_eq!(again.steps, minimal.steps, "it is minimal");
        assert!(matches!(report.verdict, Verdict::Equal { .. }));
    }

    #[test]
    fn a_panic_is_a_symptom_of_its_own() {
        let panicked = Played::Panicked("event stepped".to_owned());
        assert!(Symptom::Panic.shows(&panicked));
        assert!(!Symptom::Output("event stepped".to_owned()).shows(&panicked));
    }

    #[test]
    fn attempts_are_limited() {
        let bytes = trace(300, Detail::Inputs);
        let mut reader = Reader::new(Cursor::new(&bytes[..])).unwrap();
        let minimal = minimise(&mut reader, &Symptom::Output("batch 100 of".to_owned()), 7).unwrap();
        assert_eq!(minimal.attempts, 7);
    }

    #[test]
    fn a_symptom_that_does_not_show_is_said_so() {
        let bytes = trace(30, Detail::Inputs);
        let mut reader = Reader::new(Cursor::new(&bytes[..])).unwrap();
        for symptom in [Symptom::Panic, Symptom::Output("snapshot".to_owned())] {
            assert!(matches!(minimise(&mut reader, &symptom, 10), Err(MinimiseError::NotShown)));
        }
    }
}
