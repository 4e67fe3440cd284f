//! A campaign without the command line, so that it can be built with simulated signatures: `campaign FROM TO [LIARS_PPM]`, seven
//! nodes for ten minutes each, once. `campaign SEED LIARS_PPM FILE` runs one world and logs it to a file. With `quorums` before
//! all that, nodes train together.

use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use neuroshard_sim::{Options, Runs, Scenario, World, campaign};

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let quorums = words.first().is_some_and(|word| word == "quorums");
    words.drain(..usize::from(quorums));
    if let [seed, liars, file] = &words[..]
        && let (Ok(seed), Ok(byzantine_ppm), Err(_)) = (seed.parse(), liars.parse(), file.parse::<u64>())
    {
        return one(seed, Options { byzantine_ppm, quorums, ..Options::default() }, file);
    }
    let numbers: Result<Vec<u64>, _> = words.iter().map(|word| word.parse()).collect();
    let Ok([from, to, liars @ ..]) = numbers.as_deref() else {
        eprintln!("campaign [quorums] FROM TO [LIARS_PPM]");
        return ExitCode::from(2);
    };
    let byzantine_ppm = liars.first().map_or(0, |ppm| u32::try_from(*ppm).unwrap_or(u32::MAX));
    let options = Options { byzantine_ppm, quorums, ..Options::default() };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let tally = campaign(&options, *from..*to, Runs::Once, threads, |seed, report| {
        if let Some(failure) = &report.failure {
            println!("seed {seed}: {failure}");
        }
    });
    match tally {
        Ok(tally) => {
            tally.counts.named().for_each(|(name, number)| println!("{name:<36} {number:>14}"));
            println!("{} worlds, {} failed, {:.1?}", tally.worlds, tally.failures.len(), started.elapsed());
            ExitCode::from(u8::from(!tally.failures.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// One world, logged.
fn one(seed: u64, options: Options, file: &str) -> ExitCode {
    let scenario = Scenario::draw(&options, seed);
    let (Ok(scenario), Ok(log)) = (scenario, File::create(file)) else {
        eprintln!("the seed has no world, or {file} cannot be written");
        return ExitCode::from(2);
    };
    let report = World::new(&scenario).logging(BufWriter::new(log)).run();
    println!("{report}");
    ExitCode::from(u8::from(report.failure.is_some()))
}
