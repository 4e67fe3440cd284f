//! Several processes, one model: members of a plan, or nodes that found each other, train it together over loopback, and end
//! with the bits that one node alone makes, whatever happens to one of them.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;

use common::{Running, Scratch};
use neuroshard_host::home::Visit;
use neuroshard_proto::{LayerBlobs, Step};
use serde_json::Value;

/// The stages of a model of four layers, by member.
const HALVES: [(&str, &str); 2] = [("a", "0..3"), ("b", "3..5")];
const THIRDS: [(&str, &str); 3] = [("a", "0..1"), ("b", "1..4"), ("c", "4..5")];

/// Room for four of the five stages.
const NARROW: &str = "--memory 1000000";

/// Members of a quorum. The first one founds the network.
struct Quorum {
    scratch: Scratch,
    members: Vec<(&'static str, Running)>,
    /// Where each listens, in every one of its lives.
    ports: BTreeMap<&'static str, u16>,
    limit: u64,
}

impl Quorum {
    /// Starts all members; each trains up to a step.
    fn start(stages: &[(&'static str, &str)], snapshot_steps: u64, limit: u64) -> Self {
        let scratch = Scratch::new();
        let config = scratch.deep_config("");
        write_plan(&scratch, stages, snapshot_steps);
        // The system's choice, made once.
        let free = |_| TcpListener::bind("127.0.0.1:0").unwrap();
        let free: Vec<TcpListener> = stages.iter().map(free).collect();
        let ports = stages.iter().zip(&free).map(|((name, _), free)| (*name, free.local_addr().unwrap().port()));
        let ports = ports.collect();
        drop(free);
        let mut quorum = Self { scratch, members: Vec::new(), ports, limit };
        let [(founder, _), others @ ..] = stages else { panic!("a plan has members") };
        quorum.begin(founder, &format!("run --config {config} --seed s --plan plan.toml --record {founder}.trace"));
        quorum.member(founder).wait_for("listening", |_| true);
        let invite = json(&quorum.scratch, founder, "invite")["invite"].as_str().unwrap().to_owned();
        for (name, _) in others {
            quorum.begin(name, &format!("join {invite} --plan plan.toml --record {name}.trace"));
        }
        quorum
    }

    /// Starts nodes without a plan, none of which has room for the whole model.
    fn meet(names: [&'static str; 2], limit: u64) -> Self {
        let scratch = Scratch::new();
        let config = scratch.deep_config("");
        let free = names.map(|name| (name, TcpListener::bind("127.0.0.1:0").unwrap()));
        let ports = free.iter().map(|(name, free)| (*name, free.local_addr().unwrap().port())).collect();
        drop(free);
        let mut quorum = Self { scratch, members: Vec::new(), ports, limit };
        let [founder, other] = names;
        quorum.begin(founder, &format!("run --config {config} --seed s {NARROW}"));
        quorum.member(founder).wait_for("listening", |_| true);
        let invite = json(&quorum.scratch, founder, "invite")["invite"].as_str().unwrap().to_owned();
        quorum.begin(other, &format!("join {invite} {NARROW}"));
        quorum
    }

    fn begin(&mut self, name: &'static str, command: &str) {
        let flags = format!("{command} --threads 1 --listen 127.0.0.1:{} --steps {}", self.ports[name], self.limit);
        let node = self.scratch.start(name, &flags);
        self.members.retain(|(other, _)| *other != name);
        self.members.push((name, node));
    }

    fn member(&mut self, name: &str) -> &mut Running {
        &mut self.members.iter_mut().find(|(other, _)| *other == name).unwrap().1
    }

    fn kill(&mut self, name: &str) {
        self.member(name).signal(libc::SIGKILL);
        self.member(name).finish();
    }

    /// Waits until all have come to the limit.
    fn finish(&mut self) {
        for (name, node) in &mut self.members {
            let ended = node.finish();
            let last = &node.told[node.told.len().saturating_sub(4)..];
            assert!(ended.success(), "{name}: {last:#?}");
        }
    }

    /// Demands that the members have together what one node alone makes of the same seed and text.
    fn compare_with_solo(&self) {
        let flags = format!("--config {} --seed s --threads 1 --steps {}", self.scratch.deep_config(""), self.limit);
        let solo = self.scratch.run("solo", &flags);
        assert_eq!(solo.code, Some(0), "{solo:#?}");
        let mut parts: Vec<_> = self.members.iter().map(|(name, _)| saved(&self.scratch, name, self.limit)).collect();
        parts.sort_by_key(|(first, _)| *first);
        let together: Vec<LayerBlobs> = parts.into_iter().flat_map(|(_, layers)| layers).collect();
        assert_eq!(together, saved(&self.scratch, "solo", self.limit).1);
    }
}

fn json(scratch: &Scratch, name: &str, command: &str) -> Value {
    let finished = scratch.run(name, &format!("{command} --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

/// What a node is called.
fn node(scratch: &Scratch, name: &str) -> String {
    json(scratch, name, "keys show")["node"].as_str().unwrap().to_owned()
}

fn write_plan(scratch: &Scratch, stages: &[(&str, &str)], snapshot_steps: u64) {
    let mut plan = format!("snapshot-steps = {snapshot_steps}\n");
    for (name, stages) in stages {
        write!(plan, "[[member]]\nnode = \"{}\"\nstages = \"{stages}\"\n", node(scratch, name)).unwrap();
    }
    std::fs::write(scratch.path("plan.toml"), plan).unwrap();
}

/// The stages that a node saved at a step: the first of them, and names of all weights and moments, by content.
fn saved(scratch: &Scratch, name: &str, step: u64) -> (u32, Vec<LayerBlobs>) {
    let visit = Visit::open(&scratch.path(name)).unwrap();
    let newest = visit.core.saved_states().last().unwrap();
    assert_eq!(newest.snapshot.step, Step(step), "{name}");
    (newest.range.start, newest.snapshot.layers.to_vec())
}

#[test]
fn two_nodes_with_two_stages_make_what_one_makes_alone() {
    let mut quorum = Quorum::start(&HALVES, 20, 60);
    quorum.member("b").wait_for_step(10);
    let status = json(&quorum.scratch, "b", "status");
    assert_eq!(status["mode"], "pipeline", "{status}");
    assert_eq!(status["quorum"]["stages"], "3..5", "{status}");
    quorum.finish();
    quorum.compare_with_solo();
    for (name, node) in &mut quorum.members {
        assert!(node.last("fault").is_none() && node.last("rejected").is_none(), "{name}: {:#?}", node.told);
    }
    // The plan is part of what a trace begins with.
    for name in ["a", "b"] {
        let replayed = json(&quorum.scratch, name, &format!("replay {name}.trace"));
        assert_eq!(replayed["equal"], true, "{replayed}");
    }
    // Who has a part of the model says so, instead of making something up from it.
    quorum.scratch.run("a", "generate --prompt x").failed(1, &["trains the stages 0..3 of 0..5", "other members"]);
    // The plan is remembered, and no other stages are taken for these.
    write_plan(&quorum.scratch, &[("b", "0..3"), ("a", "3..5")], 20);
    quorum.scratch.run("a", "run --plan plan.toml").failed(1, &["the stages 3..5", "of the stages 0..3", "--data-dir"]);
}

#[test]
fn three_nodes_find_each_other_through_the_first_and_pass_everything_along() {
    let mut quorum = Quorum::start(&THIRDS, 15, 40);
    quorum.finish();
    quorum.compare_with_solo();
}

#[test]
fn a_member_that_is_killed_is_waited_for_and_the_bits_are_the_same() {
    let mut quorum = Quorum::start(&HALVES, 20, 400);
    for (name, at) in [("b", 50), ("a", 150)] {
        quorum.member(name).wait_for_step(at);
        quorum.kill(name);
        quorum.begin(name, "run");
        let began = quorum.member(name).wait_for("quorum", |_| true);
        let from = began["step"].as_u64().unwrap();
        assert!(from >= at - 20 && from.is_multiple_of(20), "{name}: {began}");
        let other = if name == "a" { "b" } else { "a" };
        quorum.member(other).wait_for("quorum", |line| line["step"] == from);
    }
    quorum.finish();
    quorum.compare_with_solo();
}

#[test]
fn nodes_without_room_for_the_model_find_each_other_and_make_what_one_makes_alone() {
    let mut quorum = Quorum::meet(["a", "b"], 400);
    let idle = quorum.member("a").wait_for("mode", |_| true);
    assert_eq!(idle["mode"], "idle", "{idle}");
    let joined = quorum.member("b").wait_for("quorum_joined", |_| true);
    assert_eq!(joined["members"], 2, "{joined}");
    quorum.member("a").wait_for_step(30);
    let status = json(&quorum.scratch, "b", "status");
    assert_eq!(status["mode"], "pipeline", "{status}");
    // Its place in the quorum is agreed: who comes back takes it again.
    quorum.kill("b");
    quorum.begin("b", &format!("run {NARROW}"));
    quorum.member("b").wait_for("quorum", |_| true);
    quorum.finish();
    quorum.compare_with_solo();
}

#[test]
fn plans_that_differ_and_nodes_without_a_part_are_told_what_is_wrong() {
    let scratch = Scratch::new();
    let config = scratch.deep_config("");
    write_plan(&scratch, &[("a", "0..3"), ("b", "3..5")], 20);
    let run = |name: &str| scratch.run(name, &format!("run --config {config} --seed s --plan plan.toml"));
    run("stranger").failed(2, &["plan.toml", "has no stages in it", "keys show"]);
    write_plan(&scratch, &[("a", "0..3"), ("b", "3..4")], 20);
    run("a").failed(2, &["ends before stage 4, the model before 5", "stage 4 is the head"]);

    write_plan(&scratch, &[("a", "0..3"), ("b", "3..5")], 20);
    let mut first =
        scratch.start("a", &format!("run --config {config} --seed s --plan plan.toml --listen 127.0.0.1:0"));
    let address = first.wait_for("listening", |_| true)["address"].as_str().unwrap().to_owned();
    write_plan(&scratch, &[("a", "0..3"), ("b", "3..5")], 30);
    let mut second = scratch.start("b", &format!("join {address} --plan plan.toml"));
    let rejected = first.wait_for("rejected", |_| true);
    assert!(rejected["why"].as_str().unwrap().contains("the same plan file"), "{rejected}");
    second.signal(libc::SIGINT);
    assert!(second.finish().success());
}
