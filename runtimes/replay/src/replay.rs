//! Does this build do what the recording build did?

use std::fmt;
use std::io::{Read, Seek};
use std::time::{Duration, Instant};

use neuroshard_core::RestoreError;
use neuroshard_proto::{Hash, Time, WIRE_VERSION};

use crate::fault::{Ending, ReadError};
use crate::format::Header;
use crate::frame::{Frame, Outcome};
use crate::play::{Played, Player};
use crate::read::Reader;
use crate::text::{InputLine, OutputLine};

/// What a replay found.
#[derive(Debug)]
pub struct Report {
    /// Set if another build recorded the trace; a difference may then be a change that was meant.
    pub other_build: Option<OtherBuild>,
    /// Steps that gave the recorded outputs and state.
    pub steps: u64,
    /// Those steps by kind of input, in order of first appearance.
    pub kinds: Kinds,
    /// From the beginning of the recording to the last of those steps.
    pub span: (Time, Time),
    /// How long the replay took.
    pub took: Duration,
    pub verdict: Verdict,
    /// How the trace ends, or where it is damaged; `None` if the replay stopped before.
    pub ending: Option<Result<Ending, ReadError>>,
}

/// The build that recorded a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherBuild {
    pub build: String,
    pub wire_version: u16,
}

impl OtherBuild {
    pub(crate) fn of(header: &Header) -> Option<Self> {
        (!header.is_of_this_build())
            .then(|| Self { build: header.build.to_string(), wire_version: header.wire_version })
    }
}

impl fmt::Display for OtherBuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorded by build {} (wire version {}), ", self.build, self.wire_version)?;
        write!(f, "replayed by {} (wire version {WIRE_VERSION}): they may differ on purpose", Header::BUILD)
    }
}

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(pub Vec<(String, u64)>);

impl Kinds {
    pub(crate) fn add(&mut self, kind: &str) {
        match self.0.iter_mut().find(|(name, _)| name == kind) {
            Some((_, count)) => *count += 1,
            None => self.0.push((kind.to_owned(), 1)),
        }
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (kind, count)) in self.0.iter().enumerate() {
            write!(f, "{}{count} {kind}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// How a replay compares with its recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every recorded step gave the recorded outputs and state.
    Equal { state: Hash },
    /// This build's core does not accept the recorded start.
    NoStart(RestoreError),
    /// The restored core already differs from the recorded one.
    OtherStart { recorded: Hash, replayed: Hash },
    /// The first step that differs.
    Differs(Box<Divergence>),
    /// The recording ends with a step that never returned, and here it does not return either.
    Fell { step: Box<Frame>, panic: String },
    /// The recording ends with a step that never returned, but here it does.
    FellOnlyThen { step: Box<Frame> },
}

/// A step that went another way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The recorded side.
    pub recorded: Frame,
    pub replayed: Played,
    /// Names of the parts of the state that differ; empty if only outputs do.
    pub parts: Vec<String>,
}

impl Report {
    /// Whether this build did what the recording says, to the end of a readable trace.
    pub fn is_equal(&self) -> bool {
        matches!(self.verdict, Verdict::Equal { .. }) && matches!(self.ending, Some(Ok(_)))
    }
}

/// Re-executes a trace from its beginning and compares every step.
///
/// Whatever the trace holds, this ends and reports; damage ends it early with what was equal before.
pub fn replay<R: Read + Seek>(reader: &mut Reader<R>) -> Report {
    let started = Instant::now();
    let origin = reader.header().origin;
    let mut report = Report {
        other_build: OtherBuild::of(reader.header()),
        steps: 0,
        kinds: Kinds::default(),
        span: (origin, origin),
        took: Duration::ZERO,
        verdict: Verdict::Equal { state: reader.header().state },
        ending: None,
    };
    match Player::new(reader.header()) {
        Err(error) => report.verdict = Verdict::NoStart(error),
        Ok(player) if player.core().state_hash() != reader.header().state => {
            let (recorded, replayed) = (reader.header().state, player.core().state_hash());
            report.verdict = Verdict::OtherStart { recorded, replayed };
        }
        Ok(mut player) => run(reader, &mut player, &mut report),
    }
    report.took = started.elapsed();
    report
}

fn run<R: Read + Seek>(reader: &mut Reader<R>, player: &mut Player, report: &mut Report) {
    if let Err(error) = reader.rewind() {
        report.ending = Some(Err(error));
        return;
    }
    loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break report.ending = reader.ending().map(Ok),
            Err(error) => break report.ending = Some(Err(error)),
        };
        let played = player.step(frame.time, frame.input.clone());
        if let Some(verdict) = judge(&frame, played, reader.header()) {
            report.verdict = verdict;
            return;
        }
        report.steps = frame.step;
        report.kinds.add(frame.input.name());
        report.span.1 = frame.time;
    }
    report.verdict = Verdict::Equal { state: player.core().state_hash() };
}

