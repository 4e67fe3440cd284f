//! Who trains what, and why not: asked of real nodes, one alone and two that need each other.

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, Scratch};
use serde_json::Value;

/// So little that no node has room for the whole model of four layers.
const TIGHT: &str = "--threads 1 --memory 1MiB --listen 127.0.0.1:0";

fn json(scratch: &Scratch, name: &str, command: &str) -> Value {
    let finished = scratch.run(name, &format!("{command} --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

fn name_of(scratch: &Scratch, name: &str) -> String {
    json(scratch, name, "keys show")["node"].as_str().unwrap().to_owned()
}

/// What a node says of another one, or of itself: the finding of a kind.
fn finding(scratch: &Scratch, asked: &str, of: &str, what: &str) -> Option<Value> {
    let why = json(scratch, asked, &format!("network why {}", &of[..8]));
    assert_eq!(why["node"], of, "{why}");
    why["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == what).cloned()
}

/// The registered nodes, once the first of them has said what it can.
fn described(scratch: &Scratch, asked: &str) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let nodes = json(scratch, asked, "network nodes");
        if nodes["nodes"][0]["held"].is_string() {
            return nodes;
        }
        assert!(Instant::now() < end, "it says nothing: {nodes}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_alone_tells_what_it_holds_and_why_it_trains_with_nobody() {
    let scratch = Scratch::new();
    let config = scratch.deep_config("");
    let mut node = scratch.start("a", &format!("run --config {config} --threads 1"));
    node.wait_for_step(1);
    let own = name_of(&scratch, "a");
    assert_eq!(json(&scratch, "a", "network quorums"), serde_json::json!([]));
    let nodes = described(&scratch, "a");
    assert_eq!((&nodes["total"], &nodes["nodes"][0]["node"]), (&1.into(), &own.clone().into()), "{nodes}");
    assert_eq!((&nodes["nodes"][0]["standing"], &nodes["nodes"][0]["held"]), (&"good".into(), &"0..5".into()));
    let layers = json(&scratch, "a", "network layers");
    let layers = layers.as_array().unwrap();
    assert_eq!(layers.len(), 5);
    let nobody_else = |layer: &Value| layer["holders"] == serde_json::json!([own]) && layer["holders_total"] == 1;
    assert!(layers.iter().all(|layer| nobody_else(layer) && layer["runs"] == serde_json::json!([])), "{layers:#?}");

    let mode = finding(&scratch, "a", &own, "mode").unwrap();
    assert!(mode["why"].as_str().unwrap().contains("the only node of its network"), "{mode}");
    assert!(finding(&scratch, "a", &own, "nobody").is_some() && finding(&scratch, "a", &own, "member").is_none());
    let stranger = "ab".repeat(32);
    let why = json(&scratch, "a", &format!("network why {stranger}"));
    assert_eq!((&why["trains"], &why["findings"][0]["what"]), (&false.into(), &"unregistered".into()), "{why}");

    let words = scratch.run("a", &format!("network why {}", &own[..6])).stdout;
    assert!(words.contains("the one that answers") && words.contains("what to do"), "{words}");
    assert!(scratch.run("a", "network quorums").stdout.contains("no quorum trains"));
    scratch.run("a", "network why abcdabcdabcd").failed(1, &["begins with these digits", "network nodes"]);
    scratch.run("a", "network why abc").failed(2, &["is not a node", "network nodes"]);
    node.signal(libc::SIGINT);
    assert!(node.finish().success());
    for command in ["quorums", "nodes", "layers", "why abcd"] {
        scratch.run("a", &format!("network {command}")).failed(1, &["no node runs", "neuroshard run"]);
    }
}

#[test]
fn two_nodes_with_room_for_a_part_train_together_and_say_who_runs_what() {
    let scratch = Scratch::new();
    let config = scratch.deep_config("");
    let mut first = scratch.start("a", &format!("run --config {config} {TIGHT}"));
    first.wait_for("listening", |_| true);
    described(&scratch, "a");
    let (a, invite) = (name_of(&scratch, "a"), json(&scratch, "a", "invite"));
    let gap = finding(&scratch, "a", &a, "gap").unwrap();
    assert!(gap["why"].as_str().unwrap().contains("no node has room for stage"), "{gap}");
    let mut second = scratch.start("b", &format!("join {} {TIGHT}", invite["invite"].as_str().unwrap()));
    second.wait_for("connected", |_| true);
    let b = name_of(&scratch, "b");
    assert!(finding(&scratch, "b", &b, "unregistered").is_some_and(|finding| finding["do"].is_string()));

    let joined = |node: &mut Running| node.wait_for("quorum_joined", |_| true);
    let (one, two) = (joined(&mut first), joined(&mut second));
    assert_eq!(one["quorum"], two["quorum"]);
    first.wait_for_step(3);
    for asked in ["a", "b"] {
        let quorums = json(&scratch, asked, "network quorums");
        let members = quorums[0]["members"].as_array().unwrap();
        assert_eq!((&quorums[0]["quorum"], members.len()), (&one["quorum"], 2), "{quorums}");
        for (name, joined) in [(&a, &one), (&b, &two)] {
            let member = members.iter().find(|member| member["node"] == **name).unwrap();
            assert_eq!(member["stages"], joined["stages"], "{quorums}");
            let member = finding(&scratch, asked, name, "member").unwrap();
            assert!(member["why"].as_str().unwrap().contains(joined["stages"].as_str().unwrap()), "{member}");
        }
        let layers = json(&scratch, asked, "network layers");
        let runs = |layer: &Value| layer["runs"].as_array().is_some_and(|runs| runs.len() == 1);
        assert!(layers.as_array().unwrap().iter().all(runs), "{layers}");
        let nodes = json(&scratch, asked, "network nodes");
        let taken = |node: &Value| node["quorum"] == one["quorum"];
        assert!(nodes["nodes"].as_array().unwrap().iter().all(taken), "{nodes}");
    }
    let words = scratch.run("b", "network quorums").stdout;
    assert!(words.contains("2 members") && words.contains("may be renewed in"), "{words}");
    let words = scratch.run("b", "network nodes").stdout;
    assert!(words.contains(&a[..16]) && words.contains("in quorum"), "{words}");
}

#[test]
fn a_member_that_is_taken_away_hands_over_and_comes_back() {
    let scratch = Scratch::new();
    let config = scratch.deep_config("");
    let mut first = scratch.start("a", &format!("run --config {config} {TIGHT}"));
    first.wait_for("listening", |_| true);
    described(&scratch, "a");
    let invite = json(&scratch, "a", "invite");
    let mut second = scratch.start("b", &format!("join {} {TIGHT}", invite["invite"].as_str().unwrap()));
    for node in [&mut first, &mut second] {
        node.wait_for("quorum_joined", |line| line["members"] == 2);
        node.wait_for("quorum", |_| true);
    }
    // Killed before it has handed over, it has not left, and whoever asked is told so.
    let asked = scratch.command("b", "leave").stderr(Stdio::piped()).spawn().unwrap();
    second.wait_for("leaving", |_| true);
    second.signal(libc::SIGKILL);
    let told = asked.wait_with_output().unwrap();
    let words = String::from_utf8(told.stderr).unwrap();
    assert!(told.status.code() == Some(1) && words.contains("before it had handed over"), "{words}");
    assert!(!second.finish().success());
    let mut second = scratch.start("b", &format!("run {TIGHT}"));
    second.wait_for("quorum", |_| true);

    let left = json(&scratch, "b", "leave");
    assert_eq!(left["left"], true, "{left}");
    assert!(second.wait_for("leaving", |_| true)["quorum"].is_string(), "it had something to hand over");
    second.wait_for("quorum_left", |_| true);
    assert!(second.finish().success());
    first.wait_for("quorum_left", |_| true);
    scratch.run("b", "leave").failed(1, &["no node runs", "neuroshard run"]);
    // Neither has room for the whole model, so nothing happens before it is back; then nothing that was done is done again.
    let mut second = scratch.start("b", &format!("run {TIGHT}"));
    let began = second.wait_for("quorum", |_| true);
    assert!(began["step"].as_u64().unwrap() > 0 && began["step"] == left["saved"], "{began} and {left}");
    let step = began["step"].as_u64().unwrap();
    second.wait_for_step(step + 3);
}
