//! Any number of validators, the links between them, and what goes wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use neuroshard_core::proto::chain::{Seats, Statement, Subject};
use neuroshard_core::proto::{Hash, NodeId, Stream, Time};

use super::Protocol;
use super::host::{HEIGHT, Letters, To, Told, Validator};

/// What is cut off while a partition lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nothing,
    /// Two halves, drawn by the seed.
    Halves,
    /// The leader of the first view.
    Leader,
    /// Halves that are drawn anew each second.
    Shifting,
}

/// A height's circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub validators: usize,
    /// How many of them lie: each is two validators with one key. They are the last ones.
    pub liars: usize,
    /// What a message takes, in milliseconds, and by how much more or less at most.
    pub delay_ms: u64,
    pub jitter_ms: u64,
    /// Copies that are lost, in percent.
    pub loss_percent: u64,
    pub cut: Cut,
    /// How many crashes strike before the calm.
    pub crashes: u32,
    /// When partitions and crashes are over, and losses if `heals`.
    pub calm_ms: u64,
    pub heals: bool,
}

impl Schedule {
    /// Nothing goes wrong, and a message takes 50 ms give or take 10.
    pub const fn calm(validators: usize) -> Self {
        Self {
            validators,
            liars: 0,
            delay_ms: 50,
            jitter_ms: 10,
            loss_percent: 0,
            cut: Cut::Nothing,
            crashes: 0,
            calm_ms: 0,
            heals: false,
        }
    }
}

/// What a height came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When each honest validator had decided, in milliseconds.
    pub decided_ms: Vec<u64>,
    /// Copies that left a validator.
    pub copies: u64,
    /// Crashes that struck somebody who had not decided.
    pub crashes: u32,
    /// The highest view an honest one was in.
    pub views: u64,
}

/// After this much virtual time a height that is not decided is not alive.
const PATIENCE_MS: u64 = 600_000;

/// A packet on its way: when it arrives, its number, from whom, to whom, what.
struct Packet(Time, u64, usize, usize, Rc<Told>);

