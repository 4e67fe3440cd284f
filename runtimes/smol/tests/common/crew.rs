//! Nodes that train one model together because none has room for all of it, and what is done to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use neuroshard_host::home::Visit;
use neuroshard_proto::{LayerBlobs, LayerRange, Step};
use serde_json::Value;

use super::proxy::Wires;
use super::{Running, Scratch};

/// What is waited for longer has failed: many times what a loaded machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(150);
/// Who founds the network, decides its blocks and trains nothing.
pub(crate) const KEEPER: &str = "keeper";
/// Room for any two stages in a row of the five, and for none.
const TWO_STAGES: &str = "--memory 543750";
const NO_ROOM: &str = "--memory 1000";
/// Room for the whole model.
const ALL_STAGES: &str = "--memory 64MiB";

/// Nodes of one network, by name. What each told is kept while it is waited for any of them.
pub(crate) struct Crew {
    pub(crate) scratch: Scratch,
    nodes: BTreeMap<&'static str, Running>,
    /// What a node is called on the ledger.
    names: BTreeMap<&'static str, String>,
    /// Where each listens, in every one of its lives.
    ports: BTreeMap<&'static str, u16>,
    /// Where others reach each, if not where it listens.
    pub(crate) doors: BTreeMap<&'static str, u16>,
    /// The memory of those that have not [`TWO_STAGES`].
    room: BTreeMap<&'static str, &'static str>,
    config: String,
}

