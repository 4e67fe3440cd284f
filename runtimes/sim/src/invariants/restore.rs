//! What a node finds in its journal is what its journal says, each time the same, and every blob that a fact names is there.

use neuroshard_core::{JournalFact, Record};
use neuroshard_proto::codec;

use super::{Checker, Started};

#[derive(Debug)]
pub(super) struct Restore;

impl Checker for Restore {
    fn name(&self) -> &'static str {
        "journal restores"
    }

    fn started(&mut self, start: &Started<'_>) -> Result<(), String> {
        let (one, two) = (start.core.state_hash(), start.again.state_hash());
        if one != two {
            return Err(format!("one journal restores to states {one:.16} and {two:.16}"));
        }
        let newest = start.disk.journal().filter_map(|bytes| match codec::decode(bytes) {
            Ok(Record { fact: JournalFact::Saved { states, .. }, .. }) => Some(states.into_vec()),
            Ok(_) | Err(_) => None,
        });
        let newest = newest.last().unwrap_or_default();
        if start.core.saved_states() != newest {
            let steps = |states: &[neuroshard_core::SavedState]| {
                states.iter().map(|state| state.snapshot.step.to_string()).collect::<Vec<_>>().join(", ")
            };
            let (found, said) = (steps(start.core.saved_states()), steps(&newest));
            return Err(format!("the restored node knows the states [{found}], its journal says [{said}]"));
        }
        match start.core.pinned().difference(start.disk.blobs()).next() {
            Some(hash) => Err(format!("the restored node needs blob {hash:.16}, which is not on its disk")),
            None => Ok(()),
        }
    }
}
