//! One batch on its way through a pipeline, as one member sees it (PROTOCOL §4).
//!
//! Sequences go forward from member to member, turn at the last one, and come back as gradients. Each member does its part of
//! every sequence in the order of their indices, so gradients add up as they would on one machine. Where there is one of each to do,
//! a forward pass follows each backward pass: the members after this one never run out of work, and none before it waits
//! long for a gradient. Only so many sequences are held as the members after this one can use meanwhile.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use neuroshard_proto::{BatchId, F32, Hash, Micro, RequestId};
use serde::Serialize;

use crate::count::narrow;

/// Jobs given to the executor ahead of its answers: while it works on one it has the next.
const JOBS_AHEAD: usize = 2;

/// Which way something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Way {
    Forward,
    Backward,
}

/// A stream or a gradient that a neighbour has announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Piece {
    pub(crate) blob: Hash,
    pub(crate) state: Had,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Had {
    /// It is with the neighbour.
    There,
    Asked(RequestId),
    Here,
}

/// What the executor can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Task {
    Forward { index: u32, input: Option<Hash>, fresh: bool },
    Turn { index: u32, input: Option<Hash>, fresh: bool },
    Backward { index: u32, gradient: Hash },
    Norms,
}

/// Where a member stands in its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stand {
    pub(crate) place: usize,
    pub(crate) members: usize,
}

impl Stand {
    pub(crate) const fn is_first(self) -> bool {
        self.place == 0
    }

    pub(crate) const fn is_last(self) -> bool {
        self.place.saturating_add(1) == self.members
    }

    /// The neighbour that a way comes from.
    pub(crate) const fn source(self, way: Way) -> Option<usize> {
        match way {
            Way::Forward => self.place.checked_sub(1),
            Way::Backward if self.is_last() => None,
            Way::Backward => Some(self.place.saturating_add(1)),
        }
    }

    /// The neighbour that a way leads to.
    pub(crate) const fn target(self, way: Way) -> Option<usize> {
        match way {
            Way::Forward => self.source(Way::Backward),
            Way::Backward => self.source(Way::Forward),
        }
    }

    /// Sequences that are held at most: what comes back of the first one passes every later member twice, and once more so
    /// that nobody waits for a message.
    fn window(self) -> u32 {
        let after = narrow(self.members.saturating_sub(self.place));
        after.saturating_mul(2)
    }
}

/// What a member's part of a batch came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Share {
    pub(crate) loss_micro: i64,
    pub(crate) tokens: u64,
    pub(crate) squared_norms: Vec<F32>,
}

/// A batch.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flow {
    pub(crate) batch: BatchId,
    stand: Stand,
    sequences: u32,
    /// What neighbours announced, by way and index.
    #[serde(serialize_with = "crate::cx::as_pairs")]
    pieces: BTreeMap<(Way, u32), Piece>,
    /// What this member made, by way and index.
    #[serde(serialize_with = "crate::cx::as_pairs")]
    made: BTreeMap<(Way, u32), Hash>,
    /// Sequences whose forward or turn was asked for, and whose backward.
    forwarded: u32,
    backed: u32,
    norms_asked: bool,
    /// Which way the last task went.
    last: Way,
    jobs: VecDeque<(RequestId, Task)>,
    loss_micro: i64,
    tokens: u64,
    /// What the members came to, by place.
    shares: BTreeMap<usize, Share>,
    void: bool,
}

impl Flow {
    pub(crate) const fn new(batch: BatchId, stand: Stand, sequences: u32) -> Self {
        Self {
            batch,
            stand,
            sequences,
            pieces: BTreeMap::new(),
            made: BTreeMap::new(),
            forwarded: 0,
            backed: 0,
            norms_asked: false,
            last: Way::Forward,
            jobs: VecDeque::new(),
            loss_micro: 0,
            tokens: 0,
            shares: BTreeMap::new(),
            void: false,
        }
    }

    /// A neighbour announces something; whether that is news.
    pub(crate) fn announce(&mut self, way: Way, index: u32, blob: Hash) -> bool {
        // An announcement stands: who announces another blob for the same sequence is not believed.
        let known = index >= self.sequences || self.pieces.contains_key(&(way, index)) || self.is_used(way, index);
        if !known {
            self.pieces.insert((way, index), Piece { blob, state: Had::There });
        }
        !known
    }

    /// Whether a piece has gone into a job already.
    const fn is_used(&self, way: Way, index: u32) -> bool {
        match way {
            Way::Forward => index < self.forwarded,
            Way::Backward => index < self.backed,
        }
    }

    /// The next piece to fetch, in the order of use.
    pub(crate) fn wanted(&self) -> Option<(Way, u32, Hash)> {
        let there =
            |(key, piece): (&(Way, u32), &Piece)| (piece.state == Had::There).then_some((key.0, key.1, piece.blob));
        self.pieces.iter().find_map(there)
    }

    pub(crate) fn fetching(&self) -> usize {
        self.pieces.values().filter(|piece| matches!(piece.state, Had::Asked(_))).count()
    }

    pub(crate) fn asked(&mut self, way: Way, index: u32, id: RequestId) {
        if let Some(piece) = self.pieces.get_mut(&(way, index)) {
            piece.state = Had::Asked(id);
        }
    }

    /// A fetch ended; whether it was this batch's.
    pub(crate) fn fetched(&mut self, id: RequestId, arrived: bool) -> bool {
        let Some(piece) = self.pieces.values_mut().find(|piece| piece.state == Had::Asked(id)) else { return false };
        piece.state = if arrived { Had::Here } else { Had::There };
        true
    }

    fn here(&self, way: Way, index: u32) -> Option<Hash> {
        self.pieces.get(&(way, index)).filter(|piece| piece.state == Had::Here).map(|piece| piece.blob)
    }

