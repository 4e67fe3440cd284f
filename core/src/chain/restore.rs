//! What of the agreed world survives a crash: the state that a journal's facts make, and the state written down so that
//! older facts may go.
//!
//! A state is written in chunks, each a record, over as many steps as it takes. It begins with the decided block it stands
//! at, before anything of the next height is written; so all that an older record says is in it. Records before it go when
//! its last one is durable.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Advance, Decided};
use neuroshard_proto::{Bytes, Hash, JournalSeq, List, Shared, codec};
use serde::{Serialize, Serializer};

use super::bodies::Bodies;
use super::duties::Duties;
use super::giving::Giving;
use super::height::names;
use super::history::History;
use super::ladder::Ladder;
use super::taking::Take;
use super::{Chain, by_root};
use crate::agreement::Ballot;
use crate::config::Config;
use crate::cx::{Cx, Local};
use crate::io::Output;
use crate::journal::{JournalFact, Keeper};
use crate::ledger::sync::{Assembly, Chunk, ChunkError};
use crate::ledger::{Ledger, Source};

/// Facts weigh at least this much before the state is written down; a larger state is written the more rarely.
const FACTS_BYTES: u64 = 256 << 10;
/// Chunks written in one step.
const CHUNKS_A_STEP: usize = 8;

/// What the records read so far say.
#[derive(Debug)]
pub(crate) struct Past {
    pub(super) ledgers: Source,
    pub(super) ledger: Ledger,
    pub(super) history: History,
    /// Votes at the height after the head.
    pub(super) ballots: Vec<Ballot>,
    pub(super) bodies: Bodies,
    pub(super) duties: Duties,
    pub(super) ladder: Ladder,
    pub(super) giving: Giving,
    /// A state that was being taken from others.
    pub(super) taking: Option<Take>,
    /// The first record that is still needed.
    pub(crate) first: Option<JournalSeq>,
    /// A state of which chunks are missing yet, and the record it begins with.
    assembly: Option<(JournalSeq, Shared<Decided>, Assembly)>,
    /// A decided block whose parent is missing: what it rests on is in a state that is still to come. Facts older than
    /// that state are left where something else beside them is still needed.
    gap: Option<Contradiction>,
    /// Facts that wait for that state.
    later: Vec<JournalFact>,
}

/// A fact that contradicts the ones before it: the height it speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) height: u64,
}

impl Past {
    pub(crate) fn new(config: &Config, seed: &Hash, ledgers: Source) -> Self {
        let ledger = ledgers.genesis(&config.genesis);
        Self {
            ladder: Ladder::new(Arc::clone(ledger.seats()), config.genesis.params.money.unbonding_ms),
            giving: Giving::default(),
            taking: None,
            ledgers,
            ledger,
            history: History::default(),
            ballots: Vec::new(),
            bodies: Bodies::default(),
            duties: Duties::new(seed),
            first: None,
            assembly: None,
            gap: None,
            later: Vec::new(),
        }
    }

    fn height(&self) -> u64 {
        self.ledger.head().height
    }

    /// Takes up a fact about the agreed world.
    ///
    /// # Errors
    /// If it does not follow from the ones before.
    pub(crate) fn take(&mut self, record: JournalSeq, fact: JournalFact) -> Result<(), Contradiction> {
        self.first.get_or_insert(record);
        match fact {
            JournalFact::State { decided, values } => {
                values.iter().for_each(|(epoch, value)| self.duties.recall(*epoch, *value));
                let assembly = Assembly::new(decided.block.header);
                self.assembly = Some((record, decided, assembly));
                self.taking = None;
            }
            JournalFact::Taking { decided, values } => {
                values.iter().for_each(|(epoch, value)| self.duties.recall(*epoch, *value));
                self.assembly = None;
                self.taking = Some(Take::new(decided));
            }
            JournalFact::Step { step } => self.ladder.push(Arc::from(step)),
            JournalFact::Chunk { chunk } => return self.take_chunk(&chunk),
            fact @ (JournalFact::Proposed { .. }
            | JournalFact::Voted { .. }
            | JournalFact::Decided { .. }
            | JournalFact::Bound { .. }
            | JournalFact::Founded { .. }
            | JournalFact::Saved { .. }) => {
                let at = self.assembly.as_ref().map(|(_, at, _)| at.block.header.height);
                let at = at.or_else(|| self.taking.as_ref().map(Take::height));
                let wait = at.is_some_and(|at| at > self.height());
                if !wait {
                    return self.follow(fact);
                }
                self.later.push(fact);
            }
        }
        Ok(())
    }

