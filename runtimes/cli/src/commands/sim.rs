//! `neuroshard sim`: worlds of many nodes, on standard output.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::panic;
use std::path::Path;
use std::thread;

use neuroshard_sim::{Options, Recording, Report, Runs, Scenario, World, campaign, minimise, run};
use serde_json::{Value, json};

use crate::args::{SimCommand, SimFlags, WorldFlags};
use crate::failure::Failure;
use crate::say::out;
use crate::settings::Settings;
use crate::values::Seeds;

/// Worlds that a campaign names when they fail.
const FAILURES_SHOWN: usize = 20;

/// Runs a world, a campaign, or a search for a smaller script.
pub(crate) fn sim(settings: &Settings, flags: &SimFlags) -> Result<(), Failure> {
    let json = settings.json.unwrap_or(false);
    // A panic in a world is a finding, told with its world; the hook would tell it a second time, and again in each replay.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let done = match (&flags.command, flags.seeds) {
        (Some(SimCommand::Minimise { world, out, attempts }), _) => smallest(json, world, out, *attempts),
        (None, Some(seeds)) => many(json, flags, seeds),
        (None, None) => one(json, flags),
    };
    panic::set_hook(hook);
    done
}

fn in_file(path: &Path, error: &dyn fmt::Display) -> Failure {
    Failure::new(format!("{}: {error}", path.display()))
}

fn options(flags: &WorldFlags) -> Options {
    Options {
        nodes: flags.nodes,
        duration_ms: flags.hours.0,
        faults: flags.faults.0.clone(),
        every_fault: flags.every_fault,
        byzantine_ppm: flags.byzantine.0,
        strategies: flags.strategies.0.clone(),
        training: !flags.idle,
        quorums: flags.quorums,
    }
}

fn scenario(flags: &WorldFlags) -> Result<Scenario, Failure> {
    match &flags.script {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| in_file(path, &error))?;
            Scenario::parse(&text).map_err(|error| in_file(path, &error))
        }
        None => Scenario::draw(&options(flags), flags.seed).map_err(Failure::usage),
    }
}

/// The command that repeats a world.
fn command(flags: &WorldFlags, seed: u64) -> String {
    if let Some(path) = &flags.script {
        return format!("neuroshard sim --script {}", path.display());
    }
    let names = |names: Vec<&str>, all: usize| match names.len() {
        0 => "none".to_owned(),
        len if len == all => "all".to_owned(),
        _ => names.join(","),
    };
    let faults = names(flags.faults.0.iter().map(|fault| fault.name()).collect(), neuroshard_sim::Fault::ALL.len());
    let strategies = flags.strategies.0.iter().map(|strategy| strategy.name()).collect();
    let strategies = names(strategies, neuroshard_sim::Strategy::ALL.len());
    let share = flags.byzantine.0;
    let (seconds, ms) = (flags.hours.0 / 1000, flags.hours.0 % 1000);
    let hours = if ms == 0 { format!("{seconds}s") } else { format!("{seconds}.{ms:03}s") };
    let mut words = format!("neuroshard sim --nodes {} --hours {hours} --seed {seed} --faults {faults}", flags.nodes);
    if share > 0 {
        words += &format!(" --byzantine {}.{:06} --strategies {strategies}", share / 1_000_000, share % 1_000_000);
    }
    let switches = [(flags.every_fault, " --every-fault"), (flags.idle, " --idle"), (flags.quorums, " --quorums")];
    for (given, flag) in switches {
        words += if given { flag } else { "" };
    }
    words
}

/// One world: its options, its summary, and whether it holds.
fn one(json: bool, flags: &SimFlags) -> Result<(), Failure> {
    let scenario = scenario(&flags.world)?;
    if let Some(path) = &flags.save {
        write_new(path, scenario.to_string().as_bytes())?;
    }
    if !json {
        out!("{}", describe(&scenario));
    }
    let report = if flags.events.is_some() || flags.traces.is_some() {
        watched(flags, &scenario)?
    } else {
        run(&scenario, if flags.once { Runs::Once } else { Runs::Twice })
    };
    if json {
        out!("{}", as_json(&report));
    } else {
        out!("{report}");
    }
    match &report.failure {
        None => Ok(()),
        Some(failure) => {
            Err(Failure::new(format!("{failure}\nThis repeats it: {}", command(&flags.world, scenario.world.seed))))
        }
    }
}