/// What is to be said of a step, if it is not as recorded.
fn judge(frame: &Frame, played: Played, header: &Header) -> Option<Verdict> {
    let parts = match (&frame.outcome, &played) {
        (None, Played::Panicked(panic)) => {
            return Some(Verdict::Fell { step: Box::new(frame.clone()), panic: panic.clone() });
        }
        (None, Played::Returned(_) | Played::Refused(_)) => {
            return Some(Verdict::FellOnlyThen { step: Box::new(frame.clone()) });
        }
        (Some(recorded), Played::Returned(replayed)) if recorded.digests == replayed.digests => return None,
        (Some(recorded), Played::Returned(replayed)) => differing_parts(recorded, replayed, header),
        (Some(_), Played::Refused(_) | Played::Panicked(_)) => Vec::new(),
    };
    Some(Verdict::Differs(Box::new(Divergence { recorded: frame.clone(), replayed: played, parts })))
}

/// The parts that one outcome left in another state than the other did.
pub(crate) fn differing_parts(a: &Outcome, b: &Outcome, header: &Header) -> Vec<String> {
    let (a, b): (Vec<_>, Vec<_>) = (a.changed.iter().collect(), b.changed.iter().collect());
    let differs = |part: &usize| {
        let check = |side: &[(usize, u8)]| side.iter().find(|(other, _)| other == part).map(|(_, check)| *check);
        check(&a) != check(&b)
    };
    let name = |part: usize| header.parts.get(part).map_or_else(|| format!("part {part}"), ToString::to_string);
    (0..crate::PARTS_MAX as usize).filter(differs).map(name).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(other) = &self.other_build {
            writeln!(f, "note: {other}")?;
        }
        writeln!(f, "{}", self.verdict)?;
        let (from, to) = self.span;
        let seconds = to.ms_since(from) as f64 / 1000.0;
        let took = self.took.as_secs_f64().max(1e-9);
        let kinds = if self.steps > 0 { format!(" ({})", self.kinds) } else { String::new() };
        writeln!(f, "equal steps: {}{kinds}", self.steps)?;
        writeln!(
            f,
            "time covered: {seconds:.3} s, replayed in {took:.3} s: {:.0} times as fast, {:.0} steps/s",
            seconds / took,
            self.steps as f64 / took
        )?;
        match &self.ending {
            None => Ok(()),
            Some(Ok(ending)) => writeln!(f, "trace: {ending}"),
            Some(Err(error)) => writeln!(f, "trace: {error}; what is before was replayed"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal { state } => write!(f, "equal: the same outputs and state at every step; state {state:.16}"),
            Self::NoStart(error) => write!(f, "no replay: this build cannot restore the recorded start: {error}"),
            Self::OtherStart { recorded, replayed } => {
                write!(f, "different from the start: recorded state {recorded:.16}, restored {replayed:.16}")
            }
            Self::Differs(divergence) => divergence.fmt(f),
            Self::Fell { step, panic } => {
                writeln!(f, "the recorded node fell at step {}, and so does this build: {panic}", step.step)?;
                write!(f, "  input     {} at {}", InputLine(&step.input), step.time)
            }
            Self::FellOnlyThen { step } => {
                writeln!(f, "the recording ends in step {}, which never returned; here it does", step.step)?;
                write!(f, "  input     {} at {}", InputLine(&step.input), step.time)
            }
        }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = &self.recorded;
        writeln!(f, "different at step {}", frame.step)?;
        writeln!(f, "  input     {} at {}", InputLine(&frame.input), frame.time)?;
        if let Some(outcome) = &frame.outcome {
            write!(f, "  recorded  ")?;
            write_outcome(f, outcome)?;
        }
        write!(f, "\n  replayed  ")?;
        match &self.replayed {
            Played::Returned(outcome) => write_outcome(f, outcome)?,
            Played::Refused(misuse) => write!(f, "refused: {misuse}")?,
            Played::Panicked(panic) => write!(f, "panicked: {panic}")?,
        }
        match (&frame.outcome, &self.replayed) {
            (Some(recorded), Played::Returned(replayed)) if recorded.digests.state == replayed.digests.state => {
                write!(f, "\n  the states are equal, the outputs differ")
            }
            (_, Played::Returned(_)) if self.parts.is_empty() => {
                write!(f, "\n  the states differ; in which part does not show")
            }
            (_, Played::Returned(_)) => write!(f, "\n  the states differ in: {}", self.parts.join(", ")),
            (_, Played::Refused(_) | Played::Panicked(_)) => Ok(()),
        }
    }
}