    fn take_chunk(&mut self, chunk: &[u8]) -> Result<(), Contradiction> {
        let Some((_, decided, assembly)) = self.assembly.as_mut() else { return self.take_piece(chunk) };
        let height = decided.block.header.height;
        let chunk: Chunk = codec::decode(chunk).map_err(|_| Contradiction { height })?;
        assembly.accept(&chunk).map_err(|_| Contradiction { height })?;
        if assembly.missing() != Some(0) {
            return Ok(());
        }
        let Some((first, decided, assembly)) = self.assembly.take() else { return Ok(()) };
        self.first = Some(first);
        let after = if height > self.height() { Some(assembly.finish()) } else { None };
        self.enter(decided, after)
    }

    /// A chunk of a state that was taken from others.
    fn take_piece(&mut self, chunk: &[u8]) -> Result<(), Contradiction> {
        let Some(take) = self.taking.as_mut() else { return Ok(()) };
        let height = take.height();
        let chunk: Chunk = codec::decode(chunk).map_err(|_| Contradiction { height })?;
        take.accept(&chunk).map_err(|_| Contradiction { height })?;
        match self.taking.take_if(|take| take.is_whole()).map(Take::finish) {
            Some(Ok((decided, ledger))) => self.enter(decided, (height > self.height()).then_some(Ok(ledger))),
            Some(Err(_)) => Err(Contradiction { height }),
            None => Ok(()),
        }
    }

    /// Stands at a block whose state is whole, unless it stands there already, and goes on with what waited for it.
    fn enter(
        &mut self,
        decided: Shared<Decided>,
        after: Option<Result<Ledger, ChunkError>>,
    ) -> Result<(), Contradiction> {
        let height = decided.block.header.height;
        if let Some(after) = after {
            self.ledger = after.map_err(|_| Contradiction { height })?;
            self.gap = None;
            self.history = History::default();
            self.history.push(decided, None);
            self.ballots.clear();
            self.bodies.clear();
        }
        core::mem::take(&mut self.later).into_iter().try_for_each(|fact| self.follow(fact))
    }

    /// Whether a state stands that all facts follow from.
    ///
    /// # Errors
    /// If a state is wanted of which chunks are missing. One that was being taken from others is not wanted: older facts hold.
    pub(crate) fn check(&mut self) -> Result<(), Contradiction> {
        if self.taking.is_some() {
            core::mem::take(&mut self.later).into_iter().try_for_each(|fact| self.follow(fact))?;
            let height = self.height();
            self.taking.take_if(|take| take.height() <= height);
        }
        match &self.assembly {
            Some((_, decided, _)) if decided.block.header.height > self.height() => {
                Err(Contradiction { height: decided.block.header.height })
            }
            Some(_) | None => self.gap.map_or(Ok(()), Err),
        }
    }

    fn follow(&mut self, fact: JournalFact) -> Result<(), Contradiction> {
        let next = self.height().saturating_add(1);
        match fact {
            // Written before the state was taken that it led to.
            JournalFact::Decided { decided } if decided.block.header.height < next => {}
            JournalFact::Decided { decided } if decided.block.header.height > next => {
                self.gap = Some(Contradiction { height: decided.block.header.height });
            }
            JournalFact::Proposed { block } if block.header.height == next => self.bodies.recall(*block),
            JournalFact::Voted { ballot } if ballot.statement.height() == next => self.ballots.push(*ballot),
            JournalFact::Bound { epoch, value } => self.duties.recall(epoch, value),
            JournalFact::Decided { decided } => self.decided(decided)?,
            JournalFact::Proposed { .. }
            | JournalFact::Voted { .. }
            | JournalFact::Founded { .. }
            | JournalFact::Saved { .. }
            | JournalFact::State { .. }
            | JournalFact::Chunk { .. }
            | JournalFact::Step { .. }
            | JournalFact::Taking { .. } => {}
        }
        Ok(())
    }

    fn decided(&mut self, decided: Shared<Decided>) -> Result<(), Contradiction> {
        let contradiction = Contradiction { height: decided.block.header.height };
        if names(&decided.certificate) != Some(decided.block.header.id()) {
            return Err(contradiction);
        }
        let after = self.ledgers.after(&self.ledger, &decided.block).map_err(|_| contradiction)?;
        let (parent, before) = (self.history.head(), Arc::clone(self.ledger.seats()));
        self.ledger = after;
        self.ladder.climb(&decided, parent, &before, self.ledger.seats());
        self.giving.hold(&self.ledger, &decided, self.history.newest(), before, decided.block.header.time);
        self.history.push(decided, None);
        self.ballots.clear();
        self.bodies.clear();
        Ok(())
    }
}

