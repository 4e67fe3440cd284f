//! The ledger on one core: transfers applied a second, signatures verified a second, and what proofs, certificates, light
//! clients and newcomers cost in bytes and time.
//!
//! Applying takes what a block costs once its messages were opened: every check, the state's root, conservation. Signatures
//! are verified outside of the core, on any thread, and so have a line of their own.

use std::hint::black_box;

use ed25519_dalek::{Signer, SigningKey};
use neuroshard_benches::{best_of, cpu_seconds};
use neuroshard_core::ledger::Ledger;
use neuroshard_core::ledger::light::{Advance, LightClient, NextSeats};
use neuroshard_core::proto::chain::{
    Action, Author, Block, Certificate, PublicKey, Seats, SignedTransaction, SignedVote, Statement, Subject,
    Transaction, Vote, consent_digest,
};
use neuroshard_core::proto::{
    Allocation, Amount, Founder, Genesis, Hash, NodeId, OwnerId, Params, Preset, Signature, codec,
};

const NEURO: u64 = Amount::NEURO;

fn key(kind: &str, number: u64) -> SigningKey {
    SigningKey::from_bytes(Hash::of_blob(format!("{kind} {number}").as_bytes()).as_bytes())
}

fn public(key: &SigningKey) -> [u8; 32] {
    key.verifying_key().to_bytes()
}

fn sign(key: &SigningKey, digest: &Hash) -> Signature {
    Signature(key.sign(digest.as_bytes()).to_bytes())
}

/// An owner whose wishes nobody verifies.
fn payer(number: u64) -> OwnerId {
    OwnerId::from_bytes(*Hash::of_blob(&number.to_le_bytes()).as_bytes())
}

struct Chain {
    ledger: Ledger,
    /// The keys of nodes that decide.
    validators: Vec<SigningKey>,
    last: Option<(Block, Certificate)>,
}

impl Chain {
    fn new(params: Params, founders: u64, rich: impl Iterator<Item = (OwnerId, u64)>) -> (Self, Genesis) {
        let (model, training) = Preset::Nano.specs();
        let validators: Vec<SigningKey> = (0..founders).map(|number| key("founder", number)).collect();
        let founders = validators.iter().map(|key| Founder::alone(NodeId::from_bytes(public(key))));
        let allocations = rich.map(|(owner, units)| Allocation { owner, amount: Amount::from_units(units) });
        let genesis = Genesis {
            created_unix_ms: 0,
            seed: Hash::of_blob(b"seed"),
            model,
            training,
            params,
            manifest: Hash::default(),
            founders: founders.collect::<Vec<_>>().try_into().expect("few"),
            allocations: allocations.collect::<Vec<_>>().try_into().expect("few"),
            first: None,
        };
        (Self { ledger: Ledger::genesis(&genesis), validators, last: None }, genesis)
    }

    /// Makes the next block, without having it decided.
    fn draft(&self, empty: bool, wishes: &[SignedTransaction]) -> Block {
        let weight = |key: &&SigningKey| self.ledger.seats().weight(&NodeId::from_bytes(public(key))) > 0;
        let proposer = self.validators.iter().find(weight).expect("somebody decides");
        let finality = self.last.as_ref().map(|(_, certificate)| certificate);
        let time = if empty { self.ledger.next_due() } else { self.ledger.head().time.after_ms(1) };
        let draft = self.ledger.draft(NodeId::from_bytes(public(proposer)), time, finality, wishes).expect("a block");
        assert!(draft.refused.is_empty(), "{:?}", draft.refused.first());
        draft.block
    }

    /// Applies a block that those who have a seat decide.
    fn decide(&mut self, block: Block) {
        let (network, seats) = (self.ledger.network(), self.ledger.seats().clone());
        let (height, id) = (block.header.height, block.header.id());
        let statement = Statement::Finalize { height, view: 0, block: id };
        let mut votes = Vec::new();
        let mut weight = 0;
        for key in &self.validators {
            let vote = Vote { validator: NodeId::from_bytes(public(key)), statement };
            let own = seats.weight(&vote.validator);
            if own > 0 && weight < seats.quorum() {
                weight += own;
                votes.push(SignedVote { vote, signature: sign(key, &vote.digest(network)) });
            }
        }
        self.ledger = self.ledger.apply(&block).expect("a good block").0;
        let certificate = Certificate::gather(Subject::Finalized { height, view: 0, block: id }, votes);
        self.last = Some((block, certificate));
    }

