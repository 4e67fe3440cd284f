//! Bad days of quorums: members are killed, stopped, starved and lied to at the worst of moments, and the model is the same.

mod common;
#[path = "common/hostile.rs"]
mod hostile;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::crew::{Crew, KEEPER};
use common::proxy::Wires;
use common::{Dice, FULL, PATIENCE, Scratch, limit_file_size, resident_kib};
use hostile::Attack;
use neuroshard_proto::{Hash, NetworkId, QuorumId};

/// Rounds that are enough to see each role killed.
const SHORT: u64 = 3;

/// How often members are killed: `NEUROSHARD_ROUNDS`, each role once if it is not set.
fn rounds() -> u64 {
    std::env::var("NEUROSHARD_ROUNDS").map_or(SHORT, |rounds| rounds.parse().expect("NEUROSHARD_ROUNDS is a number"))
}

/// What draws the moments: `NEUROSHARD_SEED`, or the time.
fn dice() -> Dice {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    Dice::new(std::env::var("NEUROSHARD_SEED").map_or(now | 1, |seed| seed.parse().expect("a number but 0")))
}

#[test]
fn any_member_may_be_killed_at_any_moment_and_the_bits_are_the_same() {
    let mut crew = Crew::gather(&["a", "b", "c"]);
    let mut dice = dice();
    let (mut reached, mut known, rounds) = (0, 0, rounds());
    for round in 0..rounds {
        let members = crew.until_quorum(KEEPER, 3);
        crew.until_beyond(&members, reached + dice.below(40));
        // A campaign has the time for states that all posted, which is a minute's work.
        if rounds > SHORT && dice.below(4) == 0 {
            known = crew.until("a newer anchor", |crew| Some(crew.anchor(KEEPER)).filter(|anchor| *anchor > known));
        }
        std::thread::sleep(Duration::from_micros(dice.below(300_000)));
        // The first rounds take each role once: initiator, processor, finisher.
        let role = if round < SHORT { round } else { dice.below(3) };
        let killed = members[role as usize];
        let anchor = crew.anchor(KEEPER);
        crew.kill(killed);
        reached = crew.reached();
        println!(
            "round {round}: {killed}, member {role} of {members:?}, is killed at {reached}, the anchor is {anchor}"
        );
        crew.again(killed);
        let from = crew.until(&format!("round {round}: {killed} is back"), |crew| {
            crew.last(killed, "quorum").map(|line| line["step"].as_u64().unwrap())
        });
        println!("round {round}: all go on from {from}");
        assert!(from >= anchor, "round {round}: they go on from {from}, and had all of {anchor}");
    }
    let limit = crew.reached().max(reached) + 50;
    crew.finish_at(limit);
    crew.compare_with_solo(limit);
}

#[test]
fn a_member_that_sleeps_is_replaced_and_comes_back_as_one_of_them() {
    let mut crew = Crew::gather(&["a", "b", "c"]);
    let members = crew.until_quorum(KEEPER, 3);
    crew.add_spare("d");
    crew.until_beyond(&members, 10);
    let sleeper = members[dice().below(3) as usize];
    println!("{sleeper} of {members:?} sleeps");
    crew.node(sleeper).signal(libc::SIGSTOP);
    let slept = Instant::now();
    let reached = crew.reached();
    let without = crew.until_replaced(sleeper);
    crew.until_beyond(&without, reached);
    std::thread::sleep(Duration::from_secs(30).saturating_sub(slept.elapsed()));
    crew.node(sleeper).signal(libc::SIGCONT);
    let reached = crew.reached();
    crew.until_in_step(sleeper);
    let members = crew.members(KEEPER);
    crew.until_beyond(&members, reached);
    let limit = crew.reached() + 50;
    crew.finish_at(limit);
    crew.compare_with_solo(limit);
}

