//! Facts that survive a crash, and the outputs that wait for them.
//!
//! A record is a fact ("this snapshot exists"), never an input: code may change and the fact still holds. Whatever
//! depends on a record is withheld here until the host reports the record durable.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};

use neuroshard_proto::chain::{Advance, Block, Decided};
use neuroshard_proto::codec::{self, Canonical};
use neuroshard_proto::{
    BatchId, Bytes, Hash, JournalSeq, LayerBlobs, LayerIndex, LayerRange, List, NetworkId, NodeId, Shared, Snapshot,
    mutant,
};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::agreement::Ballot;
use crate::io::{Misuse, Outbox, Output, RECORD_BYTES_MAX};
use crate::ledger::sync::CHUNK_BYTES_MAX;

/// Most snapshots a node keeps.
pub const SNAPSHOTS_MAX: u32 = 3;
/// Most copies of others' stages that a node keeps.
pub(crate) const COPIES_MAX: u32 = 2;
/// Most outputs that wait for records. A snapshot of the largest model frees two blobs a stage.
const HELD_MAX: usize = 8192;

/// A journal record: a fact and its place, so that a misplaced record is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Record {
    pub seq: JournalSeq,
    pub fact: JournalFact,
}

impl Canonical for Record {
    const BYTES_MAX: u32 = RECORD_BYTES_MAX;
}

/// What a node must not forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub enum JournalFact {
    /// The journal belongs to this node of this network.
    Founded { network: NetworkId, node: NodeId },
    /// These states of the model are persisted, the newest last, and these copies of what others persisted. The fact
    /// supersedes all earlier ones of its kind.
    Saved { states: List<SavedState, SNAPSHOTS_MAX>, copies: List<SavedState, COPIES_MAX> },
    /// A block that this node is about to vote for: it may be decided, and nobody else may have it.
    Proposed { block: Box<Block> },
    /// This node votes (PROTOCOL §11). Nothing that contradicts the vote is ever signed.
    Voted { ballot: Box<Ballot> },
    /// A block was decided.
    Decided { decided: Shared<Decided> },
    /// This node bound itself to a random value in an epoch, and will reveal it in the next (PROTOCOL §11).
    Bound { epoch: u64, value: Hash },
    /// The agreed state after this block follows in chunks; with it, all older facts about the agreed world may go. The
    /// values are those of [`Self::Bound`] that may still be revealed.
    State { decided: Shared<Decided>, values: List<(u64, Hash), 4> },
    /// A part of that state, encoded: a [`crate::ledger::sync::Chunk`].
    Chunk { chunk: Bytes<CHUNK_BYTES_MAX> },
    /// Others decide from this block on: a step that later nodes are shown.
    Step { step: Box<Advance> },
    /// The agreed state after this block follows in chunks as others give them. Until it is whole, older facts hold; nothing
    /// about later heights is written before.
    Taking { decided: Shared<Decided>, values: List<(u64, Hash), 4> },
}

/// Who needs older records: they are deleted when nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Keeper {
    Solo,
    Chain,
}

/// A persisted state of the model or of some of its stages, and how training stood at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct SavedState {
    /// The stages whose state it is.
    pub range: LayerRange,
    pub snapshot: Snapshot,
    pub progress: Progress,
}

impl SavedState {
    /// One of its stages.
    pub fn stage(&self, stage: LayerIndex) -> Option<LayerBlobs> {
        let place = stage.0.checked_sub(self.range.start)?;
        self.snapshot.layers.get(usize::try_from(place).ok()?).copied()
    }
}

/// How far training has come, beside the model itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Progress {
    /// The next batch to draw.
    pub batch: BatchId,
    /// Tokens trained on.
    pub tokens: u64,
    /// Batches that were void.
    pub voids: u64,
    /// Time spent training, over all lives of the node.
    pub trained_ms: u64,
}

/// The journal as the core sees it: how far it is written, how far it is durable, and what waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// The next record's place.
    next: JournalSeq,
    /// Records below this are durable.
    durable: JournalSeq,
    held: VecDeque<(JournalSeq, Output)>,
    /// The oldest record that each still needs.
    kept: BTreeMap<Keeper, JournalSeq>,
}

impl Journal {
    /// Takes up a restored journal whose next record is `next`.
    pub(crate) fn resume(&mut self, next: JournalSeq) {
        self.next = next;
        self.durable = next;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next == JournalSeq(0)
    }

    /// Notes the oldest record that somebody needs, unless an older one is noted.
    pub(crate) fn keep_from(&mut self, keeper: Keeper, record: JournalSeq) {
        self.kept.entry(keeper).or_insert(record);
    }

    /// A record takes the place of all that its keeper needed before; answers before which record nobody needs any.
    pub(crate) fn supersede(&mut self, keeper: Keeper, record: JournalSeq) -> JournalSeq {
        self.kept.insert(keeper, record);
        self.kept.values().copied().min().unwrap_or(record)
    }

    /// Appends a fact.
    pub(crate) fn persist(&mut self, fact: JournalFact, out: &mut Outbox) -> JournalSeq {
        let seq = self.next;
        self.next = seq.next();
        let record = Bytes::try_from(codec::encode(&Record { seq, fact }));
        assert!(record.is_ok(), "every fact fits in a record");
        if !mutant("journal record skipped") {
            out.push(Output::Persist { seq, record: record.unwrap_or_default() });
        }
        seq
    }

    /// Withholds an output until a record is durable.
    pub(crate) fn hold(&mut self, until: JournalSeq, output: Output) {
        assert!(self.held.len() < HELD_MAX, "parts wait for one record before they write the next");
        // Outputs keep their order: one may wait for a later record than it needs.
        let until = self.held.back().map_or(until, |(last, _)| until.max(*last));
        self.held.push_back((until, output));
    }

    /// Notes that records up to `upto` are durable.
    pub(crate) fn persisted(&mut self, upto: JournalSeq) -> Result<(), Misuse> {
        if upto >= self.next {
            let written = self.next.0.checked_sub(1).map(JournalSeq);
            return Err(Misuse::PersistedBeyondJournal { upto, written });
        }
        self.durable = self.durable.max(upto.next());
        Ok(())
    }

    pub(crate) fn is_durable(&self, seq: JournalSeq) -> bool {
        seq < self.durable || mutant("released before durable")
    }

    /// Whether an output waits for nothing any more.
    pub(crate) fn may_release(&self) -> bool {
        self.held.front().is_some_and(|(until, _)| self.is_durable(*until))
    }

    /// Releases what may go, as far as the outbox has room; returns whether more could go.
    pub(crate) fn release(&mut self, mut room: usize, out: &mut Outbox) -> bool {
        while self.may_release() {
            if room == 0 {
                return true;
            }
            room = room.saturating_sub(1);
            if let Some((_, output)) = self.held.pop_front() {
                out.push(output);
            }
        }
        false
    }
}
