//! Taking the agreed state from others, for a node that is further behind than they keep blocks (PROTOCOL §11).
//!
//! It follows the changes of seats as a light client, from the last block it knows, or from the genesis, to a finalized
//! header whose state is given out. Then it takes the state in pieces, from as many nodes as it knows to be further, one at a
//! time from each. A piece that does not prove itself is its sender's fault, and nothing more is taken from that sender;
//! who is silent three times is left alone too.
//!
//! From the first piece on each is a record of the journal as it comes, after a record of the block. So a crash resumes where
//! it was; and since nothing about later heights is written before the last piece, whatever is durable of those has the
//! whole state before it. While pieces come the node takes no part in deciding: the height it stands at is decided.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{
    Advance, Block, Decided, Header, StatePiece, StatePlace, StateWanted, Steps, StepsWanted,
};
use neuroshard_proto::{Bytes, List, Message, NodeId, Shared, Time, codec};
use serde::{Serialize, Serializer};

use super::Chain;
use super::bodies::Bodies;
use super::history::History;
use super::ladder::is_change;
use super::signing::Wish;
use crate::cx::Cx;
use crate::io::{Event, PeerFault};
use crate::journal::JournalFact;
use crate::ledger::Ledger;
use crate::ledger::light::LightClient;
use crate::ledger::sync::{Assembly, Chunk, ChunkError, Stretch};

/// Most nodes that a state is taken from.
const GIVERS_MAX: usize = 16;
/// Who gave what is wrong, or has not what is wanted, is not asked for so long; so many are remembered.
const FAULTY_MS: u64 = 60_000;
const FAULTY_MAX: usize = 256;
/// A piece or a step that takes longer is asked for again, elsewhere if possible.
const ANSWER_MS: u64 = 2000;
/// A node that is silent so many times in a row is not asked again.
const SILENCES_MAX: u8 = 3;
/// A state of which no piece came for so long is given up.
const PATIENCE_MS: u64 = 60_000;

/// A state of which pieces are in the journal.
#[derive(Clone, Debug)]
pub(super) struct Take {
    decided: Shared<Decided>,
    assembly: Assembly,
    stretches: Vec<Stretch>,
}

impl Serialize for Take {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.decided.block.header.id(), &self.stretches).serialize(serializer)
    }
}

impl Take {
    pub(super) fn new(decided: Shared<Decided>) -> Self {
        let assembly = Assembly::new(decided.block.header);
        Self { decided, assembly, stretches: Vec::new() }
    }

    pub(super) fn height(&self) -> u64 {
        self.decided.block.header.height
    }

    /// Takes up a chunk; false if it was known.
    ///
    /// # Errors
    /// What is wrong with it; nothing of it was kept.
    pub(super) fn accept(&mut self, chunk: &Chunk) -> Result<bool, ChunkError> {
        let first = self.assembly.missing().is_none();
        self.assembly.accept(chunk)?;
        if first {
            self.stretches = self.assembly.stretches();
            return Ok(true);
        }
        let before = self.stretches.clone();
        self.stretches = before.iter().filter_map(|stretch| stretch.without(chunk)).collect();
        Ok(self.stretches != before)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.assembly.missing() == Some(0)
    }

    /// The block, and the ledger after it.
    pub(super) fn finish(self) -> Result<(Shared<Decided>, Ledger), ChunkError> {
        Ok((self.decided, self.assembly.finish()?))
    }
}

