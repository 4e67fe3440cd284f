//! What the `trace` commands print: about a trace, its frames, and the state at a place.

use std::fmt;
use std::io::{self, Read, Seek, Write};

use neuroshard_core::RestoreError;
use neuroshard_proto::Time;
use serde_json::json;

use crate::fault::{Ending, ReadError};
use crate::format::{Detail, FORMAT, Header};
use crate::frame::{Frame, Outcome};
use crate::play::{Played, Player};
use crate::read::Reader;
use crate::replay::{Kinds, OtherBuild};
use crate::text::{At, INPUT_KINDS, InputLine, OutputLine};

/// Why a command could not print all it should.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShowError {
    Read(ReadError),
    Write(io::Error),
    /// No kind of input has this name.
    UnknownKind(String),
    /// This build's core does not accept the recorded start.
    Restore(RestoreError),
    /// The trace ends before the place asked for.
    NoSuchPlace {
        at: At,
        steps: u64,
    },
    /// The core refused or did not survive a step on the way.
    Step {
        step: u64,
        why: String,
    },
}

impl fmt::Display for ShowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Write(error) => write!(f, "cannot write: {error}"),
            Self::UnknownKind(kind) => {
                write!(f, "there is no input of kind {kind:?}; the kinds are {}", INPUT_KINDS.join(", "))
            }
            Self::Restore(error) => write!(f, "this build cannot restore the recorded start: {error}"),
            Self::NoSuchPlace { at, steps } => write!(f, "the trace has {steps} steps and ends before {at}"),
            Self::Step { step, why } => write!(f, "step {step} cannot be replayed: {why}"),
        }
    }
}

impl std::error::Error for ShowError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::Write(error) => Some(error),
            Self::Restore(error) => Some(error),
            Self::UnknownKind(_) | Self::NoSuchPlace { .. } | Self::Step { .. } => None,
        }
    }
}

impl From<ReadError> for ShowError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for ShowError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// How things are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Prints what a trace is of, how long it is and how it ends. A trace that was closed is not read for it.
///
/// # Errors
/// If the trace is damaged or the text cannot be written.
pub fn info<R: Read + Seek>(reader: &mut Reader<R>, form: Form, out: &mut impl Write) -> Result<(), ShowError> {
    let totals = totals(reader)?;
    let header = reader.header();
    let model = header.config.genesis.model;
    let bytes_a_step = totals.frame_bytes.checked_div(totals.steps).unwrap_or_default();
    match form {
        Form::Json => {
            let kinds: serde_json::Map<_, _> =
                totals.kinds.0.iter().map(|(kind, count)| (kind.clone(), json!(count))).collect();
            let object = json!({
                "format": FORMAT, "build": &*header.build, "wire_version": header.wire_version,
                "outputs_recorded": header.detail == Detail::Outputs,
                "network": header.config.genesis.network(), "node": header.config.node,
                "journal_records": header.journal.len(), "begun_ms": header.origin.as_ms(),
                "ended_ms": totals.ended.as_ms(), "steps": totals.steps, "kinds": kinds,
                "frame_bytes": totals.frame_bytes, "file_bytes": reader.file_bytes(),
                "complete": totals.ending == Ending::Clean, "state_at_start": header.state,
            });
            writeln!(out, "{object}")?;
        }
        Form::Text => {
            if let Some(other) = OtherBuild::of(header) {
                writeln!(out, "note      {other}")?;
            }
            let detail = match header.detail {
                Detail::Inputs => "inputs only",
                Detail::Outputs => "inputs and outputs",
            };
            writeln!(out, "trace     format {FORMAT}, {detail}, by build {}", header.build)?;
            writeln!(
                out,
                "network   {:.16}: {} x {} model",
                header.config.genesis.network(),
                model.layers,
                model.hidden
            )?;
            writeln!(
                out,
                "node      {:.16}, restored from {} journal records",
                header.config.node,
                header.journal.len()
            )?;
            writeln!(out, "time      {} to {}", header.origin, totals.ended)?;
            writeln!(out, "steps     {}{}", totals.steps, in_brackets(&totals.kinds))?;
            writeln!(out, "size      {} bytes, {bytes_a_step} a step before compression", reader.file_bytes())?;
            writeln!(out, "end       {}", totals.ending)?;
        }
    }
    Ok(())
}

