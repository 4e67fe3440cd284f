//! `--record`: a trace of every input to the core, written as the node runs.

use std::fs::File;
use std::path::Path;

use neuroshard_core::{Core, Input, Misuse, Outbox};
use neuroshard_host::home::Start;
use neuroshard_host::node::Tap;
use neuroshard_proto::Time;
use neuroshard_replay::{Detail, Header, Recorder};

use crate::failure::Failure;

/// A recorder in the node's loop.
struct Recording {
    /// `None` after the end.
    recorder: Option<Recorder<File>>,
    /// Why the trace has no proper end.
    trouble: Option<String>,
}

/// Begins a trace in a new file.
pub(crate) fn recording(
    path: &Path,
    detail: Detail,
    core: &Core,
    start: &Start,
    now: Time,
) -> Result<Box<dyn Tap>, Failure> {
    let fail = |why: &dyn std::fmt::Display| Failure::new(format!("--record {}: {why}", path.display()));
    let header = Header::new(core, start.seed, &start.journal, now, detail);
    let header = header.map_err(|error| fail(&format!("the journal is too long for a trace: {error}")))?;
    let recorder = Recorder::create(path, &header, core).map_err(|error| fail(&error))?;
    Ok(Box::new(Recording { recorder: Some(recorder), trouble: None }))
}

impl Tap for Recording {
    fn step(&mut self, core: &mut Core, now: Time, input: Input, out: &mut Outbox) -> Result<(), Misuse> {
        match &mut self.recorder {
            Some(recorder) => recorder.step(core, now, input, out),
            None => core.step(now, input, out),
        }
    }

    fn flush_due(&self) -> Option<Time> {
        self.recorder.as_ref()?.flush_due()
    }

    fn flush(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
    }

    fn trouble(&mut self) -> Option<String> {
        let told = self.trouble.take();
        told.or_else(|| self.recorder.as_mut()?.take_error().map(|error| error.to_string()))
    }

    fn finish(&mut self) {
        if let Some(Err(error)) = self.recorder.take().map(Recorder::finish) {
            self.trouble = Some(error.to_string());
        }
    }
}
