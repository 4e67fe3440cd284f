//! Random histories: whatever is wished, money is conserved, what is refused changes nothing, and all that follow agree.
//!
//! The suite runs some tens of thousands of operations; a million, in a few minutes:
//!
//! ```sh
//! NEUROSHARD_OPERATIONS=1000000 cargo test --release -p neuroshard-core --test ledger random
//! ```

use std::collections::BTreeSet;

use neuroshard_core::ledger::sync::Assembly;
use neuroshard_core::ledger::{BlockError, Ledger};
use neuroshard_core::proto::chain::{
    Action, Author, Evidence, PublicKey, SignedTransaction, Statement, Transaction, consent_digest, random_commitment,
};
use neuroshard_core::proto::{
    Hash, LayerBlobs, LayerIndex, LayerRange, Member, Params, Plan, Position, Signature, Step, Stream, Terms, Tier,
};

use crate::world::{NEURO, World, amount, genesis, node, owner, params, sign, vote};

/// Owners and nodes of the world; fewer nodes than owners, so that they are fought over.
const OWNERS: u64 = 12;
const NODES: u64 = 9;

fn owner_name(number: u64) -> String {
    format!("owner {number}")
}

/// The founder's node has number 0.
fn node_name(number: u64) -> String {
    if number == 0 { "founder's node".into() } else { format!("node {number}") }
}

/// Windows so short that a history sees them close.
fn brief() -> Params {
    let mut params = params();
    params.epoch_ms = 20_000;
    params.money.unbonding_ms = 90_000;
    params.phases.iter_mut().for_each(|row| row.session_s = 9);
    (params.quorums.active_max, params.quorums.lifetime_ms) = (3, 25_000);
    params.nodes.puzzle_bits = 0;
    params.nodes.activity_epochs = 5;
    (params.validators.voters_max, params.validators.seats, params.validators.seats_quorum) = (4, 16, 12);
    (params.validators.committee_epochs, params.validators.silence_epochs) = (4, 6);
    params.validators.beacon_bar_epochs = 3;
    params
}

fn some_amount(stream: &mut Stream) -> u64 {
    match stream.below(8) {
        0 => stream.next_u64(),
        1 => stream.below(2000),
        2..4 => stream.below(1000 * NEURO),
        _ => stream.below(20 * NEURO),
    }
}

fn value(node: u64, epoch: u64) -> Hash {
    Hash::of_blob(format!("value of {node} in {epoch}").as_bytes())
}

fn account_action(world: &World, stream: &mut Stream, own: &str) -> Action {
    let named = node_name(stream.below(NODES));
    match stream.below(12) {
        0..4 => {
            let to = owner(&owner_name(stream.below(OWNERS)));
            Action::Transfer { to, amount: amount(some_amount(stream)) }
        }
        4..6 => Action::Bond { amount: amount(some_amount(stream)) },
        6..8 => Action::Unbond { amount: amount(some_amount(stream)) },
        8..10 => {
            let consent = sign(&named, &consent_digest(world.ledger.network(), owner(own), node(&named)));
            Action::RegisterNode { node: node(&named), consent, puzzle: (stream.below(2) == 0).then_some(1) }
        }
        10 if stream.below(8) == 0 => Action::RevokeNode { node: node(&named) },
        10 => Action::Nominate { node: node(&named) },
        _ => Action::RotateKey { new: PublicKey(*node(own).as_bytes()) },
    }
}

/// Terms by which this node and perhaps others train, mostly signed by all.
fn formation(world: &World, stream: &mut Stream, number: u64) -> Action {
    let known =
        |number: &u64| world.ledger.node(&node(&node_name(*number))).is_some_and(|one| one.description.is_some());
    let others = (0..stream.below(3)).map(|_| stream.below(NODES)).filter(known).collect::<Vec<_>>();
    let mut members = vec![number];
    others.into_iter().filter(|other| *other != number).for_each(|other| members.push(other));
    members.truncate(2);
    let ends = if members.len() == 1 { vec![5] } else { vec![1 + stream.below(4) as u32, 5] };
    let starts = [0].into_iter().chain(ends.clone());
    let stages = starts.zip(&ends).map(|(start, end)| LayerRange { start, end: *end });
    let parts = members.iter().zip(stages).map(|(number, stages)| Member { node: node(&node_name(*number)), stages });
    let plan = Plan { members: parts.collect::<Vec<_>>().try_into().unwrap(), snapshot_steps: 1 };
    let taken = members.iter().filter_map(|number| world.ledger.quorum_of(&node(&node_name(*number))));
    let ends = if stream.below(4) == 0 { Vec::new() } else { taken.map(|(id, _)| id).collect::<Vec<_>>() };
    let valid_until = world.ledger.head().time.after_ms(stream.below(20_000));
    let terms = Terms { plan, batches: 1 + stream.below(3) as u32, ends: ends.try_into().unwrap(), valid_until };
    let digest = terms.digest(world.ledger.network());
    let signers = members.iter().filter(|_| stream.below(16) > 0);
    let acceptances = signers.map(|number| sign(&node_name(*number), &digest)).collect::<Vec<_>>();
    Action::FormQuorum { terms, acceptances: acceptances.try_into().unwrap() }
}

