//! What must never change by accident: the bytes of every type that is sent, signed, stored or recorded, the schema, and
//! the numbers that every node computes for itself.

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_core::ledger::Ledger;
use neuroshard_core::ledger::light::{Advance, NextSeats};
use neuroshard_core::tokenizer::Tokenizer;
use neuroshard_core::{
    Command, Config, Event, FetchFault, Input, JobKind, JournalFact, ModeReason, Operator, Output, PeerFault, Progress,
    Record, Recovery, Sampler, SavedState, schedule,
};
use neuroshard_proto::chain::{
    Action, Author, Block, BlocksWanted, Certificate, Decided, Evidence, Lock, Proposal, PublicKey, Seats,
    SignedTransaction, SignedVote, StatePiece, StatePlace, StateWanted, Statement, Steps, StepsWanted, Subject,
    Transaction, Vote, consent_digest, puzzle_bits, random_commitment,
};
use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{
    Allocation, Amount, BatchId, BatchOutcome, Beacon, Commitment, DType, Decline, Envelope, F32, Fault,
    FormingMessage, FormingWord, Founder, Genesis, Hash, Heartbeat, Job, JournalSeq, LayerBlobs, LayerIndex,
    LayerRange, Manifest, Member, Message, Micro, Mode, NetworkId, NodeId, OwnerId, Params, Passed, Plan, Position,
    Preset, QuorumId, QuorumMessage, RequestId, Returned, Sample, Shard, Signature, Snapshot, Step, Stream, Terms,
    Text, Tier, Time, Turned, Verified, VoidReason, Word, merkle, tile,
};
use neuroshard_tests::golden;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn node() -> NodeId {
    NodeId::from_bytes(key().verifying_key().to_bytes())
}

fn hash(name: &str) -> Hash {
    Hash::of_blob(name.as_bytes())
}

fn manifest() -> Manifest {
    let shard = |name, held_out| Shard { hash: hash(name), tokens: 65_536, held_out };
    let shards = vec![shard("a", false), shard("b", true)].try_into().unwrap();
    Manifest { tokenizer: Tokenizer::genesis().hash(), text_bytes: 131_000, shards }
}

fn genesis() -> Genesis {
    let (model, training) = Preset::Nano.specs();
    Genesis {
        created_unix_ms: 1_800_000_000_000,
        seed: hash("seed"),
        model,
        training,
        params: Params::DEFAULT,
        manifest: manifest().root(),
        founders: vec![Founder::alone(node())].try_into().unwrap(),
        allocations: Default::default(),
        first: None,
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        node: node(),
        time: Time::from_ms(123_456),
        quorum: Some(QuorumId(hash("quorum"))),
        queue_depth: 3,
        free_bytes: 1 << 34,
        step: Step(77),
    }
}

fn beacon() -> Beacon {
    let addresses = ["/ip4/192.168.1.7/tcp/4700", "/ip4/10.0.0.7/tcp/4700"];
    let addresses = addresses.map(|text| Text::try_from(text.to_owned()).unwrap()).to_vec();
    Beacon { node: node(), addresses: addresses.try_into().unwrap() }
}

fn envelope() -> Envelope {
    let network = NetworkId(hash("network"));
    Envelope::seal(network, &Message::Heartbeat(heartbeat()), |digest| {
        Signature(key().sign(digest.as_bytes()).to_bytes())
    })
}

fn snapshot() -> Snapshot {
    let stage = LayerBlobs { root: hash("stage"), weights: hash("w"), moments: hash("m") };
    let layers = vec![stage; 2].try_into().unwrap();
    Snapshot { step: Step(100), root: hash("root"), layers, bytes: 10_000 }
}

/// A value's bytes, after having seen that they decode to the value.
fn bytes<T: Canonical + PartialEq + std::fmt::Debug>(value: &T) -> Vec<u8> {
    let encoded = codec::encode(value);
    assert_eq!(&codec::decode::<T>(&encoded).expect("what was encoded decodes"), value);
    encoded
}

