//! The state that a journal's facts make.

use alloc::sync::Arc;
use alloc::vec::Vec;

use neuroshard_proto::chain::{Block, Decided};
use neuroshard_proto::{Hash, JournalSeq};

use super::bodies::Bodies;
use super::duties::Duties;
use super::height::names;
use super::history::History;
use crate::agreement::Ballot;
use crate::config::Config;
use crate::ledger::Ledger;

/// What the records read so far say.
#[derive(Clone, Debug)]
pub(crate) struct Past {
    pub(super) ledger: Ledger,
    pub(super) history: History,
    /// Votes at the height after the head.
    pub(super) ballots: Vec<Ballot>,
    pub(super) bodies: Bodies,
    pub(super) duties: Duties,
    /// The first record that is still needed.
    pub(crate) first: Option<JournalSeq>,
}

impl Past {
    pub(crate) fn new(config: &Config, seed: &Hash) -> Self {
        Self {
            ledger: Ledger::genesis(&config.genesis),
            history: History::default(),
            ballots: Vec::new(),
            bodies: Bodies::default(),
            duties: Duties::new(seed),
            first: None,
        }
    }

    fn note(&mut self, record: JournalSeq) {
        self.first.get_or_insert(record);
    }

    /// A block that this node voted for.
    pub(crate) fn proposed(&mut self, record: JournalSeq, block: &Block) {
        self.note(record);
        if block.header.height == self.ledger.head().height.saturating_add(1) {
            self.bodies.recall(block.clone());
        }
    }

    pub(crate) fn voted(&mut self, record: JournalSeq, ballot: &Ballot) {
        self.note(record);
        if ballot.statement.height() == self.ledger.head().height.saturating_add(1) {
            self.ballots.push(ballot.clone());
        }
    }

    pub(crate) fn bound(&mut self, record: JournalSeq, epoch: u64, value: Hash) {
        self.note(record);
        self.duties.recall(epoch, value);
    }

    /// A decided block; false if it does not follow.
    pub(crate) fn decided(&mut self, record: JournalSeq, decided: Decided) -> bool {
        self.note(record);
        if names(&decided.certificate) != Some(decided.block.header.id()) {
            return false;
        }
        let Ok((after, _)) = self.ledger.apply(&decided.block) else { return false };
        self.ledger = after;
        self.history.push(Arc::new(decided));
        self.ballots.clear();
        self.bodies.clear();
        true
    }
}
