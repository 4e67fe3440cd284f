//! One history: no two blocks decided at a height, equal roots at equal heights, heights that follow one on the other
//! (PROTOCOL §14, 2); nobody honest is accused (§14.3); and in the calm every node goes on to decide.

use std::collections::{BTreeMap, BTreeSet};

use neuroshard_core::{Event, JournalFact, Output, Record};
use neuroshard_proto::{Hash, NodeId, Time, codec};

use super::{Calm, Checker, Started, Stepped};

/// Heights that are remembered.
const HEIGHTS_MAX: usize = 100_000;

/// A decided block, as the first honest node told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    id: Hash,
    root: Hash,
    time: Time,
}

/// What was decided, and how far each host is.
#[derive(Debug)]
pub(super) struct Chain {
    liars: BTreeSet<NodeId>,
    decided: BTreeMap<u64, Block>,
    height: Vec<u64>,
    /// The height to go beyond in the calm.
    healed: u64,
}

impl Chain {
    pub(super) fn new(hosts: u32, liars: BTreeSet<NodeId>) -> Self {
        Self { liars, decided: BTreeMap::new(), height: vec![0; hosts as usize], healed: 0 }
    }

    fn decide(&mut self, host: u32, height: u64, block: Block) -> Result<(), String> {
        let before = std::mem::replace(&mut self.height[host as usize], height);
        if height != before + 1 {
            return Err(format!("height {height} was decided after height {before}"));
        }
        self.agree(height, block)?;
        if !self.decided.contains_key(&height) {
            if let Some(earlier) = self.decided.get(&before).filter(|earlier| earlier.time >= block.time) {
                return Err(format!("block time {} follows on {}", block.time, earlier.time));
            }
            self.decided.insert(height, block);
            if self.decided.len() > HEIGHTS_MAX {
                self.decided.pop_first();
            }
        }
        Ok(())
    }

    /// A node took the state of a height from others: one that was decided, above its own, and the same for all.
    fn take(&mut self, host: u32, height: u64, block: Block) -> Result<(), String> {
        let before = std::mem::replace(&mut self.height[host as usize], height);
        if height <= before || !self.decided.contains_key(&height) {
            return Err(format!("the state at height {height} was taken after height {before}, nobody decided it"));
        }
        self.agree(height, block)
    }

    /// A block is the one that others told of.
    fn agree(&self, height: u64, block: Block) -> Result<(), String> {
        match self.decided.get(&height) {
            Some(other) if other.id != block.id => {
                Err(format!("blocks {:.16} and {:.16} were decided at height {height}", other.id, block.id))
            }
            Some(other) if other.root != block.root => {
                Err(format!("roots {:.16} and {:.16} follow height {height}", other.root, block.root))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Checker for Chain {
    fn name(&self) -> &'static str {
        "one history"
    }

    fn stepped(&mut self, step: &Stepped<'_>) -> Result<(), String> {
        step.outputs.iter().try_for_each(|output| match output {
            Output::Event(Event::BlockDecided { height, .. } | Event::StateTaken { height, .. }) if !step.honest => {
                self.height[step.host as usize] = *height;
                Ok(())
            }
            Output::Event(_) if !step.honest => Ok(()),
            Output::Event(Event::BlockDecided { height, id, root, time, .. }) => {
                self.decide(step.host, *height, Block { id: *id, root: *root, time: *time })
            }
            Output::Event(Event::StateTaken { height, id, root, time }) => {
                self.take(step.host, *height, Block { id: *id, root: *root, time: *time })
            }
            Output::Event(Event::ChainBroken { height, id }) => {
                Err(format!("block {id:.16} was decided at height {height} and does not follow"))
            }
            Output::Event(Event::Equivocation { validator }) if !self.liars.contains(validator) => {
                Err(format!("{validator:.16} is honest and accused of two voices"))
            }
            _ => Ok(()),
        })
    }

    fn started(&mut self, start: &Started<'_>) -> Result<(), String> {
        let head = start.core.ledger().head();
        let before = std::mem::replace(&mut self.height[start.host as usize], head.height);
        // A node that fell in the middle of a step may have written one block more than it told of, or a state.
        let took = start.disk.journal().any(|bytes| match codec::decode(bytes) {
            Ok(Record { fact: JournalFact::Taking { decided, .. }, .. }) => decided.block.header.height == head.height,
            Ok(_) | Err(_) => false,
        });
        if head.height > before + 1 && !took {
            return Err(format!("the journal knows height {}, the node was at {before}", head.height));
        }
        match self.decided.get(&head.height) {
            Some(block) if (block.id, block.root) != (head.id, start.core.ledger().root()) => {
                Err(format!("the journal restores to another height {} than was decided", head.height))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn healed(&mut self, _calm: &Calm<'_>) {
        self.healed = self.decided.last_key_value().map_or(0, |(height, _)| *height);
    }

    fn missing(&self, calm: &Calm<'_>) -> Option<String> {
        calm.nodes.iter().find_map(|node| {
            let height = node.core.ledger().head().height;
            let (host, healed) = (node.host, self.healed);
            (height <= healed).then(|| format!("node {host} is at height {height}, and {healed} was decided before"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &[u8], ms: u64) -> Block {
        Block { id: Hash::of_blob(name), root: Hash::of_blob(b"root"), time: Time::from_ms(ms) }
    }

    #[test]
    fn forks_gaps_and_other_roots_are_seen() {
        let mut chain = Chain::new(3, BTreeSet::new());
        assert_eq!(chain.decide(0, 1, block(b"a", 5)), Ok(()));
        assert_eq!(chain.decide(1, 1, block(b"a", 5)), Ok(()));
        assert!(chain.clone_of().decide(2, 1, block(b"b", 5)).unwrap_err().contains("were decided at height 1"));
        let other = Block { root: Hash::of_blob(b"other"), ..block(b"a", 5) };
        assert!(chain.clone_of().decide(2, 1, other).unwrap_err().contains("roots"));
        assert!(
            chain.clone_of().decide(0, 3, block(b"c", 9)).unwrap_err().contains("height 3 was decided after height 1")
        );
        assert!(
            chain.clone_of().decide(0, 1, block(b"a", 5)).unwrap_err().contains("height 1 was decided after height 1")
        );
        assert!(chain.clone_of().decide(0, 2, block(b"c", 5)).unwrap_err().contains("block time"));
        assert_eq!(chain.decide(0, 2, block(b"c", 6)), Ok(()));
        assert!(chain.clone_of().take(2, 3, block(b"d", 9)).unwrap_err().contains("nobody decided it"));
        assert!(chain.clone_of().take(2, 2, block(b"d", 6)).unwrap_err().contains("were decided at height 2"));
        assert!(chain.clone_of().take(0, 1, block(b"a", 5)).unwrap_err().contains("taken after height 2"));
        assert_eq!(chain.take(2, 2, block(b"c", 6)), Ok(()));
    }

    impl Chain {
        fn clone_of(&self) -> Self {
            let (liars, decided, height) = (self.liars.clone(), self.decided.clone(), self.height.clone());
            Self { liars, decided, height, healed: self.healed }
        }
    }
}