#[test]
fn the_wire_keeps_its_bytes() {
    let verified = Verified::open(&codec::encode(&envelope())).expect("an honest frame");
    assert_eq!(verified.message(), &Message::Heartbeat(heartbeat()));
    let entries = vec![
        ("heartbeat", bytes(&heartbeat())),
        ("envelope of a heartbeat", bytes(&envelope())),
        ("beacon", bytes(&beacon())),
        ("manifest", bytes(&manifest())),
        ("genesis", bytes(&genesis())),
        ("genesis of weights brought along", bytes(&Genesis { first: Some(snapshot()), ..genesis() })),
        ("params", bytes(&Params::DEFAULT)),
        ("network id", genesis().network().0.as_bytes().to_vec()),
    ];
    golden::check("tests/golden/wire.txt", &golden::lines(entries));
}

fn jobs() -> Vec<(&'static str, Job)> {
    let (model, _) = Preset::Nano.specs();
    let range = LayerRange { start: 0, end: 5 };
    let samples = vec![Sample { shard: hash("a"), offset: 640 }];
    let (token_weight, norms) = (F32::from_ratio(1, 1024), vec![F32::ONE; 5]);
    let (_, training) = Preset::Nano.specs();
    let schedule = schedule::schedule(&training, Step(7));
    let train = Job::Train {
        step: Step(7),
        batch: BatchId(9),
        fresh: true,
        sequence: 128,
        token_weight,
        samples: samples.clone().try_into().unwrap(),
    };
    let squared_norms = norms.try_into().unwrap();
    let (micro, sample) = (Micro { batch: BatchId(9), index: 3 }, Sample { shard: hash("a"), offset: 640 });
    vec![
        ("job init", Job::Init { model, range, seed: hash("seed") }),
        ("job load", Job::Load { model, range, snapshot: snapshot() }),
        ("job benchmark", Job::Benchmark { model, sequence: 128, warmup: 3, runs: 10 }),
        ("job train", train),
        ("job step", Job::Step { step: Step(7), token_weight, squared_norms, schedule }),
        ("job evaluate", Job::Evaluate { step: Step(7), sequence: 128, samples: samples.try_into().unwrap() }),
        ("job snapshot", Job::Snapshot { step: Step(100) }),
        ("job forward", Job::Forward { step: Step(7), micro, fresh: true, sequence: 128, sample, input: None }),
        ("job turn", Job::Turn { step: Step(7), micro, fresh: false, sequence: 128, sample, input: Some(hash("in")) }),
        ("job backward", Job::Backward { step: Step(7), micro, gradient: hash("back") }),
        ("job norms", Job::Norms { step: Step(7), token_weight }),
    ]
}

#[test]
fn jobs_commitments_and_faults_keep_their_bytes() {
    let squared_norms = vec![F32::ONE, F32::from_ratio(1, 3)].try_into().unwrap();
    let commitments = [
        ("ready", Commitment::Ready { step: Step(0), root: hash("root") }),
        ("benchmark", Commitment::Benchmark { layer_us: 812 }),
        ("batch", Commitment::Batch(BatchOutcome::Done { loss_micro: 5_583_496, tokens: 1024, squared_norms })),
        ("void", Commitment::Batch(BatchOutcome::Void(VoidReason::OutOfRange))),
        ("step", Commitment::Step { step: Step(8), norm: F32::ONE }),
        ("evaluation", Commitment::Evaluation { step: Step(8), loss_micro: Some(-1), tokens: 4096 }),
        ("snapshot", Commitment::Snapshot(snapshot())),
        ("forward", Commitment::Forward(Passed::Done { output: hash("out") })),
        ("forward void", Commitment::Forward(Passed::Void(VoidReason::OutOfRange))),
        ("turn", Commitment::Turn(Turned::Done { loss_micro: 697_937, tokens: 128, gradient: Some(hash("back")) })),
        ("turn void", Commitment::Turn(Turned::Void(VoidReason::OutOfRange))),
        ("backward", Commitment::Backward(Returned::Done { gradient: None })),
        ("backward void", Commitment::Backward(Returned::Void(VoidReason::OutOfRange))),
        ("norms", Commitment::Norms { step: Step(8), squared_norms: Some(vec![F32::ONE; 2].try_into().unwrap()) }),
        ("norms out of range", Commitment::Norms { step: Step(8), squared_norms: None }),
    ];
    let faults = [
        ("missing", Fault::BlobMissing { hash: hash("x") }),
        ("damaged", Fault::BlobDamaged { hash: hash("x") }),
        ("root", Fault::RootMismatch { expected: hash("x"), found: hash("y") }),
        ("step", Fault::WrongStep { expected: Step(1), at: Some(Step(2)) }),
        ("job", Fault::bad_job("why")),
        ("disk", Fault::DiskFull { needed: 1 << 20 }),
        ("store", Fault::store("why")),
        ("device", Fault::device("why")),
    ];
    let mut entries: Vec<(&str, Vec<u8>)> = jobs().iter().map(|(name, job)| (*name, bytes(job))).collect();
    entries.extend(commitments.iter().map(|(name, answer)| (*name, bytes(answer))));
    entries.extend(faults.iter().map(|(name, fault)| (*name, bytes(fault))));
    golden::check("tests/golden/jobs.txt", &golden::lines(entries));
}

