//! Nodes behind routers that let nobody in: an internet of network namespaces in which they meet through a relay, dig a direct way
//! where both listen, and train over the relay where one only dials.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Finished, PATIENCE, PROGRAM, Running, Scratch};
use serde_json::Value;

/// Builds the internet, says so, and keeps it until standard input is closed.
///
/// The founder is at 203.0.113.1. Each of three homes is behind a router of its own, which lends its address to what goes out and lets
/// nothing in that is not an answer: address translation with port-preserving mapping and address-dependent filtering, as routers
/// in homes have it.
const INTERNET: &str = r#"
set -e
mount -t tmpfs none /run
mkdir /run/netns
ip link set lo up
ip address add 203.0.113.1/32 dev lo
echo 1 > /proc/sys/net/ipv4/ip_forward
for i in 1 2 3; do
  ip netns add router$i
  ip netns add home$i
  ip link add wan$i type veth peer name wan netns router$i
  ip address add 198.51.100.$((8*i+1))/30 dev wan$i
  ip link set wan$i up
  ip -n router$i link set lo up
  ip -n router$i address add 198.51.100.$((8*i+2))/30 dev wan
  ip -n router$i link set wan up
  ip -n router$i route add default via 198.51.100.$((8*i+1))
  ip -n router$i link add lan type veth peer name eth0 netns home$i
  ip -n router$i address add 192.168.$i.1/24 dev lan
  ip -n router$i link set lan up
  ip -n home$i link set lo up
  ip -n home$i address add 192.168.$i.2/24 dev eth0
  ip -n home$i link set eth0 up
  ip -n home$i route add default via 192.168.$i.1
  nsenter --net=/run/netns/router$i sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward; nft -f -' <<'RULES'
table ip router {
  chain lend { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }
  chain pass {
    type filter hook forward priority filter; policy drop;
    iifname "lan" accept
    ct state established,related accept
  }
  chain own { type filter hook input priority filter; iifname "wan" ct state new drop; }
}
RULES
done
echo ready
cat > /dev/null
"#;

/// The founder's door.
const DOOR: &str = "203.0.113.1:4700";

/// What runs in the internet, and where it is.
struct Internet {
    keeper: Child,
    scratch: Scratch,
}