impl Crew {
    /// A network with these nodes, each with room for two of five stages, so that three are needed. They come one after the
    /// other, because nodes that choose their stages at once choose the same. [`KEEPER`] founds it and decides its blocks.
    pub(crate) fn gather(names: &[&'static str]) -> Self {
        Self::gather_over(None, names)
    }

    /// The same, where nodes know each other only by the doors of bad wires.
    pub(crate) fn gather_over(wires: Option<&Wires>, names: &[&'static str]) -> Self {
        let mut crew = Self::prepare(names);
        if let Some(wires) = wires {
            crew.doors = crew.ports.iter().map(|(name, port)| (*name, wires.door(*port))).collect();
        }
        crew.begin(KEEPER, &format!("run --config {} --data text --seed s --mode idle", crew.config));
        crew.until("the keeper listens", |crew| crew.last(KEEPER, "listening").map(|_| ()));
        for name in names {
            crew.join(name);
        }
        crew
    }

    /// Has a node join that could take the place of any other, once the others train without it.
    pub(crate) fn add_spare(&mut self, name: &'static str) {
        self.prepare_node(name);
        self.room.insert(name, ALL_STAGES);
        self.join(name);
    }

    /// Has a node join, and waits until it has told what it has room for.
    pub(crate) fn join(&mut self, name: &'static str) {
        let door = *self.doors.get(KEEPER).unwrap_or(&self.ports[KEEPER]);
        for attempt in 1.. {
            self.begin(name, &format!("join 127.0.0.1:{door}"));
            let joined = self.until(&format!("{name} joins, or says why not"), |crew| {
                let failed = crew.last(name, "error").map(|_| false);
                crew.last(name, "joined").map(|_| true).or(failed)
            });
            if joined {
                break;
            }
            // A wire was cut while the network's data was on its way: what came is kept.
            assert!(attempt < 10 && !self.doors.is_empty(), "{name} cannot join: {:?}", self.last(name, "error"));
        }
        let own = self.names[name].clone();
        self.until(&format!("{name} tells what it has room for"), |crew| {
            let nodes = crew.json(KEEPER, "network nodes");
            let told = |node: &Value| node["node"] == own && node["held"].is_string();
            nodes["nodes"].as_array().unwrap().iter().any(told).then_some(())
        });
    }

    /// Starts a node again, with what its data directory holds.
    pub(crate) fn again(&mut self, name: &'static str) {
        self.begin(name, "run");
    }

    /// Directories, keys and ports for these nodes, none of which runs.
    fn prepare(names: &[&'static str]) -> Self {
        let scratch = Scratch::new();
        let path = scratch.config("");
        let text = std::fs::read_to_string(&path).unwrap().replace("layers = 1", "layers = 4");
        std::fs::write(&path, text).unwrap();
        // Little enough to be fetched in a moment.
        let words = (0_u32..12_000).map(|number| format!("{} ", number.wrapping_mul(2_654_435_761) % 9973));
        std::fs::write(scratch.path("text"), words.collect::<String>()).unwrap();
        let config = path.display().to_string();
        let (nodes, names_of, ports) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (doors, room) = (BTreeMap::new(), BTreeMap::from([(KEEPER, NO_ROOM)]));
        let mut crew = Self { scratch, nodes, names: names_of, ports, doors, room, config };
        names.iter().chain(&[KEEPER]).for_each(|name| crew.prepare_node(name));
        crew
    }

    fn prepare_node(&mut self, name: &'static str) {
        // The system's choice, made once.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        self.ports.insert(name, free.local_addr().unwrap().port());
        let own = self.json(name, "keys show")["node"].as_str().unwrap().to_owned();
        self.names.insert(name, own);
    }

    /// Starts a node, or starts it again.
    pub(crate) fn begin(&mut self, name: &'static str, command: &str) {
        let room = self.room.get(name).copied().unwrap_or(TWO_STAGES);
        let mut flags = format!("{command} {room} --threads 1 --listen 127.0.0.1:{}", self.ports[name]);
        if let Some(door) = self.doors.get(name) {
            write!(flags, " --announce 127.0.0.1:{door}").unwrap();
        }
        // Whatever held the directory is gone before it is opened again.
        self.nodes.remove(name);
        let node = self.scratch.start(name, &flags);
        self.nodes.insert(name, node);
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Running {
        self.nodes.get_mut(name).unwrap()
    }

    pub(crate) fn kill(&mut self, name: &str) {
        self.node(name).signal(libc::SIGKILL);
        self.until_ended(name);
    }

    /// Waits until a node has ended.
    #[track_caller]
    pub(crate) fn until_ended(&mut self, name: &str) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.node(name).ended() {
                return status;
            }
            assert!(Instant::now() < end, "{name} does not end\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn json(&self, name: &str, command: &str) -> Value {
        let finished = self.scratch.run(name, &format!("{command} --json"));
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// What a node told in this life.
    pub(crate) fn told(&self, name: &str) -> &[Value] {
        &self.nodes[name].told
    }

    /// The last event of a kind that a node told in this life.
    pub(crate) fn last(&self, name: &str, event: &str) -> Option<&Value> {
        self.nodes[name].last(event)
    }

    /// The last step that a node told of in this life.
    pub(crate) fn step(&self, name: &str) -> u64 {
        self.last(name, "step").map_or(0, |line| line["step"].as_u64().unwrap())
    }

    /// The furthest step of all who run.
    pub(crate) fn reached(&self) -> u64 {
        self.nodes.keys().map(|name| self.step(name)).max().unwrap_or_default()
    }

    /// Reads what all tell until something can be found in it. `what` is said if it does not come.
    #[track_caller]
    pub(crate) fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            self.nodes.values_mut().for_each(Running::hear);
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < end, "waited in vain: {what}\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until these nodes have all taken a step beyond this one.
    #[track_caller]
    pub(crate) fn until_beyond(&mut self, names: &[&str], step: u64) {
        let what = format!("{names:?} train beyond step {step}");
        self.until(&what, |crew| names.iter().all(|name| crew.step(name) > step).then_some(()));
    }

    /// The names of the members of the quorum that trains, in the order of their stages, once there is one of so many.
    #[track_caller]
    pub(crate) fn until_quorum(&mut self, asked: &str, members: usize) -> Vec<&'static str> {
        let what = format!("a quorum of {members}, as {asked} sees it");
        self.until(&what, |crew| {
            let found = crew.members(asked);
            (found.len() == members).then_some(found)
        })
    }

    /// Waits until a quorum trains that one node is not a member of; returns its members.
    #[track_caller]
    pub(crate) fn until_replaced(&mut self, gone: &str) -> Vec<&'static str> {
        self.until(&format!("a quorum without {gone} trains"), |crew| {
            let members = crew.members(KEEPER);
            (!members.is_empty() && !members.contains(&gone)).then_some(members)
        })
    }

    /// Waits until a node sees the quorum that all others see, and takes the part in it that it has.
    #[track_caller]
    pub(crate) fn until_in_step(&mut self, name: &str) {
        self.until(&format!("{name} knows the quorum that trains, and its own part"), |crew| {
            let (members, seen) = (crew.members(KEEPER), crew.members(name));
            let status: Value = serde_json::from_str(&crew.scratch.run(name, "status --json").stdout).ok()?;
            let mode = if members.contains(&name) { "pipeline" } else { "async" };
            (!members.is_empty() && members == seen && status["mode"] == mode).then_some(())
        });
    }

    /// The names of the members of the one quorum that a node knows of, in the order of their stages.
    pub(crate) fn members(&self, asked: &str) -> Vec<&'static str> {
        let quorums = self.scratch.run(asked, "network quorums --json");
        // A node that is about to start or in trouble does not answer.
        let Ok(quorums) = serde_json::from_str::<Value>(&quorums.stdout) else { return Vec::new() };
        let quorums = quorums.as_array().unwrap();
        assert!(quorums.len() <= 1, "two quorums train at a time: {quorums:#?}");
        let members = quorums.iter().flat_map(|quorum| quorum["members"].as_array().unwrap());
        members.map(|member| self.called(member["node"].as_str().unwrap())).collect()
    }

    fn called(&self, node: &str) -> &'static str {
        self.names.iter().find(|(_, known)| **known == node).map(|(name, _)| *name).expect("a node of this test")
    }

    /// What a node is called on the ledger.
    pub(crate) fn name_of(&self, name: &str) -> &str {
        &self.names[name]
    }

    /// Where a node listens.
    pub(crate) fn port(&self, name: &str) -> u16 {
        self.ports[name]
    }

    /// The step of the newest anchor that a node knows of; 0 without one.
    pub(crate) fn anchor(&self, asked: &str) -> u64 {
        self.json(asked, "network layers")[0]["anchored"]["step"].as_u64().unwrap_or_default()
    }

    /// Waits until all have come to what the keeper has decided by now, and demands that it is the same.
    #[track_caller]
    pub(crate) fn until_agreed(&mut self) {
        self.nodes.values_mut().for_each(Running::hear);
        let wanted = self.last(KEEPER, "decided").expect("blocks are decided").clone();
        let decided = |line: &&Value| line["event"] == "decided" && line["height"] == wanted["height"];
        let roots = self.until(&format!("all decide block {}", wanted["height"]), |crew| {
            let root = |node: &Running| node.told.iter().find(decided).map(|line| line["root"].clone());
            crew.nodes.values().map(root).collect::<Option<Vec<_>>>()
        });
        assert!(roots.iter().all(|root| *root == wanted["root"]), "ledgers differ at {}: {roots:?}", wanted["height"]);
    }

    /// Stops all nodes politely, and lets them train on to a common end.
    pub(crate) fn finish_at(&mut self, limit: u64) {
        let names: Vec<&'static str> = self.nodes.keys().copied().filter(|name| *name != KEEPER).collect();
        for name in &names {
            self.node(name).signal(libc::SIGINT);
        }
        for name in &names {
            let ended = self.until_ended(name);
            assert!(ended.success(), "{name} does not stop as it should: {ended}\n{}", self.last_words());
        }
        for name in &names {
            self.begin(name, &format!("run --steps {limit}"));
        }
        self.until(&format!("the members come to step {limit}, and all stages are saved"), |crew| {
            let done = |name: &&str| crew.last(name, "stopped").is_some_and(|line| line["saved"] == limit);
            let members = crew.members(KEEPER);
            (!members.is_empty() && members.iter().all(done)).then_some(())
        });
    }

    /// Demands that what was saved at this step is together what one node alone makes of the same seed and text.
    pub(crate) fn compare_with_solo(&mut self, step: u64) {
        self.nodes.clear();
        let solo = self
            .scratch
            .run("solo", &format!("--config {} --data text --seed s --threads 1 --steps {step}", self.config));
        assert_eq!(solo.code, Some(0), "{solo:#?}");
        let alone = saved(&self.scratch, "solo", step);
        let together: BTreeMap<u32, LayerBlobs> = self
            .names
            .keys()
            .filter(|name| **name != KEEPER)
            .flat_map(|name| saved(&self.scratch, name, step))
            .collect();
        assert_eq!(together, alone, "the state after step {step}");
    }

    /// What everybody said last, for the message of a test that fails.
    pub(crate) fn last_words(&self) -> String {
        let mut words = String::new();
        for (name, node) in &self.nodes {
            writeln!(words, "{name} ({}), the last of it:", self.names[name]).unwrap();
            // Blocks are decided whatever happens.
            let last = node.told.iter().rev().filter(|line| line["event"] != "decided").take(12).collect::<Vec<_>>();
            for line in last.iter().rev() {
                writeln!(words, "  {line}").unwrap();
            }
            let why = self.scratch.command(name, &format!("network why {}", &self.names[name][..8])).output().unwrap();
            words.push_str(&String::from_utf8_lossy(&why.stdout));
        }
        let layers = self.scratch.run(KEEPER, "network layers");
        words.push_str(&layers.stdout);
        words
    }
}

/// The stages that a node saved at a step: names of weights and moments, by stage.
fn saved(scratch: &Scratch, name: &str, step: u64) -> BTreeMap<u32, LayerBlobs> {
    let visit = Visit::open(&scratch.path(name)).unwrap();
    let states = visit.core.saved_states().iter().filter(|state| state.snapshot.step == Step(step));
    let layers = |range: LayerRange, layers: &[LayerBlobs]| (range.start..range.end).zip(layers.to_vec()).collect();
    states.flat_map(|state| -> Vec<(u32, LayerBlobs)> { layers(state.range, &state.snapshot.layers) }).collect()
}