fn events() -> Vec<Event> {
    let (step, node, root) = (Step(8), node(), hash("root"));
    let (quorum, stages) = (QuorumId(hash("quorum")), LayerRange { start: 2, end: 5 });
    vec![
        Event::TierMeasured { layer_us: 812, tier: Tier::T1 },
        Event::ModeChosen { mode: Mode::Solo, reason: ModeReason::Alone },
        Event::ModeChosen { mode: Mode::Idle, reason: ModeReason::TooLittleMemory { needed: 2, allowed: 1 } },
        Event::StateReady { step, root },
        Event::Stepped { step, batch: BatchId(9), loss_micro: 7, tokens: 1024, norm: F32::ONE, rate: F32::ONE },
        Event::BatchVoid { step, batch: BatchId(9), voids: 1 },
        Event::HeldOut { step, loss_micro: 7, tokens: 4096 },
        Event::Saved { step, root, bytes: 10_000 },
        Event::JobFailed { job: JobKind::Train, fault: Fault::device("why"), then: Recovery::Reload { step } },
        Event::JobLate { job: JobKind::Step },
        Event::Rejected { reject: PeerFault::OwnName },
        Event::PeerUp { node },
        Event::PeerDown { node },
        Event::Diverged { step, voids: 100 },
        Event::StepLimit { step },
        Event::Stopped { step, saved: Some(step) },
        Event::QuorumProposed { quorum, members: 3, batch_us: 120_000 },
        Event::QuorumDeclined { quorum, node, why: Decline::Ahead },
        Event::QuorumJoined { quorum, members: 3, stages },
        Event::QuorumLeft,
        Event::QuorumBegan { quorum, term: 9, step },
        Event::StagesMissing { step, stages, blob: root, fault: FetchFault::Missing },
    ]
}