/// With `NEUROSHARD_WIRES=bad` nodes join over bad wires too, which takes minutes.
#[test]
fn a_quorum_over_bad_wires_forms_trains_and_outlives_a_partition() {
    let wires = Wires::new(dice());
    if std::env::var("NEUROSHARD_WIRES").is_ok_and(|wires| wires == "bad") {
        wires.spoil();
    }
    let mut crew = Crew::gather_over(Some(&wires), &["a", "b", "c"]);
    wires.spoil();
    let members = crew.until_quorum(KEEPER, 3);
    crew.until_beyond(&members, 8);
    only_by_doors(&crew, &members);

    wires.set_dark(true);
    std::thread::sleep(Duration::from_secs(20));
    let reached = crew.reached();
    wires.set_dark(false);
    let members = crew.until_quorum(KEEPER, 3);
    crew.until_beyond(&members, reached);
    crew.until_agreed();
    only_by_doors(&crew, &members);
    let (cuts, stalls) = wires.harm();
    println!("step {reached} before the partition, {} after it; {cuts} cuts, {stalls} stalls", crew.reached());
    assert!(stalls > 0, "the wires were too good");
    // Who has come to its last step leaves, and says nothing again to those who missed its last word.
    wires.mend();
    let limit = crew.reached() + 5;
    crew.finish_at(limit);
    crew.compare_with_solo(limit);
}

/// Demands that nodes dial each other by the doors of the wires alone, and that nobody took another for hostile.
fn only_by_doors(crew: &Crew, names: &[&str]) {
    for name in names {
        let net = &crew.scratch.status(name)["net"];
        for peer in net["peers"].as_array().unwrap().iter().filter(|peer| peer["inbound"] == false) {
            let address = peer["address"].as_str().unwrap();
            let by_door = |door: &u16| address.contains(&format!("/tcp/{door}"));
            assert!(crew.doors.values().any(by_door), "{name} dialled {address}");
        }
        assert_eq!(net["cut_off"], serde_json::json!({}), "{name}: {net}");
    }
}

#[test]
fn hostile_peers_are_cut_off_with_a_reason_and_the_quorum_trains_on() {
    let mut crew = Crew::gather(&["a", "b", "c"]);
    let members = crew.until_quorum(KEEPER, 3);
    crew.until_beyond(&members, 5);
    let status = crew.scratch.status(KEEPER);
    let network = NetworkId(Hash::from_hex(status["network"].as_str().unwrap()).unwrap());
    let quorum = crew.json(KEEPER, "network quorums")[0]["quorum"].as_str().unwrap().to_owned();
    let quorum = QuorumId(Hash::from_hex(&quorum).unwrap());
    let victim = members[1];
    let (process, port) = (crew.node(victim).id(), crew.port(victim));
    let before = resident_kib(process);
    for attack in Attack::ALL {
        let reached = crew.reached();
        let attacker = attack.run(network, quorum, port);
        if let Some(reason) = attack.reason() {
            let why = crew.until(&format!("{victim} cuts off {attacker} for {attack:?}"), |crew| {
                let cut_off = |line: &&serde_json::Value| line["event"] == "cut_off" && line["node"] == attacker;
                crew.told(victim).iter().find(cut_off).map(|line| line["why"].as_str().unwrap().to_owned())
            });
            assert!(why.contains(reason), "{attack:?}: {why}");
        }
        crew.until_beyond(&members, reached);
    }
    let grown = resident_kib(process).saturating_sub(before);
    println!("{victim} takes {grown} KiB more than the {before} KiB before");
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert_eq!(crew.members(KEEPER), members, "the same members train");
    let cut_off = crew.scratch.status(victim)["net"]["cut_off"].clone();
    assert_eq!(cut_off, serde_json::json!({ "borrowed": 1, "flood": 2, "oversized": 1, "rejected": 2 }));
}

