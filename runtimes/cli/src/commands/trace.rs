//! `neuroshard replay` and `neuroshard trace`: what `neuroshard-replay` finds, on standard output.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::panic;
use std::path::Path;

use neuroshard_replay::{
    Filter, Form, Reader, ShowError, Steps, Symptom, cat, diff, info, minimise, replay as replay_trace, rewrite, state,
};
use serde_json::json;

use crate::args::TraceCommand;
use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;

fn open(path: &Path) -> Result<Reader<io::BufReader<File>>, Failure> {
    Reader::open(path).map_err(|error| in_file(path, &error))
}

fn in_file(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

fn is_json(settings: &Settings) -> bool {
    settings.json.unwrap_or(false)
}

/// Replays a trace; a difference is a failure.
pub(crate) fn replay(settings: &Settings, file: &Path) -> Result<(), Failure> {
    let report = replay_trace(&mut open(file)?);
    if is_json(settings) {
        let kinds: serde_json::Map<_, _> = report.kinds.0.iter().map(|(kind, n)| (kind.clone(), json!(n))).collect();
        let line = json!({
            "equal": report.is_equal(),
            "steps": report.steps,
            "kinds": kinds,
            "took_us": u64::try_from(report.took.as_micros()).unwrap_or(u64::MAX),
            "other_build": report.other_build.as_ref().map(ToString::to_string),
            "report": report.to_string(),
        });
        out!("{line}");
    } else {
        out!("{report}");
    }
    if report.is_equal() {
        return Ok(());
    }
    Err(Failure::new(format!("{} does not replay to what it recorded", file.display())))
}

/// Shows what is in a trace.
pub(crate) fn trace(settings: &Settings, command: &TraceCommand) -> Result<(), Failure> {
    let form = if is_json(settings) { Form::Json } else { Form::Text };
    let mut out = BufWriter::new(io::stdout().lock());
    let (file, shown) = match command {
        TraceCommand::Info { file } => (file, info(&mut open(file)?, form, &mut out)),
        TraceCommand::Cat { file, kind, from, to } => {
            let filter = Filter { kinds: kind.clone(), from: *from, to: *to };
            (file, cat(&mut open(file)?, &filter, form, &mut out))
        }
        TraceCommand::State { file, at } => (file, state(&mut open(file)?, *at, form, &mut out)),
        TraceCommand::Diff { first, second } => return compare(first, second),
        TraceCommand::Minimise { file, out, output, panic: _, attempts } => {
            // The command line demands one of the two.
            let symptom = output.clone().map_or(Symptom::Panic, Symptom::Output);
            return smallest(form, file, out, &symptom, *attempts);
        }
    };
    match shown.and_then(|()| out.flush().map_err(ShowError::Write)) {
        // `neuroshard trace cat | head` has seen enough.
        Err(ShowError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| in_file(file, &error)),
    }
}

/// Writes the smallest part of a trace that shows a symptom.
fn smallest(form: Form, file: &Path, out: &Path, symptom: &Symptom, attempts: u32) -> Result<(), Failure> {
    let mut reader = open(file)?;
    let new = File::create_new(out).map_err(|error| in_file(out, &error))?;
    // Panics are what is looked for here: each replay would print one.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let found = minimise(&mut reader, symptom, attempts);
    let written = found.map(|minimal| {
        let written = rewrite(reader.header(), &minimal.steps, &new).map(|()| new.sync_all());
        (minimal, written)
    });
    panic::set_hook(hook);
    let (minimal, written) = written.map_err(|error| {
        // Nothing is in it; that it stays if it cannot be removed does no harm.
        let _ = std::fs::remove_file(out);
        in_file(file, &error)
    })?;
    written.map_err(|error| in_file(out, &error))?.map_err(|error| in_file(out, &error))?;
    let (kept, before, attempts) = (minimal.steps.len(), minimal.before, minimal.attempts);
    match form {
        Form::Json => out!("{}", json!({ "steps": kept, "before": before, "replays": attempts })),
        Form::Text => out!("{kept} of {before} steps are left after {attempts} replays, in {}", out.display()),
    }
    Ok(())
}

/// Compares two traces; a difference is a failure, as for `diff`.
fn compare(first: &Path, second: &Path) -> Result<(), Failure> {
    let found = diff(&mut open(first)?, &mut open(second)?).map_err(Failure::new)?;
    out!("{found}");
    match found.steps {
        Steps::Equal { .. } => Ok(()),
        _ => Err(Failure::new("the traces differ")),
    }
}