#[test]
fn the_surface_of_the_core_keeps_its_bytes() {
    let config = Config::new(genesis(), manifest(), node(), Operator::new(1 << 30, 1 << 31));
    let verified = Verified::open(&codec::encode(&envelope())).expect("an honest frame");
    let inputs = [
        ("input tick", Input::Tick),
        ("input message", Input::Message(verified)),
        ("input persisted", Input::Persisted { upto: JournalSeq(3) }),
        ("input computed", Input::Computed { id: RequestId(5), result: Ok(Commitment::Benchmark { layer_us: 812 }) }),
        ("input failed", Input::Computed { id: RequestId(5), result: Err(Fault::device("why")) }),
        ("input save", Input::Command(Command::Save)),
        ("input stop", Input::Command(Command::Stop)),
        ("input fetched", Input::Fetched { id: RequestId(6), result: Ok(()) }),
        ("input not fetched", Input::Fetched { id: RequestId(6), result: Err(FetchFault::Full) }),
    ];
    let founded =
        Record { seq: JournalSeq(0), fact: JournalFact::Founded { network: config.genesis.network(), node: node() } };
    let progress = Progress { batch: BatchId(101), tokens: 102_400, voids: 1, trained_ms: 3210 };
    let state = SavedState { range: LayerRange { start: 1, end: 3 }, snapshot: snapshot(), progress };
    let (states, copies) = (vec![state.clone()].try_into().unwrap(), vec![state].try_into().unwrap());
    let saved = Record { seq: JournalSeq(1), fact: JournalFact::Saved { states, copies } };
    let planned = Config { plan: Some(plan().into()), ..config.clone() };
    let mut entries: Vec<(&str, Vec<u8>)> = vec![("config", bytes(&config)), ("config with a plan", bytes(&planned))];
    entries.extend(inputs.iter().map(|(name, input)| (*name, bytes(input))));
    entries.push(("record founded", bytes(&founded)));
    entries.push(("record saved", bytes(&saved)));
    let record = codec::encode(&founded).try_into().unwrap();
    let (_, job) = jobs().swap_remove(0);
    let outputs = [
        ("output persist", Output::Persist { seq: JournalSeq(0), record }),
        ("output compute", Output::Compute { id: RequestId(5), job, deadline: Time::from_ms(99) }),
        ("output cancel", Output::Cancel { id: RequestId(5) }),
        ("output drop", Output::Drop { hash: hash("x") }),
        ("output trim", Output::Trim { before: JournalSeq(2) }),
        ("output fetch", Output::Fetch { id: RequestId(6), hash: hash("x"), from: node(), keep: true }),
    ];
    entries.extend(outputs.iter().map(|(name, output)| (*name, bytes(output))));
    entries.extend(events().into_iter().map(|event| ("event", bytes(&Output::Event(event)))));
    golden::check("tests/golden/surface.txt", &golden::lines(entries));
}

fn plan() -> Plan {
    let member =
        |name: u8, start, end| Member { node: NodeId::from_bytes([name; 32]), stages: LayerRange { start, end } };
    Plan { members: vec![member(1, 0, 2), member(2, 2, 5)].try_into().unwrap(), snapshot_steps: 100 }
}

#[test]
fn what_members_say_keeps_its_bytes() {
    let (quorum, batch, blob) = (QuorumId(hash("quorum")), BatchId(7), hash("blob"));
    let words = [
        ("ready", Word::Ready { steps: vec![Step(0), Step(100)].try_into().unwrap() }),
        ("gather", Word::Gather),
        ("go", Word::Go { step: Step(100) }),
        ("forward", Word::Forward { batch, index: 3, blob }),
        ("backward", Word::Backward { batch, index: 3, blob }),
        ("done", Word::Done { batch, loss_micro: 5, tokens: 6, squared_norms: vec![F32::ONE; 2].try_into().unwrap() }),
        ("void", Word::Void { batch }),
        ("lacks", Word::Lacks { batch, forward: 1, backward: 2, done: true }),
        ("here", Word::Here),
    ];
    let question = 77;
    let forming = [
        ("ask", FormingWord::Ask { question }),
        ("offer", FormingWord::Offer { question, layer_us: 900, declines: None }),
        ("no offer", FormingWord::Offer { question, layer_us: 900, declines: Some(Decline::Reserved) }),
        ("propose", FormingWord::Propose { terms: Box::new(terms()) }),
        ("accept", FormingWord::Accept { quorum, signature: Signature([8; 64]) }),
        ("decline", FormingWord::Decline { quorum, why: Decline::Taken }),
    ];
    let sign = |digest: &Hash| Signature(key().sign(digest.as_bytes()).to_bytes());
    let network = NetworkId(hash("network"));
    let mut entries = vec![("plan", bytes(&plan())), ("terms", bytes(&terms()))];
    for (name, word) in words {
        let said = QuorumMessage { quorum, node: node(), term: 9, word };
        entries.push((name, bytes(&said)));
        let sealed = codec::encode(&Envelope::seal(network, &Message::Quorum(Box::new(said.clone())), sign));
        assert_eq!(Verified::open(&sealed).expect("honest").message(), &Message::Quorum(Box::new(said)));
    }
    for (name, word) in forming {
        let said = FormingMessage { node: node(), word };
        entries.push((name, bytes(&said)));
        let sealed = codec::encode(&Envelope::seal(network, &Message::Forming(Box::new(said.clone())), sign));
        assert_eq!(Verified::open(&sealed).expect("honest").message(), &Message::Forming(Box::new(said)));
    }
    entries.push(("plan's name", plan().id(network).0.as_bytes().to_vec()));
    entries.push(("terms' name", terms().id(network).0.as_bytes().to_vec()));
    entries.push(("what members sign", terms().digest(network).as_bytes().to_vec()));
    golden::check("tests/golden/quorums.txt", &golden::lines(entries));
}