#[test]
fn a_member_whose_disk_is_full_says_so_and_is_replaced() {
    let mut crew = Crew::gather(&["a", "b", "c"]);
    let members = crew.until_quorum(KEEPER, 3);
    crew.add_spare("d");
    crew.until_beyond(&members, 10);
    let full = members[dice().below(3) as usize];
    println!("the disk of {full}, one of {members:?}, is full");
    limit_file_size(crew.node(full).id() as i32, FULL);
    let words = crew.until(&format!("{full} says that its disk is full"), |crew| {
        let line = crew.last(full, "store_full").or(crew.last(full, "fault"));
        line.map(ToString::to_string)
    });
    assert!(words.contains("is full") || words.contains("no room"), "{words}");
    let reached = crew.reached();
    let without = crew.until_replaced(full);
    crew.until_beyond(&without, reached);
}

/// Files under a directory, at any depth: each with its number on the disk and when it was written.
fn files(root: &Path) -> Vec<(PathBuf, (u64, SystemTime))> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        // What is written under another name first may be gone in the next moment.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(known) if known.is_dir() => folders.push(entry.path()),
                Ok(known) => files.push((entry.path(), (known.ino(), known.modified().unwrap()))),
                Err(_) => {}
            }
        }
    }
    files
}

#[test]
fn a_newcomer_that_is_killed_while_it_fetches_weights_goes_on_where_it_was() {
    let scratch = Scratch::new();
    // Weights and moments are files of several megabytes each.
    let model = "[model]\nlayers = 4\nhidden = 512\nheads = 8\nkv-heads = 4\nffn = 1024\ncontext = 32\n\
                 [training]\nbatch = 1\nsequence = 8\n";
    std::fs::write(scratch.path("config.toml"), model).unwrap();
    let done = |name: &str, command: &str| {
        let finished = scratch.run(name, command);
        assert_eq!(finished.code, Some(0), "{command}: {finished:#?}");
        finished
    };
    done("origin", "run --config config.toml --steps 2");
    done("origin", "export model");
    done("founder", "import model --data synthetic");
    let mut founder = scratch.start("founder", "run --mode idle --memory 1000 --listen 127.0.0.1:0");
    let door = founder.wait_for("listening", |_| true)["address"].as_str().unwrap().to_owned();

    let join = format!("join {door} --threads 1");
    let (blobs, mut dice, mut kept) = (scratch.path("newcomer").join("blobs"), dice(), BTreeMap::new());
    for round in 0..3 {
        let mut newcomer = scratch.start("newcomer", &join);
        let end = Instant::now() + PATIENCE;
        // One blob comes after the other: all but the one that came last are in the index.
        while files(&blobs).len() < kept.len() + 2 {
            assert!(Instant::now() < end, "round {round}: nothing comes after {} files", kept.len());
            assert!(newcomer.ended().is_none(), "round {round}: {:?}", newcomer.told);
        }
        let mut here = files(&blobs);
        std::thread::sleep(Duration::from_micros(dice.below(20_000)));
        newcomer.signal(libc::SIGKILL);
        newcomer.finish();
        println!("round {round}: killed with {} files, joined: {}", here.len(), newcomer.last("joined").is_some());
        here.sort_by_key(|(_, (_, changed))| *changed);
        here.pop();
        for (path, made) in &kept {
            assert_eq!(
                here.iter().find(|(same, _)| same == path).map(|(_, made)| made),
                Some(made),
                "it was fetched again"
            );
        }
        kept = here.into_iter().collect();
    }
    let mut newcomer = scratch.start("newcomer", &join);
    newcomer.wait_for("joined", |_| true);
    newcomer.wait_for("connected", |_| true);
    newcomer.signal(libc::SIGINT);
    assert!(newcomer.finish().success());
    let all: BTreeMap<_, _> = files(&blobs).into_iter().collect();
    assert!(kept.iter().all(|(path, made)| all.get(path) == Some(made)), "what was fetched is kept: {kept:?}, {all:?}");
    done("newcomer", "export again");
    let read = |model: &str| std::fs::read(scratch.path(model).join("model.safetensors")).unwrap();
    assert!(read("model") == read("again"), "the weights are those that the network began with");
}