/// How far the taking is.
#[derive(Clone, Debug, Default, Serialize)]
enum Stage {
    /// Nothing is taken: blocks will do, or nobody showed a way yet.
    #[default]
    Rest,
    /// Following the changes of seats. The client stands where the last step led.
    Way(#[serde(serialize_with = "by_header")] Box<LightClient>),
    /// A header is known to be final; its block and its modules come first.
    Goal(#[serde(serialize_with = "by_id")] Box<Advance>, #[serde(skip)] Option<Shared<Decided>>),
    /// Pieces come.
    Pieces(Box<Take>),
}

fn by_header<S: Serializer>(client: &LightClient, serializer: S) -> Result<S::Ok, S::Error> {
    client.header().map(Header::id).serialize(serializer)
}

fn by_id<S: Serializer>(step: &Advance, serializer: S) -> Result<S::Ok, S::Error> {
    step.header.id().serialize(serializer)
}

/// A node that may have the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Giver {
    /// What it was asked for, and when that is late.
    asked: Option<(StatePlace, Time)>,
    silences: u8,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Taking {
    stage: Stage,
    givers: BTreeMap<NodeId, Giver>,
    /// Who is not asked, and until when.
    faulty: BTreeMap<NodeId, Time>,
    /// Whether somebody was left who had the state that is wanted.
    left: bool,
    /// Who was asked for the way, and when that is late.
    asked: Option<(NodeId, Time)>,
    /// When a state is given up of which nothing comes.
    until: Option<Time>,
}

impl Taking {
    /// Goes on with a state of which an earlier life took pieces.
    pub(super) fn resume(take: Take) -> Self {
        Self { stage: Stage::Pieces(Box::new(take)), ..Self::default() }
    }

    /// Whether pieces come: then nothing else is written or voted on.
    pub(super) const fn is_busy(&self) -> bool {
        matches!(self.stage, Stage::Pieces(_))
    }

    /// Whether a way or a state is asked for: then blocks are not.
    pub(super) const fn is_under_way(&self) -> bool {
        self.has_goal() || self.asked.is_some()
    }

    /// The node stands at this height now: no older state is wanted.
    pub(super) fn passed(&mut self, head: u64) {
        if self.height().is_none_or(|height| height <= head) {
            self.reset();
        }
    }

    /// Whether a header is known whose state is wanted.
    const fn has_goal(&self) -> bool {
        matches!(self.stage, Stage::Goal(..) | Stage::Pieces(_))
    }

    /// A node speaks of later heights: it may have the state.
    pub(super) fn heard(&mut self, node: NodeId, now: Time) {
        if self.givers.len() < GIVERS_MAX && !self.is_faulty(&node, now) {
            self.givers.entry(node).or_default();
        }
    }

    pub(super) fn is_faulty(&self, node: &NodeId, now: Time) -> bool {
        self.faulty.get(node).is_some_and(|until| *until > now)
    }

    /// Nothing more is taken from this node.
    fn leave(&mut self, node: NodeId, now: Time) {
        self.givers.remove(&node);
        self.left = true;
        self.faulty.retain(|_, until| *until > now);
        if self.faulty.len() < FAULTY_MAX {
            self.faulty.insert(node, now.after_ms(FAULTY_MS));
        }
    }

    /// Begins anew, but for what is known of others.
    fn reset(&mut self) {
        *self = Self { faulty: core::mem::take(&mut self.faulty), ..Self::default() };
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let pieces = self.givers.values().filter_map(|giver| giver.asked).map(|(_, at)| at);
        let way = self.asked.map(|(_, at)| at);
        pieces.chain(way).chain(self.until).min()
    }

    /// What is missing and not asked for.
    fn places(&self) -> Vec<StatePlace> {
        let places = match &self.stage {
            Stage::Rest | Stage::Way(_) => Vec::new(),
            Stage::Goal(_, None) => Vec::from([StatePlace::Block]),
            Stage::Goal(_, Some(_)) => Vec::from([StatePlace::Modules]),
            Stage::Pieces(take) => take.stretches.iter().map(|stretch| stretch.from).collect(),
        };
        let asked = |place: &StatePlace| self.givers.values().any(|one| one.asked.is_some_and(|(of, _)| of == *place));
        places.into_iter().filter(|place| !asked(place)).collect()
    }

    fn height(&self) -> Option<u64> {
        match &self.stage {
            Stage::Rest | Stage::Way(_) => None,
            Stage::Goal(step, _) => Some(step.header.height),
            Stage::Pieces(take) => Some(take.height()),
        }
    }
}

impl Chain {
    /// The way to a state, from a node that was asked for blocks or for the way.
    pub(super) fn on_steps(&mut self, cx: &mut Cx<'_>, steps: &Steps) {
        let wanted = self.taking.asked.map_or_else(|| self.behind.was_asked(&steps.node), |(of, _)| of == steps.node);
        if !wanted || self.broken || self.taking.has_goal() {
            return;
        }
        self.taking.asked = None;
        let mut client = match core::mem::take(&mut self.taking.stage) {
            Stage::Way(client) => client,
            Stage::Rest | Stage::Goal(..) | Stage::Pieces(_) => match self.light_client(cx) {
                Some(client) => Box::new(client),
                None => return,
            },
        };
        let before = client.header().map(|header| header.height);
        let mut last = None;
        for step in &steps.steps {
            if client.header().is_some_and(|known| known.height >= step.header.height) {
                continue;
            }
            if self.follow(cx, &mut client, step).is_none() {
                let reject = PeerFault::Steps { node: steps.node, height: step.header.height };
                cx.event(Event::Rejected { reject });
                self.taking.stage = Stage::Way(client);
                self.taking.leave(steps.node, cx.now);
                return self.behind.forget(&steps.node);
            }
            last = Some(step);
        }
        self.taking.heard(steps.node, cx.now);
        match last.filter(|_| steps.arrives) {
            Some(goal) => {
                client.seats().iter().map(|(node, _)| *node).filter(|node| *node != cx.config.node).for_each(|node| {
                    self.taking.heard(node, cx.now);
                });
                self.taking.stage = Stage::Goal(Box::new(goal.clone()), None);
                (self.taking.until, self.taking.left) = (Some(cx.now.after_ms(PATIENCE_MS)), false);
            }
            None if client.header().map(|header| header.height) > before => {
                let above = client.header().map_or(0, |header| header.height);
                self.taking.stage = Stage::Way(client);
                self.taking.asked = Some((steps.node, cx.now.after_ms(ANSWER_MS)));
                let wanted = StepsWanted { node: cx.config.node, above };
                let message = Box::new(Message::StepsWanted(wanted));
                self.signing.ask(cx, Wish::Send { to: steps.node, message }, None);
            }
            None => self.taking.stage = Stage::Way(client),
        }
    }

    /// A client that trusts what this node knows.
    fn light_client(&self, cx: &Cx<'_>) -> Option<LightClient> {
        match self.history.head() {
            Some(header) => {
                let unbonding_ms = self.ledger.params().money.unbonding_ms;
                LightClient::trusting(header, self.ledger.seats().as_ref().clone(), unbonding_ms).ok()
            }
            None => Some(LightClient::genesis(&cx.config.genesis)),
        }
    }

    /// Takes a step, and keeps it for others if it changes the seats; `None` if it breaks a rule.
    fn follow(&mut self, cx: &mut Cx<'_>, client: &mut LightClient, step: &Advance) -> Option<()> {
        // Whoever names no parent could not pass the step on.
        if step.deciders.is_none() && step.header.height > 1 {
            return None;
        }
        let mut brief = step.clone();
        brief.deciders = brief.deciders.filter(|(_, seats)| seats != client.seats());
        client.advance(brief).ok()?;
        let honest = step
            .deciders
            .as_ref()
            .is_none_or(|(parent, seats)| parent.id() == step.header.parent && seats.hash() == parent.seats);
        if honest && is_change(step) {
            self.ladder.push(Arc::new(step.clone()));
            self.write(cx, JournalFact::Step { step: Box::new(step.clone()) });
        }
        honest.then_some(())
    }

    /// A piece that was asked for.
    pub(super) fn on_piece(&mut self, cx: &mut Cx<'_>, given: &StatePiece) {
        let StatePiece { node, height, place, piece } = given;
        let Some(giver) = self.taking.givers.get_mut(node) else { return };
        if giver.asked.map(|(of, _)| of) != Some(*place) || self.taking.height() != Some(*height) {
            return;
        }
        if let Some(giver) = self.taking.givers.get_mut(node) {
            *giver = Giver::default();
        }
        let Some(piece) = piece else { return self.taking.leave(*node, cx.now) };
        if self.take_piece(cx, *place, piece).is_none() {
            cx.event(Event::Rejected { reject: PeerFault::State { node: *node, height: *height } });
            return self.taking.leave(*node, cx.now);
        }
        self.taking.until = Some(cx.now.after_ms(PATIENCE_MS));
        let whole = matches!(&self.taking.stage, Stage::Pieces(take) if take.is_whole());
        if whole && let Stage::Pieces(take) = core::mem::take(&mut self.taking).stage {
            self.enter(cx, *take);
        }
    }

    /// Takes up a piece; `None` if it is not what stands at this place.
    fn take_piece(&mut self, cx: &mut Cx<'_>, place: StatePlace, piece: &[u8]) -> Option<()> {
        let (stage, facts) = match &mut self.taking.stage {
            Stage::Rest | Stage::Way(_) => return None,
            Stage::Goal(goal, None) => (Some(Stage::Goal(goal.clone(), Some(block_of(goal, piece)?))), Vec::new()),
            Stage::Goal(_, Some(decided)) => {
                let mut take = Take::new(decided.clone());
                take.accept(&codec::decode(piece).ok()?).ok()?;
                let values = List::try_from(self.duties.values()).unwrap_or_default();
                let begin = JournalFact::Taking { decided: decided.clone(), values };
                (Some(Stage::Pieces(Box::new(take))), Vec::from([begin, chunk_fact(piece)]))
            }
            Stage::Pieces(take) => {
                let chunk: Chunk = codec::decode(piece).ok()?;
                let asked = Stretch { from: place, to: None };
                if asked.without(&chunk) == Some(asked) {
                    return None;
                }
                let news = take.accept(&chunk).ok()?;
                (None, if news { Vec::from([chunk_fact(piece)]) } else { Vec::new() })
            }
        };
        // A state of its own that is being written is older than this one.
        if let Some(stage) = stage {
            self.taking.stage = stage;
            self.writing.give_up();
        }
        facts.into_iter().for_each(|fact| {
            self.write(cx, fact);
        });
        Some(())
    }

    /// Stands at the height whose state is whole, and goes on from there.
    fn enter(&mut self, cx: &mut Cx<'_>, take: Take) {
        let Ok((decided, ledger)) = take.finish() else { return };
        let header = decided.block.header;
        (self.ledger, self.history, self.bodies) = (ledger, History::default(), Bodies::default());
        self.history.push(decided.clone(), None);
        let (id, root) = (header.id(), self.ledger.root());
        cx.event(Event::StateTaken { height: header.height, id, time: header.time, root });
        self.begin_height(cx);
        // The pieces, and all that is older, may go when the state is written down in one.
        self.begin_state_now(cx, &decided);
    }

    /// Asks for what is missing, and gives up what does not come.
    pub(super) fn take_on(&mut self, cx: &mut Cx<'_>) {
        if self.taking.asked.is_some_and(|(_, at)| at <= cx.now)
            && let Some((node, _)) = self.taking.asked.take()
        {
            self.behind.forget(&node);
        }
        if !self.taking.has_goal() {
            return;
        }
        self.taking.until.get_or_insert(cx.now.after_ms(PATIENCE_MS));
        for giver in self.taking.givers.values_mut().filter(|one| one.asked.is_some_and(|(_, at)| at <= cx.now)) {
            *giver = Giver { asked: None, silences: giver.silences.saturating_add(1) };
        }
        let silent = self.taking.givers.iter().filter(|(_, giver)| giver.silences >= SILENCES_MAX);
        let silent: Vec<NodeId> = silent.map(|(node, _)| *node).collect();
        silent.into_iter().for_each(|node| self.taking.leave(node, cx.now));
        let nobody = self.taking.givers.is_empty() && self.taking.left;
        if nobody || self.taking.until.is_some_and(|until| until <= cx.now) {
            return self.taking.reset();
        }
        let Some(height) = self.taking.height() else { return };
        for place in self.taking.places() {
            let free = self.taking.givers.iter_mut().filter(|(_, giver)| giver.asked.is_none());
            let Some((to, giver)) = free.min_by_key(|(node, giver)| (giver.silences, **node)) else { return };
            giver.asked = Some((place, cx.now.after_ms(ANSWER_MS)));
            let (to, wanted) = (*to, StateWanted { node: cx.config.node, height, place });
            self.signing.ask(cx, Wish::Send { to, message: Box::new(Message::StateWanted(wanted)) }, None);
        }
    }
}

/// The block of a goal, if these bytes are it. Its certificate is the one that was checked.
fn block_of(goal: &Advance, piece: &[u8]) -> Option<Shared<Decided>> {
    let Decided { block, .. } = codec::decode(piece).ok()?;
    let same = block.header == goal.header
        && Block::transactions_root(&block.transactions) == block.header.transactions
        && Block::finality_hash(block.finality.as_ref()) == block.header.finality;
    same.then(|| Decided { block, certificate: goal.certificate.clone() }.into())
}

fn chunk_fact(piece: &[u8]) -> JournalFact {
    let chunk = Bytes::try_from(Vec::from(piece));
    assert!(chunk.is_ok(), "what came as a piece fits in a record");
    JournalFact::Chunk { chunk: chunk.unwrap_or_default() }
}
