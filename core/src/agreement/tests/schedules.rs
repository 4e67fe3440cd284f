//! Heights under schedules that chance draws: late, lost and repeated messages, partitions, crashes, and liars that are two
//! honest validators with one key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use neuroshard_proto::chain::Seats;
use neuroshard_proto::{Hash, Stream, Time};

use super::{CertificateOrd, Honest, Told, seats};
use crate::agreement::{Agreement, Input};

struct World {
    seats: Arc<Seats>,
    /// Honest validators first; then each liar twice.
    members: Vec<Honest>,
    honest: usize,
    wire: BTreeMap<(Time, u64), (usize, usize, Told)>,
    sent: u64,
    now: Time,
    draws: Stream,
}

impl World {
    fn new(seed: u64, count: usize, liars: usize) -> Self {
        let (seats, honest) = (seats(count, &[]), count - liars);
        let numbers = (0..honest).chain((honest..count).flat_map(|liar| [liar, liar]));
        let members = numbers.map(|number| Honest::new(number, &seats)).collect();
        let draws = Stream::new(&Hash::of_blob(b"schedules"), "network", seed);
        Self { seats, members, honest, wire: BTreeMap::new(), sent: 0, now: Time::ZERO, draws }
    }

    /// Puts on the wire what a member told; one in `loss` percent is lost.
    fn spread(&mut self, from: usize, told: Vec<Told>, (latency, loss): (u64, u64), group: Option<u64>) {
        for one in told {
            for to in 0..self.members.len() {
                let cut = group.is_some_and(|group| (group >> to & 1) != (group >> from & 1));
                let twins = self.members[to].number == self.members[from].number;
                if to == from || twins || cut || self.draws.below(100) < loss {
                    continue;
                }
                let at = self.now.after_ms(1 + self.draws.below(latency));
                self.sent += 1;
                self.wire.insert((at, self.sent), (from, to, one.clone()));
            }
        }
    }

    /// Lets things happen until `until` or until all honest ones have decided; true if they have.
    fn run(&mut self, until: Time, conditions: (u64, u64), group: Option<u64>) -> bool {
        loop {
            if self.members.iter().take(self.honest).all(|one| one.decided().is_some()) {
                return true;
            }
            let wire = self.wire.first_key_value().map(|((at, _), _)| *at);
            let timers = (0..).zip(&self.members).filter_map(|(place, one)| Some((one.simplex.deadline()?, place)));
            let timer = timers.min();
            let next = [wire, timer.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= until) else {
                self.now = until;
                return false;
            };
            self.now = next.max(self.now);
            let (who, told) = if wire == Some(next) {
                let (_, (from, to, told)) = self.wire.pop_first().unwrap();
                let leader = self.members[from].number;
                let member = &mut self.members[to];
                match (member.simplex.decided().cloned(), told) {
                    // Who has decided tells those who have not; their thanks are the end of it.
                    (Some(_), Told::Certificate(_)) => continue,
                    (Some(finalization), _) => (to, vec![Told::Certificate(CertificateOrd(finalization))]),
                    (None, told) => (to, member.told(self.now, Some(leader), &told)),
                }
            } else {
                let (_, place) = timer.unwrap();
                (place, self.members[place].hear(self.now, Input::Tick))
            };
            self.spread(who, told, conditions, group);
            self.check();
        }
    }

    fn want(&mut self, conditions: (u64, u64)) {
        for place in 0..self.members.len() {
            let told = self.members[place].hear(self.now, Input::Wanted(true));
            self.spread(place, told, conditions, None);
        }
    }

    fn check(&self) {
        let honest = self.members.iter().take(self.honest);
        let decided: BTreeSet<Hash> = honest.filter_map(Honest::decided).collect();
        assert!(decided.len() < 2, "two blocks decided");
    }

    fn crash(&mut self, place: usize, conditions: (u64, u64)) {
        if self.members[place].decided().is_some() {
            return;
        }
        let seats = Arc::clone(&self.seats);
        self.members[place].crash(&seats);
        let mut told = self.members[place].return_votes(self.now);
        told.extend(self.members[place].hear(self.now, Input::Wanted(true)));
        self.spread(place, told, conditions, None);
    }
}

fn storm(seed: u64, count: usize, liars: usize) {
    let mut world = World::new(seed, count, liars);
    let bad = (800 + 100 * (seed % 9), 10 + 10 * (seed % 3));
    world.want(bad);
    for _ in 0..6 {
        let group = (world.draws.below(3) == 0).then(|| world.draws.next_u64());
        let until = world.now.after_ms(3000);
        world.run(until, bad, group);
        let who = world.draws.below(count as u64) as usize;
        if world.draws.below(2) == 0 {
            world.crash(who, bad);
        }
    }
    // Then the network is good again, and everybody decides.
    let until = world.now.after_ms(600_000);
    let all = world.run(until, (50, 0), None);
    let views: Vec<_> =
        world.members.iter().map(|one| (one.simplex.view(), one.simplex.lock(), one.decided())).collect();
    assert!(all, "seed {seed}: not all decide: {views:?}");
    for one in world.members.iter().take(world.honest) {
        for ballot in &one.durable {
            let contradicts = |other: &crate::agreement::Ballot| other.statement.contradicts(&ballot.statement);
            assert!(!one.durable.iter().any(contradicts), "seed {seed}: an honest one contradicts itself");
        }
    }
}

#[test]
fn four_honest_validators_decide_within_three_delays() {
    for seed in 0..10 {
        let mut world = World::new(seed, 4, 0);
        // A latency of exactly one.
        world.want((1, 0));
        assert!(world.run(Time::from_ms(3), (1, 0), None), "seed {seed}");
    }
}

#[test]
fn storms_over_four_validators_with_a_liar_end_in_one_decision() {
    (0..600).for_each(|seed| storm(seed, 4, 1));
}

#[test]
fn storms_over_seven_validators_with_two_liars_end_in_one_decision() {
    (1000..1300).for_each(|seed| storm(seed, 7, 2));
}