/// A world with its log and its traces.
fn watched(flags: &SimFlags, scenario: &Scenario) -> Result<Report, Failure> {
    let mut world = World::new(scenario);
    match &flags.events {
        Some(path) if path.as_os_str() == "-" => world = world.logging(BufWriter::new(io::stdout())),
        Some(path) => {
            let file = File::create_new(path).map_err(|error| in_file(path, &error))?;
            world = world.logging(BufWriter::new(file));
        }
        None => {}
    }
    let Some(folder) = &flags.traces else { return Ok(world.run()) };
    std::fs::create_dir(folder).map_err(|error| in_file(folder, &error))?;
    world = world.recording(Recording::Kept);
    let report = world.run();
    for trace in world.traces() {
        write_new(&folder.join(format!("node-{}-life-{}.trace", trace.node, trace.life)), &trace.bytes)?;
    }
    Ok(report)
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    File::create_new(path).and_then(|mut file| file.write_all(bytes)).map_err(|error| in_file(path, &error))
}

/// What was drawn.
fn describe(scenario: &Scenario) -> String {
    let kinds = scenario.kinds();
    let kinds: Vec<String> = kinds.iter().map(|(fault, acts)| format!("{acts} {fault}")).collect();
    let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
    format!("{}  {:<22} {kinds}", scenario.world, "acts")
}

fn as_json(report: &Report) -> Value {
    let counts: serde_json::Map<_, _> = report.counts.named().map(|(name, n)| (name.to_owned(), json!(n))).collect();
    json!({
        "world": report.world,
        "chain": report.chain.to_string(),
        "ended_us": report.ended_us,
        "converged_us": report.converged_us,
        "counts": counts,
        "failure": report.failure,
    })
}

/// Many seeds on all cores; a line for each that fails, with the command that repeats it.
fn many(json: bool, flags: &SimFlags, seeds: Seeds) -> Result<(), Failure> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let runs = if flags.once { Runs::Once } else { Runs::Twice };
    let mut shown = 0;
    let tally = campaign(&options(&flags.world), seeds.from..seeds.to, runs, threads, |seed, report| {
        let Some(failure) = report.failure.as_ref().filter(|_| shown < FAILURES_SHOWN) else { return };
        shown += 1;
        if json {
            out!("{}", json!({ "seed": seed, "failure": failure, "command": command(&flags.world, seed) }));
        } else {
            out!("{failure}\n  {}", command(&flags.world, seed));
        }
    });
    let tally = tally.map_err(Failure::usage)?;
    let failed: Vec<u64> = tally.failures.iter().map(|(seed, _)| *seed).collect();
    if json {
        let counts: serde_json::Map<_, _> = tally.counts.named().map(|(name, n)| (name.to_owned(), json!(n))).collect();
        let line = json!({ "worlds": tally.worlds, "world_ms": tally.world_ms, "counts": counts, "failed": failed });
        out!("{line}");
    } else {
        for (name, number) in tally.counts.named() {
            out!("  {name:<36} {number:>14}");
        }
        let hours = tally.world_ms / 3_600_000;
        out!("{} worlds of {hours} hours together, {} failed", tally.worlds, failed.len());
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(format!("{} worlds failed", failed.len()))) }
}

/// Writes the smallest script that fails as the world does.
fn smallest(json: bool, flags: &WorldFlags, out: &Path, attempts: u32) -> Result<(), Failure> {
    let scenario = scenario(flags)?;
    // What a first run shows needs no second one; a failure of the proof itself does.
    let once = run(&scenario, Runs::Once).failure.is_some();
    let runs = if once { Runs::Once } else { Runs::Twice };
    let minimal = minimise(&scenario, attempts, |scenario| run(scenario, runs)).map_err(Failure::new)?;
    write_new(out, minimal.scenario.to_string().as_bytes())?;
    let (left, nodes) = (minimal.scenario.acts.len(), minimal.scenario.world.nodes);
    if json {
        let line = json!({
            "acts": left, "before": minimal.before, "nodes": nodes, "worlds": minimal.attempts,
            "failure": minimal.failure,
        });
        out!("{line}");
    } else {
        out!(
            "{left} of {} acts and {nodes} nodes are left after {} worlds, in {}\n{}",
            minimal.before,
            minimal.attempts,
            out.display(),
            minimal.failure
        );
    }
    Ok(())
}
