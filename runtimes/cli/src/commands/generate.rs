//! `neuroshard generate`: a text goes on, a token at a time.

use std::io::{self, Read as _, Write as _};
use std::time::Instant;

use neuroshard_host::exchange::SavedModel;
use neuroshard_host::generate::Writer;
use neuroshard_host::keys::entropy;
use neuroshard_shaders::sample::{Sampler, Sampling};
use serde_json::{Value, json};

use crate::args::GenerateFlags;
use crate::failure::Failure;
use crate::say::aside;
use crate::settings::Settings;
use crate::values::Seed;

/// Longest prompt; of a long one only the end counts.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

pub(crate) fn generate(settings: &Settings, flags: &GenerateFlags) -> Result<(), Failure> {
    let seed = match &flags.seed {
        Some(seed) => seed.clone(),
        None => Seed(entropy().map_err(Failure::new)?.short().to_string()),
    };
    let sampling = Sampling { temperature: flags.temperature, top_p: flags.top_p, seed: seed.hash().short() };
    let sampler = Sampler::new(sampling).map_err(Failure::usage)?;
    let prompt = read_prompt(&flags.prompt)?;
    let root = settings.data_dir()?;
    let (writer, step) = SavedModel::read(&root, |saved| {
        let window = saved.network.genesis.training.sequence;
        let writer = Writer::new(saved.model(), window, &saved.weights()?, sampler.clone());
        Ok((writer, saved.snapshot.step))
    })?;
    let mut writer = writer.map_err(Failure::new)?;
    let json = settings.json.unwrap_or(false);
    let prompt_tokens = writer.prompt(&prompt);
    if prompt_tokens > writer.window() && !json {
        let (window, read) = (writer.window(), writer.window().div_ceil(2));
        aside!(
            "the prompt has {prompt_tokens} tokens, the model reads {window} at once: it goes on from the last {read}"
        );
    }
    let told = write(&mut writer, flags.max_tokens, json).and_then(|(tokens, ended, seconds)| {
        let summary = json!({
            "event": "generated",
            "step": step.0,
            "seed": seed.0,
            "prompt_tokens": prompt_tokens,
            "tokens": tokens,
            "stop": if ended { "eos" } else { "max_tokens" },
            "seconds": seconds,
            "tokens_per_s": if seconds > 0.0 { Value::from(tokens as f64 / seconds) } else { Value::Null },
        });
        if json { tell(&format!("{summary}\n")) } else { tell("\n") }
    });
    match told {
        // `neuroshard generate | head` has seen enough.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Stop::Output(error)) => Err(Failure::new(format!("standard output cannot be written: {error}"))),
        Err(Stop::Model(error)) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Why writing ended early.
enum Stop {
    Output(io::Error),
    Model(Failure),
}

/// Writes at most so many tokens; returns how many, whether the model ended the document, and how long it took.
fn write(writer: &mut Writer, max_tokens: u64, json: bool) -> Result<(u64, bool, f64), Stop> {
    let (started, mut tokens, mut ended) = (Instant::now(), 0, false);
    while tokens < max_tokens && !ended {
        let piece = writer.next_piece().map_err(|error| Stop::Model(Failure::new(error)))?;
        tokens += 1;
        ended = piece.end;
        if json {
            let line = json!({ "event": "token", "token": piece.token, "text": piece.text });
            tell(&format!("{line}\n"))?;
        } else {
            tell(&piece.text)?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let rest = writer.finish();
    if json && !rest.is_empty() {
        tell(&format!("{}\n", json!({ "event": "rest", "text": rest })))?;
    } else if !json {
        tell(&rest)?;
    }
    Ok((tokens, ended, seconds))
}

fn tell(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Stop::Output)
}

fn read_prompt(prompt: &str) -> Result<Vec<u8>, Failure> {
    if prompt != "-" {
        return Ok(prompt.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(format!("standard input cannot be read: {error}")))?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(Failure::new(format!("the prompt has more than the {PROMPT_BYTES_MAX} bytes that are read")));
    }
    Ok(bytes)
}
