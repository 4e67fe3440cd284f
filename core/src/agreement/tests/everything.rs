//! Every order of events among three honest validators and a liar that can happen in a view, and many of several views.
//!
//! The network is the adversary: whatever certificate the votes cast so far and the liar's own could make, it hands to
//! whom it likes when it likes, or never; it delivers proposals, lets timers run out and crashes validators the same way. So
//! votes need not travel one by one, and what a validator may do next depends on a few ids. States that agree in those
//! are visited once; the search ends when no new one is left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use neuroshard_proto::chain::{Certificate, Lock, Seats, SignedVote, Statement, Subject};
use neuroshard_proto::{Domain, Hash, Stream, Time, codec};

use super::{Honest, Told, block, finalize, node, notarize, nullify, seats, vote};
use crate::agreement::tests::HEIGHT;
use crate::agreement::{Agreement, Input, Offer};

const HONEST: usize = 3;
const LIAR: usize = 3;
/// A search that grows beyond this is no search of everything any more.
const STATES_MAX: usize = 150_000;

#[derive(Clone)]
struct Proposal {
    leader: usize,
    view: u64,
    block: Hash,
    entry: Option<Certificate>,
    lock: Option<Certificate>,
}

#[derive(Clone)]
struct World {
    honest: Vec<Honest>,
    proposals: Vec<Proposal>,
}

/// What the adversary does to one validator.
#[derive(Clone)]
enum Act {
    Certificate(Certificate),
    Proposal(Proposal),
    Timeout,
    Crash,
}

impl World {
    fn new(seats: &Arc<Seats>) -> Self {
        let mut world =
            Self { honest: (0..HONEST).map(|number| Honest::new(number, seats)).collect(), proposals: vec![] };
        for number in 0..HONEST {
            let told = world.honest[number].hear(Time::ZERO, Input::Wanted(true));
            world.note(number, told);
        }
        world
    }

    fn note(&mut self, leader: usize, told: Vec<Told>) {
        for one in told {
            if let Told::Proposal { view, block, entry, lock } = one {
                let (entry, lock) = (entry.map(|one| one.0), lock.map(|one| one.0));
                self.proposals.push(Proposal { leader, view, block, entry, lock });
            }
        }
    }

    fn statements(&self) -> impl Iterator<Item = (usize, Statement)> {
        self.honest.iter().flat_map(|one| one.durable.iter().map(|ballot| (one.number, ballot.statement)))
    }

    /// Whoever made a statement, with the liar.
    fn signers(&self, statement: Statement) -> Vec<SignedVote> {
        let honest = self.statements().filter(|(_, said)| *said == statement).map(|(number, _)| number);
        honest.chain([LIAR]).map(|number| vote(number, statement)).collect()
    }

    fn blocks(&self) -> BTreeSet<Hash> {
        let said = self.statements().filter_map(|(_, statement)| match statement {
            Statement::Notarize { block, .. } | Statement::Finalize { block, .. } => Some(block),
            Statement::Nullify { .. } => None,
        });
        said.collect()
    }

    fn notarizations(&self, view: u64) -> Vec<Certificate> {
        let votes = |block: &Hash| (*block, self.signers(notarize(view, *block)));
        let complete = self.blocks().iter().map(votes).filter(|(_, votes)| votes.len() >= 3).collect::<Vec<_>>();
        assert!(complete.len() < 2, "two blocks notarized in view {view}");
        let subject = |block| Subject::Notarized { height: HEIGHT, view, block };
        complete.into_iter().map(|(block, votes)| Certificate::gather(subject(block), votes)).collect()
    }