    fn block(&mut self, wishes: &[SignedTransaction]) {
        let block = self.draft(wishes.is_empty(), wishes);
        assert_eq!(block.transactions.len(), wishes.len());
        self.decide(block);
    }
}

fn unsigned(owner: OwnerId, sequence: u64, action: Action) -> SignedTransaction {
    let author = Author::Account { owner, key: PublicKey(*owner.as_bytes()), sequence };
    SignedTransaction { transaction: Transaction { author, action }, signature: Signature([7; 64]) }
}

fn pay(from: u64, sequence: u64, to: u64, units: u64) -> SignedTransaction {
    unsigned(payer(from), sequence, Action::Transfer { to: payer(to), amount: Amount::from_units(units) })
}

/// Transfers among many accounts: the accounts' number, and CPU time of all blocks.
fn transfers(rich: u64, accounts: u64, blocks: u64, per_block: u64) {
    let (mut chain, _) = Chain::new(Params::DEFAULT, 1, (0..rich).map(|number| (payer(number), 1_000_000 * NEURO)));
    let (mut sequences, mut next) = (vec![0; accounts as usize], rich);
    while next < accounts {
        let wishes: Vec<_> = (0..per_block.min(accounts - next))
            .map(|place| {
                let from = ((next + place) % rich) as usize;
                sequences[from] += 1;
                pay(from as u64, sequences[from] - 1, next + place, 10 * NEURO)
            })
            .collect();
        next += wishes.len() as u64;
        chain.block(&wishes);
    }
    let (mut drafting, mut applying, mut state) = (0.0, 0.0, 1_u64);
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % accounts
    };
    for _ in 0..blocks {
        let wishes: Vec<_> = (0..per_block)
            .map(|_| {
                let from = random();
                sequences[from as usize] += 1;
                pay(from, sequences[from as usize] - 1, random(), 1 + random())
            })
            .collect();
        let start = cpu_seconds();
        let block = chain.draft(false, &wishes);
        drafting += cpu_seconds() - start;
        let start = cpu_seconds();
        black_box(chain.ledger.apply(&block).expect("a good block"));
        applying += cpu_seconds() - start;
        chain.decide(block);
    }
    let count = (blocks * per_block) as f64;
    println!("| transfers applied a CPU-second, {accounts} accounts, {per_block} a block | {:.0} |", count / applying);
    println!("| ... drafted | {:.0} |", count / drafting);
    // An epoch's end recounts every account.
    let mut end = 0.0;
    for _ in 0..6 {
        let block = chain.draft(true, &[]);
        let start = cpu_seconds();
        black_box(chain.ledger.apply(&block).expect("a good block"));
        end = cpu_seconds() - start;
        chain.decide(block);
    }
    println!("| an epoch's end, {accounts} accounts | {:.2} ms |", end * 1e3);
    let start = cpu_seconds();
    let (chunks, bytes) =
        chain.ledger.chunks().fold((0, 0), |(n, sum), chunk| (n + 1, sum + codec::encode(&chunk).len()));
    let spent = cpu_seconds() - start;
    println!(
        "| the state in chunks: {chunks} chunks, {:.1} MB, cut and encoded in | {spent:.2} s |",
        bytes as f64 / 1e6
    );
    let proof = chain.ledger.prove_account(&payer(7));
    let (root, bytes) = (chain.ledger.root(), codec::encode(&proof).len());
    let check =
        best_of(3, 0.05, || assert!(black_box(&proof).check(&root, &payer(7)).is_ok_and(|found| found.is_some())));
    println!("| proof of an account among {accounts} | {bytes} bytes, checked in {:.1} us |", check * 1e6);
}

fn signatures() {
    let (chain, _) = Chain::new(Params::DEFAULT, 1, std::iter::empty());
    let (network, signer) = (chain.ledger.network(), key("owner", 1));
    let author = Author::Account { owner: payer(1), key: PublicKey(public(&signer)), sequence: 3 };
    let action = Action::Transfer { to: payer(2), amount: Amount::from_units(5) };
    let transaction = Transaction { author, action };
    let signature = sign(&signer, &transaction.digest(network));
    let signed = SignedTransaction { transaction, signature };
    let each = best_of(3, 0.2, || assert!(black_box(&signed).holds(network)));
    println!("| signatures verified a CPU-second, strict | {:.0} |", 1.0 / each);
    println!("| a signed transfer | {} bytes |", codec::encode(&signed).len());
}

