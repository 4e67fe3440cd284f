//! The members' hosts and what lies between them, in virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::proto::chain::{Action, Author, PublicKey, SignedTransaction, Transaction, consent_digest};
use neuroshard_core::proto::{
    BatchId, Commitment, Envelope, Founder, Hash, Heartbeat, Job, JournalSeq, LayerRange, List, Member, Message,
    NodeId, OwnerId, Plan, QuorumMessage, RequestId, Shared, Signature, Step, Time, Verified, Word, codec,
};
use neuroshard_core::{Command, Config, Core, Event, FetchFault, Input, Operator, Outbox, Output};

use crate::executor::{Blobs, Executor};
use crate::network;

/// Every member persists after so many steps.
const SNAPSHOT_STEPS: u32 = 3;

/// How long a session lasts where nodes form quorums themselves.
const SESSION_S: u32 = 150;

/// What a layer takes: so long that members make a batch shorter than distance makes it longer.
const LAYER_US: u64 = 9000;

/// What happens to messages and blobs on their way.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) lost_percent: u64,
    pub(crate) doubled_percent: u64,
    pub(crate) latest_ms: u64,
}

enum Next {
    Frame(Vec<u8>),
    Fetch {
        life: u32,
        id: RequestId,
        hash: Hash,
        from: usize,
        keep: bool,
    },
    Worked {
        life: u32,
    },
    Persisted {
        life: u32,
        upto: JournalSeq,
    },
    /// All neighbours are told that the node lives.
    Greet,
    Start,
}

struct Node {
    core: Option<Core>,
    life: u32,
    executor: Executor,
    jobs: VecDeque<(RequestId, Job)>,
    busy: bool,
    journal: BTreeMap<JournalSeq, Vec<u8>>,
    durable: Option<JournalSeq>,
    blobs: Blobs,
    /// How often each of those that pass is held.
    passing: BTreeMap<Hash, u32>,
    persisted: Blobs,
    events: Vec<Event>,
    /// The last step it took.
    step: Step,
}

pub(crate) struct World {
    configs: Vec<Config>,
    nodes: Vec<Node>,
    now: u64,
    queue: BTreeMap<(u64, u64), (usize, Next)>,
    count: u64,
    dice: u64,
    weather: Weather,
    outbox: Outbox,
    /// The state after each step, by stage: whoever computes it comes to the same.
    states: BTreeMap<Step, BTreeMap<u32, Hash>>,
    /// Nodes that hear nothing and say nothing.
    cut_off: BTreeSet<usize>,
}

impl Node {
    fn hold(&mut self, hash: Hash) {
        *self.passing.entry(hash).or_default() += 1;
        self.blobs.insert(hash);
    }

    fn let_go(&mut self, hash: Hash) {
        let Some(held) = self.passing.get_mut(&hash) else {
            assert!(self.blobs.remove(&hash), "only what is there is dropped");
            self.persisted.remove(&hash);
            return;
        };
        *held -= 1;
        if *held == 0 {
            self.passing.remove(&hash);
            self.blobs.remove(&hash);
        }
    }
}

fn key(place: usize) -> SigningKey {
    SigningKey::from_bytes(&[place as u8 + 1; 32])
}

fn name(place: usize) -> NodeId {
    NodeId::from_bytes(key(place).verifying_key().to_bytes())
}

fn config(place: usize, plan: Option<Plan>) -> Config {
    let (genesis, manifest) = network(Founder::alone(name(0)));
    let operator = Operator::new(1 << 30, 1 << 30);
    Config { plan: plan.map(Shared::from), ..Config::new(genesis, manifest, name(place), operator) }
}

impl World {
    pub(crate) fn new(members: u32, weather: Weather, seed: u64) -> Self {
        Self::of(Self::configs(members), weather, seed)
    }

    /// As [`Self::new`], with operators who want so many steps.
    pub(crate) fn with_limit(members: u32, limit: Step, weather: Weather, seed: u64) -> Self {
        let mut configs = Self::configs(members);
        configs.iter_mut().for_each(|config| config.operator.steps = Some(limit.0));
        Self::of(configs, weather, seed)
    }

