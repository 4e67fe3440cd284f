//! `neuroshard devnet`: a network of several nodes on this machine, each a process of this same program, to watch how
//! they find each other, train one model, and go on when one of them is killed.
//!
//! Nothing here knows the protocol: nodes are started with the flags that everybody has, and looked at through their
//! local API. Each holds the reading end of a pipe as its standard input and stops when that closes, so however this
//! program ends, no node outlives it.

mod node;
mod show;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use neuroshard_host::clock::unix_ms;
use neuroshard_host::codes::Invite;
use neuroshard_host::throttle::Throttle;
use neuroshard_proto::{Hash, LayerRange, ModelSpec, NetworkId, Params};

use self::node::{Answer, Node, State};
use self::show::{Show, View};
use crate::args::{Common, DevnetFlags};
use crate::display::{TICK, short_path};
use crate::failure::Failure;
use crate::settings::Settings;
use crate::values::PresetName;

/// A node that was killed is started again after this.
const BACK_AFTER: Duration = Duration::from_secs(5);
/// How long nodes may save before they are killed, when all is to end.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// How long nodes of a quorum may take to come to the last step once the first one is there.
const LAST_STEP_PATIENCE: Duration = Duration::from_secs(10);
/// An invite is used at once, but a node may come back late.
const INVITE: Duration = Duration::from_secs(30 * 86_400);
/// Speeds unless said otherwise: two nodes as fast as they can be, one that is slower, and two of slower tiers.
const THROTTLES: [&str; 5] = ["1", "1", "4", "40", "160"];
/// Losses kept for the display.
const LOSSES_MAX: usize = 512;

/// Where a devnet lies.
#[derive(Debug)]
struct Place {
    root: PathBuf,
    /// Removed in the end, if nobody asked for it.
    _passing: Option<tempfile::TempDir>,
}

impl Place {
    fn new(wanted: Option<&Path>) -> Result<Self, Failure> {
        let Some(root) = wanted else {
            let dir = tempfile::Builder::new().prefix("neuroshard-devnet-").tempdir();
            let dir = dir.map_err(|error| Failure::new(format!("no temporary directory can be made: {error}")))?;
            return Ok(Self { root: dir.path().to_owned(), _passing: Some(dir) });
        };
        fs::create_dir_all(root).map_err(|error| unwritable(root, &error))?;
        Ok(Self { root: root.to_owned(), _passing: None })
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("{} cannot be written: {error}", path.display()))
}

/// What all nodes are started with.
#[derive(Clone, Debug)]
struct Options {
    preset: Option<PresetName>,
    steps: Option<u64>,
    threads: usize,
    /// Bytes that each node may count on.
    memory: u64,
    throttles: Vec<Throttle>,
    config: PathBuf,
    log: Option<String>,
    restart: bool,
}

impl Options {
    fn new(flags: &DevnetFlags, common: &Common, root: &Path) -> Result<Self, Failure> {
        let file = common.config.as_deref().map(Settings::from_file).transpose()?.unwrap_or_default();
        let (model, _) = Settings { preset: flags.preset, ..Settings::default() }.or(file).specs();
        let memory = memory(&model, flags.layers_per_node, flags.nodes)?;
        // Without a configuration that was named, nodes read none, not the one that is meant for a node of the user's own.
        let config = match &common.config {
            Some(path) => path.clone(),
            None => {
                let path = root.join("config.toml");
                fs::write(&path, "").map_err(|error| unwritable(&path, &error))?;
                path
            }
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            preset: flags.preset,
            steps: flags.steps,
            threads: cores.checked_div(usize::from(flags.nodes)).unwrap_or(1).max(1),
            memory,
            throttles: match &flags.throttle[..] {
                [] => THROTTLES.iter().filter_map(|factor| factor.parse().ok()).collect(),
                list => list.to_vec(),
            },
            config,
            log: common.log.clone(),
            restart: !flags.no_restart,
        })
    }

    /// How much slower a node is; the list begins anew where it ends.
    fn throttle(&self, number: usize) -> Throttle {
        repeated(&self.throttles, number).copied().unwrap_or_default()
    }
}

/// What a list has for a number from 1 on, beginning anew where it ends.
fn repeated<T>(list: &[T], number: usize) -> Option<&T> {
    list.get(number.saturating_sub(1).checked_rem(list.len())?)
}