fn actions() -> Vec<(&'static str, Action)> {
    let (owner, amount) = (OwnerId::from_bytes([3; 32]), Amount::from_units(1_000_000_007));
    let vote = |block| {
        let vote = Vote { validator: node(), statement: Statement::Notarize { height: 7, view: 1, block } };
        SignedVote { vote, signature: Signature([5; 64]) }
    };
    let evidence = Box::new(Evidence { first: vote(hash("a")), second: vote(hash("b")) });
    let held = LayerRange { start: 0, end: 5 };
    vec![
        ("transfer", Action::Transfer { to: owner, amount }),
        ("bond", Action::Bond { amount }),
        ("unbond", Action::Unbond { amount }),
        ("rotate key", Action::RotateKey { new: PublicKey([4; 32]) }),
        ("register node", Action::RegisterNode { node: node(), consent: Signature([6; 64]), puzzle: Some(99) }),
        ("revoke node", Action::RevokeNode { node: node() }),
        ("describe node", Action::DescribeNode { memory_bytes: 1 << 34, storage_bytes: 7, tier: Tier::T2, held }),
        ("attest", Action::Attest { subject: node() }),
        ("commit random", Action::CommitRandom { commitment: hash("commitment") }),
        ("reveal random", Action::RevealRandom { value: hash("value") }),
        ("report equivocation", Action::ReportEquivocation { evidence }),
        ("nominate", Action::Nominate { node: node() }),
        (
            "form quorum",
            Action::FormQuorum { terms: terms(), acceptances: vec![Signature([9; 64])].try_into().unwrap() },
        ),
        ("end quorum", Action::EndQuorum { quorum: QuorumId(hash("quorum")) }),
        ("post stages", {
            let position = Position { batch: BatchId(201), tokens: 205_824, voids: 3 };
            let stages = snapshot().layers.to_vec().try_into().unwrap();
            Action::PostStages {
                quorum: QuorumId(hash("quorum")),
                step: Step(100),
                position,
                first: LayerIndex(3),
                stages,
            }
        }),
    ]
}

fn terms() -> Terms {
    let member = |node, (start, end)| Member { node, stages: LayerRange { start, end } };
    let members = vec![member(node(), (0, 3)), member(NodeId::from_bytes([7; 32]), (3, 5))];
    let plan = Plan { members: members.try_into().unwrap(), snapshot_steps: 100 };
    let ends = vec![QuorumId(hash("before"))].try_into().unwrap();
    Terms { plan, batches: 2, ends, valid_until: Time::from_ms(123_456) }
}