fn in_brackets(kinds: &Kinds) -> String {
    if kinds.0.is_empty() { String::new() } else { format!(" ({kinds})") }
}

struct Totals {
    steps: u64,
    ended: Time,
    frame_bytes: u64,
    kinds: Kinds,
    ending: Ending,
}

/// The recorder's totals, or those that reading everything gives.
fn totals<R: Read + Seek>(reader: &mut Reader<R>) -> Result<Totals, ReadError> {
    if let Some((summary, ending)) = reader.closing() {
        let kinds = Kinds(summary.kinds.iter().map(|(kind, count)| (kind.to_string(), *count)).collect());
        let (steps, ended, frame_bytes) = (summary.steps, summary.ended, summary.frame_bytes);
        return Ok(Totals { steps, ended, frame_bytes, kinds, ending });
    }
    reader.rewind()?;
    let (mut steps, mut ended, mut kinds) = (0, reader.header().origin, Kinds::default());
    while let Some(frame) = reader.next_frame()? {
        (steps, ended) = (frame.step, frame.time);
        kinds.add(frame.input.name());
    }
    let ending = reader.ending().unwrap_or(Ending::Torn { bytes: 0 });
    Ok(Totals { steps, ended, frame_bytes: reader.frame_bytes_read(), kinds, ending })
}

/// Which frames to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Kinds of input; empty for all.
    pub kinds: Vec<String>,
    /// First and last place, both included.
    pub from: Option<At>,
    pub to: Option<At>,
}

impl Filter {
    fn check(&self) -> Result<(), ShowError> {
        let unknown = self.kinds.iter().find(|kind| !INPUT_KINDS.contains(&kind.as_str()));
        unknown.map_or(Ok(()), |kind| Err(ShowError::UnknownKind(kind.clone())))
    }

    fn reached(&self, frame: &Frame) -> bool {
        match self.from {
            None => true,
            Some(At::Step(step)) => frame.step >= step,
            Some(At::Time(time)) => frame.time >= time,
        }
    }

    fn passed(&self, frame: &Frame) -> bool {
        match self.to {
            None => false,
            Some(At::Step(step)) => frame.step > step,
            Some(At::Time(time)) => frame.time > time,
        }
    }

    fn wants(&self, frame: &Frame) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == frame.input.name())
    }
}

/// Prints one line a step: number, time, input, and what came of it.
///
/// # Errors
/// If a kind is unknown, the trace is damaged or a line cannot be written.
pub fn cat<R: Read + Seek>(
    reader: &mut Reader<R>,
    filter: &Filter,
    form: Form,
    out: &mut impl Write,
) -> Result<(), ShowError> {
    filter.check()?;
    match filter.from {
        None => reader.rewind()?,
        Some(At::Step(step)) => reader.seek_step(step)?,
        Some(At::Time(time)) => reader.seek_before(time)?,
    }
    let mut before = None;
    while let Some(frame) = reader.next_frame()? {
        if filter.passed(&frame) {
            break;
        }
        if filter.reached(&frame) && filter.wants(&frame) {
            match form {
                Form::Text => writeln!(out, "{}", FrameLine { frame: &frame, before })?,
                Form::Json => writeln!(out, "{}", frame_json(&frame, reader.header()))?,
            }
        }
        before = Some(frame.time);
    }
    Ok(())
}

/// A frame in a line; the time since the step before it is shown where it is known.
struct FrameLine<'a> {
    frame: &'a Frame,
    before: Option<Time>,
}

impl fmt::Display for FrameLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Frame { step, time, input, outcome } = self.frame;
        let since = self.before.map_or_else(String::new, |before| format!("+{}", time.ms_since(before)));
        write!(f, "{step:>8} {:>12} {since:>7}  {}", time.to_string(), InputLine(input))?;
        match outcome {
            None => write!(f, "  => never returned"),
            Some(Outcome { outputs: None, digests, .. }) => write!(f, "  => outputs {}", digests.outputs_hex()),
            Some(Outcome { outputs: Some(outputs), .. }) => {
                for (place, output) in outputs.iter().enumerate() {
                    write!(f, "{}{}", if place == 0 { "  => " } else { "; " }, OutputLine(output))?;
                }
                Ok(())
            }
        }
    }
}