/// Runs a devnet until it is told to stop.
pub(crate) fn devnet(flags: &DevnetFlags, common: &Common) -> Result<(), Failure> {
    let place = Place::new(common.data_dir.as_deref())?;
    let options = Options::new(flags, common, &place.root)?;
    let interrupts = Arc::new(AtomicU32::new(0));
    let heard = Arc::clone(&interrupts);
    let on_signal = move || {
        heard.fetch_add(1, Ordering::AcqRel);
    };
    ctrlc::set_handler(on_signal).map_err(|error| Failure::new(format!("signals cannot be heard: {error}")))?;
    let nodes: Vec<Node> = (1..=usize::from(flags.nodes)).map(|number| Node::new(number, &place.root)).collect();
    let (sender, answers) = mpsc::channel();
    for node in &nodes {
        node.ask(sender.clone()).map_err(|error| Failure::new(format!("the system gives no threads: {error}")))?;
    }
    let show = show::choose(common.json, nodes.len());
    let mut devnet = Devnet { nodes, options, show, answers, interrupts, view: View::default(), last_step_until: None };
    devnet.tell("data", &short_path(&place.root.display().to_string()));
    // Processes end with `devnet`, and a temporary directory goes after them.
    devnet.run()
}

/// Memory with room for so many stages of a model and no more, by the rule that all nodes follow (PROTOCOL §2). Unless
/// said otherwise it has room for all but one, where there are others to hold that one.
fn memory(model: &ModelSpec, layers: Option<u32>, nodes: u16) -> Result<u64, Failure> {
    let all = model.all_layers();
    let stages = all.end - all.start;
    let layers = layers.unwrap_or(if nodes > 1 { stages.saturating_sub(1).max(1) } else { stages });
    if u64::from(layers) * u64::from(nodes) < u64::from(stages) {
        return Err(Failure::usage(format!(
            "--layers-per-node {layers}: {nodes} nodes have room for {} stages together, and the model has {stages}, its \
             {} layers and the head. Say more --nodes or more layers for each.",
            u64::from(layers) * u64::from(nodes),
            model.layers
        )));
    }
    let ranges = (all.start..=all.end.saturating_sub(layers.min(stages)))
        .map(|start| LayerRange { start, end: start + layers.min(stages) });
    let most = ranges.map(|range| model.training_bytes(range)).max().unwrap_or_default();
    let share = u128::from(Params::DEFAULT.holding_share.ppm());
    Ok(u64::try_from((u128::from(most) * 1_000_000).div_ceil(share.max(1))).unwrap_or(u64::MAX))
}

/// A network on this machine.
struct Devnet {
    nodes: Vec<Node>,
    options: Options,
    show: Box<dyn Show>,
    answers: Receiver<Answer>,
    /// How often the user asked to stop.
    interrupts: Arc<AtomicU32>,
    view: View,
    /// Once a node came to the last step: how long others may take.
    last_step_until: Option<Instant>,
}

impl Devnet {
    fn run(&mut self) -> Result<(), Failure> {
        self.start(0)?;
        while self.interrupts.load(Ordering::Acquire) == 0 && !self.is_done() && !self.show.is_unseen() {
            self.hear(TICK);
            self.look()?;
            self.start_those_due()?;
            self.draw();
        }
        self.stop();
        let (step, loss) = (self.view.step, self.view.losses.back());
        let loss = loss.map_or_else(String::new, |loss| format!(", loss {loss:.3} nats"));
        self.show.end(&self.view, &format!("at step {step}{loss}; no process is left"));
        Ok(())
    }