/// What a light client reads and computes for so many changes of seats. Returns the bytes of each step.
fn light(name: &str, mut chain: Chain, genesis: &Genesis, changes: u64, year: u64) {
    let mut client = LightClient::genesis(genesis);
    let mut steps: Vec<Vec<u8>> = Vec::new();
    // Whoever decides now, the client follows to here by one step.
    while (steps.len() as u64) < changes {
        let before = Seats::clone(chain.ledger.seats());
        chain.block(&[]);
        if chain.ledger.seats().hash() != before.hash() {
            let (block, certificate) = chain.last.clone().expect("a block");
            let next = NextSeats::between(&before, chain.ledger.seats());
            steps.push(codec::encode(&Advance { header: block.header, certificate, deciders: None, next }));
        }
    }
    let last = steps.last().map_or(0, Vec::len);
    let bytes: usize = steps.iter().map(Vec::len).sum();
    let start = cpu_seconds();
    for step in &steps {
        client.advance(codec::decode(step).expect("a step")).expect("an honest step");
    }
    let spent = cpu_seconds() - start;
    assert_eq!(client.header().map(|header| header.height), Some(chain.ledger.head().height));
    let scale = year as f64 / changes as f64;
    let (mb, seconds) = (bytes as f64 / 1e6 * scale, spent * scale);
    println!("| light client, {name}: a year of {year} changes of seats | {mb:.2} MB, {seconds:.2} CPU-s |");
    // Skipping: the header before and its seats come along, once in seven days.
    let skip = last + codec::encode(&chain.last.as_ref().expect("a block").0.header).len();
    let seats = codec::encode(&**chain.ledger.seats()).len();
    println!("| ... one step | {last} bytes, of them seats {seats} |");
    println!("| ... the year in 53 skips | {:.3} MB |", (skip + seats) as f64 * 53.0 / 1e6);
}

fn main() {
    // Under the test runner this only shows that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    println!("| what | value |\n|---|---:|");
    signatures();
    // `-- light` leaves out the transfers, which take most of the time.
    let light_only = std::env::args().any(|argument| argument == "light");
    if quick {
        transfers(100, 200, 2, 50);
    } else if !light_only {
        transfers(4000, 4000, 40, 1000);
        transfers(4000, 100_000, 40, 1000);
        transfers(4000, 1_000_000, 40, 1000);
    }
    // A year of periods of six hours, with a block for every two of them.
    let mut params = Params::DEFAULT;
    params.epoch_ms = 7_200_000;
    params.block_time_step_ms = 7_200_000;
    params.validators.committee_epochs = 3;
    params.nodes.puzzle_bits = 0;
    let (chain, genesis) = Chain::new(params, 4, std::iter::empty());
    light("4 validators", chain, &genesis, if quick { 4 } else { 1460 }, 1460);
    let validators = if quick { 210 } else { 1000 };
    let owners = (0..validators).map(|number| (OwnerId::from_bytes(public(&key("owner", number))), 1000 * NEURO));
    let (mut chain, genesis) = Chain::new(params, 1, owners);
    for batch in (0..validators).collect::<Vec<_>>().chunks(100) {
        let wishes: Vec<_> = batch.iter().flat_map(|number| join(&chain.ledger, *number)).collect();
        chain.block(&wishes);
        chain.validators.extend(batch.iter().map(|number| key("node", *number)));
    }
    light(&format!("512 seats of {validators}"), chain, &genesis, if quick { 1 } else { 8 }, 1460);
}

/// Bonds an owner's money and registers its node.
fn join(ledger: &Ledger, number: u64) -> [SignedTransaction; 2] {
    let (owner, node) = (key("owner", number), key("node", number));
    let (owner, id) = (OwnerId::from_bytes(public(&owner)), NodeId::from_bytes(public(&node)));
    let consent = sign(&node, &consent_digest(ledger.network(), owner, id));
    // Stakes of all sizes, so that seats are drawn.
    let amount = Amount::from_units((10 + number * 7 % 400) * NEURO);
    [
        unsigned(owner, 0, Action::Bond { amount }),
        unsigned(owner, 1, Action::RegisterNode { node: id, consent, puzzle: Some(0) }),
    ]
}