    /// What the executor is to do now, if anything.
    pub(crate) fn next_task(&self) -> Option<Task> {
        if self.void || self.jobs.len() >= JOBS_AHEAD || self.norms_asked {
            return None;
        }
        if self.backed == self.sequences {
            return Some(Task::Norms);
        }
        let (forward, backward) = (self.forwarded, self.backed);
        let fresh = forward == 0;
        let input = if self.stand.is_first() { Some(None) } else { self.here(Way::Forward, forward).map(Some) };
        if self.stand.is_last() {
            return input.map(|input| Task::Turn { index: forward, input, fresh });
        }
        let room = forward < self.sequences && forward.saturating_sub(backward) < self.stand.window();
        let forth = input.filter(|_| room).map(|input| Task::Forward { index: forward, input, fresh });
        let gradient = self.here(Way::Backward, backward).filter(|_| backward < forward);
        let back = gradient.map(|gradient| Task::Backward { index: backward, gradient });
        if self.last == Way::Backward { forth.or(back) } else { back.or(forth) }
    }

    /// The executor was given a task.
    pub(crate) fn given(&mut self, id: RequestId, task: Task) {
        match task {
            Task::Forward { .. } => {
                self.forwarded = self.forwarded.saturating_add(1);
                self.last = Way::Forward;
            }
            Task::Turn { .. } => {
                self.forwarded = self.forwarded.saturating_add(1);
                self.backed = self.backed.saturating_add(1);
            }
            Task::Backward { .. } => {
                self.backed = self.backed.saturating_add(1);
                self.last = Way::Backward;
            }
            Task::Norms => self.norms_asked = true,
        }
        self.jobs.push_back((id, task));
    }

    /// A task that was answered, and whether all that were given before it have been. Executors do one after the other, so an
    /// answer that comes before an earlier one says that the earlier one is lost.
    pub(crate) fn answered(&mut self, id: RequestId) -> Option<(Task, bool)> {
        let place = self.jobs.iter().position(|(job, _)| *job == id)?;
        self.jobs.remove(place).map(|(_, task)| (task, place == 0))
    }

    /// Jobs that are under way.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = RequestId> {
        self.jobs.iter().map(|(id, _)| *id)
    }

    /// Notes what a task made, to be told to a neighbour.
    pub(crate) fn make(&mut self, way: Way, index: u32, blob: Hash) {
        self.made.insert((way, index), blob);
    }

    /// What was made on a way from an index on.
    pub(crate) fn made_from(&self, way: Way, from: u32) -> impl Iterator<Item = (u32, Hash)> {
        self.made.range((way, from)..=(way, u32::MAX)).map(|((_, index), blob)| (*index, *blob))
    }

    /// Lets go of blobs that nobody needs any more: those of one sequence on one way.
    pub(crate) fn let_go(&mut self, way: Way, index: u32) -> Option<Hash> {
        self.made.remove(&(way, index))
    }

    /// The piece a task used up.
    pub(crate) fn used(&mut self, way: Way, index: u32) -> Option<Hash> {
        self.pieces.remove(&(way, index)).map(|piece| piece.blob)
    }

    /// Every blob that is held for this batch: of an ended batch all may go.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = Hash> {
        let here = self.pieces.values().filter(|piece| piece.state == Had::Here).map(|piece| piece.blob);
        here.chain(self.made.values().copied())
    }

    /// Fetches that are under way.
    pub(crate) fn asked_for(&self) -> impl Iterator<Item = (RequestId, Hash)> {
        self.pieces.values().filter_map(|piece| match piece.state {
            Had::Asked(id) => Some((id, piece.blob)),
            Had::There | Had::Here => None,
        })
    }

    pub(crate) fn add_loss(&mut self, loss_micro: i64, tokens: u64) {
        self.loss_micro = self.loss_micro.saturating_add(loss_micro);
        self.tokens = self.tokens.saturating_add(tokens);
    }

    /// This member's part is done.
    pub(crate) fn conclude(&mut self, squared_norms: Vec<F32>) {
        let share = Share { loss_micro: self.loss_micro, tokens: self.tokens, squared_norms };
        self.shares.insert(self.stand.place, share);
    }

    /// Another member's part is done.
    pub(crate) fn hear(&mut self, place: usize, share: Share) {
        self.shares.entry(place).or_insert(share);
    }

    pub(crate) fn share(&self) -> Option<&Share> {
        self.shares.get(&self.stand.place)
    }

    pub(crate) const fn is_void(&self) -> bool {
        self.void
    }

    /// The batch does not count, anywhere.
    pub(crate) fn cancel(&mut self) {
        self.void = true;
    }

    /// Loss, tokens and the norms of all stages, once every member is done.
    pub(crate) fn outcome(&self) -> Option<Share> {
        if self.void || self.shares.len() < self.stand.members {
            return None;
        }
        let (_, last) = self.shares.last_key_value()?;
        let squared_norms = self.shares.values().flat_map(|share| share.squared_norms.iter().copied()).collect();
        Some(Share { loss_micro: last.loss_micro, tokens: last.tokens, squared_norms })
    }

    /// The first sequence that has not been announced on a way.
    pub(crate) fn lacks(&self, way: Way) -> Option<u32> {
        let used = match way {
            Way::Forward => self.forwarded,
            Way::Backward => self.backed,
        };
        (used..self.sequences).find(|index| !self.pieces.contains_key(&(way, *index)))
    }

    /// Whether a member is known to be done.
    pub(crate) fn knows(&self, place: usize) -> bool {
        self.shares.contains_key(&place)
    }

    /// A sequence of this batch.
    pub(crate) const fn micro(&self, index: u32) -> Micro {
        Micro { batch: self.batch, index }
    }
}
