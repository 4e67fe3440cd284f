//! Decided blocks for those who missed them, and what this node knows of being behind itself.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use neuroshard_proto::chain::{Certificate, Decided, Header};
use neuroshard_proto::{Domain, NodeId, Shared, Time, codec};
use serde::{Serialize, Serializer};

use crate::agent::liveness::Liveness;

/// Most decided blocks kept, and most bytes of them.
const BLOCKS_MAX: usize = 1024;
pub(super) const BLOCKS_BYTES_MAX: u32 = 4 << 20;
/// Most bytes while somebody takes the state before them, and will want them next.
const WANTED_BYTES_MAX: u64 = 64 << 20;
/// Blocks that one request is answered with.
pub(crate) const BATCH: u64 = 8;
/// Who was helped is helped again after this long.
const HELP_MS: u64 = 400;
/// Nodes whose help is remembered.
const HELPED_MAX: usize = 256;
/// A request for blocks that is not answered in this time is made again, of somebody else, so many times in all.
const ANSWER_MS: u64 = 1000;
const TRIES_MAX: u32 = 6;
/// Who is answered asks for the next blocks after this long, so that it is helped again.
const NEXT_MS: u64 = HELP_MS + 50;
/// A node without a seat waits for some part of this time: what it lacks is likely under way. And not all ask at once.
const WAIT_MS: u64 = 300;

/// The newest decided blocks.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    blocks: VecDeque<Shared<Decided>>,
    bytes: u64,
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let range = self.blocks.front().zip(self.blocks.back());
        range.map(|(first, last)| (first.block.header.height, last.block.header.id())).serialize(serializer)
    }
}

impl History {
    /// Adds a block. Those above the height `wanted` are kept as long as that is possible.
    pub(crate) fn push(&mut self, decided: Shared<Decided>, wanted: Option<u64>) {
        self.bytes = self.bytes.saturating_add(codec::encoded_len(&decided));
        self.blocks.push_back(decided);
        while self.blocks.len() > BLOCKS_MAX || (self.bytes > u64::from(BLOCKS_BYTES_MAX) && self.blocks.len() > 1) {
            let oldest = self.blocks.front().map_or(0, |oldest| oldest.block.header.height);
            if wanted.is_some_and(|wanted| oldest > wanted) && self.bytes <= WANTED_BYTES_MAX {
                break;
            }
            let Some(oldest) = self.blocks.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(codec::encoded_len(&oldest));
        }
    }

    /// The blocks from a height on that are still kept, oldest first.
    pub(crate) fn since(&self, height: u64) -> impl Iterator<Item = &Shared<Decided>> {
        self.blocks.iter().filter(move |one| one.block.header.height >= height)
    }

    /// The newest block's header.
    pub(crate) fn head(&self) -> Option<Header> {
        self.blocks.back().map(|decided| decided.block.header)
    }

    /// The newest block.
    pub(crate) fn newest(&self) -> Option<Shared<Decided>> {
        self.blocks.back().cloned()
    }

    /// Whether a height is below all blocks that are kept.
    pub(crate) fn is_past(&self, height: u64) -> bool {
        self.blocks.front().is_some_and(|oldest| height < oldest.block.header.height)
    }

    /// The finalization of the newest block.
    pub(crate) fn finality(&self) -> Option<&Certificate> {
        self.blocks.back().map(|decided| &decided.certificate)
    }

    /// The blocks from a height on, as many as one answer holds, and the newest so that its reader knows how far it is.
    pub(crate) fn batch(&self, from: u64) -> Vec<Shared<Decided>> {
        let height = |decided: &Shared<Decided>| decided.block.header.height;
        let wanted = self.blocks.iter().filter(|one| height(one) >= from);
        let mut batch: Vec<_> = wanted.take(usize::try_from(BATCH).unwrap_or(1)).cloned().collect();
        if batch.first().is_none_or(|first| height(first) != from) {
            batch.clear();
        }
        match (batch.last().map(height), self.blocks.back()) {
            (Some(last), Some(newest)) if last < height(newest) => batch.push(newest.clone()),
            (Some(_) | None, _) => {}
        }
        batch
    }
}

/// Who was helped and when, so that asking costs the asker more than the asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Helped(BTreeMap<NodeId, Time>);

impl Helped {
    /// Whether a node may be helped now; notes that it is.
    pub(crate) fn may(&mut self, node: NodeId, now: Time) -> bool {
        self.0.retain(|_, at| now.ms_since(*at) < HELP_MS);
        if self.0.contains_key(&node) || self.0.len() >= HELPED_MAX {
            return false;
        }
        self.0.insert(node, now);
        true
    }
}

/// Somebody who knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Ahead {
    node: NodeId,
    /// The height it spoke of.
    height: u64,
}

/// A request for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Asked {
    node: NodeId,
    /// The first height asked for.
    from: u64,
    at: Time,
}

/// What this node does about being behind: one request at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Behind {
    ahead: Option<Ahead>,
    asked: Option<Asked>,
    /// When to ask, or to ask again.
    due: Option<Time>,
    tries: u32,
}

impl Behind {
    /// Somebody speaks of a height that is decided for it.
    pub(crate) fn heard(&mut self, node: NodeId, height: u64) {
        if self.ahead.is_none_or(|ahead| ahead.height < height) {
            self.ahead = Some(Ahead { node, height });
        }
    }

    /// Whom `me` asks now for the blocks after `head`, if anybody. Who has a seat asks who spoke of more, and at once: others
    /// wait for its vote. Who has none asks a neighbour as well, or the few that speak would have to help everybody.
    pub(super) fn ask(
        &mut self,
        head: u64,
        now: Time,
        (me, seated): (NodeId, bool),
        liveness: &Liveness,
    ) -> Option<NodeId> {
        let ahead = self.ahead?;
        if ahead.height <= head {
            *self = Self::default();
            return None;
        }
        let next = head.saturating_add(1);
        let lot = lot(&me, next, self.tries);
        let wait = |most: u64| lot.checked_rem(most.max(1)).unwrap_or(0);
        if let Some(asked) = self.asked.filter(|asked| next > asked.from) {
            self.tries = 0;
            if next >= asked.from.saturating_add(BATCH) {
                self.due = self.due.min(Some(asked.at.after_ms(NEXT_MS)));
            }
        }
        let due = *self.due.get_or_insert(now.after_ms(if seated { 0 } else { wait(WAIT_MS) }));
        if now < due {
            return None;
        }
        if self.tries >= TRIES_MAX {
            *self = Self::default();
            return None;
        }
        let first = seated && self.tries == 0;
        let node = if first { ahead.node } else { liveness.one_or(ahead.node, lot) };
        self.tries = self.tries.saturating_add(1);
        self.asked = Some(Asked { node, from: next, at: now });
        self.due = Some(now.after_ms(ANSWER_MS.saturating_add(wait(WAIT_MS))));
        Some(node)
    }

    pub(crate) const fn deadline(&self) -> Option<Time> {
        self.due
    }

    /// Whether this node was asked for blocks.
    pub(crate) fn was_asked(&self, node: &NodeId) -> bool {
        self.asked.is_some_and(|asked| asked.node == *node)
    }

    /// Asks this node no more, until it is heard again.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        if self.ahead.is_some_and(|ahead| ahead.node == *node) || self.was_asked(node) {
            *self = Self::default();
        }
    }
}

/// What is drawn for a node, so that not all do the same: another number for each height and try.
fn lot(node: &NodeId, height: u64, tries: u32) -> u64 {
    let mut bytes = Vec::from(*node.as_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend(tries.to_le_bytes());
    Domain::Stream.hash(&bytes).short()
}