impl Internet {
    /// `None`, with the reason in words, where the system does not offer what this needs.
    fn begin() -> Option<Self> {
        let keeper = Command::new("unshare")
            .args(["--map-root-user", "--net", "--mount", "bash", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut keeper = match keeper {
            Ok(keeper) => keeper,
            Err(error) => {
                eprintln!(
                    "SKIPPED: without the program unshare (package util-linux) there are no routers here: {error}"
                );
                return None;
            }
        };
        let script = keeper.stdin.as_mut().unwrap().write_all(INTERNET.as_bytes());
        let mut said = String::new();
        let _ = BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut said);
        if script.is_err() || said != "ready\n" {
            let _ = keeper.kill();
            let why = keeper.wait_with_output().unwrap().stderr;
            let why = String::from_utf8_lossy(&why);
            eprintln!(
                "SKIPPED: there can be no routers here (packages iproute2, nftables; namespaces of users): {why}"
            );
            return None;
        }
        Some(Self { keeper, scratch: Scratch::new() })
    }

    /// What a command of the program is preceded by, to run at a place.
    fn at(&self, place: &str) -> String {
        let into = format!("-t {} -U -n -m --preserve-credentials", self.keeper.id());
        match place {
            "outside" => format!("{into} {PROGRAM}"),
            home => format!("{into} nsenter --net=/run/netns/{home} {PROGRAM}"),
        }
    }

    fn start(&self, place: &str, arguments: &str) -> Running {
        let arguments = format!("{} {arguments} --threads 1", self.at(place));
        self.scratch.start_program(Path::new("nsenter"), place, &arguments)
    }

    fn run(&self, place: &str, arguments: &str) -> Finished {
        self.scratch.run_program(Path::new("nsenter"), place, &format!("{} {arguments}", self.at(place)))
    }

    fn json(&self, place: &str, arguments: &str) -> Value {
        let finished = self.run(place, &format!("{arguments} --json"));
        assert_eq!(finished.code, Some(0), "{place}: {finished:#?}");
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// Waits until a node's network is as it should be.
    fn until(&self, place: &str, what: &str, suits: impl Fn(&Value) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let net = self.json(place, "status")["net"].clone();
            if suits(&net) {
                return;
            }
            assert!(Instant::now() < end, "{place}: {what}: {net:#}");
            thread::sleep(Duration::from_millis(500));
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Addresses at which a node is connected with another.
fn ways(net: &Value, other: &str) -> Vec<String> {
    let peers = net["peers"].as_array().unwrap().iter();
    let to = peers.filter(|peer| peer["node"] == other);
    to.map(|peer| peer["address"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nodes_behind_routers_meet_through_a_relay_dig_direct_ways_and_train() {
    let Some(internet) = Internet::begin() else { return };
    let config = internet.scratch.deep_config("[allocations]\nme = \"1000\"\n");
    let name = |place: &str| internet.json(place, "keys show")["node"].as_str().unwrap().to_owned();
    let [one, two, three] = ["home1", "home2", "home3"].map(name);
    // The first and the third train together, whatever is between them.
    let member = |node: &str, stages: &str| format!("[[member]]\nnode = \"{node}\"\nstages = \"{stages}\"\n");
    let plan = format!("snapshot-steps = 10\n{}{}", member(&one, "0..3"), member(&three, "3..5"));
    let file = internet.scratch.path("plan.toml");
    std::fs::write(&file, plan).unwrap();
    let flags = format!("--plan {}", file.display());

    let mut founder = internet.start("outside", &format!("run --config {config} --listen {DOOR} --no-lan"));
    founder.wait_for("listening", |_| true);
    let joining = |place: &str, flags: &str| internet.start(place, &format!("join {DOOR} --no-lan {flags}"));
    let mut first = joining("home1", &format!("--listen 0.0.0.0:4700 {flags}"));
    let mut second = joining("home2", "--listen 0.0.0.0:4700");
    let mut third = joining("home3", &flags);

    // Where both listen, they come to a direct way.
    first
        .wait_for("direct", |line| line["node"] == *two && line["address"].as_str().unwrap().contains("198.51.100.18"));
    second
        .wait_for("direct", |line| line["node"] == *one && line["address"].as_str().unwrap().contains("198.51.100.10"));
    // What was behind a router first goes through the relay.
    for (node, other) in [(&mut first, &three), (&mut third, &one)] {
        let met = node.told.iter().find(|line| line["event"] == "connected" && line["node"] == **other).cloned();
        let met = met.unwrap_or_else(|| node.wait_for("connected", |line| line["node"] == **other));
        assert!(met["address"].as_str().unwrap().contains("p2p-circuit"), "{met}");
    }
    internet.until("home2", "one way to the first is left", |net| {
        let [way] = &ways(net, &one)[..] else { return false };
        !way.contains("p2p-circuit") && net["reach"]["direct"] == false && net["reach"]["relays"][0].is_string()
    });
    // Why it is as it is, and what to do.
    let doctor = internet.run("home2", "doctor --network --json").stdout;
    assert!(doctor.contains("others tried to reach it in vain") && doctor.contains("--announce"), "{doctor}");
    let relay = internet.json("outside", "status")["net"]["reach"].clone();
    assert!(relay["is_relay"] == true && relay["guests"] == 3 && relay["circuits"].as_u64() >= Some(1), "{relay}");

    // All agree, wherever they are.
    let paid = internet.json("outside", &format!("wallet transfer {} 1", "ab".repeat(32)));
    let height = paid["height"].as_u64().unwrap();
    let root = |node: &mut Running| {
        let decided = |line: &Value| line["event"] == "decided" && line["height"] == height;
        let told = node.told.iter().find(|line| decided(line)).cloned();
        told.unwrap_or_else(|| node.wait_until(decided))["root"].clone()
    };
    let roots = [&mut founder, &mut second].map(root);
    assert_eq!(roots[0], roots[1]);
    // An invite from a node that nobody can dial leads to it.
    let invite = internet.json("home3", "invite");
    assert!(invite["addresses"][0].as_str().unwrap().contains("p2p-circuit"), "{invite}");
    // A plan that spans two routers is carried out over the relay.
    for (place, node, other) in [("home1", &mut first, &three), ("home3", &mut third, &one)] {
        let status = internet.json(place, "status");
        let relayed = ways(&status["net"], other).iter().all(|way| way.contains("p2p-circuit"));
        assert!(status["quorum"]["term"].is_u64() && relayed, "{status:#}");
        let step = status["step"].as_u64().unwrap();
        node.wait_for_step(step + 20);
    }
}
