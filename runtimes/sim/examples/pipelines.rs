//! What pipelines cost and bring, in worlds of equal machines: how long until nodes have found each other and with how many
//! messages, how much of their time executors work, and what falls cost. `pipelines [formation [NODES MINUTES]|efficiency|churn]`.

use std::time::Instant;

use neuroshard_sim::{Act, Count, Machines, Options, Report, Runs, Scenario, What, run};

/// A world of machines that are all alike, near each other, in which nothing goes wrong.
fn world(nodes: u32, minutes: u64, machines: Machines) -> Scenario {
    let options = Options { quorums: true, ..Options::calm(nodes, minutes * 60_000) };
    let mut scenario = Scenario::draw(&options, 1).expect("a world");
    let spec = &mut scenario.world;
    (spec.machines, spec.regions, spec.latency_ms, spec.jitter_ms) = (Some(machines), 1, 20, 1);
    (spec.sync_ms, spec.start_ms, spec.wish_ms, spec.batch_ms) = (2, 0, 0, 100);
    spec.calm_ms = 600_000;
    scenario
}

fn done(scenario: &Scenario) -> Report {
    let report = run(scenario, Runs::Once);
    assert_eq!(report.failure, None, "{report}");
    report
}

/// Two layers of five milliseconds on each machine.
const USUAL: Machines =
    Machines { layer_us: 5000, stages: 3, layers: 4, sequences: 8, sync_interval: 100, session_s: 3600 };

fn formation(only: Option<(u32, u64)>) {
    println!("nodes  minutes  quorums joined  words to form  words a node and minute  CPU-s");
    let all = [(10, 10), (100, 10), (1000, 10), (10_000, 5)];
    for (nodes, minutes) in only.map_or_else(|| all.to_vec(), |one| vec![one]) {
        let started = Instant::now();
        let report = done(&world(nodes, minutes, USUAL));
        let (formed, joined) = (report.counts.get(Count::SentToForm), report.counts.get(Count::Quorums));
        let each = formed as f64 / f64::from(nodes) / (report.ended_us as f64 / 60e6);
        let took = started.elapsed().as_secs_f64();
        println!("{nodes:>5}  {minutes:>7}  {joined:>14}  {formed:>13}  {each:>23.2}  {took:>5.1}");
    }
}

fn efficiency() {
    println!("members  sequences  latency  busy of all members' time  steps a minute");
    for (members, sequences, latency_ms) in [(2, 8, 1), (2, 16, 1), (4, 16, 1), (4, 32, 1), (4, 16, 20), (8, 32, 1)] {
        let machines = Machines {
            layer_us: 20_000,
            stages: 2,
            layers: 2 * members - 1,
            sequences,
            sync_interval: 10_000,
            session_s: 14_400,
        };
        // Two worlds that differ in their length alone: what comes before the first batch cancels out.
        let report = |minutes| {
            let mut scenario = world(members, minutes, machines);
            scenario.world.latency_ms = latency_ms;
            done(&scenario)
        };
        let (short, long) = (report(20), report(40));
        let more = |count| (long.counts.get(count) - short.counts.get(count)) as f64;
        let minutes = (long.ended_us - short.ended_us) as f64 / 60e6;
        let busy = more(Count::WorkedMs) / (f64::from(members) * minutes * 60e3);
        let steps = more(Count::Trained) / f64::from(members) / minutes;
        println!("{members:>7}  {sequences:>9}  {latency_ms:>4} ms  {:>24.1} %  {steps:>14.1}", 100.0 * busy);
    }
}

fn churn() {
    println!("mean time between falls of a node  falls  steps against none");
    let machines =
        Machines { layer_us: 5000, stages: 1, layers: 7, sequences: 16, sync_interval: 10, session_s: 14_400 };
    let (nodes, minutes) = (16, 120_u64);
    let steps = |mean_min: u64| {
        let mut scenario = world(nodes, minutes, machines);
        // Nodes fall one after the other at even distances in time, for a minute each.
        let falls = (u64::from(nodes) * minutes).checked_div(mean_min).unwrap_or(0);
        for fall in 0..falls {
            let at_ms = 120_000 + fall * (minutes - 3) * 60_000 / falls;
            let node = (fall * 7 % u64::from(nodes)) as u32;
            let what = What::Crash { node, keep: 0, torn: false, outputs: None };
            scenario.acts.push(Act { at_ms, for_ms: 60_000, what });
        }
        let report = done(&scenario);
        (report.counts.get(Count::Crashes), report.furthest)
    };
    let (_, whole) = steps(0);
    for mean_min in [240, 120, 60, 30, 15] {
        let (falls, some) = steps(mean_min);
        println!("{mean_min:>30} min  {falls:>5}  {:>16.1} %", 100.0 * some as f64 / whole as f64);
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("formation") => {
            let numbers: Vec<u64> = std::env::args().skip(2).map_while(|word| word.parse().ok()).collect();
            formation(match numbers[..] {
                [nodes, minutes] => Some((u32::try_from(nodes).expect("nodes"), minutes)),
                _ => None,
            });
        }
        Some("efficiency") => efficiency(),
        Some("churn") => churn(),
        _ => {
            formation(None);
            efficiency();
            churn();
        }
    }
}
