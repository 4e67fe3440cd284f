//! What a node records of itself, and what the tools make of it.

mod common;

use std::fs;

use common::Scratch;

/// A run that records 20 steps.
fn record(scratch: &Scratch, more: &str) {
    let config = scratch.config("[snapshots]\nevery-steps = 5\n");
    let arguments = format!("--config {} --seed trace --data synthetic {more}", config.display());
    let finished = scratch.run("node", &arguments);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
}

#[test]
fn a_recorded_run_replays_to_the_same_states_and_so_does_the_one_that_goes_on() {
    let scratch = Scratch::new();
    record(&scratch, "--steps 20 --record first.trace");
    record(&scratch, "--steps 30 --record second.trace");
    for (file, text) in [("first.trace", "restored from 0 journal records"), ("second.trace", "restored from ")] {
        let report = scratch.run("node", &format!("replay {file}"));
        assert_eq!(report.code, Some(0), "{report:#?}");
        let info = scratch.run("node", &format!("trace info {file}")).stdout;
        assert!(info.contains(text) && info.contains("complete"), "{info}");
    }
    let differs = scratch.run("node", "trace diff first.trace second.trace");
    assert_eq!(differs.code, Some(1), "{differs:#?}");
    assert_eq!(scratch.run("node", "trace diff first.trace first.trace").code, Some(0));
    let cat = scratch.run("node", "trace cat first.trace --kind command").stdout;
    assert!(cat.lines().count() < 5, "{cat}");
    let state = scratch.run("node", "trace state first.trace --at 10 --json");
    assert!(serde_json::from_str::<serde_json::Value>(&state.stdout).is_ok(), "{state:#?}");
    // An old recording is never written over.
    let config = scratch.config("");
    let again = scratch.run("node", &format!("--config {} --steps 40 --record first.trace", config.display()));
    again.failed(1, &["first.trace", "exists"]);
}

#[test]
fn a_trace_of_inputs_alone_is_smaller_and_replays_too() {
    let scratch = Scratch::new();
    record(&scratch, "--steps 20 --record short.trace --record-inputs-only");
    let info = scratch.run("node", "trace info short.trace").stdout;
    assert!(info.contains("inputs only") || !info.contains("inputs and outputs"), "{info}");
    assert_eq!(scratch.run("node", "replay short.trace").code, Some(0));
    scratch.run("other", "--record-inputs-only --steps 1").failed(2, &["--record"]);
}

#[test]
fn a_killed_node_leaves_a_trace_that_replays_as_far_as_it_goes() {
    let scratch = Scratch::new();
    let config = scratch.config("");
    let mut node = scratch.start("node", &format!("--config {} --record cut.trace", config.display()));
    node.wait_for_step(50);
    // The recorder writes what is older than a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    node.signal(libc::SIGKILL);
    node.finish();
    let report = scratch.run("node", "replay cut.trace");
    assert_eq!(report.code, Some(0), "{report:#?}");
    let info = scratch.run("node", "trace info cut.trace").stdout;
    assert!(!info.contains("complete"), "{info}");
    // A flipped bit in the middle is found, and named.
    let mut bytes = fs::read(scratch.path("cut.trace")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(scratch.path("bad.trace"), bytes).unwrap();
    scratch.run("node", "replay bad.trace").failed(1, &["bad.trace"]);
    scratch.run("node", "replay missing.trace").failed(1, &["missing.trace", "No such file"]);
}

#[test]
fn a_trace_is_made_smaller_around_a_symptom() {
    let scratch = Scratch::new();
    record(&scratch, "--steps 20 --record long.trace");
    let minimise = |more: &str| scratch.run("node", &format!("trace minimise long.trace {more}"));
    let finished = minimise("small.trace --output tier --json");
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let found: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert!(found["steps"].as_u64().unwrap() <= 3, "{found}");
    let cat = scratch.run("node", "trace cat small.trace").stdout;
    assert!(cat.lines().last().unwrap().contains("event tier"), "{cat}");
    assert_eq!(scratch.run("node", "replay small.trace").code, Some(0));
    minimise("small.trace --output tier").failed(1, &["small.trace", "exists"]);
    minimise("none.trace --panic").failed(1, &["nothing in this trace shows that"]);
    assert!(!scratch.path("none.trace").exists());
    minimise("none.trace").failed(2, &["--output"]);
}
