//! What it costs real processes to train together: `cargo bench -p neuroshard --bench processes [-- WORD...]`, where a word is one of
//! `pair`, `four`, `hop`, `join` and `recovery`. The machine should have nothing else to do.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use common::crew::{Crew, KEEPER};
use common::{PROGRAM, Running, Scratch};

/// Steps before the clock is looked at, and between the two looks.
const WARM: u64 = 20;
const STEPS: u64 = 100;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let parts: [(&str, fn()); 5] =
        [("pair", pair), ("four", four), ("hop", hop), ("join", join), ("recovery", recovery)];
    for (name, part) in parts {
        if words.is_empty() || words.iter().any(|word| word == name) {
            part();
        }
    }
}

/// One node, or members of a plan, each on a core of its own.
struct Line {
    members: Vec<Running>,
    _scratch: Scratch,
}

/// CPU time of a process, and that of its threads that compute.
#[derive(Clone, Copy, Default)]
struct Spent {
    all: Duration,
    computing: Duration,
}

/// What a line took for a step.
struct Took {
    step: Duration,
    /// Of each member, in a step.
    spent: Vec<Spent>,
}

impl Line {
    /// Starts members with these stages on these cores; one without stages trains alone.
    fn start(config: &str, members: &[(&str, usize)]) -> Self {
        let scratch = Scratch::new();
        let file = scratch.path("config.toml");
        std::fs::write(&file, config).unwrap();
        let names: Vec<String> = (0..members.len()).map(|number| format!("n{number}")).collect();
        let mut plan = "snapshot-steps = 1000\n".to_owned();
        for (name, (stages, _)) in names.iter().zip(members) {
            let keys = scratch.run(name, "keys show --json").stdout;
            let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
            write!(plan, "[[member]]\nnode = {}\nstages = \"{stages}\"\n", keys["node"]).unwrap();
        }
        std::fs::write(scratch.path("plan.toml"), plan).unwrap();
        let flag = if members.len() > 1 { "--plan plan.toml" } else { "" };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut running = Vec::new();
        for (place, (name, (_, core))) in names.iter().zip(members).enumerate() {
            let way = match place {
                0 => format!("run --config {} --seed s --listen 127.0.0.1:{port}", file.display()),
                _ => format!("join 127.0.0.1:{port} --listen 127.0.0.1:0"),
            };
            let command = format!("-c {core} {PROGRAM} {way} {flag} --threads 1 --no-lan");
            let mut node = scratch.start_program(Path::new("taskset"), name, &command);
            if place == 0 {
                node.wait_for("listening", |_| true);
            }
            running.push(node);
        }
        Self { members: running, _scratch: scratch }
    }

    fn measure(mut self) -> Took {
        // Whoever computes the loss tells of steps first; all others follow.
        self.members[0].wait_for_step(WARM);
        let (begun, before) = (Instant::now(), self.spent());
        self.members[0].wait_for_step(WARM + STEPS);
        let step = begun.elapsed() / STEPS as u32;
        let spent = self.spent().into_iter().zip(before).map(|(now, before)| Spent {
            all: (now.all - before.all) / STEPS as u32,
            computing: (now.computing - before.computing) / STEPS as u32,
        });
        Took { step, spent: spent.collect() }
    }

    fn spent(&self) -> Vec<Spent> {
        self.members.iter().map(|member| spent(member.id())).collect()
    }
}

/// What a process has spent so far, by the kernel's account of its threads.
fn spent(process: u32) -> Spent {
    let mut spent = Spent::default();
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let thread = thread.unwrap().path();
        let (Ok(name), Ok(stat)) =
            (std::fs::read_to_string(thread.join("comm")), std::fs::read_to_string(thread.join("schedstat")))
        else {
            continue;
        };
        let time = Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap());
        spent.all += time;
        if name.starts_with("compute") {
            spent.computing += time;
        }
    }
    spent
}

/// A model with so many sequences to a batch.
fn config(preset: &str, batch: u32) -> String {
    format!("preset = \"{preset}\"\n[training]\nbatch = {batch}\n")
}

fn percent(part: Duration, whole: Duration) -> f64 {
    100.0 * part.as_secs_f64() / whole.as_secs_f64()
}

/// Two stages, each on one core. What counts is what two nodes do that train alone at the same time: cores that share an
/// arithmetic unit are not twice one.
fn pair() {
    println!("two members on two cores, 16 sequences to a batch (the schedule lets each be busy 94.1 % of the time)");
    for (preset, all, halves) in [("nano", "0..5", ["0..2", "2..5"]), ("micro", "0..7", ["0..3", "3..7"])] {
        let config = config(preset, 16);
        let solo = Line::start(&config, &[(all, 0)]).measure();
        let beside = Line::start(&config, &[(all, 1)]);
        let crowded = Line::start(&config, &[(all, 0)]).measure();
        drop(beside);
        let both = Line::start(&config, &[(halves[0], 0), (halves[1], 1)]).measure();
        let [first, second] = both.spent[..] else { panic!("two members") };
        println!(
            "{preset}: one alone {:?} a step, beside another one {:?}; both together {:?}: {:.1} % of what two do alone; computing \
             {:.1} % and {:.1} % of the time, {:.1} % of all CPU time",
            solo.step,
            crowded.step,
            both.step,
            50.0 * crowded.step.as_secs_f64() / both.step.as_secs_f64(),
            percent(first.computing, both.step),
            percent(second.computing, both.step),
            percent(first.computing + second.computing, first.all + second.all),
        );
    }
}