/// What a node may do in its quorum, if it has one.
fn member_action(world: &World, stream: &mut Stream, number: u64) -> Action {
    let name = node(&node_name(number));
    let Some((quorum, found)) = world.ledger.quorum_of(&name) else { return formation(world, stream, number) };
    match stream.below(6) {
        0 => Action::EndQuorum { quorum },
        1 => formation(world, stream, number),
        _ => {
            let own = found.plan.members.iter().find(|member| member.node == name).unwrap().stages;
            let first = own.start + u32::from(stream.below(8) == 0);
            let step = world.ledger.anchor().map_or(0, |anchor| anchor.step.0) + stream.below(3);
            let blobs = LayerBlobs { root: Hash::default(), weights: Hash::default(), moments: Hash::default() };
            let stages = vec![blobs; (own.end - own.start) as usize].try_into().unwrap();
            let (first, step, position) = (LayerIndex(first), Step(step), Position::default());
            Action::PostStages { quorum, step, position, first, stages }
        }
    }
}

fn node_action(world: &World, stream: &mut Stream, number: u64) -> Action {
    let (network, epoch, name) = (world.ledger.network(), world.ledger.epoch(), node_name(number));
    match stream.below(18) {
        9..17 => member_action(world, stream, number),
        0 => {
            let (start, end) = (stream.below(4) as u32, stream.below(7) as u32);
            let held = if stream.below(3) == 0 { LayerRange { start, end } } else { LayerRange { start: 0, end: 5 } };
            Action::DescribeNode { memory_bytes: stream.next_u64(), storage_bytes: 0, tier: Tier::T3, held }
        }
        1..5 => Action::Attest { subject: node(&node_name(stream.below(NODES))) },
        5..7 => {
            let commitment = random_commitment(node(&name), epoch, &value(number, epoch));
            Action::CommitRandom { commitment }
        }
        7..9 => Action::RevealRandom { value: value(number, epoch.saturating_sub(1)) },
        _ => {
            // Mostly innocent: a world in which all are convicted is dull.
            let statement = |block| Statement::Finalize { height: 3, view: 0, block };
            let other = if stream.below(40) == 0 { Hash::of_blob(b"other") } else { Hash::default() };
            let accused = node_name(1 + stream.below(NODES - 1));
            let first = vote(network, &accused, statement(Hash::default()));
            let evidence = Evidence { first, second: vote(network, &accused, statement(other)) };
            Action::ReportEquivocation { evidence: Box::new(evidence) }
        }
    }
}

/// Something that somebody might wish; often it does not apply. The ledger checks no author's signature, so there is none.
fn operation(world: &World, stream: &mut Stream) -> SignedTransaction {
    let (author, action) = if stream.below(2) == 0 {
        let name = owner_name(stream.below(OWNERS));
        let known = world.ledger.account(&owner(&name)).map_or(0, |account| account.sequence);
        let sequence = if stream.below(16) == 0 { stream.below(9) } else { known };
        let key = PublicKey(*node(&name).as_bytes());
        (Author::Account { owner: owner(&name), key, sequence }, account_action(world, stream, &name))
    } else {
        let number = stream.below(NODES);
        let epoch = if stream.below(16) == 0 { stream.below(9) } else { world.ledger.epoch() };
        (Author::Node { node: node(&node_name(number)), epoch }, node_action(world, stream, number))
    };
    SignedTransaction { transaction: Transaction { author, action }, signature: Signature([0; 64]) }
}

/// A world that lives through so many operations, and what was applied of them.
fn history(seed: u64, operations: u64) -> (World, u64) {
    let names: Vec<String> = (0..OWNERS).map(owner_name).collect();
    let rich: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 400 * NEURO)).collect();
    let mut world = World::new(brief(), &["founder"], &rich);
    let mut stream = Stream::new(&Hash::of_blob(b"histories"), "operations", seed);
    let (mut done, mut applied) = (0, 0);
    while done < operations {
        let wishes: Vec<SignedTransaction> =
            (0..1 + stream.below(12)).map(|_| operation(&world, &mut stream)).collect();
        done += wishes.len() as u64;
        // Whoever has a seat now proposes; everybody who has one signs.
        world.validators =
            (0..NODES).map(node_name).filter(|name| world.ledger.seats().weight(&node(name)) > 0).collect();
        let wait = [1, 1, 400, 3000, 10_000, 3_600_000][stream.below(6) as usize];
        let time = world.ledger.head().time.after_ms(wait);
        let refused = match world.try_block(time, &wishes) {
            Err(BlockError::Empty { due }) => world.try_block(due, &wishes),
            other => other,
        };
        let refused = refused.expect("a block").len() as u64;
        check_quorums(&world.ledger);
        applied += wishes.len() as u64 - refused;
        world.blocks.drain(..world.blocks.len().saturating_sub(1));
    }
    (world, applied)
}

