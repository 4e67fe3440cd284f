//! Where do two recordings part?

use std::fmt;
use std::io::{Read, Seek};

use neuroshard_proto::{Hash, NodeId};

use crate::fault::ReadError;
use crate::format::Header;
use crate::frame::Frame;
use crate::read::Reader;
use crate::replay::{differing_parts, write_outcome};
use crate::text::InputLine;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What differs in the headers, in words; builds and origins too, which need not matter.
    pub headers: Vec<String>,
    pub steps: Steps,
}

/// How the steps of two traces compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Steps {
    /// The nodes did not start in the same state.
    OtherStart,
    /// All are equal.
    Equal { steps: u64 },
    /// One trace goes on where the other ends.
    Prefix { steps: u64, longer: Side },
    /// The first step that differs.
    Differ(Box<Parting>),
}

/// Which of two traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    First,
    Second,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first",
            Self::Second => "second",
        })
    }
}

/// The first step that differs between two traces, as both have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    pub first: Frame,
    pub second: Frame,
    /// Names of the parts of the state that the step left different.
    pub parts: Vec<String>,
}

/// One of the traces cannot be read.
#[derive(Debug)]
pub struct DiffError {
    pub side: Side,
    pub error: ReadError,
}

impl fmt::Display for DiffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} trace: {}", self.side, self.error)
    }
}

impl std::error::Error for DiffError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Finds the first step that differs, by bisecting the chains of both: a few chunks of each are read, however long they
/// are. Traces of different detail can be compared.
///
/// # Errors
/// If a trace is damaged where it has to be read.
pub fn diff<A: Read + Seek, B: Read + Seek>(
    first: &mut Reader<A>,
    second: &mut Reader<B>,
) -> Result<Difference, DiffError> {
    let on_first = |error| DiffError { side: Side::First, error };
    let on_second = |error| DiffError { side: Side::Second, error };
    let headers = differing_fields(first.header(), second.header());
    if first.header().state != second.header().state {
        return Ok(Difference { headers, steps: Steps::OtherStart });
    }
    let counts = (first.count_steps().map_err(on_first)?, second.count_steps().map_err(on_second)?);
    // The chains agree after `same` steps, and no longer after `other`.
    let (mut same, mut other) = (0, counts.0.min(counts.1).saturating_add(1));
    while other - same > 1 {
        let middle = same + (other - same) / 2;
        let chains = (chain_after(first, middle).map_err(on_first)?, chain_after(second, middle).map_err(on_second)?);
        if chains.0 == chains.1 {
            same = middle;
        } else {
            other = middle;
        }
    }
    let frames = (frame_at(first, other).map_err(on_first)?, frame_at(second, other).map_err(on_second)?);
    let steps = match frames {
        (Some(a), Some(b)) => {
            let outcomes = a.outcome.as_ref().zip(b.outcome.as_ref());
            let parts = outcomes.map(|(a, b)| differing_parts(a, b, first.header())).unwrap_or_default();
            Steps::Differ(Box::new(Parting { first: a, second: b, parts }))
        }
        (None, None) => Steps::Equal { steps: same },
        (Some(_), None) => Steps::Prefix { steps: same, longer: Side::First },
        (None, Some(_)) => Steps::Prefix { steps: same, longer: Side::Second },
    };
    Ok(Difference { headers, steps })
}

fn frame_at<R: Read + Seek>(reader: &mut Reader<R>, step: u64) -> Result<Option<Frame>, ReadError> {
    reader.seek_step(step)?;
    reader.next_frame()
}

/// The chain's value after a step that the trace has.
fn chain_after<R: Read + Seek>(reader: &mut Reader<R>, step: u64) -> Result<Hash, ReadError> {
    frame_at(reader, step)?;
    Ok(*reader.chain())
}

fn differing_fields(a: &Header, b: &Header) -> Vec<String> {
    let mut fields = Vec::new();
    let mut compare = |name: &str, differs: bool, a: String, b: String| {
        if differs {
            fields.push(format!("{name}: {a} | {b}"));
        }
    };
    let version = |header: &Header| format!("{} (wire version {})", header.build, header.wire_version);
    let node = |node: NodeId| format!("{node:.16}");
    let network = |header: &Header| format!("{:.16}", header.config.genesis.network());
    compare("build", version(a) != version(b), version(a), version(b));
    compare("network", network(a) != network(b), network(a), network(b));
    compare("node", a.config.node != b.config.node, node(a.config.node), node(b.config.node));
    let (a_operator, b_operator) = (a.config.operator, b.config.operator);
    compare("operator", a_operator != b_operator, format!("{a_operator:?}"), format!("{b_operator:?}"));
    compare("seed", a.seed != b.seed, format!("{:.16}", a.seed), format!("{:.16}", b.seed));
    let records = |header: &Header| format!("{} records", header.journal.len());
    compare("journal", a.journal != b.journal, records(a), records(b));
    compare("begun at", a.origin != b.origin, a.origin.to_string(), b.origin.to_string());
    compare("state at the start", a.state != b.state, format!("{:.16}", a.state), format!("{:.16}", b.state));
    fields
}

