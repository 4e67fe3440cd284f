//! `neuroshard devnet`: real processes that find each other, of which one is killed, and of which none remains.

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, Running, Scratch};
use serde_json::Value;

/// A devnet whose nodes have no room for the whole model.
fn devnet(scratch: &Scratch, arguments: &str) -> Running {
    let config = scratch.deep_config("");
    scratch.start("net", &format!("devnet --config {config} --throttle 1,1,2 {arguments}"))
}

fn rows(line: &Value) -> &[Value] {
    line["nodes"].as_array().map_or(&[], Vec::as_slice)
}

/// The nodes of a line that train together and made more than so many steps since they began together.
fn training(line: &Value, beyond: u64) -> Vec<&Value> {
    let further = |row: &&Value| {
        let (step, from) = (row["step"].as_u64(), row["began_at_step"].as_u64());
        row["loss"].is_f64() && step.zip(from).is_some_and(|(step, from)| step > from + beyond)
    };
    rows(line).iter().filter(further).collect()
}

fn pids(line: &Value) -> Vec<i32> {
    rows(line).iter().filter_map(|row| i32::try_from(row["pid"].as_u64()?).ok()).collect()
}

/// Whether there is such a process. Whoever killed it has waited for it, be it the system.
fn lives(pid: i32) -> bool {
    // SAFETY: signal 0 asks only.
    unsafe { libc::kill(pid, 0) == 0 }
}

#[track_caller]
fn none_is_left(pids: &[i32]) {
    let end = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| lives(*pid)) {
        assert!(Instant::now() < end, "one of the processes {pids:?} is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_node_comes_back_the_training_goes_on_and_nobody_outlives_the_devnet() {
    let scratch = Scratch::new();
    let mut devnet = devnet(&scratch, "--nodes 3");
    let before = devnet.wait_for("nodes", |line| training(line, 20).len() >= 2 && pids(line).len() == 3);
    let victim = training(&before, 20)[0];
    assert_ne!(victim["stages"], "0..5", "it needs others");
    let (number, pid) = (&victim["number"], victim["pid"].as_i64().unwrap());
    // SAFETY: the process is a child of a child of ours, seen to run a moment ago.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGKILL) }, 0);

    let row = |line: &Value| rows(line).iter().find(|row| row["number"] == *number).cloned().unwrap_or_default();
    devnet.wait_for("gone", |line| line["text"].as_str().is_some_and(|text| text.contains("killed by signal 9")));
    let gone = devnet.wait_for("nodes", |line| row(line)["state"] == "gone");
    assert!(row(&gone)["why"].as_str().unwrap().contains("signal 9"), "{gone}");
    let back = devnet.wait_for("nodes", |line| row(line)["state"] == "runs");
    assert_ne!(row(&back)["pid"], pid, "{back}");
    assert_eq!(row(&back)["node"], victim["node"], "it is the same node");

    // The others went back to what all had saved, in another term or another quorum, and all go on from there.
    let anew = |row: &&Value| (&row["quorum"], &row["term"]) != (&victim["quorum"], &victim["term"]);
    let after = devnet.wait_for("nodes", |line| training(line, 20).iter().filter(|row| anew(row)).count() >= 2);
    let further = |line: &Value| line["step"].as_u64() > after["step"].as_u64();
    let last = devnet.wait_for("nodes", |line| further(line) && pids(line).len() == 3);

    let pids = pids(&last);
    assert!(pids.iter().all(|pid| lives(*pid)), "{last}");
    devnet.signal(libc::SIGKILL);
    none_is_left(&pids);
}

#[test]
fn a_devnet_that_is_told_to_stop_saves_and_leaves_no_process() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let scratch = Scratch::new();
        let mut devnet = devnet(&scratch, "--nodes 2");
        let all = |line: &Value| rows(line).len() == 2 && rows(line).iter().all(|row| row["state"] == "runs");
        let pids = pids(&devnet.wait_for("nodes", all));
        devnet.signal(signal);
        assert!(devnet.finish().success());
        assert!(!pids.iter().any(|pid| lives(*pid)), "{pids:?}");
        assert!(devnet.last("stopped").is_some(), "{:?}", devnet.told.last());
        let saved = scratch.run("net/node-1", "status --json");
        assert_eq!(saved.code, Some(0), "{saved:?}");
    }
}

#[test]
fn a_devnet_ends_by_itself_at_the_last_step() {
    let scratch = Scratch::new();
    let mut devnet = devnet(&scratch, "--nodes 2 --steps 30");
    assert!(devnet.finish().success());
    let last = devnet.last("nodes").unwrap();
    assert_eq!(last["step"], 30, "{last}");
    assert!(!pids(last).iter().any(|pid| lives(*pid)), "{last}");
}

#[test]
fn what_cannot_work_is_said_before_anything_starts() {
    let scratch = Scratch::new();
    let config = scratch.deep_config("");
    let devnet = |arguments: &str| scratch.run("net", &format!("devnet --config {config} {arguments}"));
    devnet("--nodes 2 --layers-per-node 2").failed(2, &["room for 4 stages", "the model has 5"]);
    devnet("--throttle 1,0.5").failed(2, &["0.5", "from 1 to 10000"]);
}