    /// Nullifications of a view that differ in the newest lock they report.
    fn nullifications(&self, view: u64) -> Vec<Certificate> {
        let said: Vec<(usize, Option<Lock>)> = self
            .statements()
            .filter_map(|(number, statement)| match statement {
                Statement::Nullify { view: of, lock, .. } if of == view => Some((number, lock)),
                Statement::Notarize { .. } | Statement::Nullify { .. } | Statement::Finalize { .. } => None,
            })
            .collect();
        let mut found: Vec<Certificate> = Vec::new();
        let liar = (0..view).flat_map(|view| self.notarizations(view)).map(|one| match one.subject {
            Subject::Notarized { view, block, .. } => Some((view, block)),
            Subject::Nullified { .. } | Subject::Finalized { .. } => None,
        });
        let subject = Subject::Nullified { height: HEIGHT, view };
        for lie in [None].into_iter().chain(liar) {
            for left_out in 0..=said.len() {
                let chosen = (0..).zip(&said).filter(|(place, _)| *place != left_out).map(|(_, one)| *one);
                let mut votes: Vec<SignedVote> = chosen
                    .map(|(number, lock)| vote(number, Statement::Nullify { height: HEIGHT, view, lock }))
                    .collect();
                votes.push(vote(LIAR, nullify(view, lie)));
                if votes.len() >= 3 {
                    let one = Certificate::gather(subject, votes);
                    if found.iter().all(|other| other.newest_lock() != one.newest_lock()) {
                        found.push(one);
                    }
                }
            }
        }
        found
    }

    /// What the liar can propose where it leads, justified or not.
    fn lies(&self, view: u64) -> Vec<Proposal> {
        let mut blocks = self.blocks();
        blocks.extend([block("a"), block("b")]);
        let Some(before) = view.checked_sub(1) else {
            let free = |block| Proposal { leader: LIAR, view, block, entry: None, lock: None };
            return blocks.into_iter().map(free).collect();
        };
        let mut lies = Vec::new();
        for entry in self.notarizations(before).into_iter().chain(self.nullifications(before)) {
            let lock = entry.newest_lock().and_then(|lock| self.notarizations(lock.view).pop());
            let lie = |block| Proposal { leader: LIAR, view, block, entry: Some(entry.clone()), lock: lock.clone() };
            lies.extend(blocks.iter().map(|block| lie(*block)));
        }
        lies
    }

    /// No two blocks can ever be shown to be decided.
    fn check(&self, views: u64) {
        let decided = |view: u64| {
            let final_in = move |block: &Hash| self.signers(finalize(view, *block)).len() >= 3;
            self.blocks().into_iter().filter(final_in).collect::<Vec<_>>()
        };
        let decided: BTreeSet<Hash> = (0..=views).flat_map(decided).collect();
        assert!(decided.len() < 2, "two blocks decided");
        for (number, one) in self.statements() {
            let twice = |(other, said): (usize, Statement)| other == number && said.contradicts(&one);
            assert!(!self.statements().any(twice), "{number} contradicts itself");
        }
    }

    fn acts(&self, number: usize, leaders: &[usize], views: u64) -> Vec<Act> {
        let honest = &self.honest[number];
        let here = honest.simplex.view();
        if here > views {
            return Vec::new();
        }
        let mut acts: Vec<Act> = Vec::new();
        for view in 0..=views {
            acts.extend(self.notarizations(view).into_iter().map(Act::Certificate));
            if view >= here {
                acts.extend(self.nullifications(view).into_iter().map(Act::Certificate));
                acts.extend(self.proposals.iter().filter(|one| one.view == view).cloned().map(Act::Proposal));
                if leaders[usize::try_from(view).unwrap()] == LIAR {
                    acts.extend(self.lies(view).into_iter().map(Act::Proposal));
                }
            }
        }
        acts.extend([Act::Timeout, Act::Crash]);
        acts
    }

    fn act(&mut self, number: usize, act: &Act, seats: &Arc<Seats>) {
        let honest = &mut self.honest[number];
        let told = match act {
            Act::Certificate(certificate) => honest.hear(Time::ZERO, Input::Certificate(certificate)),
            Act::Proposal(Proposal { leader, view, block, entry, lock }) => {
                let leader = node(*leader);
                let offer = Offer { leader, view: *view, block: *block, entry: entry.as_ref(), lock: lock.as_ref() };
                honest.hear(Time::ZERO, Input::Proposal(offer))
            }
            Act::Timeout => {
                let Some(at) = honest.simplex.turns_at() else { return };
                honest.hear(at, Input::Tick)
            }
            Act::Crash => {
                honest.crash(seats);
                let mut told = honest.return_votes(Time::ZERO);
                told.extend(honest.hear(Time::ZERO, Input::Wanted(true)));
                told
            }
        };
        // A leader that proposes after a crash may propose once more; what it proposed before stays around.
        self.note(number, told);
        self.proposals.dedup_by(|a, b| (a.leader, a.view, a.block) == (b.leader, b.view, b.block));
    }

