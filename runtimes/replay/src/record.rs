//! Writing a trace while a node runs.
//!
//! A recorder never stands in the node's way: its memory is bounded, and when writing fails the recording ends and the
//! node goes on. [`Recorder::take_error`] then says why, once.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use neuroshard_core::{Core, Input, Misuse, Outbox, Output};
use neuroshard_proto::codec::{self, DecodeError};
use neuroshard_proto::{Hash, List, Text, Time};

use crate::format::{CHUNK_BYTES, ChunkHead, Detail, Entry, Header, IndexBuilder, Summary, Trailer, encode_opening};
use crate::frame::{self, Changed, Digests};

/// A chunk is written at the latest when its first frame is this old, so that a killed process loses little.
pub const FLUSH_AFTER_MS: u64 = 1000;

/// Why a recording cannot begin, or ended early.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecordError {
    /// The file could not be made.
    Create { error: io::Error },
    /// Configuration and journal together are larger than a header may be.
    Header(DecodeError),
    /// Writing failed after this many steps; those before are in the trace.
    Write { steps: u64, error: io::Error },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { error } if error.kind() == io::ErrorKind::AlreadyExists => {
                f.write_str("the trace file exists already; choose another name or remove it")
            }
            Self::Create { error } => write!(f, "the trace file cannot be made: {error}"),
            Self::Header(error) => write!(f, "the node's journal is too long to record from here: {error}"),
            Self::Write { steps, error } => {
                write!(
                    f,
                    "recording ended at step {steps}: {error}; the node goes on, and the trace is good up to here"
                )
            }
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Create { error } | Self::Write { error, .. } => Some(error),
            Self::Header(error) => Some(error),
        }
    }
}

/// Where the bytes go, until that fails or the recording is closed.
#[derive(Debug)]
enum Sink<W> {
    Open(W),
    /// The error, until it is told.
    Failed(Option<RecordError>),
    Closed,
}

/// An input whose step has not returned yet.
#[derive(Debug)]
struct Begun {
    time: Time,
    kind: &'static str,
    input: Vec<u8>,
}

/// Writes a trace. Frames gather in a chunk; [`Recorder::flush_due`] says when a host that has no input should flush.
#[derive(Debug)]
pub struct Recorder<W: Write> {
    sink: Sink<W>,
    detail: Detail,
    /// Bytes written so far.
    offset: u64,
    chunk: Chunk,
    begun: Option<Begun>,
    chain: Hash,
    parts: Vec<Hash>,
    time: Time,
    steps: u64,
    frame_bytes: u64,
    kinds: Vec<(&'static str, u64)>,
    index: IndexBuilder,
}

/// Frames that are not written yet.
#[derive(Debug, Default)]
struct Chunk {
    raw: Vec<u8>,
    frames: u32,
    first_step: u64,
    first_time: Time,
    chain: Hash,
}

impl Recorder<File> {
    /// Begins a trace in a new file.
    ///
    /// # Errors
    /// If the file exists or cannot be written, or the header would be too large.
    pub fn create(path: &Path, header: &Header, core: &Core) -> Result<Self, RecordError> {
        let file = File::create_new(path).map_err(|error| RecordError::Create { error })?;
        Self::new(file, header, core)
    }
}

impl<W: Write> Recorder<W> {
    /// Begins a trace of a core that has taken no step since `header` was made of it.
    ///
    /// # Errors
    /// If the header is too large or cannot be written.
    pub fn new(mut out: W, header: &Header, core: &Core) -> Result<Self, RecordError> {
        assert_eq!(header.state, core.state_hash(), "a trace begins where its header says");
        let opening = encode_opening(header).map_err(RecordError::Header)?;
        out.write_all(&opening).and_then(|()| out.flush()).map_err(|error| RecordError::Write { steps: 0, error })?;
        Ok(Self {
            sink: Sink::Open(out),
            detail: header.detail,
            offset: opening.len() as u64,
            chunk: Chunk::default(),
            begun: None,
            chain: header.chain(),
            parts: core.part_hashes().map(|(_, digest)| digest).to_vec(),
            time: header.origin,
            steps: 0,
            frame_bytes: 0,
            kinds: Vec::new(),
            index: IndexBuilder::default(),
        })
    }

    /// Takes a step of the core and records it: in place of [`Core::step`] itself. Recording never makes it fail.
    ///
    /// # Errors
    /// What [`Core::step`] answers; a refused step is not recorded.
    pub fn step(&mut self, core: &mut Core, now: Time, input: Input, out: &mut Outbox) -> Result<(), Misuse> {
        if !self.is_open() {
            return core.step(now, input, out);
        }
        let before = out.iter().len();
        self.begin(now, &input);
        match core.step(now, input, out) {
            Ok(()) => {
                let parts = core.part_hashes().into_iter().map(|(_, digest)| digest);
                self.end(out.iter().skip(before), &core.state_hash(), parts);
                Ok(())
            }
            Err(misuse) => {
                self.begun = None;
                Err(misuse)
            }
        }
    }

