//! Bytes as the schedule of a height: four validators, one of whom may be two with one key. Whatever order things happen
//! in, no two honest ones decide different blocks, and nobody honest contradicts itself.

use std::sync::Arc;

use neuroshard_core::agreement::{Agreement, Ballot, Input, Offer, Output, Simplex};
use neuroshard_proto::chain::{Certificate, Lock, Seats, SignedVote, Statement, Subject, Vote};
use neuroshard_proto::{Hash, NodeId, Signature, Time};

const HEIGHT: u64 = 1;
const VALIDATORS: u8 = 4;
/// The liar: as many honest validators as there are places with its number.
const LIAR: u8 = 3;
/// Most acts of a schedule, and most messages that are kept to be delivered.
const ACTS_MAX: usize = 1024;
const WIRE_MAX: usize = 512;

/// What was said to all; it can be heard late, twice, by some, or never.
#[derive(Clone)]
enum Said {
    Vote(SignedVote),
    Certificate(Certificate),
    Proposal { leader: u8, view: u64, block: Hash, entry: Option<Certificate>, lock: Option<Certificate> },
}

struct Member {
    number: u8,
    simplex: Simplex,
    ballots: Vec<Ballot>,
}

struct Height {
    seats: Arc<Seats>,
    members: Vec<Member>,
    wire: Vec<Said>,
    now: Time,
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number + 1; 32])
}

fn vote(number: u8, statement: Statement) -> SignedVote {
    SignedVote { vote: Vote { validator: node(number), statement }, signature: Signature([number; 64]) }
}

/// The target: the first byte draws the leaders, each pair after it is an act and what it concerns.
///
/// # Panics
/// If two honest validators decide differently, or one contradicts itself.
pub fn run(bytes: &[u8]) {
    let Some((draw, acts)) = bytes.split_first() else { return };
    let weights = (0..VALIDATORS).map(|number| (node(number), 1));
    let seats = Arc::new(Seats::by_weight(weights, Hash::of_blob(&[*draw])).expect("four validators"));
    let start = |number| Member {
        number,
        simplex: Simplex::start(HEIGHT, Arc::clone(&seats), node(number), []),
        ballots: Vec::new(),
    };
    // The liar's second self has the last place.
    let members = (0..VALIDATORS).chain([LIAR]).map(start).collect();
    let mut height = Height { seats: Arc::clone(&seats), members, wire: Vec::new(), now: Time::ZERO };
    for place in 0..height.members.len() {
        height.hear(place, &|simplex, now, out| simplex.on(now, Input::Wanted(true), out));
    }
    for act in acts.chunks_exact(2).take(ACTS_MAX) {
        height.act(act[0], act[1]);
        height.check();
    }
}

impl Height {
    fn act(&mut self, what: u8, which: u8) {
        let place = usize::from(what & 7) % self.members.len();
        match what >> 3 {
            0..=19 => {
                let Some(newest) = self.wire.len().checked_sub(1) else { return };
                // The newest message first: fuzzers like small numbers.
                let said = self.wire[newest - usize::from(which) % self.wire.len()].clone();
                self.deliver(place, &said);
            }
            20..=25 => {
                let due = self.members[place].simplex.deadline();
                self.now = due.map_or(self.now, |at| at.max(self.now));
                self.hear(place, &|simplex, now, out| simplex.on(now, Input::Tick, out));
            }
            26 | 27 => self.crash(place),
            28 | 29 => self.lie(which),
            _ => {
                for said in self.wire.clone().iter().rev().take(usize::from(which)) {
                    self.deliver(place, said);
                }
            }
        }
    }

    fn deliver(&mut self, place: usize, said: &Said) {
        match said {
            Said::Vote(vote) => self.hear(place, &|simplex, now, out| simplex.on(now, Input::Vote(vote), out)),
            Said::Certificate(one) => {
                self.hear(place, &|simplex, now, out| simplex.on(now, Input::Certificate(one), out));
            }
            Said::Proposal { leader, view, block, entry, lock } => {
                let (entry, lock) = (entry.as_ref(), lock.as_ref());
                let offer = Offer { leader: node(*leader), view: *view, block: *block, entry, lock };
                self.hear(place, &|simplex, now, out| simplex.on(now, Input::Proposal(offer), out));
            }
        }
    }