    fn configs(members: u32) -> Vec<Config> {
        let stages = config(0, None).genesis.model.layers + 1;
        let cut = |place: u32| place * stages / members;
        let member = |place: u32| Member {
            node: name(place as usize),
            stages: LayerRange { start: cut(place), end: cut(place + 1) },
        };
        let members: Vec<Member> = (0..members).map(member).collect();
        let places = members.len();
        let plan = Plan { members: members.try_into().unwrap(), snapshot_steps: SNAPSHOT_STEPS };
        (0..places).map(|place| config(place, Some(plan.clone()))).collect()
    }

    fn of(configs: Vec<Config>, weather: Weather, seed: u64) -> Self {
        let node = |_| Node {
            core: None,
            life: 0,
            executor: Executor::default(),
            jobs: VecDeque::new(),
            busy: false,
            journal: BTreeMap::new(),
            durable: None,
            blobs: Blobs::new(),
            passing: BTreeMap::new(),
            persisted: Blobs::new(),
            events: Vec::new(),
            step: Step(0),
        };
        let nodes = configs.iter().map(node).collect();
        let mut world = Self {
            configs,
            nodes,
            now: 0,
            queue: BTreeMap::new(),
            count: 0,
            dice: seed,
            weather,
            outbox: Outbox::default(),
            states: BTreeMap::new(),
            cut_off: BTreeSet::new(),
        };
        (0..world.nodes.len()).for_each(|place| world.start(place));
        world
    }

    /// A network of so many nodes that all decide together and find their quorums by themselves. Those of `narrow` have room
    /// for two stages.
    pub(crate) fn network(nodes: usize, narrow: &[usize], weather: Weather, seed: u64) -> Self {
        Self::founded(nodes, nodes, narrow, weather, seed)
    }

    /// The same, but only some of them are founders and there from the beginning.
    pub(crate) fn founded(founders: usize, nodes: usize, narrow: &[usize], weather: Weather, seed: u64) -> Self {
        let founding = founders;
        let founders: Vec<Founder> = (0..founders).map(|place| Founder::alone(name(place))).collect();
        let config = |place: usize| {
            let mut config = config(place, None);
            let mut genesis = (*config.genesis).clone();
            genesis.founders = founders.clone().try_into().unwrap();
            for row in &mut genesis.params.phases {
                (row.sync_interval, row.session_s) = (SNAPSHOT_STEPS, SESSION_S);
            }
            genesis.params.nodes.puzzle_bits = 0;
            if narrow.contains(&place) {
                let two = genesis.model.training_bytes(LayerRange { start: 3, end: 5 });
                config.operator.memory_bytes = two * 5 / 4 + 1000;
            }
            config.genesis = genesis.into();
            config
        };
        let mut world = Self::of((0..nodes).map(config).collect(), weather, seed);
        (0..nodes).for_each(|place| world.put(10 + place as u64, place, Next::Greet));
        (founding..nodes).for_each(|place| world.kill(place));
        world
    }

    /// What one node that has never heard of quorums makes of the model.
    pub(crate) fn solo(step: Step) -> Vec<Hash> {
        let mut world =
            Self::of(vec![config(0, None)], Weather { lost_percent: 0, doubled_percent: 0, latest_ms: 1 }, 0);
        world.run_to(step);
        world.state_after(step)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.dice;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }

    fn put(&mut self, after: u64, place: usize, next: Next) {
        self.count += 1;
        self.queue.insert((self.now + after, self.count), (place, next));
    }

    pub(crate) fn start(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.life += 1;
        let seed = Hash::of_blob(&[place as u8, node.life as u8]);
        let core = Core::restore(self.configs[place].clone(), seed, node.journal.values()).unwrap();
        assert!(core.pinned().is_subset(&node.persisted), "every blob that a fact names survived");
        (node.core, node.executor, node.busy) = (Some(core), Executor::default(), false);
        node.blobs = node.persisted.clone();
        node.passing.clear();
        self.input(place, Input::Tick);
    }

    /// The power goes; half a second later the node is there again.
    pub(crate) fn crash(&mut self, place: usize) {
        self.kill(place);
        self.put(500, place, Next::Start);
    }

    /// The process ends and is there again before the others have come to a stop.
    pub(crate) fn blink(&mut self, place: usize) {
        self.kill(place);
        self.put(1, place, Next::Start);
    }

    fn kill(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.core = None;
        node.jobs.clear();
        let durable = node.durable;
        node.journal.retain(|seq, _| Some(*seq) <= durable);
    }