fn frame_json(frame: &Frame, header: &Header) -> serde_json::Value {
    let mut object = json!({
        "step": frame.step,
        "time_ms": frame.time.as_ms(),
        "kind": frame.input.name(),
        "input": frame.input,
    });
    if let Some(outcome) = &frame.outcome {
        let names = outcome.changed.iter().filter_map(|(part, _)| header.parts.get(part));
        object["state"] = json!(outcome.digests.state_hex());
        object["output_digest"] = json!(outcome.digests.outputs_hex());
        object["changed"] = names.map(|name| json!(&**name)).collect();
        if let Some(outputs) = &outcome.outputs {
            object["outputs"] = json!(outputs[..]);
        }
    }
    object
}

/// Replays a trace to a place and prints the state there: its digests by part, then all it holds.
///
/// # Errors
/// If the place is not in the trace, a step cannot be replayed, or the text cannot be written.
pub fn state<R: Read + Seek>(
    reader: &mut Reader<R>,
    at: At,
    form: Form,
    out: &mut impl Write,
) -> Result<(), ShowError> {
    let mut player = Player::new(reader.header()).map_err(ShowError::Restore)?;
    let steps = play_to(reader, &mut player, at)?;
    let core = player.core();
    match form {
        Form::Json => {
            let digests: serde_json::Map<_, _> =
                core.part_hashes().into_iter().map(|(name, digest)| (name.to_owned(), json!(digest))).collect();
            let deadline = core.next_deadline().map(|(at, kind)| json!({ "at_ms": at.as_ms(), "for": kind.name() }));
            let parts = serde_json::to_value(core.parts()).map_err(io::Error::from)?;
            let object = json!({
                "step": steps, "state": core.state_hash(), "digests": digests,
                "next_deadline": deadline, "parts": parts,
            });
            writeln!(out, "{object}")?;
        }
        Form::Text => {
            writeln!(out, "after step {steps}, at {}", core.now())?;
            writeln!(out, "state      {}", core.state_hash())?;
            for (name, digest) in core.part_hashes() {
                writeln!(out, "{name:<10} {digest}")?;
            }
            match core.next_deadline() {
                Some((at, kind)) => writeln!(out, "deadline   {at}, {}", kind.name())?,
                None => writeln!(out, "deadline   none")?,
            }
            let text = serde_json::to_string_pretty(&core.parts()).map_err(io::Error::from)?;
            writeln!(out, "{text}")?;
        }
    }
    Ok(())
}