/// A step's state and outputs, the outputs on lines of their own.
pub(crate) fn write_outcome(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    write!(f, "state {}, ", outcome.digests.state_hex())?;
    match &outcome.outputs {
        None => write!(f, "outputs not recorded, digest {}", outcome.digests.outputs_hex()),
        Some(outputs) if outputs.is_empty() => write!(f, "no outputs"),
        Some(outputs) => {
            write!(f, "outputs")?;
            outputs.iter().try_for_each(|output| write!(f, "\n    {}", OutputLine(output)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use neuroshard_core::{Input, Misuse};

    use super::*;
    use crate::testing::{Host, config, record, trace};
    use crate::{Detail, Recorder};

    fn replay_bytes(bytes: &[u8]) -> Report {
        replay(&mut Reader::new(Cursor::new(bytes)).unwrap())
    }

    /// A trace whose header names another snapshot interval than the recorded core had: to its reader, the work of a
    /// build with another rule.
    fn of_another_rule(detail: Detail) -> Vec<u8> {
        let mut other = config();
        other.operator.snapshot_every_steps = 20;
        let (mut out, mut host) = (Vec::new(), Host::new(other));
        let mut recorder = Recorder::new(&mut out, &Host::new(config()).header(detail), &host.core).unwrap();
        host.run(&mut recorder, 300);
        recorder.finish().unwrap();
        out
    }

    #[test]
    fn a_recording_replays_equal_with_either_detail() {
        for detail in [Detail::Inputs, Detail::Outputs] {
            let (bytes, log) = record(1000, detail);
            let report = replay_bytes(&bytes);
            assert!(report.is_equal(), "{report}");
            assert_eq!(report.verdict, Verdict::Equal { state: log[999].state });
            assert_eq!((report.steps, report.span.1), (1000, log[999].time));
            assert_eq!(report.other_build, None);
            assert_eq!(report.kinds.0.iter().map(|(_, count)| count).sum::<u64>(), 1000);
        }
    }

    #[test]
    fn the_first_step_that_differs_is_shown_from_both_sides() {
        let report = replay_bytes(&of_another_rule(Detail::Outputs));
        let Verdict::Differs(divergence) = &report.verdict else { panic!("{report}") };
        assert_eq!(report.steps + 1, divergence.recorded.step);
        assert!(divergence.parts.contains(&"solo".to_owned()) && !divergence.parts.contains(&"tier".to_owned()));
        let text = report.to_string();
        let (recorded, replayed) = text.split_once("replayed").unwrap();
        // Before the snapshot after step 20, no batch is asked for.
        assert!(recorded.contains("step at step 19") && !recorded.contains("train"), "{text}");
        assert!(replayed.contains("step at step 19") && replayed.contains("train batch 20"), "{text}");
    }

    #[test]
    fn a_trace_of_inputs_only_finds_the_same_step() {
        let step = |detail| match replay_bytes(&of_another_rule(detail)).verdict {
            Verdict::Differs(divergence) => divergence.recorded.step,
            other => panic!("{other}"),
        };
        assert_eq!(step(Detail::Inputs), step(Detail::Outputs));
    }

    #[test]
    fn every_part_that_differs_is_named_and_no_other() {
        let header = Host::new(config()).header(Detail::Outputs);
        let digests = |names: &[&str]| {
            let digest = |name: &str| Hash::of_blob(&[names.contains(&name) as u8]);
            header.parts.iter().map(|name| digest(name)).collect::<Vec<_>>()
        };
        let outcome = |names: &[&str]| Outcome {
            digests: crate::Digests { outputs: 0, state: 0 },
            changed: crate::Changed::between(&digests(&[]), &digests(names)),
            outputs: None,
        };
        let parts = differing_parts(&outcome(&["journal", "solo"]), &outcome(&["solo", "tier"]), &header);
        assert_eq!(parts, ["journal", "tier"]);
    }

    #[test]
    fn a_torn_or_damaged_trace_is_replayed_as_far_as_it_goes() {
        let bytes = trace(600, Detail::Outputs);
        let torn = replay_bytes(&bytes[..bytes.len() / 2]);
        assert!(torn.is_equal() && torn.steps > 100 && torn.steps < 600, "{torn}");
        assert!(matches!(torn.ending, Some(Ok(Ending::Torn { .. }))));
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        let report = replay_bytes(&damaged);
        assert_eq!(report.steps, torn.steps);
        assert!(!report.is_equal() && report.to_string().contains("is damaged"), "{report}");
    }

    #[test]
    fn another_build_is_told_first() {
        let (mut out, mut host) = (Vec::new(), Host::new(config()));
        let mut header = host.header(Detail::Outputs);
        header.build = "0.0.9".to_owned().try_into().unwrap();
        let mut recorder = Recorder::new(&mut out, &header, &host.core).unwrap();
        host.run(&mut recorder, 10);
        recorder.finish().unwrap();
        let report = replay_bytes(&out);
        assert!(report.is_equal());
        assert!(report.to_string().starts_with("note: recorded by build 0.0.9"), "{report}");
    }

    #[test]
    fn a_start_that_cannot_be_restored_is_an_answer_too() {
        let (mut out, host) = (Vec::new(), Host::new(config()));
        let mut header = host.header(Detail::Outputs);
        header.config.operator.disk_bytes = 5;
        Recorder::new(&mut out, &header, &host.core).unwrap().finish().unwrap();
        assert!(matches!(replay_bytes(&out).verdict, Verdict::NoStart(RestoreError::DiskBudget { .. })));

        let mut out = Vec::new();
        let mut header = host.header(Detail::Outputs);
        header.seed = Hash::of_blob(b"another");
        Recorder::new(&mut out, &header, &host.core).unwrap().finish().unwrap();
        assert!(matches!(replay_bytes(&out).verdict, Verdict::OtherStart { .. }));
    }

    #[test]
    fn a_step_is_judged_by_its_outputs_its_state_and_whether_it_returned() {
        let header = Host::new(config()).header(Detail::Outputs);
        let frame = |outcome| Frame { step: 1, time: Time::ZERO, input: Input::Tick, outcome };
        let returned = || Player::new(&header).unwrap().step(Time::ZERO, Input::Tick);
        let Played::Returned(outcome) = returned() else { panic!("a first tick") };
        assert_eq!(judge(&frame(Some(outcome.clone())), returned(), &header), None);
        for (outputs, state) in [(1, 0), (0, 1)] {
            let mut other = outcome.clone();
            other.digests.outputs ^= outputs;
            other.digests.state ^= state;
            assert!(matches!(judge(&frame(Some(other)), returned(), &header), Some(Verdict::Differs(_))));
        }
        let panicked = || Played::Panicked("why".to_owned());
        assert!(matches!(judge(&frame(None), panicked(), &header), Some(Verdict::Fell { .. })));
        assert!(matches!(judge(&frame(None), returned(), &header), Some(Verdict::FellOnlyThen { .. })));
        let refused = Played::Refused(Misuse::OutboxFull { free: 0 });
        for other in [panicked(), refused] {
            assert!(matches!(judge(&frame(Some(outcome.clone())), other, &header), Some(Verdict::Differs(_))));
        }
    }
}