/// Four stages on two cores: what is spent on anything but computing.
fn four() {
    for preset in ["nano", "micro"] {
        let stages = if preset == "nano" { ["0..1", "1..2", "2..3", "3..5"] } else { ["0..2", "2..4", "4..5", "5..7"] };
        let members: Vec<_> = stages.iter().enumerate().map(|(place, stages)| (*stages, place % 2)).collect();
        let took = Line::start(&config(preset, 16), &members).measure();
        let computing: Duration = took.spent.iter().map(|spent| spent.computing).sum();
        let all: Duration = took.spent.iter().map(|spent| spent.all).sum();
        println!(
            "four members on two cores, {preset}: {:?} a step, {all:?} of CPU time, {:.1} % of it computing",
            took.step,
            percent(computing, all)
        );
    }
}

/// What a step takes longer because what is passed goes from one process to the other and back.
fn hop() {
    let config = config("nano", 1);
    let solo = Line::start(&config, &[("0..5", 0)]).measure();
    for cores in [[0, 1], [0, 0]] {
        let both = Line::start(&config, &[("0..2", cores[0]), ("2..5", cores[1])]).measure();
        println!(
            "one sequence of nano: {:?} a step alone, {:?} through two on cores {cores:?}: {:?} a hop, of two in each step \
             and what ends it",
            solo.step,
            both.step,
            both.step.saturating_sub(solo.step) / 2
        );
    }
}

/// From the command to the first step.
fn join() {
    for round in 0..3 {
        let scratch = Scratch::new();
        let config = scratch.deep_config("");
        let names = ["first", "second"];
        let mut plan = "snapshot-steps = 1000\n".to_owned();
        for (name, stages) in names.iter().zip(["0..3", "3..5"]) {
            let keys: serde_json::Value = serde_json::from_str(&scratch.run(name, "keys show --json").stdout).unwrap();
            write!(plan, "[[member]]\nnode = {}\nstages = \"{stages}\"\n", keys["node"]).unwrap();
        }
        std::fs::write(scratch.path("plan.toml"), plan).unwrap();
        let mut times = BTreeMap::new();
        // Four of five stages fit into this.
        for (way, flags) in [("by a plan", "--plan plan.toml"), ("by themselves", "--memory 1000000")] {
            let of = |name: &str| format!("{name}-{}", way.replace(' ', "-"));
            if way == "by a plan" {
                std::fs::rename(scratch.path("first"), scratch.path(&of("first"))).unwrap();
                std::fs::rename(scratch.path("second"), scratch.path(&of("second"))).unwrap();
            }
            let run = format!("run --config {config} {flags} --threads 1 --listen 127.0.0.1:0");
            let mut first = scratch.start(&of("first"), &run);
            let address = first.wait_for("listening", |_| true)["address"].as_str().unwrap().to_owned();
            std::thread::sleep(Duration::from_secs(20));
            let begun = Instant::now();
            let mut second = scratch.start(&of("second"), &format!("join {address} {flags} --threads 1"));
            second.wait_for("joined", |_| true);
            let joined = begun.elapsed();
            second.wait_for_step(1);
            times.insert(way, (joined, begun.elapsed()));
        }
        println!("round {round}: from `join` to the data, and to the first step: {times:?}");
    }
}

/// From SIGKILL of a member to the next step of those who are left, where another one stands by.
fn recovery() {
    for (role, named) in ["initiator", "processor", "finisher"].into_iter().enumerate() {
        let mut crew = Crew::gather(&["a", "b", "c"]);
        let members = crew.until_quorum(KEEPER, 3);
        crew.add_spare("d");
        let step = crew.reached();
        crew.until_beyond(&members, step + 100);
        let anchor = crew.until("an anchor", |crew| Some(crew.anchor(KEEPER)).filter(|anchor| *anchor > 0));
        let members = crew.members(KEEPER);
        let killed = members[role.min(members.len() - 1)];
        crew.kill(killed);
        let (begun, reached) = (Instant::now(), crew.reached());
        let others = crew.until_replaced(killed);
        let formed = begun.elapsed();
        let from = crew.until("somebody trains again", |crew| {
            let from = crew.last(others[0], "quorum")?["step"].as_u64()?;
            (others.iter().all(|name| crew.step(name) > from)).then_some(from)
        });
        let on = begun.elapsed();
        crew.until_beyond(&others, reached);
        println!(
            "the {named} of {} is killed at step {reached} (anchor {anchor}): a new quorum after {formed:.1?}, training from step \
             {from} after {on:.1?}, beyond {reached} after {:.1?}",
            members.len(),
            begun.elapsed()
        );
    }
}