    /// Steps recorded so far.
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether steps are still being recorded.
    pub fn is_open(&self) -> bool {
        matches!(self.sink, Sink::Open(_))
    }

    /// Why the recording ended early; answers once.
    pub fn take_error(&mut self) -> Option<RecordError> {
        match &mut self.sink {
            Sink::Failed(error) => error.take(),
            Sink::Open(_) | Sink::Closed => None,
        }
    }

    /// When [`Self::flush`] should be called even if no input comes before.
    pub fn flush_due(&self) -> Option<Time> {
        (self.is_open() && self.chunk.frames > 0).then(|| self.chunk.first_time.after_ms(FLUSH_AFTER_MS))
    }

    /// Writes the frames gathered so far as a chunk.
    pub fn flush(&mut self) {
        if self.chunk.frames == 0 || !self.is_open() {
            return;
        }
        let chunk = std::mem::take(&mut self.chunk);
        let bytes = ChunkHead::pack(&chunk.raw, chunk.frames, chunk.first_step, chunk.first_time, chunk.chain);
        let entry = Entry { offset: self.offset, first_step: chunk.first_step, first_time: chunk.first_time };
        self.index.add(entry);
        self.write(&bytes);
        // The buffer keeps its room for the next chunk, but not that of a giant.
        self.chunk.raw = chunk.raw;
        self.chunk.raw.clear();
        self.chunk.raw.shrink_to(2 * CHUNK_BYTES);
    }

    /// Ends the recording and marks the trace as complete; answers what it was written to, and its totals.
    ///
    /// # Errors
    /// Why the trace is not complete.
    pub fn finish(mut self) -> Result<(W, Summary), RecordError> {
        self.close(true);
        let summary = self.summary();
        match std::mem::replace(&mut self.sink, Sink::Closed) {
            Sink::Open(out) => Ok((out, summary)),
            Sink::Failed(Some(error)) => Err(error),
            Sink::Failed(None) | Sink::Closed => {
                let error = io::Error::other("the recording had ended before");
                Err(RecordError::Write { steps: self.steps, error })
            }
        }
    }

    /// Notes the input of a step that is about to be taken: if the step never returns, the input is what matters.
    fn begin(&mut self, now: Time, input: &Input) {
        if self.is_open() {
            self.begun = Some(Begun { time: now, kind: input.name(), input: codec::encode(input) });
        }
    }

    /// Notes what the step led to: its outputs, and state hash and part digests after it.
    fn end<'a>(&mut self, outputs: impl Iterator<Item = &'a Output>, state: &Hash, parts: impl Iterator<Item = Hash>) {
        let Some(begun) = self.begun.take() else { return };
        let outputs = frame::encode_outputs(outputs);
        let digests = Digests { outputs: frame::digest(&outputs), state: state.short() };
        let after: Vec<Hash> = parts.collect();
        let changed = Changed::between(&self.parts, &after);
        self.parts = after;
        let recorded = match self.detail {
            Detail::Inputs => &[],
            Detail::Outputs => &outputs[..],
        };
        self.push(&begun, Some((digests, &changed, recorded)));
        if self.chunk.raw.len() >= CHUNK_BYTES || begun.time.ms_since(self.chunk.first_time) >= FLUSH_AFTER_MS {
            self.flush();
        }
    }

    fn push(&mut self, begun: &Begun, outcome: Option<(Digests, &Changed, &[u8])>) {
        self.steps += 1;
        if self.chunk.frames == 0 {
            self.chunk.first_step = self.steps;
            self.chunk.first_time = begun.time;
            self.chunk.chain = self.chain;
            self.time = begun.time;
        }
        let before = self.chunk.raw.len();
        frame::put(&mut self.chunk.raw, begun.time.ms_since(self.time), &begun.input, outcome);
        self.frame_bytes += (self.chunk.raw.len() - before) as u64;
        self.chunk.frames += 1;
        self.chain = frame::link(&self.chain, begun.time, &begun.input, outcome.map(|(digests, ..)| digests));
        self.time = begun.time;
        match self.kinds.iter_mut().find(|(kind, _)| *kind == begun.kind) {
            Some((_, count)) => *count += 1,
            None => self.kinds.push((begun.kind, 1)),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Sink::Open(out) = &mut self.sink else { return };
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => self.offset += bytes.len() as u64,
            Err(error) => self.sink = Sink::Failed(Some(RecordError::Write { steps: self.steps, error })),
        }
    }

