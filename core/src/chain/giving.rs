//! Giving the agreed state to those who are too far behind for blocks (PROTOCOL §11).
//!
//! Every node holds the states after some of the newest blocks, the same heights on every node: so a newcomer can ask many
//! of them for pieces of one state. A state that is being asked for stays a while, and with it the blocks after it. What a
//! node gives out in a second is limited.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Advance, Decided, STEPS_MAX, Seats, StatePiece, StateWanted, Steps, StepsWanted};
use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{Bytes, List, Message, NodeId, Shared, Time};
use serde::{Serialize, Serializer};

use super::history::BLOCKS_BYTES_MAX;
use super::ladder::step_to;
use super::signing::Wish;
use super::{Chain, by_root};
use crate::cx::Cx;
use crate::ledger::Ledger;

/// States are held at multiples of this height, so many of the newest. All blocks after them are kept, however large.
const STATE_EVERY: u64 = 4;
const STATES_MAX: usize = 4;
const _: () = assert!(STATE_EVERY == 4 && STATES_MAX == 4 && 16 * Decided::BYTES_MAX <= BLOCKS_BYTES_MAX);
/// A state that was asked for stays so long after, and so many of them at most.
const ASKED_MS: u64 = 30_000;
const ASKED_MAX: usize = 2;
/// Answers given in a second, to all together.
const ANSWERS_A_SECOND: u32 = 64;
/// Most bytes of steps in one answer; the one that leads to a state is not counted.
const STEPS_BYTES: usize = 512 << 10;

/// A state that this node gives out.
#[derive(Clone, Debug, Serialize)]
struct Held {
    #[serde(serialize_with = "by_root")]
    ledger: Ledger,
    #[serde(skip)]
    decided: Shared<Decided>,
    /// The block before, and who decided this one.
    #[serde(skip)]
    deciders: (Option<Shared<Decided>>, Arc<Seats>),
    /// When somebody asked for it last.
    asked: Option<Time>,
}

impl Held {
    fn height(&self) -> u64 {
        self.decided.block.header.height
    }

    fn step(&self) -> Advance {
        let (parent, before) = &self.deciders;
        let parent = parent.as_ref().map(|parent| parent.block.header);
        step_to(&self.decided, parent, before, self.ledger.seats())
    }

    fn is_asked(&self, now: Time) -> bool {
        self.asked.is_some_and(|at| now.ms_since(at) < ASKED_MS)
    }
}

/// The states that this node gives out, the newest last.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Giving {
    #[serde(serialize_with = "heights")]
    held: VecDeque<Held>,
    /// Answers given since a moment.
    given: (Time, u32),
}

fn heights<S: Serializer>(held: &VecDeque<Held>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(held.iter().map(|one| (one.height(), one.asked)))
}

impl Giving {
    /// Holds the state after a block, if it is one of those that nodes give out.
    pub(super) fn hold(
        &mut self,
        ledger: &Ledger,
        decided: &Shared<Decided>,
        parent: Option<Shared<Decided>>,
        before: Arc<Seats>,
        now: Time,
    ) {
        if decided.block.header.height.checked_rem(STATE_EVERY) != Some(0) {
            return;
        }
        let (ledger, decided) = (ledger.clone(), decided.clone());
        self.held.push_back(Held { ledger, decided, deciders: (parent, before), asked: None });
        let (mut asked, mut rest) = (0_usize, STATES_MAX);
        let mut kept = VecDeque::new();
        for one in core::mem::take(&mut self.held).into_iter().rev() {
            if rest > 0 {
                rest = rest.saturating_sub(1);
            } else if one.is_asked(now) && asked < ASKED_MAX {
                asked = asked.saturating_add(1);
            } else {
                continue;
            }
            kept.push_front(one);
        }
        self.held = kept;
    }

    /// The height from which on somebody will want blocks.
    pub(super) fn wanted_from(&self, now: Time) -> Option<u64> {
        self.held.iter().find(|one| one.is_asked(now)).map(Held::height)
    }

    /// The state to lead a newcomer to: not the newest, which others may not have yet.
    fn offered(&self) -> Option<&Held> {
        self.held.len().checked_sub(2).map_or_else(|| self.held.back(), |place| self.held.get(place))
    }

    /// Whether one more answer may be given now; counts it.
    fn may_answer(&mut self, now: Time) -> bool {
        if now.ms_since(self.given.0) >= 1000 {
            self.given = (now, 0);
        }
        let may = self.given.1 < ANSWERS_A_SECOND;
        self.given.1 = self.given.1.saturating_add(1);
        may
    }
}

impl Chain {
    pub(super) fn on_steps_wanted(&mut self, cx: &mut Cx<'_>, wanted: &StepsWanted) {
        self.show_way(cx, wanted.node, wanted.above);
    }

    /// Shows a node the way to a state, if this node has one above that height.
    pub(super) fn show_way(&mut self, cx: &mut Cx<'_>, to: NodeId, above: u64) {
        if !self.giving.may_answer(cx.now) {
            return;
        }
        let Some(goal) = self.giving.offered().filter(|goal| goal.height() > above) else { return };
        let (goal, height) = (goal.step(), goal.height());
        let (mut steps, mut bytes, mut arrives) = (Vec::new(), 0_usize, true);
        for step in self.ladder.above(above).filter(|step| step.header.height < height) {
            bytes = bytes.saturating_add(codec::encode(&**step).len());
            let full = steps.len().saturating_add(1) >= usize::try_from(STEPS_MAX).unwrap_or(0);
            if full || (bytes > STEPS_BYTES && !steps.is_empty()) {
                arrives = false;
                break;
            }
            steps.push(Advance::clone(step));
        }
        if arrives {
            steps.push(goal);
        }
        let steps = List::try_from(steps);
        assert!(steps.is_ok(), "no more steps were taken than an answer holds");
        let answer = Steps { node: cx.config.node, steps: steps.unwrap_or_default(), arrives };
        let message = Box::new(Message::Steps(Box::new(answer)));
        self.signing.ask(cx, Wish::Send { to, message }, None);
    }

    pub(super) fn on_state_wanted(&mut self, cx: &mut Cx<'_>, wanted: &StateWanted) {
        if wanted.node == cx.config.node || !self.giving.may_answer(cx.now) {
            return;
        }
        let held = self.giving.held.iter_mut().find(|one| one.height() == wanted.height);
        let piece = held.map(|held| {
            held.asked = Some(cx.now);
            match held.ledger.chunk_at(&wanted.place) {
                Some(chunk) => codec::encode(&chunk),
                None => codec::encode(&*held.decided),
            }
        });
        let piece = piece.map(|piece| {
            let piece = Bytes::try_from(piece);
            assert!(piece.is_ok(), "chunks and decided blocks have a limit");
            piece.unwrap_or_default()
        });
        let StateWanted { node: to, height, place } = *wanted;
        let answer = StatePiece { node: cx.config.node, height, place, piece };
        let message = Box::new(Message::StatePiece(Box::new(answer)));
        self.signing.ask(cx, Wish::Send { to, message }, None);
    }
}

const _: () = assert!(Decided::BYTES_MAX <= codec::CHUNK_BYTES_MAX, "a block travels as a piece");
