//! Some nodes, real keys, and a network in virtual time: each message takes `latency` milliseconds unless it is cut off or
//! lost. Training is not done here: jobs are answered with the benchmark alone.

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::proto::chain::{Action, Author, PublicKey, SignedTransaction, Statement, Transaction, Vote};
use neuroshard_core::proto::{
    ALLOCATIONS_MAX, Allocation, Amount, Commitment, Envelope, Founder, Genesis, Hash, Job, JournalSeq, List, Manifest,
    Message, NetworkId, NodeId, OwnerId, Params, Preset, RequestId, Shard, Signature, Stream, Time, Verified, codec,
};
use neuroshard_core::{
    Command, Config, Core, Event, Input, JournalFact, MAX_OUTPUTS, Operator, Outbox, Output, Record,
};

pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number + 1; 32])
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes(key(number).verifying_key().to_bytes())
}

pub(crate) fn owner(number: u8) -> OwnerId {
    OwnerId::from_bytes(*node(number).as_bytes())
}

/// Seats are drawn anew every half hour, and a bond is held for an hour: so changes of seats must be followed.
fn params() -> Params {
    let mut params = Params::DEFAULT;
    params.validators.committee_epochs = 30;
    params.money.unbonding_ms = 3_600_000;
    params
}

/// Accounts that hold money at genesis.
const RICH: u16 = 3000;

/// A network whose first `founders` nodes vote.
pub(crate) fn config(number: u8, founders: u8) -> Config {
    let (model, training) = Preset::Nano.specs();
    let shard = |name: &[u8], held_out| Shard { hash: Hash::of_blob(name), tokens: 65_536, held_out };
    let shards = vec![shard(b"a", false), shard(b"c", true)].try_into().unwrap();
    let manifest = Manifest { tokenizer: Hash::default(), text_bytes: 190_000, shards };
    let genesis = Genesis {
        created_unix_ms: 0,
        seed: Hash::of_blob(b"chain"),
        model,
        training,
        params: params(),
        manifest: manifest.root(),
        founders: (0..founders).map(|number| Founder::alone(node(number))).collect::<Vec<_>>().try_into().unwrap(),
        allocations: allocations(),
        first: None,
    };
    Config::new(genesis, manifest, node(number), Operator::new(1 << 30, 1 << 30))
}

fn allocations() -> List<Allocation, ALLOCATIONS_MAX> {
    let first = Allocation { owner: owner(0), amount: Amount::from_units(1 << 50) };
    let rest = (1..RICH).map(|n| {
        let owner = OwnerId::from_bytes(*Hash::of_blob(&n.to_le_bytes()).as_bytes());
        Allocation { owner, amount: Amount::from_units(1 << 30) }
    });
    std::iter::once(first).chain(rest).collect::<Vec<_>>().try_into().unwrap()
}

/// A transfer of node 0's account.
pub(crate) fn transfer(config: &Config, sequence: u64) -> SignedTransaction {
    let author = Author::Account { owner: owner(0), key: PublicKey(*node(0).as_bytes()), sequence };
    let action = Action::Transfer { to: owner(9), amount: Amount::from_units(1_000_000) };
    let transaction = Transaction { author, action };
    let digest = transaction.digest(config.genesis.network());
    let signature = Signature(key(0).sign(digest.as_bytes()).to_bytes());
    SignedTransaction { transaction, signature }
}

/// One node with its host.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) config: Config,
    pub(crate) core: Core,
    pub(crate) journal: BTreeMap<JournalSeq, Vec<u8>>,
    pub(crate) events: Vec<(Time, Event)>,
    /// Frames it sent, and to whom; `None` to all.
    pub(crate) sent: Vec<(Option<NodeId>, Vec<u8>)>,
    /// Every vote that it ever signed.
    pub(crate) votes: BTreeSet<(u64, u64, Statement)>,
    /// Outputs still to be done before the node loses its power.
    pub(crate) power: Option<usize>,
    pub(crate) persisted: bool,
    /// The facts it wrote, by kind, over all its lives.
    pub(crate) written: Vec<&'static str>,
    /// Votes in the journal, by what is signed.
    ballots: BTreeMap<Hash, Statement>,
    inputs: Vec<Input>,
    pub(crate) signs: bool,
}

impl Node {
    pub(crate) fn new(number: u8, founders: u8) -> Self {
        let config = config(number, founders);
        let core = Core::restore(config.clone(), Hash::of_blob(&[number]), [] as [&[u8]; 0]).unwrap();
        let (journal, events, sent) = (BTreeMap::new(), Vec::new(), Vec::new());
        let inputs = vec![Input::Tick];
        let (votes, ballots, power) = (BTreeSet::new(), BTreeMap::new(), None);
        let (persisted, signs) = (true, true);
        let written = Vec::new();
        Self { written, number, config, core, journal, events, sent, votes, power, persisted, ballots, inputs, signs }
    }

