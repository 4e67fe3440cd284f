//! Nodes that train one model together because none has room for all of it, and what is done to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use neuroshard_host::home::Visit;
use neuroshard_proto::{LayerBlobs, LayerRange, Step};
use serde_json::Value;

use super::{Running, Scratch};

/// What is waited for longer has failed: many times what a loaded machine needs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Who founds the network, decides its blocks and trains nothing.
pub(crate) const KEEPER: &str = "keeper";
/// Room for any two stages in a row of the five, and for none.
const TWO_STAGES: &str = "--memory 543750";
const NO_ROOM: &str = "--memory 1000";

/// Nodes of one network, by name. What each told is kept while it is waited for any of them.
pub(crate) struct Crew {
    pub(crate) scratch: Scratch,
    nodes: BTreeMap<&'static str, Running>,
    /// What a node is called on the ledger.
    names: BTreeMap<&'static str, String>,
    /// Where each listens, in every one of its lives.
    ports: BTreeMap<&'static str, u16>,
    config: String,
}

impl Crew {
    /// A network with these nodes, each with room for two of five stages, so that three are needed. They come one after the
    /// other, because nodes that choose their stages at once choose the same. [`KEEPER`] founds it and decides its blocks.
    pub(crate) fn gather(names: &[&'static str]) -> Self {
        let mut crew = Self::prepare(names);
        crew.begin(KEEPER, &format!("run --config {} --seed s --mode idle {NO_ROOM}", crew.config));
        crew.until("the keeper listens", |crew| crew.last(KEEPER, "listening").map(|_| ()));
        for name in names {
            crew.join(name);
        }
        crew
    }

    /// Has a node join, and waits until it has told what it has room for.
    pub(crate) fn join(&mut self, name: &'static str) {
        let invite = self.json(KEEPER, "invite")["invite"].as_str().unwrap().to_owned();
        self.begin(name, &format!("join {invite} {TWO_STAGES}"));
        let own = self.names[name].clone();
        self.until(&format!("{name} tells what it has room for"), |crew| {
            let nodes = crew.json(KEEPER, "network nodes");
            let told = |node: &Value| node["node"] == own && node["held"].is_string();
            nodes["nodes"].as_array().unwrap().iter().any(told).then_some(())
        });
    }

    /// Starts a node again, with what its data directory holds.
    pub(crate) fn again(&mut self, name: &'static str) {
        self.begin(name, &format!("run {TWO_STAGES}"));
    }

    /// Directories, keys and ports for these nodes, none of which runs.
    fn prepare(names: &[&'static str]) -> Self {
        let scratch = Scratch::new();
        let path = scratch.config("");
        let text = std::fs::read_to_string(&path).unwrap().replace("layers = 1", "layers = 4");
        std::fs::write(&path, text).unwrap();
        // The system's choice, made once.
        let all = names.iter().copied().chain([KEEPER]);
        let free: Vec<TcpListener> = all.clone().map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let port = |free: &TcpListener| free.local_addr().unwrap().port();
        let ports = all.clone().zip(&free).map(|(name, free)| (name, port(free))).collect();
        let (nodes, config) = (BTreeMap::new(), path.display().to_string());
        let mut crew = Self { scratch, nodes, names: BTreeMap::new(), ports, config };
        for name in all {
            let own = crew.json(name, "keys show")["node"].as_str().unwrap().to_owned();
            crew.names.insert(name, own);
        }
        crew
    }

    /// Starts a node, or starts it again.
    pub(crate) fn begin(&mut self, name: &'static str, command: &str) {
        let flags = format!("{command} --threads 1 --listen 127.0.0.1:{}", self.ports[name]);
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
        self.node(name).finish();
    }

    pub(crate) fn json(&self, name: &str, command: &str) -> Value {
        let finished = self.scratch.run(name, &format!("{command} --json"));
        assert_eq!(finished.code, Some(0), "{finished:#?}");
        serde_json::from_str(&finished.stdout).unwrap()
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

    /// The step of the newest anchor that a node knows of; 0 without one.
    pub(crate) fn anchor(&self, asked: &str) -> u64 {
        self.json(asked, "network layers")[0]["anchored"]["step"].as_u64().unwrap_or_default()
    }

    /// Stops all nodes politely, and lets them train on to a common end.
    pub(crate) fn finish_at(&mut self, limit: u64) {
        let names: Vec<&'static str> = self.nodes.keys().copied().filter(|name| *name != KEEPER).collect();
        for name in &names {
            self.node(name).signal(libc::SIGINT);
        }
        for name in &names {
            let (ended, last) = (self.node(name).finish(), self.last_words());
            assert!(ended.success(), "{name} does not stop as it should: {last}");
            self.begin(name, &format!("run {TWO_STAGES} --steps {limit}"));
        }
        self.until(&format!("all come to step {limit}"), |crew| {
            let done = |name: &&str| crew.last(name, "stopped").is_some_and(|line| line["saved"] == limit);
            names.iter().all(done).then_some(())
        });
    }

    /// Demands that what was saved at this step is together what one node alone makes of the same seed and text.
    pub(crate) fn compare_with_solo(&mut self, step: u64) {
        self.nodes.clear();
        let solo = self.scratch.run("solo", &format!("--config {} --seed s --threads 1 --steps {step}", self.config));
        assert_eq!(solo.code, Some(0), "{solo:#?}");
        let alone = saved(&self.scratch, "solo", step);
        let together: BTreeMap<u32, LayerBlobs> =
            self.names.keys().filter(|name| **name != KEEPER).flat_map(|name| saved(&self.scratch, name, step)).collect();
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
