//! Money and agreement, by the program itself: one node finalizes alone.

mod common;

use common::{Running, Scratch};
use serde_json::Value;

const OTHER: &str = "abababababababababababababababababababababababababababababababab";

/// A node whose owner begins with 1000 NEURO.
fn rich(scratch: &Scratch) -> Running {
    let config = scratch.config("[allocations]\nme = \"1000\"\n");
    let mut node = scratch.start("node", &format!("--config {}", config.display()));
    node.wait_for_step(1);
    node
}

fn json(scratch: &Scratch, command: &str) -> Value {
    let finished = scratch.run("node", &format!("{command} --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

#[test]
fn money_is_moved_bonded_and_taken_back_and_all_of_it_is_still_there_after_a_kill() {
    let scratch = Scratch::new();
    let mut node = rich(&scratch);
    let paid = json(&scratch, &format!("wallet transfer {OTHER} 100"));
    assert!(paid["height"].as_u64() >= Some(1), "{paid}");
    json(&scratch, "wallet bond 50.5");
    json(&scratch, "wallet unbond 0.5");
    // 5 % on top of a transfer, and the least fee for each of the others.
    let mine = json(&scratch, "wallet balance");
    let left = 1_000_000_000_000_u64 - 105_000_000_000 - 50_500_000_000 - 2 * 1000;
    assert_eq!(mine["spendable_units"], left);
    assert_eq!((&mine["bond_units"], &mine["unbonding_units"]), (&50_000_000_000_u64.into(), &500_000_000_u64.into()));
    assert_eq!(json(&scratch, &format!("wallet balance {OTHER}"))["spendable_units"], 100_000_000_000_u64);
    let network = json(&scratch, "network");
    assert_eq!(network["minted_units"], 1_000_000_000_000_u64);
    assert_eq!(network["burned_units"], 5_000_002_000_u64);
    assert_eq!(network["validators"].as_array().map(Vec::len), Some(1));
    let history = scratch.run("node", "wallet history").stdout;
    for words in ["paid 100.000000000 NEURO to abababab", "bonded 50.5", "took back 0.5"] {
        assert!(history.contains(words), "{words} is missing in {history}");
    }
    let status = scratch.status("node");
    assert_eq!(status["agreed"]["balance_units"], left);
    assert!(status["agreed"]["height"].as_u64() >= paid["height"].as_u64(), "{status}");

    // What was decided survives a kill, and can be read where no node runs.
    node.signal(libc::SIGKILL);
    node.finish();
    let mine = json(&scratch, "wallet balance");
    assert_eq!(mine["spendable_units"], left);
    assert!(json(&scratch, "network")["height"].as_u64() >= network["height"].as_u64());
    let entries = |words: &str| -> Vec<u64> {
        let lines = scratch.run("node", words).stdout;
        let entry = |line: &str| serde_json::from_str::<Value>(line).unwrap()["height"].as_u64().unwrap();
        lines.lines().map(entry).collect()
    };
    let heights = entries("wallet history --json");
    assert_eq!(heights.len(), 3);
    assert!(heights.is_sorted_by(|newer, older| newer > older), "{heights:?}");
    assert_eq!(entries(&format!("wallet history --json --before {}", heights[0])), heights[1..]);
    scratch.run("node", "wallet bond 1").failed(1, &["no node runs", "neuroshard run"]);
}

#[test]
fn a_wish_that_cannot_be_met_says_why() {
    let scratch = Scratch::new();
    let node = rich(&scratch);
    scratch
        .run("node", &format!("wallet transfer {OTHER} 1000"))
        .failed(1, &["1050.000000000 NEURO", "1000.000000000"]);
    scratch.run("node", "wallet unbond 1").failed(1, &["bonded"]);
    scratch.run("node", "wallet bond 0").failed(1, &["the amount is 0"]);
    scratch.run("node", "wallet transfer me 1").failed(2, &["is not an account", "64 hexadecimal digits"]);
    scratch.run("node", &format!("wallet transfer {OTHER} 1,5")).failed(2, &["is not an amount"]);
    drop(node);
    let config = scratch.path("config.toml");
    std::fs::write(&config, "[allocations]\nnobody = \"1\"\n").unwrap();
    scratch.run("new", &format!("--config {}", config.display())).failed(2, &["[allocations]", "is not an account"]);
}
