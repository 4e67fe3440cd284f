//! Several processes, one network: real nodes that find each other over loopback and agree, whatever happens to one of them.

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{PATIENCE, Running, Scratch, resident_kib};
use serde_json::Value;

const OTHER: &str = "abababababababababababababababababababababababababababababababab";

/// Nodes of one network.
struct Swarm {
    scratch: Scratch,
    nodes: BTreeMap<&'static str, Running>,
    invite: String,
    transfers: u64,
}

impl Swarm {
    /// A network that these nodes found together; the first owns all the money.
    fn found(names: &[&'static str]) -> Self {
        let scratch = Scratch::new();
        let [first, others @ ..] = names else { panic!("a network has a founder") };
        let config = scratch.config("[allocations]\nme = \"1000\"\n");
        let mut flags = format!("run --threads 1 --listen 127.0.0.1:0 --config {}", config.display());
        for name in others {
            let code = scratch.run(name, "keys founder").stdout;
            flags.push_str(&format!(" --founder {}", code.trim()));
        }
        let mut founder = scratch.start(first, &flags);
        founder.wait_for("listening", |_| true);
        let invite = invite(&scratch, first);
        let mut swarm = Self { scratch, nodes: [(*first, founder)].into(), invite, transfers: 0 };
        others.iter().for_each(|name| swarm.join(name));
        for name in others {
            swarm.node(name).wait_for("connected", |_| true);
        }
        swarm
    }

    /// Starts a node that joins by invite.
    fn join(&mut self, name: &'static str) {
        let flags = format!("join {} --threads 1 --listen 127.0.0.1:0", self.invite);
        let node = self.scratch.start(name, &flags);
        self.nodes.insert(name, node);
    }

    fn node(&mut self, name: &str) -> &mut Running {
        self.nodes.get_mut(name).unwrap()
    }

    /// Has one node pay; returns the height at which it was decided.
    fn transfer(&mut self, name: &str) -> u64 {
        let paid = json(&self.scratch, name, &format!("wallet transfer {OTHER} 1"));
        self.transfers += 1;
        paid["height"].as_u64().unwrap()
    }

    /// The state's root that a node had at a height, once it is there.
    fn root_at(&mut self, name: &str, height: u64) -> String {
        let node = self.node(name);
        let decided = |line: &Value| line["event"] == "decided" && line["height"] == height;
        let told = node.told.iter().find(|line| decided(line)).cloned();
        let line = told.unwrap_or_else(|| node.wait_until(decided));
        line["root"].as_str().unwrap().to_owned()
    }

    /// Demands that these nodes come to a height, and to one state there.
    fn agree(&mut self, names: &[&str], height: u64) {
        let roots: Vec<_> = names.iter().map(|name| self.root_at(name, height)).collect();
        assert!(roots.windows(2).all(|pair| pair[0] == pair[1]), "{names:?} at {height}: {roots:?}");
        for name in names {
            let account = json(&self.scratch, name, &format!("wallet balance {OTHER}"));
            // Each transfer so far is there, unless a later block has come meanwhile; none comes without a transfer.
            assert_eq!(account["spendable_units"], self.transfers * 1_000_000_000, "{name}: {account}");
        }
    }
}

fn json(scratch: &Scratch, name: &str, command: &str) -> Value {
    let finished = scratch.run(name, &format!("{command} --json"));
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    serde_json::from_str(&finished.stdout).unwrap()
}

fn invite(scratch: &Scratch, name: &str) -> String {
    json(scratch, name, "invite")["invite"].as_str().unwrap().to_owned()
}

#[test]
fn the_doctor_says_who_answers_and_why_others_do_not() {
    let scratch = Scratch::new();
    let config = scratch.config("").display().to_string();
    let start = |name: &str| {
        let mut node = scratch.start(name, &format!("run --config {config} --threads 1 --listen 127.0.0.1:0"));
        let address = node.wait_for("listening", |_| true)["address"].as_str().unwrap().to_owned();
        (node, address)
    };
    let ((_own, own), (_other, other)) = (start("own"), start("other"));
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = stranger.local_addr().unwrap();
    std::thread::spawn(move || {
        for visitor in stranger.incoming() {
            let _ = visitor.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let someone = "12D3KooWEGuKT5LDzRD2sKQDMdFES3bhkBKzZuuqD3dSdk2LZaiY";
    let cases = [
        (own.clone(), "ok", "answers at"),
        (other, "odd", "the node there is of network"),
        (silent.to_string(), "odd", "does not speak as a node does"),
        ("name.invalid:4700".into(), "odd", "the name is unknown"),
        (format!("{own}/p2p/{someone}"), "odd", "another node answers there"),
    ];
    let connect: String = cases.iter().map(|(address, ..)| format!(" --connect {address}")).collect();
    let finished = scratch.run("own", &format!("doctor --network --json{connect}"));
    assert_eq!(finished.code, Some(0), "one of them answers: {finished:#?}");
    let lines = finished.lines();
    let of = |check: &str| lines.iter().filter(|line| line["check"] == check).collect::<Vec<_>>();
    for ((address, result, words), line) in cases.iter().zip(of("peer")) {
        let text = line["text"].as_str().unwrap();
        assert!(line["result"] == *result && text.contains(words), "{address}: {line}");
    }
    assert_eq!(of("peer").len(), cases.len(), "{lines:#?}");
    assert!(of("reachable")[0]["text"].as_str().unwrap().contains("--listen 0.0.0.0:4700"), "{lines:#?}");
    assert!(of("peers")[0]["text"].as_str().unwrap().contains("has none"), "{lines:#?}");
    scratch.run("own", "doctor --network --connect 127.0.0.1:1").failed(1, &["must be mended"]);
}

#[test]
fn four_founders_agree_while_one_is_killed_another_sleeps_and_a_fifth_node_joins() {
    let mut swarm = Swarm::found(&["a", "b", "c", "d"]);
    let height = swarm.transfer("a");
    swarm.agree(&["a", "b", "c", "d"], height);

    // Three of four decide without the fourth, which comes back without being told where the others are.
    swarm.node("d").signal(libc::SIGKILL);
    swarm.node("d").finish();
    let height = swarm.transfer("a");
    swarm.agree(&["a", "b", "c"], height);
    let again = swarm.scratch.start("d", "run --threads 1 --listen 127.0.0.1:0");
    swarm.nodes.insert("d", again);
    swarm.node("d").wait_for("connected", |_| true);
    swarm.agree(&["d"], height);

    // A node that is no founder follows from the first block on.
    swarm.join("e");
    swarm.node("e").wait_for("joined", |line| line["trusted"] == false);
    swarm.agree(&["e"], height);
    let height = swarm.transfer("a");
    swarm.agree(&["a", "b", "c", "d", "e"], height);
    let network = |swarm: &Swarm, name: &str| json(&swarm.scratch, name, "network")["validators"].clone();
    assert_eq!(network(&swarm, "a"), network(&swarm, "e"));

    // One that stands still for a while misses blocks and gets them.
    swarm.node("c").signal(libc::SIGSTOP);
    let slept = Instant::now();
    let height = swarm.transfer("a");
    swarm.agree(&["a", "b", "d", "e"], height);
    std::thread::sleep(Duration::from_secs(10).saturating_sub(slept.elapsed()));
    swarm.node("c").signal(libc::SIGCONT);
    let height = swarm.transfer("a");
    swarm.agree(&["a", "b", "c", "d", "e"], height);

    // Whoever asks is told who the neighbours are, and a stop is as polite as ever.
    let status = swarm.scratch.status("a");
    assert_eq!(status["net"]["peers"].as_array().map(Vec::len), Some(4), "{status}");
    assert_eq!(status["net"]["cut_off"], serde_json::json!({}), "{status}");
    swarm.node("b").signal(libc::SIGINT);
    assert!(swarm.node("b").finish().success());
    let left = swarm.node("a").wait_for("left", |_| true);
    assert_eq!(left["peers"], 3);
}

#[test]
fn bytes_that_are_no_handshake_and_connections_that_say_nothing_do_no_harm() {
    let mut swarm = Swarm::found(&["a"]);
    let listening = swarm.node("a").last("listening").unwrap()["address"].as_str().unwrap().to_owned();
    let port: u16 = listening.rsplit('/').next().unwrap().parse().unwrap();
    let process = swarm.node("a").id();
    swarm.transfer("a");
    let before = resident_kib(process);
    let mut silent = Vec::new();
    for round in 0..400_u32 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        match round % 4 {
            0 => drop(stream.write_all(b"GET / HTTP/1.1\r\n\r\n")),
            1 => drop(stream.write_all(&vec![round as u8; 1 << 16])),
            2 => drop(stream.write_all(b"\x13/multistream/1.0.0\n\xFF\xFF\xFF\xFF\x0F")),
            _ => silent.push(stream),
        }
    }
    swarm.transfer("a");
    let grown = resident_kib(process).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    // With all of them still open, an honest node gets in.
    let mut late = swarm.scratch.start("late", &format!("join {listening} --threads 1"));
    late.wait_for("joined", |line| line["trusted"] == true);
    let end = Instant::now() + PATIENCE;
    while swarm.scratch.status("late")["agreed"]["height"] != swarm.scratch.status("a")["agreed"]["height"] {
        assert!(Instant::now() < end, "the late node follows");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_door_that_leads_nowhere_says_why_and_what_to_do() {
    let mut swarm = Swarm::found(&["a"]);
    let scratch = &swarm.scratch;
    // Nobody there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scratch.run("b", &format!("join {closed}")).failed(1, &["no node of it can be reached", "refused", "--listen"]);
    // No address, no code, and a code that lost a piece.
    scratch.run("b", "join 127.0.0.1:1 --preset nano").failed(2, &["--preset", "has all of that already"]);
    scratch.run("b", "join nowhere").failed(2, &["is no address of a node", "nsi1"]);
    let short = &swarm.invite[..swarm.invite.len() - 3];
    scratch.run("b", &format!("join {short}")).failed(2, &["damaged", "copy all of it"]);
    // A directory that holds another network.
    let config = scratch.config("");
    let other = scratch.run("other", &format!("--steps 1 --config {}", config.display()));
    assert_eq!(other.code, Some(0), "{other:#?}");
    scratch.run("other", &format!("join {}", swarm.invite)).failed(1, &["the invite is to network", "--data-dir"]);
    // Nobody can invite to a node that does not run, or that nobody can reach.
    scratch.run("other", "invite").failed(1, &["none runs", "neuroshard run"]);
    let mut deaf = scratch.start("other", "run --connect 127.0.0.1:1");
    deaf.wait_for("started", |_| true);
    scratch.run("other", "invite").failed(1, &["does not listen", "--listen"]);
    let unreachable = deaf.wait_for("unreachable", |_| true);
    assert!(unreachable["why"].as_str().unwrap().contains("refused"), "{unreachable}");
    // Two networks that meet part, and say so.
    let listening = swarm.node("a").last("listening").unwrap()["address"].as_str().unwrap().to_owned();
    drop(deaf);
    let mut stray = swarm.scratch.start("other", &format!("run --connect {listening}"));
    let useless = stray.wait_for("unreachable", |_| true);
    assert!(useless["why"].as_str().unwrap().contains("belongs to network"), "{useless}");
}
