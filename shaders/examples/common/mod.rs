//! What the example programs share: their arguments, a schedule and seeded text.
#![allow(dead_code, unreachable_pub, reason = "each example is a crate that uses its part")]

use std::error::Error;
use std::process::ExitCode;

use neuroshard_proto::{F32, Hash, ModelSpec, Preset, Schedule, Stream, TrainSpec};
use neuroshard_shaders::gpu::{self, Adapter, Wish};

/// `--name value` pairs.
pub struct Arguments(Vec<String>);

impl Arguments {
    pub fn of_process() -> Self {
        Self(std::env::args().skip(1).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let place = self.0.iter().position(|word| word == name)?;
        self.0.get(place + 1).map(String::as_str)
    }

    pub fn number(&self, name: &str, otherwise: u64) -> Result<u64, Box<dyn Error>> {
        let Some(word) = self.get(name) else { return Ok(otherwise) };
        word.parse().map_err(|_| format!("{name} {word}: give a whole number").into())
    }

    pub fn preset(&self) -> Result<(Preset, ModelSpec, TrainSpec), Box<dyn Error>> {
        let name = self.get("--preset").unwrap_or("nano");
        let preset = Preset::ALL.into_iter().find(|preset| preset.name() == name);
        let preset = preset.ok_or_else(|| format!("--preset {name}: there are nano, micro and genesis"))?;
        let (model, training) = preset.specs();
        Ok((preset, model, training))
    }

    /// The adapter that is named, or the best hardware.
    pub fn adapter(&self) -> Result<Adapter, Box<dyn Error>> {
        let wish = self.get("--adapter").map_or(Wish::Hardware, |name| Wish::Named(name.to_owned()));
        let mut found = gpu::adapters();
        let descriptions: Vec<_> = found.iter().map(|adapter| adapter.description().clone()).collect();
        let place = gpu::choose(&descriptions, &wish)?.ok_or("no adapter")?;
        Ok(found.swap_remove(place))
    }
}

/// Tells what went wrong, if anything did.
pub fn report(outcome: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

/// AdamW as the recipe says, at its peak rate; `step` counts from 1.
pub fn schedule(training: &TrainSpec, step: u32) -> Schedule {
    let ppm = |parts: u32| F32::from_ratio(u128::from(parts), 1_000_000);
    let correction = |beta_ppm: u32| {
        let rest = 1.0 - (f64::from(beta_ppm) * 1e-6).powi(step.cast_signed());
        F32::from_bits(((1.0 / rest) as f32).to_bits())
    };
    Schedule {
        rate: F32::from_ratio(u128::from(training.peak_rate_nano), 1_000_000_000),
        beta1: ppm(training.beta1_ppm),
        beta1_rest: ppm(1_000_000 - training.beta1_ppm),
        beta2: ppm(training.beta2_ppm),
        beta2_rest: ppm(1_000_000 - training.beta2_ppm),
        correction1: correction(training.beta1_ppm),
        correction2: correction(training.beta2_ppm),
        epsilon: F32::from_ratio(u128::from(training.epsilon_pico), 1_000_000_000_000),
        weight_decay: ppm(training.weight_decay_ppm),
        clip: ppm(training.clip_ppm),
    }
}

/// Tokens in which each mostly follows from the one before, so that there is something to learn.
pub fn text(vocab: u32, tokens: usize) -> Vec<u16> {
    let mut stream = Stream::new(&Hash::of_blob(b"text"), "example", 0);
    let mut token = 10;
    let mut next = || {
        let jump = stream.below(4) == 0;
        token = if jump { stream.below(u64::from(vocab)) as u32 } else { (token * 7 + 3) % vocab };
        token as u16
    };
    (0..tokens).map(|_| next()).collect()
}