    /// What decides about the future: ids, and not who signed. Validators that lead nowhere are as good as each other.
    fn key(&self, leaders: &[usize], crashes: bool) -> Hash {
        let of = |one: &Honest| {
            let said: BTreeSet<Statement> = one.durable.iter().map(|ballot| ballot.statement).collect();
            let proofs =
                |ballot: &crate::agreement::Ballot| ballot.proofs.iter().map(|one| one.subject).collect::<Vec<_>>();
            let proofs: Vec<_> = one.durable.iter().filter(|_| crashes).map(proofs).collect();
            codec::encode(&(one.simplex.essence(), said, proofs))
        };
        let (led, mut others): (Vec<&Honest>, Vec<&Honest>) =
            self.honest.iter().partition(|one| leaders.contains(&one.number));
        others.sort_by_key(|one| of(one));
        let honest: Vec<Vec<u8>> = led.into_iter().chain(others).map(of).collect();
        let proposals = self
            .proposals
            .iter()
            .map(|one| (one.view, one.block, one.entry.as_ref().map(|entry| (entry.subject, entry.newest_lock()))));
        let proposals: BTreeSet<_> = proposals.collect();
        Domain::StatePart.hash(&codec::encode(&(honest, proposals)))
    }
}

/// Visits all that can happen; answers how many states there are.
fn search(leaders: &[usize], crashes: bool) -> usize {
    let (seats, views) = (seats(4, leaders), u64::try_from(leaders.len()).unwrap() - 1);
    let first = World::new(&seats);
    let mut seen = BTreeSet::from([first.key(leaders, crashes)]);
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        world.check(views);
        for number in 0..HONEST {
            for act in world.acts(number, leaders, views) {
                if !crashes && matches!(act, Act::Crash) {
                    continue;
                }
                let mut next = world.clone();
                next.act(number, &act, &seats);
                if seen.insert(next.key(leaders, crashes)) {
                    assert!(seen.len() < STATES_MAX, "the search is not small any more");
                    open.push(next);
                }
            }
        }
    }
    seen.len()
}

#[test]
fn nothing_that_can_happen_in_one_view_decides_two_blocks() {
    for (leaders, crashes) in [([0], false), ([3], false), ([0], true), ([3], true)] {
        let states = search(&leaders, crashes);
        assert!(states > 100, "{states}");
    }
}

/// In several views the states are too many to visit all: walks through them, each as the adversary happens to choose.
#[test]
fn nothing_that_was_tried_in_four_views_decides_two_blocks() {
    let (mut finals, mut later) = (0, 0);
    for walk in 0..240 {
        let leaders = [[3, 0, 3, 1], [0, 3, 3, 3], [0, 3, 1, 3]][walk % 3];
        let seats = seats(4, &leaders);
        let mut draws = Stream::new(&Hash::of_blob(b"walks"), "acts", walk as u64);
        let mut world = World::new(&seats);
        for _ in 0..40 {
            let number = draws.below(3) as usize;
            let acts = world.acts(number, &leaders, 3);
            if acts.is_empty() {
                continue;
            }
            // Crashes are one of many acts, and certificates move faster than a timeout.
            let act = acts[draws.below(acts.len() as u64) as usize].clone();
            world.act(number, &act, &seats);
            world.check(3);
        }
        let finalized = |view: u64| {
            let said = |block: &Hash| world.statements().any(|(_, said)| said == finalize(view, *block));
            world.blocks().iter().any(said)
        };
        finals += usize::from((0..4).any(finalized));
        later += usize::from((1..4).any(finalized));
    }
    assert!(finals > 100 && later > 50, "the walks get somewhere: {finals}, {later}");
}