/// Feeds the steps up to a place and answers how many there were.
fn play_to<R: Read + Seek>(reader: &mut Reader<R>, player: &mut Player, at: At) -> Result<u64, ShowError> {
    reader.rewind()?;
    let mut steps = 0;
    loop {
        if at == At::Step(steps) {
            return Ok(steps);
        }
        let Some(frame) = reader.next_frame()? else { break };
        if matches!(at, At::Time(time) if frame.time > time) {
            return Ok(steps);
        }
        steps = frame.step;
        let why = match player.step(frame.time, frame.input) {
            Played::Returned(_) => continue,
            Played::Refused(misuse) => misuse.to_string(),
            Played::Panicked(panic) => format!("panic: {panic}"),
        };
        return Err(ShowError::Step { step: steps, why });
    }
    match at {
        At::Time(time) if time <= player.core().now() => Ok(steps),
        At::Step(_) | At::Time(_) => Err(ShowError::NoSuchPlace { at, steps }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{record, trace};

    fn reader(bytes: &[u8]) -> Reader<Cursor<&[u8]>> {
        Reader::new(Cursor::new(bytes)).unwrap()
    }

    fn printed(print: impl FnOnce(&mut Vec<u8>) -> Result<(), ShowError>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn objects(text: &str) -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn info_is_the_same_with_and_without_an_index_but_for_the_end() {
        let bytes = trace(400, Detail::Outputs);
        let text = |bytes: &[u8]| printed(|out| info(&mut reader(bytes), Form::Text, out));
        let (whole, torn) = (text(&bytes), text(&bytes[..bytes.len() - 1]));
        assert!(whole.contains("steps     400 (1 tick, ") && whole.ends_with("end       complete\n"), "{whole}");
        for (a, b) in whole.lines().zip(torn.lines()) {
            assert_eq!(a == b, !a.starts_with("end") && !a.starts_with("size"), "{a}\n{b}");
        }
    }

    #[test]
    fn json_holds_numbers_and_names() {
        let bytes = trace(50, Detail::Outputs);
        let text = printed(|out| info(&mut reader(&bytes), Form::Json, out));
        assert_eq!(
            (objects(&text)[0]["steps"].as_u64(), objects(&text)[0]["complete"].as_bool()),
            (Some(50), Some(true))
        );
        let text = printed(|out| cat(&mut reader(&bytes), &Filter::default(), Form::Json, out));
        let frames = objects(&text);
        assert_eq!(frames.len(), 50);
        assert_eq!(frames[0]["input"], "Tick");
        assert_eq!(frames[0]["outputs"][0]["Persist"]["seq"], 0);
        assert!(frames[0]["changed"].as_array().unwrap().contains(&json!("journal")));
    }

    #[test]
    fn a_step_is_one_dense_line() {
        let bytes = trace(100, Detail::Outputs);
        let text = printed(|out| cat(&mut reader(&bytes), &Filter::default(), Form::Text, out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 100);
        let mut used = reader(&bytes);
        used.seek_step(50).unwrap();
        let again = printed(|out| cat(&mut used, &Filter::default(), Form::Text, out));
        assert_eq!(again, text, "from the beginning, wherever the reader was");
        assert!(
            lines[0].starts_with("       1       0.501s          tick  => persist record 0, founded network "),
            "{}",
            lines[0]
        );
        let trained = lines.iter().find(|line| line.contains("batch of 1024 tokens, loss 5.0000")).unwrap();
        assert!(trained.contains("  => compute #") && trained.contains("; compute #"), "{trained}");
    }

    #[test]
    fn a_filter_takes_kinds_and_places() {
        let (bytes, log) = record(500, Detail::Inputs);
        let lines = |filter: &Filter| {
            let text = printed(|out| cat(&mut reader(&bytes), filter, Form::Text, out));
            text.lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect::<Vec<u64>>()
        };
        let (from, to) = (Some(At::Step(120)), Some(At::Step(130)));
        assert_eq!(lines(&Filter { from, to, ..Filter::default() }), (120..=130).collect::<Vec<_>>());
        let kinds = vec!["message".to_owned()];
        let messages: Vec<u64> =
            (1..).zip(&log).filter(|(_, step)| step.input.name() == "message").map(|(n, _)| n).collect();
        assert_eq!(lines(&Filter { kinds, ..Filter::default() }), messages);
        let (first, last) = (log[199].time, log[299].time);
        let inside: Vec<u64> =
            (1..).zip(&log).filter(|(_, step)| step.time >= first && step.time <= last).map(|(n, _)| n).collect();
        let (from, to) = (Some(At::Time(first)), Some(At::Time(last)));
        assert_eq!(lines(&Filter { from, to, ..Filter::default() }), inside);
    }

    #[test]
    fn an_unknown_kind_is_named_with_the_known_ones() {
        let bytes = trace(1, Detail::Inputs);
        let filter = Filter { kinds: vec!["vote".to_owned()], ..Filter::default() };
        let error = cat(&mut reader(&bytes), &filter, Form::Text, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("\"vote\"") && error.to_string().contains("persisted"), "{error}");
    }

    #[test]
    fn the_state_at_a_place_is_the_one_the_node_had_there() {
        let (bytes, log) = record(300, Detail::Inputs);
        let at = |at| printed(|out| state(&mut reader(&bytes), at, Form::Text, out));
        assert!(at(At::Step(0)).contains("after step 0, at 0.000s"));
        for step in [1, 2, 150, 300] {
            let logged = &log[step as usize - 1];
            let text = at(At::Step(step));
            assert!(text.contains(&format!("state      {}", logged.state)), "{text}");
            assert!(logged.parts.iter().all(|part| text.contains(&part.to_string())));
        }
        let last_then = log.iter().rposition(|step| step.time <= log[150].time).unwrap();
        let text = at(At::Time(log[150].time));
        assert!(text.starts_with(&format!("after step {}", last_then + 1)), "{text}");
        assert!(text.contains("\"phase\": \"Ready\""), "{text}");
    }

    #[test]
    fn a_place_behind_the_end_is_refused() {
        let bytes = trace(20, Detail::Inputs);
        let error = |at| state(&mut reader(&bytes), at, Form::Json, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error(At::Step(21)), "the trace has 20 steps and ends before step 21");
        assert_eq!(error("90s".parse().unwrap()), "the trace has 20 steps and ends before 90.000s");
    }
}