    /// Waits a moment for answers and takes note of them.
    fn hear(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        loop {
            match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((number, status)) => {
                    if let Some(node) = self.nodes.get_mut(number - 1) {
                        node.on_status(*status);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => return thread::sleep(wait),
            }
        }
    }

    /// Looks whether processes have ended.
    fn look(&mut self) -> Result<(), Failure> {
        for place in 0..self.nodes.len() {
            let Some(end) = self.nodes[place].look() else { continue };
            let node = &mut self.nodes[place];
            let name = format!("node {} (process {})", node.number, node.pid.unwrap_or_default());
            if end.done && self.options.steps.is_some() {
                node.state = State::Done;
                self.last_step_until.get_or_insert(Instant::now() + LAST_STEP_PATIENCE);
                self.tell("done", &format!("{name} came to the last step and saved"));
                continue;
            }
            let failed = !end.answered && !end.why.contains("signal");
            // Who was told to stop or to leave the network is not called back.
            let back = (self.options.restart && !failed && !end.done).then(|| Instant::now() + BACK_AFTER);
            node.state = State::Gone { why: end.why.clone(), back };
            if failed && place == 0 {
                return Err(Failure::new(format!("{name}, which founds the network, {}", end.why)));
            }
            let then = back.map_or_else(String::new, |_| format!("; it comes back in {} s", BACK_AFTER.as_secs()));
            self.tell(if end.done { "gone" } else { "GONE" }, &format!("{name} {}{then}", end.why));
        }
        Ok(())
    }

    fn start_those_due(&mut self) -> Result<(), Failure> {
        for place in 0..self.nodes.len() {
            let due = match &self.nodes[place].state {
                State::Waits => place > 0 && self.invite().is_some(),
                State::Gone { back, .. } => back.is_some_and(|at| at <= Instant::now()),
                State::Starts | State::Runs | State::Done => false,
            };
            if due && self.last_step_until.is_none() {
                self.start(place)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, place: usize) -> Result<(), Failure> {
        let invite = if place == 0 { None } else { self.invite() };
        let again = self.nodes[place].pid.is_some();
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != place);
        let others: Vec<String> = others.filter_map(|(_, node)| node.address.clone()).collect();
        let node = &mut self.nodes[place];
        let pid = node.start(&self.options, invite.as_deref(), &others);
        let pid = pid.map_err(|error| Failure::new(format!("node {} cannot be started: {error}", node.number)))?;
        let (number, throttle) = (node.number, self.options.throttle(node.number));
        let slow = if throttle == Throttle::default() { String::new() } else { format!(", {throttle} times slower") };
        let word = if again { "is back as" } else { "is" };
        self.tell("started", &format!("node {number} {word} process {pid}{slow}"));
        Ok(())
    }

    /// The way into the network, once its first node listens.
    fn invite(&self) -> Option<String> {
        let first = self.nodes.first()?;
        let network = Hash::from_hex(&first.status.as_ref()?.network).map(NetworkId)?;
        let addresses = vec![first.address.as_ref()?.parse().ok()?];
        let lifetime = u64::try_from(INVITE.as_millis()).unwrap_or(u64::MAX);
        Some(Invite { network, addresses, expires_unix_ms: unix_ms().saturating_add(lifetime) }.code())
    }

    /// Whether the last step was made and saved by all who train.
    fn is_done(&self) -> bool {
        let Some(until) = self.last_step_until else { return false };
        let trains = |node: &&Node| node.lives() && node.status.as_ref().is_some_and(|status| status.quorum.is_some());
        Instant::now() > until || self.nodes.iter().find(trains).is_none()
    }

    fn draw(&mut self) {
        for (name, words) in self.view.take(&self.nodes, &self.options) {
            self.tell(name, &words);
        }
        self.show.draw(&self.view);
    }

    /// Lets all nodes save and end; kills those that take too long, or all at the user's second word.
    fn stop(&mut self) {
        self.tell("stopping", "the nodes save");
        let (until, asked) = (Instant::now() + STOP_PATIENCE, self.interrupts.load(Ordering::Acquire).max(1));
        for node in &mut self.nodes {
            node.stop();
        }
        while self.nodes.iter().any(Node::lives) {
            for place in 0..self.nodes.len() {
                if self.nodes[place].look().is_some() {
                    self.nodes[place].state = State::Done;
                }
            }
            if Instant::now() > until || self.interrupts.load(Ordering::Acquire) > asked {
                self.nodes.iter_mut().for_each(Node::kill);
            }
            self.hear(TICK);
            self.draw();
        }
    }

    fn tell(&mut self, name: &str, text: &str) {
        self.show.tell(name, text);
    }
}

/// The losses of the furthest node, the newest last.
fn push_loss(losses: &mut VecDeque<f64>, loss: f64) {
    losses.push_back(loss);
    while losses.len() > LOSSES_MAX {
        losses.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Preset;

    use super::*;

    #[test]
    fn memory_for_so_many_layers_holds_them_wherever_they_lie_and_not_one_more() {
        let (model, _) = Preset::Nano.specs();
        let allowed = Params::DEFAULT.holding_share.of(memory(&model, Some(2), 3).unwrap());
        let fits = |start, end| model.training_bytes(LayerRange { start, end }) <= allowed;
        assert!((0..=3).all(|start| fits(start, start + 2)));
        assert!((0..=2).all(|start| !fits(start, start + 3)));
    }

    #[test]
    fn nodes_that_cannot_hold_the_model_together_are_told_before_anything_starts() {
        let (model, _) = Preset::Nano.specs();
        assert!(
            memory(&model, Some(2), 2).unwrap_err().message.contains("room for 4 stages together, and the model has 5")
        );
        assert_eq!(memory(&model, Some(99), 1).unwrap(), memory(&model, Some(5), 1).unwrap());
    }

    #[test]
    fn unless_said_otherwise_a_node_among_others_cannot_train_alone() {
        let (model, _) = Preset::Nano.specs();
        assert_eq!(memory(&model, None, 2).unwrap(), memory(&model, Some(4), 2).unwrap());
        assert_eq!(memory(&model, None, 1).unwrap(), memory(&model, Some(5), 1).unwrap());
    }

    #[test]
    fn the_list_of_speeds_begins_anew_where_it_ends() {
        let speeds = |list: &[u32]| (1..=5).filter_map(|number| repeated(list, number).copied()).collect::<Vec<_>>();
        assert_eq!(speeds(&[1, 2, 4]), [1, 2, 4, 1, 2]);
        assert_eq!(speeds(&[]), [0; 0]);
    }
}