    /// Gives a member an input, and does what it asks for.
    fn hear(&mut self, place: usize, input: &dyn Fn(&mut Simplex, Time, &mut Vec<Output>)) {
        let (now, Member { number, simplex, ballots }) = (self.now, &mut self.members[place]);
        let (mut out, number) = (Vec::new(), *number);
        input(simplex, now, &mut out);
        while !out.is_empty() {
            match out.remove(0) {
                Output::Cast(ballot) => {
                    let vote = vote(number, ballot.statement);
                    ballots.push(ballot);
                    self.wire.push(Said::Vote(vote));
                    simplex.on(now, Input::Vote(&vote), &mut out);
                }
                Output::Check { view, block } => {
                    simplex.on(now, Input::Checked { view, block, valid: true }, &mut out);
                }
                Output::Propose { view, again, entry, lock } => {
                    // Each place makes blocks of its own, so a liar's two selves differ.
                    let block = again.unwrap_or_else(|| Hash::of_blob(&[place as u8, view as u8]));
                    let (e, l) = (entry.as_ref(), lock.as_ref());
                    let offer = Offer { leader: node(number), view, block, entry: e, lock: l };
                    simplex.on(now, Input::Proposal(offer), &mut out);
                    self.wire.push(Said::Proposal { leader: number, view, block, entry, lock });
                }
                Output::Repeat { votes, certificates } => {
                    self.wire.extend(certificates.into_iter().map(Said::Certificate));
                    self.wire.extend(votes.into_iter().map(Said::Vote));
                }
                Output::Decided(certificate) => self.wire.push(Said::Certificate(certificate)),
                Output::Caught(evidence) => {
                    assert_eq!(evidence.first.vote.validator, node(LIAR), "only the liar contradicts itself");
                }
            }
        }
        let over = self.wire.len().saturating_sub(WIRE_MAX);
        self.wire.drain(..over);
    }

    fn crash(&mut self, place: usize) {
        let Member { number, simplex, ballots } = &mut self.members[place];
        *simplex = Simplex::start(HEIGHT, Arc::clone(&self.seats), node(*number), ballots.iter());
        let votes: Vec<SignedVote> = ballots.iter().map(|ballot| vote(*number, ballot.statement)).collect();
        for vote in votes {
            self.hear(place, &|simplex, now, out| simplex.on(now, Input::Vote(&vote), out));
        }
        self.hear(place, &|simplex, now, out| simplex.on(now, Input::Wanted(true), out));
    }

    /// The liar states something about a block that somebody spoke of.
    fn lie(&mut self, which: u8) {
        let blocks = self.members.iter().flat_map(|member| &member.ballots).filter_map(|one| match one.statement {
            Statement::Notarize { block, .. } | Statement::Finalize { block, .. } => Some(block),
            Statement::Nullify { .. } => None,
        });
        let blocks: Vec<Hash> = blocks.collect();
        let view = u64::from(which >> 2 & 3);
        let block = blocks.get(usize::from(which >> 4) % blocks.len().max(1)).copied().unwrap_or_default();
        let (height, lock) = (HEIGHT, view.checked_sub(1).map(|view| Lock { view, block }));
        let statement = match which & 3 {
            0 => Statement::Notarize { height, view, block },
            1 => Statement::Nullify { height, view, lock: None },
            2 => Statement::Nullify { height, view, lock },
            _ => Statement::Finalize { height, view, block },
        };
        self.wire.push(Said::Vote(vote(LIAR, statement)));
    }

    fn check(&self) {
        let honest = || self.members.iter().filter(|member| member.number != LIAR);
        let mut decided = honest().filter_map(|member| member.simplex.decided()).map(|certificate| {
            let Subject::Finalized { block, .. } = certificate.subject else {
                panic!("{certificate:?} decides nothing")
            };
            block
        });
        if let Some(first) = decided.next() {
            assert!(decided.all(|other| other == first), "two blocks decided");
        }
        for member in honest() {
            let Some(newest) = member.ballots.last() else { continue };
            let contradicts = |one: &Ballot| one.statement.contradicts(&newest.statement);
            assert!(!member.ballots.iter().any(contradicts), "an honest validator contradicts itself: {newest:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use neuroshard_proto::Stream;

    use super::*;

    #[test]
    fn random_schedules_decide_one_block_if_any() {
        for number in 0..600 {
            let mut stream = Stream::new(&Hash::of_blob(b"heights"), "fuzz", number);
            let mut bytes = vec![0; stream.below(800) as usize];
            stream.fill(0, &mut bytes);
            run(&bytes);
        }
    }
}