    /// Comes back with what its journal holds.
    pub(crate) fn restart(&mut self, life: u64) {
        let seed = Hash::of_blob(&[self.number, life as u8]);
        self.core = Core::restore(self.config.clone(), seed, self.journal.values()).unwrap();
        self.inputs = vec![Input::Tick];
        self.power = None;
    }

    /// Takes an input, and does all it asks for; false if the power failed.
    pub(crate) fn input(&mut self, now: Time, input: Input) -> bool {
        self.inputs.push(input);
        self.run(now)
    }

    pub(crate) fn run(&mut self, now: Time) -> bool {
        let mut outbox = Outbox::default();
        while !self.inputs.is_empty() {
            let input = self.inputs.remove(0);
            self.core.step(now, input, &mut outbox).unwrap();
            assert!(outbox.iter().len() <= MAX_OUTPUTS);
            while let Some(output) = outbox.pop() {
                if let Some(power) = self.power.as_mut() {
                    if *power == 0 {
                        return false;
                    }
                    *power -= 1;
                }
                self.perform(now, output);
            }
        }
        true
    }

    fn perform(&mut self, now: Time, output: Output) {
        match output {
            Output::Persist { seq, record } => {
                self.note_record(&record);
                self.journal.insert(seq, record.into_vec());
                if self.persisted {
                    self.inputs.push(Input::Persisted { upto: seq });
                }
            }
            Output::Trim { before } => self.journal.retain(|seq, _| *seq >= before),
            Output::Compute { id, job: Job::Benchmark { .. }, .. } => {
                self.inputs.push(Input::Computed { id, result: Ok(Commitment::Benchmark { layer_us: 900 }) });
            }
            Output::Compute { .. } | Output::Cancel { .. } | Output::Drop { .. } => {}
            Output::Sign { id, digest } => {
                if let Some(statement) = self.ballots.get(&digest) {
                    self.votes.insert((statement.height(), statement.view(), *statement));
                }
                if self.signs {
                    self.inputs.push(self.sign(id, &digest));
                }
            }
            Output::Send { to, message } => self.sent.push((Some(to), codec::encode(&*message))),
            Output::Publish { message, .. } => self.sent.push((None, codec::encode(&*message))),
            Output::Fetch { .. } => panic!("nobody trains together here"),
            Output::Event(event) => self.events.push((now, event)),
        }
    }

    pub(crate) fn sign(&self, id: RequestId, digest: &Hash) -> Input {
        Input::Signed { id, signature: Signature(key(self.number).sign(digest.as_bytes()).to_bytes()) }
    }

    /// A vote may be signed only if the journal holds it.
    fn note_record(&mut self, record: &[u8]) {
        let record: Record = codec::decode(record).unwrap();
        self.written.push(match record.fact {
            JournalFact::Taking { .. } => "taking",
            JournalFact::Chunk { .. } => "chunk",
            JournalFact::State { .. } => "state",
            _ => "other",
        });
        if let JournalFact::Voted { ballot } = record.fact {
            let vote = Vote { validator: node(self.number), statement: ballot.statement };
            self.ballots.insert(vote.digest(self.config.genesis.network()), ballot.statement);
        }
    }

    pub(crate) fn height(&self) -> u64 {
        self.core.ledger().head().height
    }

    /// Runs alone until nothing is due before `until`.
    pub(crate) fn live(&mut self, now: &mut Time, until: Time) -> bool {
        loop {
            if !self.run(*now) {
                return false;
            }
            match self.core.next_deadline() {
                Some((at, _)) if at.max(*now) <= until => {
                    *now = at.max(*now);
                    self.inputs.push(Input::Tick);
                }
                _ => return true,
            }
        }
    }

    /// No honest node states two things that contradict each other.
    pub(crate) fn check_votes(&self) {
        for (_, _, one) in &self.votes {
            let contradicts = |other: &(u64, u64, Statement)| other.2.contradicts(one);
            assert!(!self.votes.iter().any(contradicts), "node {} contradicts itself: {one:?}", self.number);
        }
    }

    pub(crate) fn submit(&mut self, now: Time, signed: SignedTransaction) {
        assert!(self.input(now, Input::Command(Command::Submit(Box::new(signed)))));
    }
}

/// What comes of a node's message on its way: other ones in its place, signed by the same node.
pub(crate) type Conduct = fn(u8, &Message) -> Vec<Message>;