/// A node is in at most one active quorum and an active quorum is complete (PROTOCOL §14); nodes and quorums agree on who is
/// taken by which, and an anchor has all of its stages.
fn check_quorums(ledger: &Ledger) {
    let (mut members, mut taken) = (BTreeSet::new(), 0);
    for (id, quorum) in ledger.active_quorums() {
        quorum.plan.check_stages(LayerRange { start: 0, end: 5 }).expect("a complete quorum");
        assert!(quorum.began_ms <= ledger.protocol_ms() && quorum.first_ms <= quorum.began_ms);
        assert!(quorum.ends_ms <= quorum.first_ms + ledger.params().quorums.lifetime_ms);
        for member in &quorum.plan.members {
            assert!(members.insert(member.node), "{} is taken twice", member.node);
            assert_eq!(ledger.quorum_of(&member.node), Some((id, quorum)));
        }
    }
    for number in 0..NODES {
        let name = node(&node_name(number));
        taken += usize::from(ledger.quorum_of(&name).is_some());
        let last = ledger.node(&name).and_then(|known| known.quorum);
        assert!(last.is_none_or(|id| ledger.quorum(&id).is_some_and(|quorum| quorum.plan.place(&name).is_some())));
    }
    assert_eq!(taken, members.len());
    assert!(ledger.active_quorums().count() <= 3);
    let stages = ledger.anchored(LayerRange { start: 0, end: 5 });
    assert_eq!(stages.count(), if ledger.anchor().is_some() { 5 } else { 0 });
}

fn wanted_operations() -> u64 {
    std::env::var("NEUROSHARD_OPERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000)
}

#[test]
fn money_is_conserved_whatever_is_wished() {
    let (total, seeds) = (wanted_operations(), 4);
    let (mut applied, mut steps) = (0, 0);
    for seed in 0..seeds {
        let (world, some) = history(seed, total / seeds);
        applied += some;
        // The ledger asserts conservation after every block; here it is counted once more from outside.
        let (minted, burned) = world.ledger.supply();
        let held = (0..OWNERS).map(|number| {
            let account = world.ledger.account(&owner(&owner_name(number))).unwrap();
            account.balance.units() + account.bonds().units()
        });
        let founder = world.ledger.account(&owner("founder")).unwrap();
        assert_eq!(founder.balance.units() + founder.bonds().units(), 0);
        assert_eq!(held.sum::<u64>(), minted.units() - burned.units(), "seed {seed}");
        steps += world.ledger.anchor().map_or(0, |anchor| anchor.step.0);
        // Whoever takes the state over has the same one.
        let header = world.blocks.last().unwrap().0.header;
        let mut assembly = Assembly::new(header);
        world.ledger.chunks().for_each(|chunk| assembly.accept(&chunk).unwrap());
        assert_eq!(assembly.finish().unwrap().root(), world.ledger.root());
    }
    assert!(steps > 20, "quorums trained up to {steps} only");
    assert!(applied > total / 8, "{applied} of {total} applied: too few to show anything");
}

#[test]
fn what_is_refused_changes_nothing() {
    let (world, _) = history(77, 2000);
    let mut stream = Stream::new(&Hash::of_blob(b"refusals"), "operations", 0);
    let mut refused = 0;
    let proposer = world.validators[0].clone();
    let (_, certificate) = world.blocks.last().unwrap();
    let time = world.ledger.next_due();
    let empty = world.ledger.draft(node(&proposer), time, Some(certificate), &[]).unwrap();
    for _ in 0..2000 {
        let wish = operation(&world, &mut stream);
        if world.ledger.admits(&wish).is_err() {
            refused += 1;
            let with = world.ledger.draft(node(&proposer), time, Some(certificate), [&wish]).unwrap();
            if with.block.transactions.is_empty() {
                assert_eq!(with.ledger.root(), empty.ledger.root(), "{wish:?}");
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn the_same_history_ends_in_the_same_state() {
    let ((one, _), (two, _)) = (history(5, 1500), history(5, 1500));
    assert_eq!((one.ledger.root(), one.ledger.head()), (two.ledger.root(), two.ledger.head()));
    assert_ne!(one.ledger.root(), history(6, 1500).0.ledger.root());
    let start = Ledger::genesis(&genesis(brief(), &["founder"], &[]));
    assert_eq!(start.root(), Ledger::genesis(&genesis(brief(), &["founder"], &[])).root());
}