    fn summary(&self) -> Summary {
        let name = |kind: &str| Text::try_from(kind.to_owned()).expect("kinds of input have short names");
        let kinds = self.kinds.iter().map(|(kind, count)| (name(kind), *count)).collect::<Vec<_>>();
        Summary {
            steps: self.steps,
            ended: self.time,
            frame_bytes: self.frame_bytes,
            kinds: List::try_from(kinds).expect("there are few kinds of input"),
        }
    }

    fn close(&mut self, clean: bool) {
        if let Some(begun) = self.begun.take() {
            self.push(&begun, None);
        }
        self.flush();
        let index = std::mem::take(&mut self.index).finish(self.summary());
        self.write(&Trailer { index_offset: self.offset, clean }.section(&index));
    }
}

/// A recorder that falls with its host, a panic in a step above all, writes what it has: the last input is the one that
/// matters.
impl<W: Write> Drop for Recorder<W> {
    fn drop(&mut self) {
        if self.is_open() {
            self.close(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{Host, Logged, config, record, trace};
    use crate::{Ending, Frame, Reader};

    fn read(bytes: &[u8]) -> (Vec<Frame>, Ending) {
        let mut reader = Reader::new(Cursor::new(bytes)).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            frames.push(frame);
        }
        (frames, reader.ending().unwrap())
    }

    fn begin(out: &mut Vec<u8>) -> (Host, Recorder<&mut Vec<u8>>) {
        let host = Host::new(config());
        let recorder = Recorder::new(out, &host.header(Detail::Outputs), &host.core).unwrap();
        (host, recorder)
    }

    #[test]
    fn every_step_reads_back_as_it_was_recorded() {
        let (bytes, log) = record(3000, Detail::Outputs);
        let (frames, ending) = read(&bytes);
        assert_eq!((frames.len(), ending), (3000, Ending::Clean));
        let mut before = Host::new(config()).core.part_hashes().map(|(_, digest)| digest).to_vec();
        for ((step, frame), logged) in (1..).zip(frames).zip(log) {
            let outcome = frame.outcome.unwrap();
            assert_eq!((frame.step, frame.time, frame.input), (step, logged.time, logged.input));
            assert_eq!(outcome.digests.state, logged.state.short());
            assert_eq!(outcome.outputs.unwrap().to_vec(), logged.outputs);
            assert_eq!(outcome.changed, Changed::between(&before, &logged.parts));
            before = logged.parts;
        }
    }

    #[test]
    fn a_trace_of_inputs_only_is_smaller_and_has_the_same_digests() {
        let (full, inputs) = (trace(500, Detail::Outputs), trace(500, Detail::Inputs));
        assert!(inputs.len() < full.len());
        for (a, b) in read(&full).0.into_iter().zip(read(&inputs).0) {
            let (a_outcome, b_outcome) = (a.outcome.unwrap(), b.outcome.unwrap());
            assert_eq!((b_outcome.outputs, b_outcome.digests), (None, a_outcome.digests));
            assert_eq!(a.input, b.input);
        }
    }

    #[test]
    fn a_step_costs_its_payload_and_at_most_24_bytes_before_compression() {
        for detail in [Detail::Inputs, Detail::Outputs] {
            let (mut out, mut host) = (Vec::new(), Host::new(config()));
            let mut recorder = Recorder::new(&mut out, &host.header(detail), &host.core).unwrap();
            host.run(&mut recorder, 4000);
            let (_, summary) = recorder.finish().unwrap();
            let outputs = |logged: &Logged| match detail {
                Detail::Inputs => 0,
                Detail::Outputs => logged.outputs.iter().map(|output| codec::encode(output).len()).sum(),
            };
            let payload = |logged: &Logged| codec::encode(&logged.input).len() + outputs(logged);
            let payload: usize = host.log.iter().map(payload).sum();
            let heads = summary.frame_bytes.div_ceil(CHUNK_BYTES as u64) * ChunkHead::LEN as u64;
            let overhead = summary.frame_bytes + heads - payload as u64;
            assert!(overhead <= 24 * summary.steps, "{} bytes a step", overhead as f64 / summary.steps as f64);
        }
    }

    #[test]
    fn a_killed_process_loses_less_than_a_second() {
        let mut out = Vec::new();
        let (mut host, mut recorder) = begin(&mut out);
        host.run(&mut recorder, 1000);
        std::mem::forget(recorder);
        let (frames, ending) = read(&out);
        assert_eq!(ending, Ending::Torn { bytes: 0 });
        let lost_ms = host.log[999].time.ms_since(frames.last().unwrap().time);
        assert!((1..=FLUSH_AFTER_MS).contains(&lost_ms), "{lost_ms} ms");
    }

    #[test]
    fn a_quiet_host_is_told_when_to_flush() {
        let mut out = Vec::new();
        let (mut host, mut recorder) = begin(&mut out);
        assert_eq!(recorder.flush_due(), None);
        host.run(&mut recorder, 3);
        assert_eq!(recorder.flush_due(), Some(host.log[0].time.after_ms(FLUSH_AFTER_MS)));
        recorder.flush();
        assert_eq!(recorder.flush_due(), None);
        std::mem::forget(recorder);
        assert_eq!(read(&out).0.len(), 3);
    }

    #[test]
    fn a_recorder_that_falls_leaves_the_input_that_felled_it() {
        let mut out = Vec::new();
        let (mut host, mut recorder) = begin(&mut out);
        host.run(&mut recorder, 5);
        let (now, input) = host.next();
        recorder.begin(now, &input);
        drop(recorder);
        let (frames, ending) = read(&out);
        let last = frames.last().unwrap();
        assert_eq!((frames.len(), ending), (6, Ending::Fallen));
        assert_eq!((&last.input, &last.outcome), (&input, &None));
    }

    #[test]
    fn a_step_that_the_core_refuses_is_not_recorded() {
        let mut out = Vec::new();
        let (mut host, mut recorder) = begin(&mut out);
        host.run(&mut recorder, 2);
        let refused = recorder.step(&mut host.core, Time::ZERO, Input::Tick, &mut Outbox::default());
        assert!(matches!(refused, Err(Misuse::TimeWentBack { .. })));
        host.run(&mut recorder, 2);
        assert_eq!(recorder.finish().unwrap().1.steps, 4);
        assert_eq!(read(&out).0, read(&trace(4, Detail::Outputs)).0);
    }

    #[test]
    fn outputs_left_in_the_outbox_are_not_taken_for_those_of_the_next_step() {
        let mut out = Vec::new();
        let (mut host, mut recorder) = begin(&mut out);
        let mut outbox = Outbox::with_capacity(200);
        let steps: Vec<_> = record(2, Detail::Outputs).1;
        for logged in &steps {
            recorder.step(&mut host.core, logged.time, logged.input.clone(), &mut outbox).unwrap();
        }
        recorder.finish().unwrap();
        for (frame, logged) in read(&out).0.into_iter().zip(steps) {
            assert_eq!(frame.outcome.unwrap().outputs.unwrap().to_vec(), logged.outputs);
        }
    }

    /// A disk with so many bytes left.
    struct Disk<'a> {
        out: &'a mut Vec<u8>,
        left: usize,
    }

    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let len = bytes.len().min(self.left);
            if len == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.out.extend_from_slice(&bytes[..len]);
            self.left -= len;
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_ends_the_recording_with_one_error_and_leaves_what_was_written() {
        let (mut out, mut host) = (Vec::new(), Host::new(config()));
        let disk = Disk { out: &mut out, left: 20_000 };
        let mut recorder = Recorder::new(disk, &host.header(Detail::Outputs), &host.core).unwrap();
        host.run(&mut recorder, 3000);
        assert!(!recorder.is_open());
        let error = recorder.take_error().expect("the disk is full");
        assert!(error.to_string().contains("the node goes on"), "{error}");
        assert!(recorder.take_error().is_none(), "said once");
        assert_eq!(host.log.last().unwrap().state, record(3000, Detail::Inputs).1.last().unwrap().state);
        drop(recorder);
        let (frames, ending) = read(&out);
        assert!(matches!(ending, Ending::Torn { bytes: 1.. }), "{ending}");
        assert!(frames.len() > 50 && frames.len() < 2900, "{}", frames.len());
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.trace");
        let host = Host::new(config());
        let create = || Recorder::create(&path, &host.header(Detail::Outputs), &host.core);
        create().unwrap().finish().unwrap();
        assert!(create().unwrap_err().to_string().contains("exists already"));
    }

    #[test]
    fn the_totals_count_every_kind_of_input() {
        let (bytes, log) = record(300, Detail::Outputs);
        let reader = Reader::new(Cursor::new(&bytes[..])).unwrap();
        let (summary, ending) = reader.closing().unwrap();
        assert_eq!((summary.steps, summary.ended, ending), (300, log[299].time, Ending::Clean));
        for (kind, count) in &summary.kinds {
            let logged = log.iter().filter(|logged| logged.input.name() == &**kind).count();
            assert_eq!(*count, logged as u64, "{}", &**kind);
        }
        assert_eq!(summary.kinds.iter().map(|(_, count)| count).sum::<u64>(), 300);
    }
}