    /// The operator stops a node.
    pub(crate) fn stop(&mut self, place: usize) {
        self.input(place, Input::Command(Command::Stop));
        for _ in 0..10_000 {
            if self.nodes[place].events.iter().any(|event| matches!(event, Event::Stopped { .. })) {
                return self.kill(place);
            }
            assert!(self.turn(), "a node that is asked to stop does");
        }
        panic!("a node that is asked to stop does, and soon");
    }

    /// The operator takes a node away for good; returns how long it took.
    pub(crate) fn leave(&mut self, place: usize) -> u64 {
        let began = self.now;
        self.input(place, Input::Command(Command::Leave));
        while !self.nodes[place].events.iter().any(|event| matches!(event, Event::Stopped { .. })) {
            assert!(self.now < began + 300_000, "a node that is asked to leave stops");
            assert!(self.turn(), "and does not wait for nothing");
        }
        self.kill(place);
        self.now - began
    }

    /// In this batch a value leaves its range at a member.
    pub(crate) fn void(&mut self, place: usize, batch: u64) {
        self.nodes[place].executor.voids.insert(batch);
    }

    pub(crate) fn step(&self, place: usize) -> Step {
        self.nodes[place].core.as_ref().map(Core::model_step).unwrap_or_default()
    }

    pub(crate) fn events(&self, place: usize) -> impl Iterator<Item = &Event> {
        self.nodes[place].events.iter()
    }

    /// All stages' weights after a step, by those who run them.
    pub(crate) fn state_after(&self, step: Step) -> Vec<Hash> {
        self.states[&step].values().copied().collect()
    }

    /// Streams and gradients do not pile up.
    pub(crate) fn check_blobs(&self) {
        for (place, node) in self.nodes.iter().enumerate() {
            let passing: u32 = node.passing.values().sum();
            assert!(passing <= 4 * 8, "node {place} holds {passing} streams and gradients");
        }
    }

    pub(crate) fn run_to(&mut self, step: Step) {
        let limit = self.now + 3_600_000;
        let stages = self.configs[0].genesis.model.layers as usize + 1;
        while self.states.get(&step).is_none_or(|state| state.len() < stages) {
            assert!(self.turn() && self.now < limit, "stuck: {:#?}", self.stuck());
        }
    }

    pub(crate) fn run_ms(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until && self.turn() {}
    }

    fn stuck(&self) -> Vec<String> {
        let node = |(place, node): (usize, &Node)| {
            let last: Vec<_> = node.events.iter().rev().take(3).collect();
            format!("{place}: {:?}, {} jobs, {last:?}", node.core, node.jobs.len())
        };
        self.nodes.iter().enumerate().map(node).collect()
    }

    /// The next thing happens.
    fn turn(&mut self) -> bool {
        let deadline = |node: &Node| node.core.as_ref().and_then(Core::next_deadline).map(|(at, _)| at.as_ms());
        let tick = self.nodes.iter().enumerate().filter_map(|(place, node)| Some((deadline(node)?, place))).min();
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        match (tick, queued) {
            (Some((at, place)), queued) if queued.is_none_or(|queued| at <= queued) => {
                self.now = self.now.max(at);
                self.input(place, Input::Tick);
            }
            (_, Some(_)) => {
                let Some(((at, _), (place, next))) = self.queue.pop_first() else { return false };
                self.now = self.now.max(at);
                self.happen(place, next);
            }
            (_, None) => return false,
        }
        true
    }

    fn happen(&mut self, place: usize, next: Next) {
        let lives = |node: &Node, life: u32| node.core.is_some() && node.life == life;
        match next {
            Next::Start => self.start(place),
            Next::Greet => self.greet(place),
            Next::Frame(frame) => {
                if self.nodes[place].core.is_some() {
                    self.input(place, Input::Message(Verified::open(&frame).unwrap()));
                }
            }
            Next::Fetch { life, id, hash, from, keep } => {
                let cut = self.cut_off.contains(&from) || self.cut_off.contains(&place);
                let has = !cut && self.nodes[from].core.is_some() && self.nodes[from].blobs.contains(&hash);
                if lives(&self.nodes[place], life) {
                    match (has, keep) {
                        (false, _) => {}
                        (true, false) => self.nodes[place].hold(hash),
                        (true, true) => {
                            self.nodes[place].blobs.insert(hash);
                            self.nodes[place].persisted.insert(hash);
                        }
                    }
                    let result = if has { Ok(()) } else { Err(FetchFault::Missing) };
                    self.input(place, Input::Fetched { id, result });
                }
            }
            Next::Persisted { life, upto } => {
                if lives(&self.nodes[place], life) {
                    self.nodes[place].durable = Some(upto);
                    self.input(place, Input::Persisted { upto });
                }
            }
            Next::Worked { life } => {
                if lives(&self.nodes[place], life) {
                    self.work(place);
                }
            }
        }
    }

