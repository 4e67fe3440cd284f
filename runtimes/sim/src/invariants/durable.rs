//! Nothing that rests on a record happens before the record would survive a crash (ARCHITECTURE §2, persist before send).
//!
//! What a node tells, sends, signs or deletes in a step is held against its disk as it was before the step.

use neuroshard_core::{Event, JournalFact, Output, Record, SavedState};
use neuroshard_proto::{Envelope, JournalSeq, Kind, Message, Step, codec};

use super::{Checker, Stepped};
use crate::disk::Disk;

#[derive(Debug)]
pub(super) struct Durable;

impl Checker for Durable {
    fn name(&self) -> &'static str {
        "durable before told"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        step.outputs.iter().try_for_each(|output| match output {
            Output::Event(Event::Saved { step: saved, .. }) => holds(step.disk, *saved),
            Output::Event(Event::Stopped { saved: Some(saved), .. }) => holds(step.disk, *saved),
            Output::Trim { before } => may_trim(step.disk, *before),
            // A twin repeats what its twin voted.
            Output::Publish { message, .. } if step.honest && message.kind == Kind::Vote.number() => {
                may_vote(step, message)
            }
            // Streams and gradients are in memory alone.
            Output::Drop { hash } if !step.disk.blobs().contains(hash) => Ok(()),
            Output::Drop { hash } => {
                let named = saved_states(step.disk).iter().any(|state| names(state, hash));
                if named { Err(format!("blob {hash:.16} is deleted while a durable fact names it")) } else { Ok(()) }
            }
            _ => Ok(()),
        })
    }
}

/// A vote of a height that is not decided yet must be a durable fact; those of decided heights bind nobody.
fn may_vote(step: &Stepped<'_>, message: &Envelope) -> Result<(), String> {
    let Ok(Message::Vote(vote)) = Message::from_payload(Kind::Vote, &message.payload) else { return Ok(()) };
    let statement = vote.statement;
    let noted = |bytes: &[u8]| match codec::decode(bytes) {
        Ok(Record { fact: JournalFact::Voted { ballot }, .. }) => ballot.statement == statement,
        Ok(_) | Err(_) => false,
    };
    if statement.height() <= step.core.ledger().head().height || step.disk.durable().rev().any(noted) {
        return Ok(());
    }
    Err(format!("the node votes {statement:?}, and no durable record says so"))
}

fn names(state: &SavedState, hash: &neuroshard_proto::Hash) -> bool {
    state.snapshot.layers.iter().any(|layer| layer.weights == *hash || layer.moments == *hash)
}

/// The states that the newest durable record of its kind names.
fn saved_states(disk: &Disk) -> Vec<SavedState> {
    let newest = disk.durable().rev().find_map(|bytes| match codec::decode(bytes) {
        Ok(Record { fact: JournalFact::Saved { states, .. }, .. }) => Some(states.into_vec()),
        Ok(_) | Err(_) => None,
    });
    newest.unwrap_or_default()
}

/// A later state may have superseded the announced one, none before it counts.
fn holds(disk: &Disk, step: Step) -> Result<(), String> {
    if saved_states(disk).iter().any(|state| state.snapshot.step >= step) {
        return Ok(());
    }
    let upto = disk.durable_upto();
    Err(format!("step {step} is called saved, and no durable record says so (durable up to {upto:?})"))
}

fn may_trim(disk: &Disk, before: JournalSeq) -> Result<(), String> {
    if disk.durable_upto().is_some_and(|upto| before <= upto) {
        return Ok(());
    }
    Err(format!("records before {before} are given up, and that record is not durable"))
}