/// A ledger in its second epoch, and its blocks with the certificates that decided them.
fn chain() -> (Ledger, Vec<(Block, Certificate)>) {
    let mut genesis = genesis();
    let rich = Allocation { owner: OwnerId::from_bytes(*node().as_bytes()), amount: Amount::from_units(50 << 30) };
    genesis.allocations = vec![rich].try_into().unwrap();
    let (mut ledger, mut blocks) = (Ledger::genesis(&genesis), Vec::<(Block, Certificate)>::new());
    while ledger.epoch() < 1 || ledger.wants_finality() {
        let author = Author::Account {
            owner: rich.owner,
            key: PublicKey(*node().as_bytes()),
            sequence: ledger.account(&rich.owner).map_or(0, |account| account.sequence),
        };
        let (_, action) = actions().swap_remove(blocks.len() % 3);
        let transaction = Transaction { author, action };
        let signature = Signature(key().sign(transaction.digest(ledger.network()).as_bytes()).to_bytes());
        let wish = SignedTransaction { transaction, signature };
        let finality = blocks.last().map(|(_, certificate)| certificate);
        let draft = ledger.draft(node(), ledger.next_due(), finality, [&wish]).expect("a block is due");
        let (height, block) = (draft.block.header.height, draft.block.header.id());
        let vote = Vote { validator: node(), statement: Statement::Finalize { height, view: 0, block } };
        let signature = Signature(key().sign(vote.digest(ledger.network()).as_bytes()).to_bytes());
        let subject = Subject::Finalized { height, view: 0, block };
        blocks.push((draft.block, Certificate::gather(subject, [SignedVote { vote, signature }])));
        ledger = draft.ledger;
    }
    (ledger, blocks)
}

#[test]
fn the_agreed_world_keeps_its_bytes() {
    let by_account = |action| Transaction {
        author: Author::Account { owner: OwnerId::from_bytes([1; 32]), key: PublicKey([2; 32]), sequence: 300 },
        action,
    };
    let mut entries: Vec<(&str, Vec<u8>)> =
        actions().into_iter().map(|(name, action)| (name, bytes(&by_account(action)))).collect();
    let (_, attest) = actions().swap_remove(7);
    entries
        .push(("by a node", bytes(&Transaction { author: Author::Node { node: node(), epoch: 9 }, action: attest })));
    let (ledger, blocks) = chain();
    let (block, certificate) = blocks.last().unwrap().clone();
    assert!(block.finality.is_some() && blocks[0].0.finality.is_none());
    let lock = Some(Lock { view: 2, block: hash("locked") });
    let nullify = Vote { validator: node(), statement: Statement::Nullify { height: 8, view: 3, lock } };
    let nullified = Subject::Nullified { height: 8, view: 3 };
    let entry = Certificate::gather(nullified, [SignedVote { vote: nullify, signature: Signature([8; 64]) }]);
    let proposal = Proposal { leader: node(), view: 4, block: block.clone(), entry: Some(entry.clone()), lock: None };
    let header = block.header;
    let advance = Advance {
        header,
        certificate: certificate.clone(),
        deciders: Some((blocks[blocks.len() - 2].0.header, Seats::clone(ledger.seats()))),
        next: NextSeats::Same,
    };
    let owner = OwnerId::from_bytes(*node().as_bytes());
    entries.extend([
        ("header", bytes(&header)),
        ("block id", header.id().as_bytes().to_vec()),
        ("block", bytes(&block)),
        ("vote", bytes(&nullify)),
        ("nullification", bytes(&entry)),
        ("finalization", bytes(&certificate)),
        ("proposal", bytes(&proposal)),
        ("decided", bytes(&Decided { block, certificate })),
        ("blocks wanted", bytes(&BlocksWanted { node: node(), from: 12 })),
        ("seats", bytes(&Seats::clone(ledger.seats()))),
        ("seats' hash", ledger.seats().hash().as_bytes().to_vec()),
        ("light client's step", bytes(&advance)),
        ("proof of an account", bytes(&ledger.prove_account(&owner))),
        ("proof of a node", bytes(&ledger.prove_node(&node()))),
        ("consent", consent_digest(ledger.network(), owner, node()).as_bytes().to_vec()),
        ("quorum's name", terms().id(ledger.network()).0.as_bytes().to_vec()),
        ("acceptance", terms().digest(ledger.network()).as_bytes().to_vec()),
        ("proof of a quorum", bytes(&ledger.prove_quorum(&QuorumId(hash("quorum"))))),
        ("proof of a stage", bytes(&ledger.prove_stage(LayerIndex(0)))),
        ("puzzle bits", puzzle_bits(ledger.network(), node(), 5).to_le_bytes().to_vec()),
        ("random commitment", random_commitment(node(), 3, &hash("value")).as_bytes().to_vec()),
        ("state root", ledger.root().as_bytes().to_vec()),
        ("beacon", ledger.beacon().as_bytes().to_vec()),
    ]);
    entries.extend(ledger.chunks().map(|chunk| ("chunk", bytes(&chunk))));
    let chunk = ledger.chunks().next().map(|chunk| codec::encode(&chunk).try_into().expect("a chunk has a limit"));
    let place = StatePlace::Accounts(hash("path"));
    let (height, steps) = (12, vec![advance].try_into().expect("one step"));
    entries.extend([
        ("steps wanted", bytes(&StepsWanted { node: node(), above: height })),
        ("steps", bytes(&Steps { node: node(), steps, arrives: true })),
        ("state wanted", bytes(&StateWanted { node: node(), height, place })),
        ("piece of the state", bytes(&StatePiece { node: node(), height, place: StatePlace::Modules, piece: chunk })),
        ("no piece of the state", bytes(&StatePiece { node: node(), height, place: StatePlace::Block, piece: None })),
    ]);
    golden::check("tests/golden/chain.txt", &golden::lines(entries));
}