/// When the state is written down, and how far that is.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Writing {
    /// Bytes of facts since the last state.
    facts: u64,
    /// Bytes of that state.
    state: u64,
    under_way: Option<Snapshot>,
}

#[derive(Clone, Debug, Serialize)]
struct Snapshot {
    #[serde(serialize_with = "by_root")]
    ledger: Ledger,
    first: JournalSeq,
    /// Changes of seats that are still to be written, the last one first.
    #[serde(serialize_with = "count")]
    steps: Vec<Arc<Advance>>,
    /// Chunks written.
    chunks: u64,
}

fn count<S: Serializer>(steps: &[Arc<Advance>], serializer: S) -> Result<S::Ok, S::Error> {
    steps.len().serialize(serializer)
}

impl Writing {
    /// Leaves the state that is being written as it is: no reader takes up one that is not whole.
    pub(super) fn give_up(&mut self) {
        self.under_way = None;
    }
}

impl Chain {
    /// Writes down a fact.
    pub(super) fn write(&mut self, cx: &mut Cx<'_>, fact: JournalFact) -> JournalSeq {
        let bytes = codec::encoded_len(&fact);
        self.writing.facts = self.writing.facts.saturating_add(bytes);
        let record = cx.persist(fact);
        cx.journal.keep_from(Keeper::Chain, record);
        record
    }

    /// Begins to write down the state after a block, if that is due. Nothing of the next height was written yet.
    pub(super) fn begin_state(&mut self, cx: &mut Cx<'_>, decided: &Shared<Decided>) {
        let due = self.writing.facts >= FACTS_BYTES.max(self.writing.state);
        if !due || self.writing.under_way.is_some() {
            return;
        }
        let values = List::try_from(self.duties.values()).unwrap_or_default();
        let first = cx.persist(JournalFact::State { decided: decided.clone(), values });
        let ledger = self.ledger.clone();
        (self.writing.facts, self.writing.state) = (0, 0);
        let mut steps = self.ladder.all();
        steps.reverse();
        self.writing.under_way = Some(Snapshot { ledger, first, steps, chunks: 0 });
    }

    /// Begins to write down the state after a block, however little is to be written.
    pub(super) fn begin_state_now(&mut self, cx: &mut Cx<'_>, decided: &Shared<Decided>) {
        self.writing = Writing { facts: u64::MAX, ..Writing::default() };
        self.begin_state(cx, decided);
    }

    /// Writes some chunks; true if there are more.
    pub(super) fn write_state(&mut self, cx: &mut Cx<'_>) -> bool {
        let Some(snapshot) = self.writing.under_way.as_mut() else { return false };
        for step in (0..CHUNKS_A_STEP).map_while(|_| snapshot.steps.pop()) {
            let bytes = u64::try_from(codec::encode(&*step).len()).unwrap_or(u64::MAX);
            self.writing.state = self.writing.state.saturating_add(bytes);
            cx.persist(JournalFact::Step { step: Box::new(Advance::clone(&step)) });
        }
        if !snapshot.steps.is_empty() {
            return true;
        }
        let done = usize::try_from(snapshot.chunks).unwrap_or(usize::MAX);
        let mut chunks = snapshot.ledger.chunks().skip(done);
        let mut last = snapshot.first;
        for chunk in chunks.by_ref().take(CHUNKS_A_STEP) {
            let chunk = Bytes::try_from(codec::encode(&chunk));
            assert!(chunk.is_ok(), "a chunk has a limit");
            let chunk = chunk.unwrap_or_default();
            self.writing.state = self.writing.state.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            last = cx.persist(JournalFact::Chunk { chunk });
            snapshot.chunks = snapshot.chunks.saturating_add(1);
        }
        let more = chunks.next().is_some();
        drop(chunks);
        if more {
            return true;
        }
        let before = cx.journal.supersede(Keeper::Chain, snapshot.first);
        cx.after(last, Output::Trim { before });
        self.writing.under_way = None;
        // The model's record is older; written again, it no longer holds back what may go.
        cx.tell(Local::Rewrite);
        false
    }
}
