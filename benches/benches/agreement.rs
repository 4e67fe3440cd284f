//! Agreement alone: inputs a second at 4, 100 and 512 seats, and what a block costs each validator in messages.
//!
//! Signatures are not checked here: that is done once a frame, outside the core, and has its own figure.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use neuroshard_core::agreement::{Agreement, Input, Offer, Output, Simplex};
use neuroshard_proto::chain::{Seats, SignedVote, Vote};
use neuroshard_proto::{Hash, NodeId, Signature, Time};

/// Validators: all that vote by weight, and the seats of a network of a thousand.
const SIZES: [usize; 3] = [4, 100, 512];

fn node(number: usize) -> NodeId {
    let mut name = [7; 32];
    name[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId::from_bytes(name)
}

fn seats(count: usize) -> Arc<Seats> {
    Arc::new(Seats::by_weight((0..count).map(|number| (node(number), 1)), Hash::default()).expect("some validators"))
}

/// What is said in a height that goes well, in order: the proposal, then votes.
fn height(count: usize) -> (Vec<SignedVote>, NodeId, Hash) {
    let (seats, block) = (seats(count), Hash::of_blob(b"block"));
    let leader = seats.leader(1, 0).expect("somebody leads");
    let mut all: Vec<Simplex> =
        (0..count).map(|number| Simplex::start(1, Arc::clone(&seats), node(number), [])).collect();
    let (mut wire, mut said) = (VecDeque::new(), Vec::new());
    let hear = |place: usize, simplex: &mut Simplex, input: Input<'_>, wire: &mut VecDeque<SignedVote>| {
        let mut out = Vec::new();
        simplex.on(Time::ZERO, input, &mut out);
        while let Some(output) = out.pop() {
            match output {
                Output::Check { view, block } => {
                    simplex.on(Time::ZERO, Input::Checked { view, block, valid: true }, &mut out);
                }
                Output::Cast(ballot) => {
                    let vote = Vote { validator: node(place), statement: ballot.statement };
                    wire.push_back(SignedVote { vote, signature: Signature([0; 64]) });
                }
                _ => {}
            }
        }
    };
    let offer = Offer { leader, view: 0, block, entry: None, lock: None };
    for (place, simplex) in all.iter_mut().enumerate() {
        hear(place, simplex, Input::Proposal(offer), &mut wire);
    }
    while let Some(vote) = wire.pop_front() {
        said.push(vote);
        for (place, simplex) in all.iter_mut().enumerate() {
            hear(place, simplex, Input::Vote(&vote), &mut wire);
        }
    }
    assert!(all.iter().all(|simplex| simplex.decided().is_some()), "everybody decides");
    (said, leader, block)
}

fn agreement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("agreement");
    for count in SIZES {
        let (said, leader, block) = height(count);
        // The leader adds its proposal and the decided block.
        let messages = said.len() + 2;
        println!("{count} validators: {messages} messages a block, {:.2} a validator", messages as f64 / count as f64);
        let seats = seats(count);
        group.throughput(Throughput::Elements(said.len() as u64 + 1));
        group.bench_function(format!("a height at one of {count}"), |bencher| {
            bencher.iter_batched_ref(
                || (Simplex::start(1, Arc::clone(&seats), node(0), []), Vec::new()),
                |(simplex, out)| {
                    let offer = Offer { leader, view: 0, block, entry: None, lock: None };
                    simplex.on(Time::ZERO, Input::Proposal(offer), out);
                    simplex.on(Time::ZERO, Input::Checked { view: 0, block, valid: true }, out);
                    for vote in &said {
                        simplex.on(Time::ZERO, Input::Vote(vote), out);
                    }
                    black_box(simplex.decided().is_some())
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, agreement);
criterion_main!(benches);