impl Difference {
    /// Whether all steps are equal.
    pub const fn is_equal(&self) -> bool {
        matches!(self.steps, Steps::Equal { .. })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for field in &self.headers {
            writeln!(f, "header, {field}")?;
        }
        match &self.steps {
            Steps::OtherStart => write!(f, "the nodes started in different states"),
            Steps::Equal { steps } => write!(f, "equal: all {steps} steps"),
            Steps::Prefix { steps, longer } => {
                write!(f, "equal for {steps} steps, where one trace ends and the {longer} goes on")
            }
            Steps::Differ(parting) => parting.fmt(f),
        }
    }
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "different at step {}", self.first.step)?;
        for (side, frame) in [(Side::First, &self.first), (Side::Second, &self.second)] {
            write!(f, "\n  {side}: {} at {}\n    ", InputLine(&frame.input), frame.time)?;
            match &frame.outcome {
                Some(outcome) => write_outcome(f, outcome)?,
                None => write!(f, "the step never returned")?,
            }
        }
        if !self.parts.is_empty() {
            write!(f, "\n  the states differ in: {}", self.parts.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{Host, config, record, trace};
    use crate::{Detail, Recorder};

    fn compare(a: &[u8], b: &[u8]) -> Difference {
        diff(&mut Reader::new(Cursor::new(a)).unwrap(), &mut Reader::new(Cursor::new(b)).unwrap()).unwrap()
    }

    /// A run whose executor answers other losses after so many steps.
    fn bent(after: u64, steps: u64) -> Vec<u8> {
        let (mut out, mut host) = (Vec::new(), Host::new(config()));
        let mut recorder = Recorder::new(&mut out, &host.header(Detail::Outputs), &host.core).unwrap();
        host.run(&mut recorder, after);
        host.milli_loss = 4000;
        host.run(&mut recorder, steps - after);
        recorder.finish().unwrap();
        out
    }

    #[test]
    fn the_first_step_that_differs_is_found_wherever_it_is() {
        let (straight, log) = record(1500, Detail::Outputs);
        for after in [0, 1, 10, 83, 300, 777, 1100, 1480] {
            let found = compare(&straight, &bent(after, 1500));
            let Steps::Differ(parting) = found.steps else { panic!("{found:?}") };
            let (a, b) = (&parting.first, &parting.second);
            assert_eq!(a.input, log[a.step as usize - 1].input);
            assert_eq!((a.step, a.time), (b.step, b.time));
            assert_ne!(a.input, b.input);
            // Losses are in the answers to batches alone, which come every other step.
            assert!((after + 1..after + 32).contains(&a.step), "bent after {after}, found at {}", a.step);
            let before = &log[after as usize..a.step as usize - 1];
            let batch = |input| InputLine(input).to_string().contains("batch of");
            assert!(!before.iter().any(|logged| batch(&logged.input)), "an earlier batch went unnoticed");
            assert!(parting.to_string().contains("loss 4.0000"), "{parting}");
        }
    }

    /// Counts the bytes that are read.
    struct Counting<'a>(Cursor<&'a [u8]>, &'a std::cell::Cell<usize>);

    impl Read for Counting<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let len = self.0.read(out)?;
            self.1.set(self.1.get() + len);
            Ok(len)
        }
    }

    impl Seek for Counting<'_> {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }

    #[test]
    fn few_chunks_of_a_long_trace_are_read() {
        let bytes = trace(12_000, Detail::Outputs);
        let (read, other) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let open = |count| Reader::new(Counting(Cursor::new(&bytes[..]), count)).unwrap();
        assert!(diff(&mut open(&read), &mut open(&other)).unwrap().is_equal());
        assert!(read.get() * 5 < bytes.len(), "{} of {} bytes", read.get(), bytes.len());
    }

    #[test]
    fn a_trace_equals_itself_whatever_its_detail_and_chunks() {
        let (full, inputs) = (trace(700, Detail::Outputs), trace(700, Detail::Inputs));
        assert!(compare(&full, &full).is_equal());
        assert!(compare(&full, &inputs).is_equal());
        let (mut out, mut host) = (Vec::new(), Host::new(config()));
        let mut recorder = Recorder::new(&mut out, &host.header(Detail::Outputs), &host.core).unwrap();
        for _ in 0..100 {
            host.run(&mut recorder, 7);
            recorder.flush();
        }
        recorder.finish().unwrap();
        assert_eq!(compare(&full, &out).to_string(), "equal: all 700 steps");
    }

    #[test]
    fn a_trace_that_goes_on_is_told_from_one_that_differs() {
        let (short, long) = (trace(300, Detail::Outputs), trace(700, Detail::Outputs));
        assert_eq!(compare(&short, &long).steps, Steps::Prefix { steps: 300, longer: Side::Second });
        assert_eq!(compare(&long, &short).steps, Steps::Prefix { steps: 300, longer: Side::First });
        let none = trace(0, Detail::Outputs);
        assert_eq!(compare(&none, &short).steps, Steps::Prefix { steps: 0, longer: Side::Second });
        assert_eq!(compare(&none, &none).steps, Steps::Equal { steps: 0 });
    }

    #[test]
    fn other_networks_are_told_apart_by_their_headers() {
        let mut other = config();
        other.genesis.seed = Hash::of_blob(b"another");
        let (mut out, host) = (Vec::new(), Host::new(other));
        Recorder::new(&mut out, &host.header(Detail::Outputs), &host.core).unwrap().finish().unwrap();
        let found = compare(&trace(10, Detail::Outputs), &out);
        assert_eq!(found.steps, Steps::OtherStart);
        let fields: Vec<&str> = found.headers.iter().filter_map(|field| field.split(':').next()).collect();
        assert_eq!(fields, ["network", "state at the start"]);
    }

    #[test]
    fn the_damaged_trace_is_named() {
        let good = trace(600, Detail::Outputs);
        let mut bad = good.clone();
        let place = bad.len() / 2;
        bad[place] ^= 1;
        let mut readers = [&good, &bad].map(|bytes| Reader::new(Cursor::new(&bytes[..])).unwrap());
        let [good, bad] = &mut readers;
        assert_eq!(diff(good, bad).unwrap_err().side, Side::Second);
    }
}