    fn work(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.busy = false;
        if let Some((id, job)) = node.jobs.pop_front() {
            let before = node.blobs.clone();
            // All machines are equally fast, whatever this one is.
            let measured = Ok(Commitment::Benchmark { layer_us: LAYER_US });
            let timed = matches!(job, Job::Benchmark { .. });
            let result = if timed { measured } else { node.executor.run(&job, &mut node.blobs) };
            result.iter().filter_map(Commitment::passing).for_each(|hash| node.hold(hash));
            match &job {
                Job::Snapshot { .. } => node.persisted.extend(node.blobs.difference(&before).copied()),
                Job::Step { step, .. } if result.is_ok() => {
                    node.step = step.next();
                    let state = self.states.entry(step.next()).or_default();
                    for (stage, weight) in node.executor.weights() {
                        let earlier = *state.entry(stage).or_insert(weight);
                        assert_eq!(earlier, weight, "what is trained again comes out the same");
                    }
                }
                _ => {}
            }
            self.input(place, Input::Computed { id, result });
        }
        self.begin_work(place);
    }

    fn begin_work(&mut self, place: usize) {
        let takes = 5 + self.roll(20);
        let node = &mut self.nodes[place];
        if !node.busy && !node.jobs.is_empty() {
            node.busy = true;
            let life = node.life;
            self.put(takes, place, Next::Worked { life });
        }
    }