impl Packet {
    const fn key(&self) -> (Time, u64) {
        (self.0, self.1)
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

struct World {
    schedule: Schedule,
    seats: Arc<Seats>,
    /// Honest validators first, then each liar twice.
    members: Vec<Box<dyn Validator>>,
    places: BTreeMap<NodeId, Vec<usize>>,
    wire: BinaryHeap<Reverse<Packet>>,
    timers: BTreeSet<(Time, usize)>,
    armed: Vec<Option<Time>>,
    /// Crashes to come, the last first.
    crashes: Vec<(Time, usize)>,
    /// Which half each place is in, a bit each.
    group: u128,
    salt: u64,
    draws: Stream,
    packets: u64,
    now: Time,
    /// When each decided, by place.
    decided: BTreeMap<usize, Time>,
    block: Option<Hash>,
    outcome: Outcome,
}

/// A validator's name.
pub fn node(number: usize) -> NodeId {
    let mut name = [7; 32];
    name[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId::from_bytes(name)
}

/// Lets a height happen.
///
/// # Errors
/// What must hold and did not.
pub fn run(protocol: &Protocol, schedule: Schedule, seed: u64) -> Result<Outcome, String> {
    let mut world = World::new(protocol, schedule, seed);
    world.live().map_err(|what| format!("{} with seed {seed} and {schedule:?}: {what}", protocol.name))?;
    Ok(world.outcome)
}

impl World {
    fn new(protocol: &Protocol, schedule: Schedule, seed: u64) -> Self {
        let count = schedule.validators;
        let leaders = Hash::of_blob(&seed.to_le_bytes());
        let seats = Seats::by_weight((0..count).map(|number| (node(number), 1)), leaders).expect("some validators");
        let (seats, honest) = (Arc::new(seats), count - schedule.liars);
        let numbers: Vec<usize> = (0..honest).chain((honest..count).flat_map(|liar| [liar, liar])).collect();
        let mut places = BTreeMap::<NodeId, Vec<usize>>::new();
        numbers.iter().enumerate().for_each(|(place, number)| places.entry(node(*number)).or_default().push(place));
        let members: Vec<_> =
            numbers.iter().enumerate().map(|(place, number)| (protocol.begin)(node(*number), place, &seats)).collect();
        let mut draws = Stream::new(&Hash::of_blob(b"duel"), "network", seed);
        let mut crashes: Vec<(Time, usize)> = (0..schedule.crashes)
            .map(|_| (Time::from_ms(draws.below(schedule.calm_ms.max(1))), draws.below(honest as u64) as usize))
            .collect();
        crashes.sort_by_key(|crash| Reverse(*crash));
        let group = match schedule.cut {
            Cut::Nothing => 0,
            Cut::Halves | Cut::Shifting => u128::from(draws.next_u64()) << 64 | u128::from(draws.next_u64()),
            Cut::Leader => {
                let leader = seats.leader(HEIGHT, 0).expect("somebody leads");
                places[&leader].iter().map(|place| 1_u128 << place).sum()
            }
        };
        Self {
            schedule,
            seats,
            armed: vec![None; members.len()],
            members,
            places,
            wire: BinaryHeap::new(),
            timers: BTreeSet::new(),
            crashes,
            group,
            salt: draws.next_u64(),
            draws,
            packets: 0,
            now: Time::ZERO,
            decided: BTreeMap::new(),
            block: None,
            outcome: Outcome::default(),
        }
    }

    fn honest(&self) -> usize {
        self.schedule.validators - self.schedule.liars
    }

    fn live(&mut self) -> Result<(), String> {
        for place in 0..self.members.len() {
            let letters = self.members[place].want(self.now);
            self.after(place, letters)?;
        }
        while self.decided.len() < self.honest() {
            let packet = self.wire.peek().map(|Reverse(packet)| packet.0);
            let timer = self.timers.first().map(|(at, _)| *at);
            let crash = self.crashes.last().map(|(at, _)| *at);
            let next = [packet, timer, crash].into_iter().flatten().min();
            let Some(next) = next.filter(|at| at.as_ms() <= self.schedule.calm_ms + PATIENCE_MS) else {
                let views: Vec<_> = self.members.iter().map(|one| (one.view(), one.decided().is_some())).collect();
                return Err(format!("at {} not all have decided: {views:?}", self.now.as_ms()));
            };
            self.now = self.now.max(next);
            self.turn();
            let (place, letters) = if crash == Some(next) {
                let (_, place) = self.crashes.pop().expect("a crash is due");
                self.outcome.crashes += u32::from(self.members[place].decided().is_none());
                (place, self.members[place].crash(self.now))
            } else if packet == Some(next) {
                let Some(Reverse(Packet(_, _, from, to, told))) = self.wire.pop() else { continue };
                let from = self.members[from].node();
                (to, self.members[to].hear(self.now, from, &told))
            } else {
                let (_, place) = self.timers.first().copied().expect("a timer is due");
                (place, self.members[place].tick(self.now))
            };
            self.after(place, letters)?;
        }
        self.judge()
    }

    /// A shifting partition has other halves in each second.
    fn turn(&mut self) {
        if self.schedule.cut == Cut::Shifting {
            let second = (self.now.as_ms() / 1000).wrapping_add(self.salt);
            self.group = u128::from(second.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
        }
    }

    /// Sends what a member has to say, arms its timer, and looks whether it has decided.
    fn after(&mut self, place: usize, letters: Letters) -> Result<(), String> {
        for (to, told) in letters {
            let told = Rc::new(told);
            let receivers: Vec<usize> = match to {
                To::All => (0..self.members.len()).collect(),
                To::One(node) => self.places[&node].clone(),
            };
            receivers.into_iter().for_each(|to| self.send(place, to, &told));
        }
        let deadline = self.members[place].deadline();
        if self.armed[place] != deadline {
            if let Some(old) = std::mem::replace(&mut self.armed[place], deadline) {
                self.timers.remove(&(old, place));
            }
            self.timers.extend(deadline.map(|at| (at, place)));
        }
        self.outcome.views = self.outcome.views.max(self.members[place].view());
        match self.members[place].decided() {
            Some(certificate) if place < self.honest() && !self.decided.contains_key(&place) => {
                let Subject::Finalized { height: HEIGHT, block, .. } = certificate.subject else {
                    return Err(format!("decided by what decides nothing: {certificate:?}"));
                };
                certificate.check_weight(&self.seats).map_err(|why| format!("decided without a quorum: {why}"))?;
                if self.block.is_some_and(|other| other != block) {
                    return Err(format!("two blocks decided: {:?} and {block:?}", self.block));
                }
                self.block = Some(block);
                self.decided.insert(place, self.now);
                self.outcome.decided_ms.push(self.now.as_ms());
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, told: &Rc<Told>) {
        let (one, other) = (self.members[from].node(), self.members[to].node());
        if one == other {
            return;
        }
        self.outcome.copies += 1;
        let bad = self.now.as_ms() < self.schedule.calm_ms;
        let apart = (self.group >> (from % 128) & 1) != (self.group >> (to % 128) & 1);
        let cut = bad && self.schedule.cut != Cut::Nothing && apart;
        let lossy = bad || !self.schedule.heals;
        let lost = self.draws.below(100) < self.schedule.loss_percent && lossy;
        let Schedule { delay_ms, jitter_ms, .. } = self.schedule;
        let takes = delay_ms - jitter_ms + self.draws.below(2 * jitter_ms + 1);
        if !cut && !lost {
            self.packets += 1;
            self.wire.push(Reverse(Packet(self.now.after_ms(takes), self.packets, from, to, Rc::clone(told))));
        }
    }

    /// What must hold in the end: the block is somebody's, and no honest validator contradicted itself.
    fn judge(&self) -> Result<(), String> {
        let block = self.block.ok_or("nothing decided")?;
        if !self.members.iter().any(|one| one.made().contains(&block)) {
            return Err(format!("nobody made the decided block {block:?}"));
        }
        for one in self.members.iter().take(self.honest()) {
            let said: Vec<Statement> = one.said();
            for (place, first) in said.iter().enumerate() {
                if let Some(second) = said.iter().skip(place).find(|second| second.contradicts(first)) {
                    return Err(format!("an honest validator contradicts itself: {first:?} and {second:?}"));
                }
            }
        }
        Ok(())
    }
}