fn sealed(from: u8, network: NetworkId, message: &Message) -> Verified {
    let sign = |digest: &Hash| Signature(key(from).sign(digest.as_bytes()).to_bytes());
    Verified::open(&codec::encode(&Envelope::seal(network, message, sign))).expect("signed well")
}

/// Nodes and the frames between them.
#[derive(Clone)]
pub(crate) struct World {
    /// How nodes that do not keep to the protocol speak, by their number.
    pub(crate) conducts: BTreeMap<u8, Conduct>,
    /// Messages of each kind that were sent, by their sender.
    pub(crate) said: BTreeMap<(u8, &'static str), u64>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Time,
    pub(crate) latency: u64,
    /// Frames lost, in percent.
    pub(crate) loss: u64,
    /// Nodes that hear and say nothing.
    pub(crate) cut: BTreeSet<u8>,
    pub(crate) frames: u64,
    wire: BTreeMap<(Time, u64), (u8, Verified)>,
    draws: Stream,
}

impl World {
    pub(crate) fn new(nodes: u8, founders: u8) -> Self {
        let draws = Stream::new(&Hash::default(), "network", 0);
        let nodes = (0..nodes).map(|number| Node::new(number, founders)).collect();
        let (cut, wire) = (BTreeSet::new(), BTreeMap::new());
        let (conducts, said) = (BTreeMap::new(), BTreeMap::new());
        let mut world =
            Self { conducts, said, nodes, now: Time::ZERO, latency: 50, loss: 0, cut, frames: 0, wire, draws };
        for number in 0..world.nodes.len() {
            world.nodes[number].run(Time::ZERO);
            world.collect(number as u8);
        }
        world
    }

    /// Puts what a node sent on the wire.
    pub(crate) fn collect(&mut self, from: u8) {
        for (to, frame) in core::mem::take(&mut self.nodes[usize::from(from)].sent) {
            let verified = Verified::open(&frame).expect("an honest node's frame opens");
            *self.said.entry((from, verified.message().kind().name())).or_default() += 1;
            if let Some(conduct) = self.conducts.get(&from) {
                for message in conduct(from, verified.message()) {
                    self.deliver(from, to, &sealed(from, verified.network(), &message));
                }
            } else {
                self.deliver(from, to, &verified);
            }
        }
    }

    /// Lets a node say something of its own to all.
    pub(crate) fn say(&mut self, from: u8, message: &Message) {
        let network = self.nodes[usize::from(from)].config.genesis.network();
        self.deliver(from, None, &sealed(from, network, message));
    }

    /// Puts a message on the wire.
    fn deliver(&mut self, from: u8, to: Option<NodeId>, verified: &Verified) {
        for number in 0..self.nodes.len() as u8 {
            let meant = number != from && to.is_none_or(|to| to == node(number));
            if !meant || self.cut.contains(&from) || self.cut.contains(&number) {
                continue;
            }
            self.frames += 1;
            if self.draws.below(100) >= self.loss {
                self.wire.insert((self.now.after_ms(self.latency), self.frames), (number, verified.clone()));
            }
        }
    }

    pub(crate) fn submit(&mut self, to: u8, signed: SignedTransaction) {
        self.nodes[usize::from(to)].submit(self.now, signed);
        self.collect(to);
    }

    /// Lets the world go on until `until`, or until `done`.
    pub(crate) fn run(&mut self, until: Time, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            let wire = self.wire.first_key_value().map(|((at, _), _)| *at);
            let timer = |node: &Node| node.core.next_deadline().map(|(at, _)| (at.max(self.now), node.number));
            let timer = self.nodes.iter().filter_map(timer).min();
            let next = [wire, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = next;
            let number = if wire == Some(next) {
                let (_, (number, message)) = self.wire.pop_first().unwrap();
                self.nodes[usize::from(number)].input(next, Input::Message(message));
                number
            } else {
                let (_, number) = timer.unwrap();
                self.nodes[usize::from(number)].input(next, Input::Tick);
                number
            };
            self.collect(number);
        }
    }

    /// Equal heights have equal roots everywhere, and nobody contradicts itself.
    pub(crate) fn check(&self) {
        let mut roots = BTreeMap::new();
        for node in &self.nodes {
            for (_, event) in &node.events {
                if let Event::BlockDecided { height, id, root, .. } = event {
                    assert_eq!(roots.entry(*height).or_insert((*id, *root)), &(*id, *root), "height {height}");
                }
                assert!(!matches!(event, Event::ChainBroken { .. }));
            }
            node.check_votes();
        }
    }

    pub(crate) fn lowest(&self) -> u64 {
        self.nodes.iter().map(Node::height).min().unwrap()
    }
}