    fn input(&mut self, place: usize, input: Input) {
        let now = Time::from_ms(self.now);
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(core) = self.nodes[place].core.as_mut() else { return };
            core.step(now, input, &mut self.outbox).unwrap();
            while let Some(output) = self.outbox.pop() {
                if let Some(answer) = self.obey(place, output) {
                    inputs.push_back(answer);
                }
            }
        }
        self.begin_work(place);
    }

    fn obey(&mut self, place: usize, output: Output) -> Option<Input> {
        let node = &mut self.nodes[place];
        let life = node.life;
        match output {
            Output::Persist { seq, record } => {
                node.journal.insert(seq, record.into_vec());
                self.put(8, place, Next::Persisted { life, upto: seq });
            }
            Output::Trim { before } => node.journal.retain(|seq, _| *seq >= before),
            Output::Compute { id, job, .. } => node.jobs.push_back((id, job)),
            Output::Cancel { id } => {
                // What is under way is done to its end.
                let under_way = node.jobs.front().filter(|_| node.busy).map(|(job, _)| *job);
                node.jobs.retain(|(job, _)| *job != id || under_way == Some(id));
            }
            Output::Drop { hash } => node.let_go(hash),
            Output::Sign { id, digest } => {
                let signature = Signature(key(place).sign(digest.as_bytes()).to_bytes());
                return Some(Input::Signed { id, signature });
            }
            Output::Send { to, message } => self.send(place, &to, &message),
            Output::Publish { message, .. } => {
                for other in (0..self.nodes.len()).filter(|other| *other != place) {
                    self.send(place, &name(other), &message);
                }
            }
            Output::Fetch { id, hash, from, keep } => {
                let from = (0..self.nodes.len()).find(|other| name(*other) == from).expect("a member");
                let after = 1 + self.roll(self.weather.latest_ms);
                self.put(after, place, Next::Fetch { life, id, hash, from, keep });
            }
            Output::Event(event) => node.events.push(event),
        }
        None
    }

    /// Every ten seconds all others hear that a node lives.
    fn greet(&mut self, place: usize) {
        self.put(10_000, place, Next::Greet);
        if self.nodes[place].core.is_none() {
            return;
        }
        let (node, time, step) = (name(place), Time::from_ms(self.now), self.step(place));
        let heartbeat = Heartbeat { node, time, quorum: None, queue_depth: 0, free_bytes: 0, step };
        let sign = |digest: &Hash| Signature(key(place).sign(digest.as_bytes()).to_bytes());
        let envelope = Envelope::seal(self.configs[0].genesis.network(), &Message::Heartbeat(heartbeat), sign);
        for other in (0..self.nodes.len()).filter(|other| *other != place) {
            self.send(place, &name(other), &envelope);
        }
    }

    /// A node that is no founder comes, and asks to be registered.
    pub(crate) fn join(&mut self, place: usize) {
        self.start(place);
        let (node, network) = (name(place), self.configs[0].genesis.network());
        let owner = OwnerId::from_bytes(*node.as_bytes());
        let sign = |digest: &Hash| Signature(key(place).sign(digest.as_bytes()).to_bytes());
        let consent = sign(&consent_digest(network, owner, node));
        let author = Author::Account { owner, key: PublicKey(*node.as_bytes()), sequence: 0 };
        let transaction = Transaction { author, action: Action::RegisterNode { node, consent, puzzle: Some(0) } };
        let signature = sign(&transaction.digest(network));
        let signed = SignedTransaction { transaction, signature };
        self.input(place, Input::Command(Command::Submit(Box::new(signed))));
    }

    /// The power of a node goes and does not come back.
    pub(crate) fn lose(&mut self, place: usize) {
        self.kill(place);
    }

    /// Nobody hears a node any more, and it hears nobody; or all is as before.
    pub(crate) fn cut_off(&mut self, place: usize, cut: bool) {
        if cut {
            self.cut_off.insert(place)
        } else {
            self.cut_off.remove(&place)
        };
    }

    /// The members of the quorum that trains, as a node sees it, in their order.
    pub(crate) fn members(&self, place: usize) -> Vec<usize> {
        let core = self.nodes[place].core.as_ref().expect("a node that lives");
        let members = core.ledger().active_quorums().flat_map(|(_, quorum)| quorum.plan.members.iter());
        members.filter_map(|member| (0..self.nodes.len()).find(|place| name(*place) == member.node)).collect()
    }

    /// The last step that anybody took.
    pub(crate) fn furthest(&self) -> Step {
        self.nodes.iter().map(|node| node.step).max().unwrap_or_default()
    }

    fn send(&mut self, from: usize, to: &NodeId, message: &Envelope) {
        let Some(place) = (0..self.nodes.len()).find(|place| name(*place) == *to) else { return };
        if self.cut_off.contains(&from) || self.cut_off.contains(&place) {
            return;
        }
        let Weather { lost_percent, doubled_percent, latest_ms } = self.weather;
        let copies = if self.roll(100) < lost_percent { 0 } else { 1 + u64::from(self.roll(100) < doubled_percent) };
        for _ in 0..copies {
            let after = 1 + self.roll(latest_ms);
            self.put(after, place, Next::Frame(codec::encode(message)));
        }
    }

    /// A stranger, and a member that talks nonsense.
    pub(crate) fn heckle(&mut self) {
        let network = self.configs[0].genesis.network();
        let quorum = self.configs[0].plan.as_ref().unwrap().id(network);
        let (batch, blob) = (BatchId(u64::MAX), Hash::of_blob(b"nonsense"));
        let words = [
            Word::Forward { batch, index: u32::MAX, blob },
            Word::Backward { batch: BatchId(2), index: 3, blob },
            Word::Done { batch: BatchId(3), loss_micro: -1, tokens: u64::MAX, squared_norms: List::default() },
            Word::Lacks { batch, forward: 0, backward: 0, done: true },
            Word::Go { step: Step(77) },
            Word::Gather,
        ];
        for (speaker, word) in [9, 2].into_iter().flat_map(|speaker| words.iter().map(move |word| (speaker, word))) {
            let said = QuorumMessage { quorum, node: name(speaker), term: 1, word: word.clone() };
            let sign = |digest: &Hash| Signature(key(speaker).sign(digest.as_bytes()).to_bytes());
            let envelope = Envelope::seal(network, &Message::Quorum(Box::new(said)), sign);
            for place in 0..2 {
                self.put(1, place, Next::Frame(codec::encode(&envelope)));
            }
        }
    }
}