#[test]
fn numbers_that_every_node_computes_stay_what_they_are() {
    let (model, training) = Preset::Genesis.specs();
    let seed = hash("seed");
    let mut weights = Vec::new();
    for layer in [LayerIndex(0), LayerIndex(10), LayerIndex(11)] {
        for tensor in model.tensors(layer) {
            let mut head = [0; 64];
            let count = head.len().min(usize::try_from(tensor.elements()).unwrap());
            tensor.fill_init(&model, &seed, layer, 0, &mut head[..count]);
            weights.extend(head.iter().flat_map(|word| word.to_le_bytes()));
        }
    }
    let rotary: Vec<u8> = model.rotary_table().iter().flatten().flat_map(|half| half.to_le_bytes()).collect();
    let schedules: Vec<u8> = [0, 1, 999, 1000, 30_000, 60_000]
        .iter()
        .flat_map(|s| codec::encode(&schedule::schedule(&training, Step(*s))))
        .collect();
    let stream: Vec<u8> = (0..4).flat_map(|i| Stream::new(&seed, "golden", 1).at(i).to_le_bytes()).collect();
    let sampler = Sampler::new(seed, &training, &manifest());
    let samples: Vec<u8> = (0..3).flat_map(|batch| codec::encode(&sampler.batch(BatchId(batch)))).collect();
    let leaves: Vec<Hash> = (0..5_u8).map(|i| merkle::leaf(&[i])).collect();
    let shape = tile::Shape { rows: 20, cols: 18 };
    let tensor = tile::tensor(DType::F32, shape, &(0..360).collect::<Vec<u32>>());
    let entries = vec![
        ("attention scale", model.attention_scale().to_bits().to_le_bytes().to_vec()),
        ("first weights (digest)", hash_of(&weights)),
        ("rotary table (digest)", hash_of(&rotary)),
        ("schedules (digest)", hash_of(&schedules)),
        ("stream", stream),
        ("samples (digest)", hash_of(&samples)),
        ("held-out samples (digest)", hash_of(&codec::encode(&sampler.held_out()))),
        ("merkle root of five leaves", merkle::root(&leaves).as_bytes().to_vec()),
        ("tensor root", tensor.root.as_bytes().to_vec()),
        ("model state root", tile::model_state(Step(3), &[tile::stage_state(&[tensor])]).as_bytes().to_vec()),
        ("tokenizer", Tokenizer::genesis().hash().as_bytes().to_vec()),
    ];
    golden::check("tests/golden/numbers.txt", &golden::lines(entries));
}

fn hash_of(bytes: &[u8]) -> Vec<u8> {
    Hash::of_blob(bytes).as_bytes().to_vec()
}

#[test]
fn the_schema_is_the_one_checked_in() {
    let mut types = neuroshard_proto::schema::types();
    types.extend(neuroshard_core::schema_types());
    let text = neuroshard_proto::schema::json(&types);
    golden::check("proto/schema.json", &text);
}
