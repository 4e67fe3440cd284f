//! A campaign without the command line, so that it can be built with simulated signatures: `campaign FROM TO [LIARS_PPM]`, seven
//! nodes for ten minutes each, once.

use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use neuroshard_sim::{Options, Runs, campaign};

fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|argument| argument.parse()).collect();
    let Ok([from, to, liars @ ..]) = numbers.as_deref() else {
        eprintln!("campaign FROM TO [LIARS_PPM]");
        return ExitCode::from(2);
    };
    let byzantine_ppm = liars.first().map_or(0, |ppm| u32::try_from(*ppm).unwrap_or(u32::MAX));
    let options = Options { byzantine_ppm, ..Options::default() };
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
